"""Shaping as weights of the loss, for engines whose advantages cannot be reached but whose loss can be multiplied.

psi keeps the sign of A, so that `A + psi = w A` with `w = 1 + psi / A > 0`. A loss that is homogeneous in A, as PPO's
clipped one is whatever its bounds, then has `loss(A + psi) = w loss(A)` at each token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forkwise.constants import ALPHA, KAPPA
from forkwise.core import shape_advantages
from forkwise.errors import InputError

HOMOGENEOUS = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
"""TRL's names of the losses whose term at a token is proportional to its advantage, for either sign."""


@torch.no_grad()
def shaping_weights(
    advantages: Tensor, entropy: Tensor, *, alpha: float = ALPHA, kappa: float = KAPPA, mask: Tensor | None = None
) -> Tensor:
    """Computes `w = 1 + psi / A`, between `1 - 1 / kappa` and `1 + 1 / kappa`; 1 where A is 0 and outside the mask.

    Args:
        advantages: as `forkwise.core.shape_advantages` takes them.
        entropy: the same.
        alpha: the same; 0 gives weights of exactly 1.
        kappa: the same.
        mask: the same.

    Returns:
        The shape of the entropy, the dtype of the advantages.
    """
    wide = torch.float32 if advantages.device.type == "mps" else torch.float64
    shaped = shape_advantages(advantages.to(wide), entropy, alpha=alpha, kappa=kappa, mask=mask)
    a = advantages.to(wide)
    a = (a.unsqueeze(1) if a.dim() < entropy.dim() else a).expand_as(entropy)
    return torch.where(a != 0, shaped / a, 1.0).to(advantages.dtype)


def check_weighable(loss: str, *, kl: float = 0.0) -> None:
    """Refuses losses that weights cannot shape.

    Args:
        loss: TRL's name of it.
        kl: the coefficient of a KL term that the weights would multiply as well.

    Raises:
        InputError: the loss is not known to be homogeneous in the advantages, or has a KL term inside.
    """
    if loss not in HOMOGENEOUS:
        raise InputError(
            f"Weights shape advantages only where the loss is proportional to them, which is not known of '{loss}': "
            f"use one of {', '.join(HOMOGENEOUS)}."
        )
    if kl:
        raise InputError(
            f"Weights would multiply the KL term too, whose coefficient is {kl}: set it to 0, or shape the advantages "
            "themselves with forkwise's own trainer."
        )
