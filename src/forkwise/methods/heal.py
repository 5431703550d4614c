"""HEAL, arXiv 2604.17928: answers are paid for going through their uncertainty as those of another domain do.

Formula and constants as in the authors' code (XMUDeepLIT/HEAL, `prime_heal.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6  # added to the deviation, verl's


@dataclass(frozen=True)
class Heal(TokenMethod):
    """GRPO on `right + aligned`, each 0 or 1; an answer is aligned if its entropies run like one of the other domain.

    The data set mixes a target domain with few problems and a general one. How entropies run is their softmax over an
    answer's tokens; answers are compared by the KL divergence, the shorter one stretched. An answer of the target
    domain is aligned if an answer of the general one is nearer than any other of its own, and the other way round: one
    of the general domain is aligned if one of the target domain is as near as any other of its own.

    Args:
        column: of the data set, that says of which domain a problem is.
        target: what it says for the target domain; everything else is general.
        shortest: answers of so many tokens or fewer are never aligned; at least 0.
    """

    column: str = "cluster"
    target: str = "target"
    shortest: int = 50

    name = "heal"
    title = "HEALing Entropy Collapse: Few-Shot RLVR via Hybrid-Domain Entropy Dynamics Alignment"
    paper = "2604.17928"
    formula = "GRPO on right + aligned; aligned if KL(softmax of entropies) says that the other domain is nearest"
    scope = Scope.ROLLOUT
    requires = frozenset({Need.OLD_ENTROPY, Need.CORRECT, Need.GROUPS, Need.LABELS})
    slot = "advantages"

    def __post_init__(self) -> None:
        check_range(self, "shortest", 0, float("inf"))

    def check_prompts(self, count: int) -> None:
        """Refuses rollouts of one prompt."""
        if count < 2:
            raise InputError(
                "The method 'heal' compares answers to prompts of two domains, and a rollout has one prompt, so it "
                "would do nothing: draw more of them at once "
                "(per_device_train_batch_size, steps_per_generation; on verl data.train_batch_size)."
            )

    def check_longest(self, tokens: int) -> None:
        """Refuses runs in which no answer is long enough."""
        if tokens <= self.shortest:
            raise InputError(
                f"The method 'heal' aligns answers of more than {self.shortest} tokens, and max_completion_length is "
                f"{tokens}: make that larger, or shortest smaller."
            )

    def label(self, value: object) -> int:
        """Returns whether a problem is of the target domain, from its column."""
        return int(str(value) == self.target)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages of each answer at its tokens, `(B, T)`."""
        from forkwise.core import group_advantages

        reward = wide(given(tokens.correct)) + wide(self.aligned(tokens))
        advantage = group_advantages(reward, group_ids=given(tokens.groups), eps=EPS)
        return advantage[:, None].expand_as(tokens.advantages)

    def aligned(self, tokens: Tokens) -> Tensor:
        """Finds the answers that are paid, `(B,)` bool."""
        import torch

        count, target = tokens.mask.sum(dim=1), given(tokens.labels) == 1
        apart = divergences(given(tokens.old_entropy), tokens.mask)
        to_target, to_general = (torch.where(of, apart, torch.inf).amin(dim=1) for of in (target, ~target))
        return torch.where(target, to_target > to_general, to_target <= to_general) & (count > self.shortest)


def divergences(entropies: Tensor, mask: Tensor) -> Tensor:
    """Computes `KL(P_i || P_j)` of all pairs of answers, P the softmax of entropies over tokens; `(B, B)`.

    The shorter of two is stretched to the longer one: its token t is that at `floor(t n_short / n_long)`. An answer is
    infinitely far from itself and from those without tokens.
    """
    import torch

    rows = [wide(row[counted]) for row, counted in zip(entropies, mask, strict=True)]
    apart = wide(entropies).new_full((len(rows), len(rows)), torch.inf)
    for i, longer in enumerate(rows):
        shorter = [j for j, other in enumerate(rows) if j != i and 0 < len(other) <= len(longer)]
        if not shorter:
            continue
        places = torch.arange(len(longer), device=longer.device)
        stretched = torch.stack([rows[j][places * len(rows[j]) // len(longer)] for j in shorter])
        p, q = longer.log_softmax(dim=0)[None], stretched.log_softmax(dim=1)
        apart[i, shorter] = (p.exp() * (p - q)).sum(dim=1)
        apart[shorter, i] = (q.exp() * (q - p)).sum(dim=1)
    return apart
