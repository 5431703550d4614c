"""alpha and kappa for engines whose configuration has no place for them: from the environment of the run."""

from __future__ import annotations

import os
from typing import Any

from forkwise.constants import KAPPA, PAPER, check_alpha, check_kappa
from forkwise.errors import InputError


def constants(args: Any = None) -> tuple[float, float]:
    """Returns alpha and kappa: attributes `forkwise_alpha` and `forkwise_kappa` of `args`, else the environment's.

    Raises:
        InputError: there is no alpha, or a number is out of range.
    """
    alpha, kappa = (_number(args, name) for name in ("alpha", "kappa"))
    if alpha is None:
        raise InputError(
            f"FORKWISE_ALPHA is not set: {PAPER}, and 0 turns shaping off. Set it in the environment of the training "
            "processes (under Ray: in the runtime environment)."
        )
    kappa = KAPPA if kappa is None else kappa
    check_alpha(alpha, "FORKWISE_ALPHA")
    check_kappa(kappa, "FORKWISE_KAPPA")
    return alpha, kappa


def _number(args: Any, name: str) -> float | None:
    given = getattr(args, f"forkwise_{name}", None)
    given = os.environ.get(f"FORKWISE_{name.upper()}") if given is None else given
    if given is None:
        return None
    try:
        return float(given)
    except (TypeError, ValueError):
        raise InputError(f"FORKWISE_{name.upper()} must be a number, not '{given}'.") from None
