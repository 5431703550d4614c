"""Pass@K and its statistics: numpy and scipy only, never torch, and nothing here prints.

`evaluate` and `compare` are what the commands `forkwise passk` and `forkwise compare` report; the rest are their parts.
"""

from __future__ import annotations

from forkwise.passk.comparison import compare
from forkwise.passk.diversity import Diversity, diversity
from forkwise.passk.estimator import curve_grid, g_pass_at_k, k_grid, mg_pass_at_k, pass_at_k, pass_pow_k, sample_counts
from forkwise.passk.evaluation import evaluate
from forkwise.passk.extrapolation import Extrapolation, extrapolate
from forkwise.passk.intervals import (
    Interval,
    bootstrap_interval,
    paired_difference,
    student_interval,
)
from forkwise.passk.loading import load_arm
from forkwise.passk.majority import maj_at_k
from forkwise.passk.outcomes import Arm, make_arm
from forkwise.passk.plan import Plan
from forkwise.passk.planning import plan_study
from forkwise.passk.results import Comparison, Crossing, Curve, Difference, Evaluation
from forkwise.passk.several import compare_over

__all__ = [
    "Arm",
    "Comparison",
    "Crossing",
    "Curve",
    "Difference",
    "Diversity",
    "Evaluation",
    "Extrapolation",
    "Interval",
    "Plan",
    "bootstrap_interval",
    "compare",
    "compare_over",
    "curve_grid",
    "diversity",
    "evaluate",
    "extrapolate",
    "g_pass_at_k",
    "k_grid",
    "load_arm",
    "maj_at_k",
    "make_arm",
    "mg_pass_at_k",
    "paired_difference",
    "pass_at_k",
    "pass_pow_k",
    "plan_study",
    "sample_counts",
    "student_interval",
]
