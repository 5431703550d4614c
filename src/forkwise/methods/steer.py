"""STEER, arXiv 2510.10150: tokens that would change the entropy most weigh less.

Defaults: those of the authors' main script (exponential, smallest weight 0.8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 0.02  # of the largest |W| in the exponential map, the authors'


@dataclass(frozen=True)
class Steer(TokenMethod):
    """Advantages times a weight that falls with the entropy change `|W|` that a token's gradient brings.

    Args:
        weights: `exponential` maps `|W|` to `exp(-k |W|)` in [smallest, 1], k chosen so that the largest `|W|` of the
            update gets `smallest`; `linear` maps 0 to `2 - smallest` and the largest to `smallest`.
        smallest: in (0, 1]; 1 weighs all alike.
    """

    weights: Literal["exponential", "linear"] = "exponential"
    smallest: float = 0.8

    name = "steer"
    title = "Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective"
    paper = "2510.10150"
    formula = "A w(|W|), W = (A/pi_old) pi (1 - pi)(log pi + H), w falling from 1 to 0.8 at the largest |W|"
    scope = Scope.UPDATE
    requires = frozenset({Need.ENTROPY, Need.LOGPROBS, Need.OLD_LOGPROBS})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_range(self, "smallest", 0, 1, open_low=True)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the weighted advantages, `(B, T)`."""
        change = entropy_change(
            tokens.advantages,
            given(tokens.entropy),
            given(tokens.logprobs),
            given(tokens.old_logprobs),
            tokens.mask,
        )
        largest = float(change.max()) if change.numel() else 0.0
        if self.weights == "linear":
            weight = 2 - self.smallest - (2 - 2 * self.smallest) * change / (largest or 1.0)
        else:
            rate = -math.log(self.smallest) / max(largest, FLOOR)
            weight = (-rate * change).exp().clamp(self.smallest, 1)
        return tokens.advantages * weight.to(tokens.advantages.dtype)


def entropy_change(advantages: Tensor, entropy: Tensor, logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Computes `|W|`, `W = A (pi/pi_old)(1 - pi)(log pi + H)`: first-order entropy change per token, `(B, T)`."""
    import torch

    a, h, logp, old = (torch.where(mask, wide(x), 0) for x in (advantages, entropy, logprobs, old_logprobs))
    return (a * (logp - old).exp() * (1 - logp.exp()) * (logp + h)).abs()
