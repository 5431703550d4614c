"""What a user may choose about the quickstart; each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from forkwise.constants import KAPPA

_MOST = 1_000_000
_COUNT = {"min": 1, "max": _MOST}


@dataclass(frozen=True)
class QuickstartOptions:
    """The options of `forkwise quickstart`."""

    algorithm: Annotated[str, "grpo, or ppo with a critic."] = "grpo"
    steps: Annotated[int, "Training steps per arm.", _COUNT] = 70
    seeds: Annotated[int, "Training seeds per arm (0, 1, ...).", {"min": 1, "max": 1000}] = 1
    alpha: Annotated[
        float | None,
        "Weight of the entropy in psi, which shaping adds (default: 0.4, the paper's; ppo: 0.1).",
    ] = None
    kappa: Annotated[float, "Cap of psi: it is at most |advantage| / kappa (> 1)."] = KAPPA
    problems: Annotated[int, "Held-out problems for Pass@K.", {"min": 2, "max": _MOST}] = 64
    samples: Annotated[int, "Samples per held-out problem: the largest K.", _COUNT] = 256
