"""How far the advantages of a method agree with true ones, over all tokens, with intervals over problems.

Every number is a smooth function of sums over problems, so its variance is the jackknife's: each problem is left out
once, and the pseudo-values `Q f - (Q - 1) f_(-q)` are to f what contributions of problems are to a mean. States weigh
one over the chance with which they were drawn. True advantages have an error, which would shrink correlations: their
variance is taken from the product of two halves, whose errors have nothing to do with each other.

Suffixes: K states, M methods, Q problems, R draws of a random method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from forkwise.explore.contrast import FloatArray, IntArray
from forkwise.explore.findings import Estimate
from forkwise.passk.two_way import JointTest, Variation, joint_test

CHANCE = 0.8
"""With which a difference is to be shown that is called detectable."""
_NO_SIGNAL = 1e-12


@dataclass(frozen=True)
class Truth:
    """True advantages of states, and what states weigh."""

    advantage_K: FloatArray
    half_K2: FloatArray
    weight_K: FloatArray
    problem_K: IntArray
    problems: int

    def of(self, weight_K: FloatArray) -> Truth:
        """Returns the same states with other weights, 0 for those that do not count."""
        return Truth(self.advantage_K, self.half_K2, weight_K, self.problem_K, self.problems)


def moments(x_RK: FloatArray, truth: Truth) -> FloatArray:
    """Sums, by problem, what correlations are made of, `(Q, 7)`: w, wx, wa, wxx, wxa, w a1 a2, waa; means over draws.

    Args:
        x_RK: advantages of a method.
    """
    a, product = truth.advantage_K, truth.half_K2[:, 0] * truth.half_K2[:, 1]
    x, xx = x_RK.mean(axis=0), (x_RK**2).mean(axis=0)
    columns = (np.ones_like(a), x, a, xx, x * a, product, a * a)
    return np.stack(
        [np.bincount(truth.problem_K, weights=truth.weight_K * c, minlength=truth.problems) for c in columns], axis=1
    )


def correlation(sums: FloatArray) -> FloatArray:
    """Computes the correlation with the true advantage from sums `(..., 7)`; NaN where either does not vary.

    Of a random method it is that of all draws together.
    """
    w, x, a, xx, xa, product, _ = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = xa / w - x * a / w**2
        of_x, of_a = xx / w - (x / w) ** 2, product / w - (a / w) ** 2
        valid = (of_x > _NO_SIGNAL) & (of_a > _NO_SIGNAL)
        value: FloatArray = np.where(valid, covariance / np.sqrt(np.where(valid, of_x * of_a, 1.0)), np.nan)
    return value


def slope(sums: FloatArray) -> FloatArray:
    """Computes by how much the true advantage rises with the method's, from sums `(..., 7)`: chance per unit."""
    w, x, a, xx, xa, _, _ = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_x = xx / w - (x / w) ** 2
        value: FloatArray = np.where(of_x > _NO_SIGNAL, (xa / w - x * a / w**2) / of_x, np.nan)
    return value


def worth(sums: FloatArray) -> FloatArray:
    """Computes the factor g that makes `g x` nearest to the true advantage, `sum w x a / sum w x x`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value: FloatArray = np.where(sums[..., 3] > _NO_SIGNAL, sums[..., 4] / sums[..., 3], np.nan)
    return value


def signal(sums: FloatArray) -> float:
    """Returns the share of the estimates' variance that is not their error."""
    w, _, a, _, _, product, squares = sums
    return float((product / w - (a / w) ** 2) / (squares / w - (a / w) ** 2))


