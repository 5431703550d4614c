"""MASPO, arXiv 2602.17550: a soft clip, wider for unlikely tokens and for surer advantages.

As in the authors' code; defaults: theirs (alpha 0.5 for 1.5B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Tokens, check_range, given, wide
from forkwise.methods.clips import ClipMethod

if TYPE_CHECKING:
    from torch import Tensor

_WIDEST = 10.0  # of the width before the advantage, and of the advantage's factor, which is at least 0.1


@dataclass(frozen=True)
class Maspo(ClipMethod):
    """The gradient of a token that moves on in its advantage's direction fades as `exp(-(r - 1)^2 / (2 s^2))`.

    s is `width / pi_old^alpha`, at least `width` and at most 10, times `1 + slope A` where A > 0, divided by
    `1 + slope |A|` where A < 0. Nothing else is clipped.

    Args:
        width: of a token of probability 1 with A near 0; > 0 and at most 10. Larger values clip less.
        alpha: at least 0. Larger values let unlikely tokens move further.
        slope: at least 0, per advantage. Larger values let rewarded tokens move further, and punished ones less.
    """

    width: float = 1.0
    alpha: float = 0.3
    slope: float = 0.03

    name = "maspo"
    title = "MASPO: Unifying Gradient Utilization, Probability Mass, and Signal Reliability for LLM Reasoning"
    paper = "2602.17550"
    formula = "weight r exp(-(r-1)^2/(2 s^2)) where r moves along A; s = width/pi_old^alpha (1 + slope |A|)^sign(A)"

    def __post_init__(self) -> None:
        check_range(self, "width", 0, _WIDEST, open_low=True)
        for field in ("alpha", "slope"):
            check_range(self, field, 0, float("inf"))

    def factor(self, advantages: Tensor, ratio: Tensor, tokens: Tokens) -> Tensor:
        """Computes `w / r`, `(B, T)`."""
        import torch

        base = (self.width * (-self.alpha * wide(given(tokens.old_logprobs))).exp()).clamp(self.width, _WIDEST)
        grown = 1 + self.slope * advantages.abs()
        s = base * torch.where(advantages > 0, grown, 1 / grown).clamp(0.1, _WIDEST)
        onward = (advantages > 0) & (ratio > 1) | (advantages < 0) & (ratio < 1)
        return torch.where(onward, (-((ratio - 1) ** 2) / (2 * s**2)).exp(), 1)
