"""CE-GPPO, arXiv 2509.20712, and GPPO, arXiv 2508.07629: clipped tokens keep a bounded gradient instead of none.

As in the authors' code; defaults: their runs of 7B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Tokens, check_range
from forkwise.methods.clips import ClipMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Preserving(ClipMethod):
    """What both share: the clip range and the dual clip."""

    low: float = 0.2
    high: float = 0.2
    dual: float = 10.0

    def __post_init__(self) -> None:
        check_range(self, "low", 0, 1)
        check_range(self, "high", 0, float("inf"))
        check_range(self, "dual", 1, float("inf"))

    def bounded(self, advantages: Tensor, ratio: Tensor, below: float, above: float) -> Tensor:
        """Computes `w / r`: the bound times `below` or `above` over r where a token is beyond it, and 1 elsewhere."""
        import torch

        bottom, top = 1 - self.low, 1 + self.high
        factor = torch.where((advantages < 0) & (ratio < bottom), below * bottom / ratio, 1)
        factor = torch.where((advantages > 0) & (ratio > top), above * top / ratio, factor)
        return torch.where((advantages < 0) & (ratio > self.dual), 0, factor)


@dataclass(frozen=True)
class CeGppo(_Preserving):
    """The gradient of a clipped token is that at the bound, times `below` or `above`.

    Args:
        low: ratios below 1 - low are bounded where A < 0; in [0, 1].
        high: ratios above 1 + high are bounded where A > 0.
        dual: no gradient where A < 0 and the ratio exceeds it; at least 1.
        below: share of the gradient that a token below the range keeps, at least 0. Larger values lower the entropy.
        above: share that a token above the range keeps, at least 0. Larger values raise the entropy.
    """

    below: float = 0.75
    above: float = 1.0

    name = "ce_gppo"
    title = "CE-GPPO: Coordinating Entropy via Gradient-Preserving Clipping Policy Optimization in RL"
    paper = "2509.20712"
    formula = "weight r; below (1-low) if A < 0, r < 1-low; above (1+high) if A > 0, r > 1+high; 0 if A < 0, r > dual"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("below", "above"):
            check_range(self, field, 0, float("inf"))

    def factor(self, advantages: Tensor, ratio: Tensor, tokens: Tokens) -> Tensor:
        """Computes `w / r`, `(B, T)`."""
        return self.bounded(advantages, ratio, self.below, self.above)


@dataclass(frozen=True)
class Gppo(_Preserving):
    """The gradient of a clipped token is that at the bound.

    Args:
        low: ratios below 1 - low are bounded where A < 0; in [0, 1].
        high: ratios above 1 + high are bounded where A > 0.
        dual: no gradient where A < 0 and the ratio exceeds it; at least 1.
    """

    name = "gppo"
    title = "Klear-Reasoner: Advancing Reasoning Capability via Gradient-Preserving Clipping Policy Optimization"
    paper = "2508.07629"
    formula = "weight r; 1 - low if A < 0, r < 1 - low; 1 + high if A > 0, r > 1 + high; 0 if A < 0, r > dual"

    def factor(self, advantages: Tensor, ratio: Tensor, tokens: Tokens) -> Tensor:
        """Computes `w / r`, `(B, T)`."""
        return self.bounded(advantages, ratio, 1.0, 1.0)
