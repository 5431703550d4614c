"""GTPO and GRPO-S, arXiv 2508.04349: rewards shaped by the entropies of a group, per token or per completion.

Uncertain tokens of right completions earn more, certain tokens of wrong ones lose more. Defaults: the paper's, 1 and
0.1. Formulas as in public re-implementations (the authors published none that we found); see `docs/papers.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide
from forkwise.methods.groups import group_sum

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6  # nats: keeps 1 / H finite


@dataclass(frozen=True)
class _Rewarding(TokenMethod):
    """What both methods of the paper share: their constants, and what they need."""

    base: float = 1.0
    bonus: float = 0.1
    mixed_only: bool = False

    title = "GTPO and GRPO-S: Token and Sequence-Level Reward Shaping with Policy Entropy"
    paper = "2508.04349"
    scope = Scope.ROLLOUT
    requires = frozenset({Need.OLD_ENTROPY, Need.GROUPS, Need.CORRECT})
    slot = "advantages"

    def __post_init__(self) -> None:
        check_range(self, "base", 0, float("inf"), open_low=True)
        check_range(self, "bonus", 0, float("inf"))

    def check_group_size(self, size: int) -> None:
        """Refuses groups in which each side is one completion, whose share of the entropy is all of it."""
        super().check_group_size(size)
        if self.mixed_only and size < 3:
            raise InputError(
                f"The method '{self.name}' with mixed_only compares the right answers of a group with each other, and "
                f"the wrong ones, and {size} answers are one of each: set the size of groups to 3 or more "
                "(num_generations; on verl actor_rollout_ref.rollout.n)."
            )


@dataclass(frozen=True)
class Gtpo(_Rewarding):
    """Rewards per token, normalised over all right and over all wrong tokens of the rollout separately.

    Right completions get `base + bonus * d * H / sum H`, wrong ones `-base - bonus * h * (1/H) / sum(1/H)`: sums at the
    same position, over the d right (h wrong) completions of the group that are still running there.

    Args:
        base: the reward itself, > 0.
        bonus: weight of the entropy, > 0: without it both sides are constant, and nothing is left after normalisation.
        mixed_only: advantages of 0 in groups that are all right or all wrong, as if dynamic sampling had dropped them.
    """

    name = "gtpo"
    formula = "z(base + bonus d_t H/sum H) if right, z(-base - bonus h_t (1/H)/sum(1/H)) if wrong; z per side"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "bonus", 0, float("inf"), open_low=True)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages per token, `(B, T)`."""
        import torch

        from forkwise.core import whiten

        groups, correct = given(tokens.groups), given(tokens.correct)
        rewards = gtpo_rewards(given(tokens.old_entropy), tokens.mask, groups, correct, self.base, self.bonus)
        counted = tokens.mask & mixed(groups, correct)[:, None] if self.mixed_only else tokens.mask
        sides = (counted & correct[:, None], counted & ~correct[:, None])
        total = sum((whiten(rewards, side) for side in sides), torch.zeros_like(rewards))
        return total.to(tokens.advantages.dtype)


def gtpo_rewards(
    entropy: Tensor, mask: Tensor, groups: Tensor, correct: Tensor, base: float = 1.0, bonus: float = 0.1
) -> Tensor:
    """Returns the rewards per token before normalisation, `(B, T)` float64; 0 outside the mask."""
    import torch

    h = torch.where(mask, wide(entropy).clamp(min=0), 0)
    weight = torch.where(correct[:, None], h, 1 / (h + EPS)) * mask
    # A side is the right or the wrong completions of one group; its completions share sums at each position.
    side = torch.stack([groups.to(torch.int64), correct.to(torch.int64)], dim=1).unique(dim=0, return_inverse=True)[1]
    sums = torch.zeros(int(side.max()) + 1 if len(side) else 0, mask.shape[1], dtype=h.dtype, device=h.device)
    running = sums.index_add(0, side, mask.to(h.dtype))[side]
    total = sums.index_add(0, side, weight)[side]
    share = torch.where(total > 0, running * weight / total.clamp(min=EPS * EPS), mask.to(h.dtype))
    return torch.where(mask, torch.where(correct[:, None], base + bonus * share, -base - bonus * share), 0)


def mixed(groups: Tensor, correct: Tensor) -> Tensor:
    """Tells whether the completion's group has right and wrong ones, `(B,)` bool."""
    return (group_sum(correct, groups) > 0) & (group_sum(~correct, groups) > 0)


@dataclass(frozen=True)
class GrpoS(_Rewarding):
    """GTPO with one reward per completion, from its mean entropy, normalised within the group as in GRPO.

    Args:
        base: the reward itself, > 0.
        bonus: weight of the entropy, >= 0.
        mixed_only: advantages of 0 in groups that are all right or all wrong, as if dynamic sampling had dropped them.
    """

    name = "grpo_s"
    formula = "GRPO on base + bonus n H_i/sum H if right, -base - bonus m (1/H_i)/sum(1/H) if wrong; H_i a mean"

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages, the same at every token of a completion, `(B, T)`."""
        import torch

        from forkwise.core import group_advantages

        groups, mask = given(tokens.groups), tokens.mask
        h = torch.where(mask, wide(given(tokens.old_entropy)), 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        correct, some = given(tokens.correct), mask.any(dim=1)
        # Completions as texts of one token. One without tokens (truncated and masked) has no entropy to be paid for.
        shaped = gtpo_rewards(h[:, None], some[:, None], groups, correct, self.base, self.bonus)[:, 0]
        rewards = torch.where(some, shaped, torch.where(correct, self.base, -self.base).to(shaped))
        advantages = group_advantages(rewards, group_ids=groups, eps=EPS)
        if self.mixed_only:
            advantages = torch.where(mixed(groups, correct), advantages, 0)
        return advantages[:, None].expand_as(tokens.mask).to(tokens.advantages.dtype)
