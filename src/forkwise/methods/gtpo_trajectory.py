"""The other GTPO: trajectory-based policy optimisation, arXiv 2508.03772. It shares four letters with `gtpo`, no more.

Formula and constants as in the authors' code (winstonsmith1897/GTPO), which has no clip and no KL penalty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GtpoTrajectory(TokenMethod):
    """Tokens that right and wrong completions share at their begin or end are not punished, and rewarded more.

    Args:
        amplify: factor of such a token where A > 0; where A < 0 it is 0. At least 0; 1 only protects.
        penalty: subtracted from A per nat of the completion's mean entropy; at least 0.
        threshold: completions of a larger mean entropy are left out, in nats; above 0.
        share: whether A is divided by the number of the completion's shared tokens, as in the authors' code.
    """

    amplify: float = 2.0
    penalty: float = 0.1
    threshold: float = 0.7
    share: bool = True

    name = "gtpo_trajectory"
    title = "GTPO: Stabilizing Group Relative Policy Optimization via Gradient and Entropy Control"
    paper = "2508.03772"
    formula = "(A - penalty H_i) d/n if H_i <= threshold, else 0; d = 0 or amplify at shared tokens, n of them, else 1"
    scope = Scope.ROLLOUT
    requires = frozenset({Need.OLD_ENTROPY, Need.GROUPS, Need.IDS, Need.ADVANTAGES})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        for field in ("amplify", "penalty"):
            check_range(self, field, 0, float("inf"))
        check_range(self, "threshold", 0, float("inf"), open_low=True)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages per token, `(B, T)`."""
        import torch

        mask, count = tokens.mask, tokens.mask.sum(dim=1).clamp(min=1)
        entropy = torch.where(mask, wide(given(tokens.old_entropy)), 0).sum(dim=1) / count
        advantage = torch.where(mask, wide(tokens.advantages), 0).sum(dim=1) / count  # one per completion
        ends = mask * (torch.arange(mask.shape[1], device=mask.device) + 1)
        begin = shared_run(given(tokens.ids), mask, given(tokens.groups), advantage)
        end = _from_the_end(
            shared_run(
                _from_the_end(given(tokens.ids), ends), _from_the_end(mask, ends), given(tokens.groups), advantage
            ),
            ends,
        )
        weight = torch.where(advantage > 0, self.amplify, 0.0)[:, None]
        factor = torch.where(begin, weight, 1.0) * torch.where(end, weight, 1.0)
        shared = (begin | end).sum(dim=1).clamp(min=1) if self.share else 1
        kept = torch.where(entropy <= self.threshold, advantage - self.penalty * entropy, 0) / shared
        return (kept[:, None] * factor).to(tokens.advantages.dtype)


def shared_run(ids: Tensor, mask: Tensor, groups: Tensor, advantage: Tensor) -> Tensor:
    """Finds the tokens from the first on that completions of both signs share, `(B, T)` bool.

    Args:
        ids: the tokens, `(B, T)`.
        mask: those that count, `(B, T)` bool.
        groups: the prompt of each completion, `(B,)`.
        advantage: of each completion, `(B,)`. One with 0 shares nothing.
    """
    import torch

    shared = torch.zeros_like(mask)
    for group in groups.unique():
        rows = (groups == group).nonzero(as_tuple=True)[0]
        tokens, counted, signs = ids[rows], mask[rows], advantage[rows].sign()
        same = (tokens[:, None] == tokens[None]) & counted[:, None] & counted[None]  # (G, G, T)
        right, wrong = (same[:, signs == sign].any(dim=1) for sign in (1, -1))
        run = (right & wrong & (signs != 0)[:, None]).int().cumprod(dim=1).bool()
        shared[rows] = run
    return shared


def _from_the_end(values: Tensor, ends: Tensor) -> Tensor:
    """Turns each row around up to its last token that counts, twice back; `ends` is 1 + the place of each that does."""
    import torch

    length = ends.amax(dim=1, keepdim=True)
    position = torch.arange(values.shape[1], device=values.device)[None]
    return values.gather(1, torch.where(position < length, length - 1 - position, position))
