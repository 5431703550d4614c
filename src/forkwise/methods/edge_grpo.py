"""EDGE-GRPO's entropy-driven advantage, arXiv 2507.21848: certain completions learn more than uncertain ones.

The paper's other half, which appends a correction to wrong completions and draws on, is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EdgeGrpo(TokenMethod):
    """`A` times the mean entropy of the update's completions, divided by that of its own.

    Args:
        clamp: a completion's entropy counts as at most so many times the mean, and at least the mean divided by it;
            at least 1, which changes nothing. Larger values let the weights spread further.
    """

    clamp: float = 10.0

    name = "edge_grpo"
    title = "EDGE-GRPO: Entropy-Driven GRPO with Guided Error Correction for Advantage Diversity"
    paper = "2507.21848"
    formula = "A / clamp(H_i / mean H_i, 1/clamp, clamp), H_i the completion's mean entropy"
    scope = Scope.UPDATE
    requires = frozenset({Need.ENTROPY})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_range(self, "clamp", 1, float("inf"))

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the weighted advantages, `(B, T)`."""
        import torch

        mask, some = tokens.mask, tokens.mask.any(dim=1)
        h = torch.where(mask, wide(given(tokens.entropy)).clamp(min=0), 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        mean = h.sum() / some.sum().clamp(min=1)  # completions without tokens have h = 0
        share = (h / mean if float(mean) > 0 else torch.ones_like(h)).clamp(1 / self.clamp, self.clamp)
        return tokens.advantages / share[:, None]
