"""alpha and kappa for engines whose configuration has no place for them: from the environment of the run."""

from __future__ import annotations

import difflib
import os
from typing import Any

from forkwise.constants import KAPPA, PAPER, check_alpha, check_kappa
from forkwise.errors import InputError

_PREFIX = "FORKWISE_"


def constants(args: Any = None) -> tuple[float, float]:
    """Returns alpha and kappa: attributes `forkwise_alpha` and `forkwise_kappa` of `args`, else the environment's.

    Raises:
        InputError: there is no alpha, a number is out of range, or a name in the environment is nearly one of ours.
    """
    _check_names()
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


def _check_names() -> None:
    """Refuses a misspelt variable, which would be a default in silence; names that are like neither are another's."""
    known = ("FORKWISE_ALPHA", "FORKWISE_KAPPA")
    for name in os.environ:
        if name.upper().startswith(_PREFIX) and name not in known:
            words = [other.removeprefix(_PREFIX) for other in known]
            if close := difflib.get_close_matches(name.upper().removeprefix(_PREFIX), words, n=1):
                raise InputError(
                    f"{name} is in the environment, and nothing reads it: write {_PREFIX}{close[0]}, or unset it."
                )


def _number(args: Any, name: str) -> float | None:
    text = getattr(args, f"forkwise_{name}", None)
    text = os.environ.get(f"FORKWISE_{name.upper()}") if text is None else text
    if text is None:
        return None
    try:
        return float(text)
    except (TypeError, ValueError):
        raise InputError(f"FORKWISE_{name.upper()} must be a number, not '{text}'.") from None
