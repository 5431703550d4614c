"""Entropy-balanced policy optimisation for agents (AEPO, arXiv 2510.14545): the two halves that act on the loss.

As in a fork of the authors' code, where each has its own switch. Its rollouts, which branch at tool calls, are not
here. Another method of the same acronym, arXiv 2510.08141, is about arbitrary entropies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide
from forkwise.methods.clips import ClipMethod

if TYPE_CHECKING:
    from torch import Tensor

_EQUAL = 1e-8  # nats; a smaller deviation is rounding


@dataclass(frozen=True)
class EntropyBalancedClip(ClipMethod):
    """Tokens above the clip range keep the gradient at the bound; below it they keep none, as in PPO.

    Args:
        low: ratios below 1 - low are clipped where A < 0; in [0, 1].
        high: ratios above 1 + high count as 1 + high where A > 0.
    """

    low: float = 0.2
    high: float = 0.2

    name = "entropy_balanced_clip"
    title = "Agentic Entropy-Balanced Policy Optimization"
    paper = "2510.14545"
    formula = "weight r; 1 + high if A > 0, r > 1 + high; 0 if A < 0, r < 1 - low"

    def __post_init__(self) -> None:
        check_range(self, "low", 0, 1)
        check_range(self, "high", 0, float("inf"))

    def factor(self, advantages: Tensor, ratio: Tensor, tokens: Tokens) -> Tensor:
        """Computes `w / r`, `(B, T)`."""
        import torch

        top = 1 + self.high
        factor = torch.where((advantages > 0) & (ratio > top), top / ratio, 1)
        return torch.where((advantages < 0) & (ratio < 1 - self.low), 0, factor)


@dataclass(frozen=True)
class EntropyBalancedAdvantage(TokenMethod):
    """Uncertain tokens learn more and certain ones less: `A (1 + weight z)`, z the update's standardised entropy.

    Args:
        weight: above 0. Larger values spread the tokens more; beyond `1 / weight` deviations below the mean an
            advantage changes its sign, as in the paper, which bounds nothing.
    """

    weight: float = 0.2

    name = "entropy_balanced_advantage"
    title = "Agentic Entropy-Balanced Policy Optimization"
    paper = "2510.14545"
    formula = "A (1 + weight (H - mean H)/std H), deviation with n - 1"
    scope = Scope.UPDATE
    requires = frozenset({Need.ENTROPY})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_range(self, "weight", 0, float("inf"), open_low=True)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the shaped advantages, `(B, T)`."""
        import torch

        entropy = torch.where(tokens.mask, wide(given(tokens.entropy)), 0)
        count = tokens.mask.sum()
        centred = torch.where(tokens.mask, entropy - entropy.sum() / count.clamp(min=1), 0)
        deviation = (centred.square().sum() / (count - 1).clamp(min=1)).sqrt()
        z = centred / deviation if float(deviation) > _EQUAL else torch.zeros_like(centred)
        return tokens.advantages * (1 + self.weight * z)
