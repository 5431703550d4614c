"""EAPO, arXiv 2604.11056 v1: uncertain tokens learn more and certain ones less, whatever the sign of the advantage.

Formula and constants from a public note on the first version; the second renames the method HAPO and changes it. Whose
mean and deviation standardise the entropy is not said: here those of the update's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-8  # nats, added to the deviation


@dataclass(frozen=True)
class Eapo(TokenMethod):
    """`A + alpha sign(A) h`, h the standardised entropy within +- |A| / phi.

    Args:
        alpha: above 0 and below phi, so that no advantage changes its sign. Larger values spread the tokens more.
        phi: h is bounded by |A| / phi; above 0. Larger values shape less.
    """

    alpha: float = 0.2
    phi: float = 2.0

    name = "eapo"
    title = "Rethinking Token-Level Credit Assignment in RLVR: A Polarity-Entropy Analysis (v1)"
    paper = "2604.11056"
    formula = "A + alpha sign(A) clip((H - mean H)/std H, -|A|/phi, |A|/phi)"
    scope = Scope.UPDATE
    requires = frozenset({Need.ENTROPY})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        for field in ("alpha", "phi"):
            check_range(self, field, 0, float("inf"), open_low=True)
        if not self.alpha < self.phi:
            raise InputError(
                "alpha of the method 'eapo' must be below phi, or advantages would change their sign; got "
                f"{self.alpha} and {self.phi}."
            )

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the shaped advantages, `(B, T)`."""
        import torch

        a = wide(tokens.advantages)
        bound = a.abs() / self.phi
        z = standardised(given(tokens.entropy), tokens.mask)
        return a + self.alpha * a.sign() * torch.minimum(torch.maximum(z, -bound), bound)


def standardised(values: Tensor, mask: Tensor) -> Tensor:
    """Computes `(x - mean) / (std + 1e-8)` over the mask, population deviation; `(B, T)` float64, 0 outside."""
    import torch

    x = torch.where(mask, wide(values), 0)
    n = mask.sum().clamp(min=1)
    centred = torch.where(mask, x - x.sum() / n, 0)
    return centred / ((centred.square().sum() / n).sqrt() + EPS)
