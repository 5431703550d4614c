"""Forking tokens ("80/20"), arXiv 2506.01939: learn from the most uncertain 20 % of the tokens only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ForkingTokens(TokenMethod):
    """Advantages only at the `ceil(share * n)` tokens of an update with the highest entropy, 0 at the others.

    The loss still counts all tokens: its gradient is `share` times that of a mean over the kept ones.

    Args:
        share: of the update's tokens that are kept, in (0, 1].
        rescale: multiply what is kept by n / kept, so that a mean over tokens is one over kept tokens.
    """

    share: float = 0.2
    rescale: bool = False

    name = "forking_tokens"
    title = "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective RL for LLM Reasoning"
    paper = "2506.01939"
    formula = "A where H is among the top 20 % of the update, else 0"
    scope = Scope.UPDATE
    requires = frozenset({Need.ENTROPY})

    def __post_init__(self) -> None:
        check_range(self, "share", 0, 1, open_low=True)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the masked advantages, `(B, T)`."""
        import torch

        kept = highest(given(tokens.entropy), tokens.mask, self.share)
        scale = tokens.mask.sum() / kept.sum().clamp(min=1) if self.rescale else 1.0
        return torch.where(kept, tokens.advantages * scale, 0)


def highest(values: Tensor, mask: Tensor, share: float) -> Tensor:
    """Marks the `ceil(share * n)` of the mask's n tokens with the largest values, `(B, T)` bool; first of equals."""
    import torch

    inside = values[mask]
    # Rounded first: 0.55 * 100 is 55.00000000000001, which is not 56 tokens.
    count = math.ceil(round(share * len(inside), 9))
    chosen = torch.zeros_like(inside, dtype=torch.bool)
    chosen[inside.sort(descending=True, stable=True).indices[:count]] = True
    return torch.zeros_like(mask).masked_scatter(mask, chosen)
