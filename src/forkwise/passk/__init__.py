"""Pass@K and its statistics: numpy and scipy only, never torch."""

from __future__ import annotations

from forkwise.passk.estimator import counts, k_grid, pass_at_k
from forkwise.passk.intervals import Interval, bootstrap_interval, paired_difference, sign_flip_p_values

__all__ = [
    "Interval",
    "bootstrap_interval",
    "counts",
    "k_grid",
    "paired_difference",
    "pass_at_k",
    "sign_flip_p_values",
]