@dataclass(frozen=True)
class Jackknife:
    """A number, and its pseudo-values over problems, `(Q,)`; NaN all over where it does not exist."""

    value: float
    pseudo_Q: FloatArray

    def __sub__(self, other: Jackknife) -> Jackknife:
        """Returns the paired difference."""
        return Jackknife(self.value - other.value, self.pseudo_Q - other.pseudo_Q)

    @property
    def exists(self) -> bool:
        """Whether the number exists, with each problem left out too."""
        return bool(np.isfinite(self.value) and np.isfinite(self.pseudo_Q).all())

    @property
    def error(self) -> float:
        """Returns the standard error over problems."""
        return float(self.pseudo_Q.std(ddof=1) / np.sqrt(self.pseudo_Q.size))

    def estimate(self, level: float) -> Estimate:
        """Returns the number with Student's interval over problems."""
        if not self.exists:
            return Estimate(self.value if np.isfinite(self.value) else None)
        half = float(stats.t.ppf((1 + level) / 2, self.pseudo_Q.size - 1)) * self.error
        return Estimate(self.value, self.value - half, self.value + half)

    def p(self) -> float | None:
        """Returns the two-sided p of zero."""
        if not self.exists:
            return None
        if self.error <= _NO_SIGNAL:
            return float(abs(self.value) <= _NO_SIGNAL)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.pseudo_Q.size - 1))


def jackknife(sums_Q: FloatArray, of: Callable[[FloatArray], FloatArray]) -> Jackknife:
    """Leaves each problem out once.

    Args:
        sums_Q: sums by problem, `(Q, ...)`.
        of: computes the number from sums over problems, `(..., ...)`.
    """
    total = sums_Q.sum(axis=0)
    problems = sums_Q.shape[0]
    value = float(of(total))
    return Jackknife(value, problems * value - (problems - 1) * of(total[None] - sums_Q))


@dataclass(frozen=True)
class Family:
    """Differences that are judged together."""

    band: list[Estimate]
    adjusted_p: list[float | None]


@dataclass(frozen=True)
class ShownDifference:
    """Which difference from GRPO would be shown with a chance of `CHANCE`: the median over methods."""

    alone: float
    """By a method's own interval."""
    together: float
    """By the band over all methods."""


def detectable(differences: Sequence[Jackknife], band: Sequence[Estimate], level: float) -> ShownDifference | None:
    """Says how small a difference can be shown by as much as there is; None where none can be judged.

    A difference is shown if its interval, half as wide as h, leaves 0 out. Its estimate varies with the standard error
    e, so with `h + t e` that happens with the chance of which t is Student's quantile.

    Args:
        band: of each difference.
    """
    alone, together = [], []
    for difference, of_all in zip(differences, band, strict=True):
        if difference.exists and difference.error > _NO_SIGNAL and of_all.high is not None:
            freedom = difference.pseudo_Q.size - 1
            wanted = float(stats.t.ppf(CHANCE, freedom)) * difference.error
            alone.append(float(stats.t.ppf((1 + level) / 2, freedom)) * difference.error + wanted)
            together.append(of_all.high - difference.value + wanted)
    return ShownDifference(float(np.median(alone)), float(np.median(together))) if alone else None


def judge_together(differences: Sequence[Jackknife], *, level: float, resamples: int, seed: int) -> Family:
    """Gives differences a band that holds all of them at once, and p adjusted for their number (max-t).

    Those that do not exist, or that no problem varies, have no part in it.
    """
    chosen = [i for i, d in enumerate(differences) if d.exists and d.error > _NO_SIGNAL]
    band: list[Estimate] = [Estimate(d.value if d.exists else None) for d in differences]
    adjusted: list[float | None] = [None] * len(differences)
    if chosen:
        pseudo_QM = np.stack([differences[i].pseudo_Q for i in chosen], axis=1)
        problems = pseudo_QM.shape[0]
        rows = (pseudo_QM - pseudo_QM.mean(axis=0)) / np.sqrt(problems * (problems - 1))
        mean = np.array([differences[i].value for i in chosen])
        freedom = np.full(mean.size, problems - 1.0)
        variation = Variation(mean, np.sqrt((rows**2).sum(axis=0)), freedom, {"problems": rows})
        test: JointTest = joint_test([variation], resamples=resamples, seed=seed)
        half = stats.t.isf(stats.norm.sf(test.critical(level)), freedom) * variation.se
        for i, width, p in zip(chosen, half, test.p(variation.scores()), strict=True):
            value = differences[i].value
            band[i], adjusted[i] = Estimate(value, value - float(width), value + float(width)), float(p)
    return Family(band, adjusted)
