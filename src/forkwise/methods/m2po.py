"""M2PO's mask, arXiv 2510.01161: no gradient at the tokens that have moved farthest from the old policy.

As in AReaL's code, with the old and the current policy in the places of the stale and the proximal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Condition, Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class M2po(TokenMethod):
    """Advantage 0 at the tokens with the largest `(log r)^2`, as few as bring the mean over the rest below `largest`.

    Args:
        largest: > 0, nats squared: the mean `(log r)^2` must be below it. Smaller values silence more tokens.
    """

    largest: float = 0.04

    name = "m2po"
    title = "Prosperity before Collapse: How Far Can Off-Policy RL Reach with Stale Data on LLMs?"
    paper = "2510.01161"
    formula = "A = 0 at the largest (log pi - log pi_old)^2 until the mean of the rest is below the bound"
    scope = Scope.UPDATE
    requires = frozenset({Need.LOGPROBS, Need.OLD_LOGPROBS})
    conditions = frozenset({Condition.OFF_POLICY})

    def __post_init__(self) -> None:
        check_range(self, "largest", 0, float("inf"), open_low=True)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the masked advantages, `(B, T)`."""
        import torch

        mask = tokens.mask
        moved = (wide(given(tokens.logprobs))[mask] - wide(given(tokens.old_logprobs))[mask]).square()
        ordered = moved.sort(stable=True)
        means = ordered.values.cumsum(0) / torch.arange(1, len(moved) + 1, device=moved.device)
        kept = torch.zeros_like(moved, dtype=torch.bool)
        kept[ordered.indices[means < self.largest]] = True  # the means of the smallest 1, 2, ... never fall
        return torch.where(torch.zeros_like(mask).masked_scatter(mask, kept), tokens.advantages, 0)
