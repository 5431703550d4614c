"""The ranges of alpha and kappa, the constants of the entropy-shaped advantage, are checked here and nowhere else."""

from __future__ import annotations

import math

from forkwise.errors import InputError


def check_alpha(alpha: float, name: str = "alpha", *, above_zero: bool = False) -> None:
    """Refuses an alpha that is negative or not finite, and 0 too where `above_zero`.

    Raises:
        InputError: naming `name` and value.
    """
    bound = "greater than 0" if above_zero else "of at least 0"
    if not (0 <= alpha < math.inf) or (above_zero and alpha == 0):
        raise InputError(
            f"{name} must be a finite number {bound}, got {alpha}; the paper uses 0.4 for GRPO and 0.1 for PPO."
        )


def check_kappa(kappa: float, name: str = "kappa") -> None:
    """Refuses a kappa that is not finite and above 1.

    Raises:
        InputError: naming `name` and value.
    """
    if not 1 < kappa < math.inf:
        raise InputError(
            f"{name} must be a finite number greater than 1, got {kappa}: a smaller one could cancel or flip the sign "
            "of an advantage. The paper uses 2."
        )
