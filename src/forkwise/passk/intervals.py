"""Intervals that resample problems, never samples.

Resampling the samples of a problem biases Pass@K near k = n, because the resampled count enters a nonlinear estimator;
the problems are the units that a claim generalises over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk.estimator import FloatArray, IntArray

_BLOCK = 1 << 21  # random numbers held at a time: 16 MB


@dataclass(frozen=True)
class Interval:
    """A mean over problems with its interval; each field has the shape of one row of the input."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    level: float
    resamples: int = 0
    """Bootstrap draws that the interval rests on."""


Row = dict[str, Any]
"""A number with its names and bounds, as CSV files hold it."""


def bounds_at(interval: Interval, i: int | tuple[()] = ()) -> dict[str, float]:
    """Returns entry `i` of an interval as plain numbers; without `i`, the interval of a single value."""
    return {"value": float(interval.mean[i]), "low": float(interval.low[i]), "high": float(interval.high[i])}


def default_resamples(problems: int) -> int:
    """Returns how often to resample: 10,000 times; beyond 2,000 problems less often, down to 1,000."""
    return int(min(10_000, max(1_000, 20_000_000 // max(problems, 1))))


def _matrix(values: npt.ArrayLike) -> tuple[FloatArray, tuple[int, ...]]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[0] < 2:
        raise InputError("An interval over problems needs at least two problems.")
    if not np.isfinite(array).all():
        raise InputError("The values hold NaN or infinity; leave out the problems without a score.")
    return array.reshape(array.shape[0], -1), array.shape[1:]


def check_level(level: float) -> None:
    """Raises InputError unless `level` is a probability strictly between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(f"level is {level}: it is the coverage of the interval, between 0 and 1, such as 0.95.")


def check_margin(margin: float) -> None:
    """Raises InputError unless `margin` is a difference of Pass@K, above 0 and below 1."""
    if not 0 < margin < 1:
        raise InputError(
            f"The margin is {margin}: it is the largest difference that counts as none, above 0 and below 1."
        )


def problem_weights(problems: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Draws bootstrap weights in blocks of rows, `(r, Q)` each: the share of the Q draws that fell on each problem."""
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // problems)
    for first in range(0, resamples, rows):
        r = min(rows, resamples - first)
        drawn = rng.integers(0, problems, size=(r, problems)) + problems * np.arange(r)[:, None]
        yield np.bincount(drawn.ravel(), minlength=r * problems).reshape(r, problems) / problems


def bootstrap_means(data_QK: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Draws means over resampled problems, `(resamples, K)`, with the same draws for every column."""
    return np.concatenate([weights @ data_QK for weights in problem_weights(data_QK.shape[0], resamples, seed)])


def bootstrap_interval(
    values: npt.ArrayLike, *, level: float = 0.95, resamples: int | None = None, seed: int = 0
) -> Interval:
    """Returns the mean over problems with its BCa bootstrap interval (Efron 1987), one per column.

    Args:
        values: `(Q,)` or `(Q, K)`, one row per problem; e.g. `pass_at_k(n, c, ks)`, or a paired difference.
        level: nominal coverage. With 30 problems and skewed success rates the true coverage at small k is lower; see
            docs/statistics.md for the measured one.
        resamples: bootstrap draws of Q problems with replacement; `None` is `default_resamples(Q)`.
        seed: of those draws.

    Raises:
        InputError: fewer than two problems, or values that are not finite.
    """
    check_level(level)
    data_QK, shape = _matrix(values)
    resamples = default_resamples(data_QK.shape[0]) if resamples is None else resamples
    draws_RK = bootstrap_means(data_QK, resamples, seed)
    mean_K = data_QK.mean(axis=0)

    # Bias correction from the share of draws below the mean (ties count half), acceleration from the jackknife.
    tolerance = 1e-9 * np.abs(data_QK).max(axis=0)
    below = (draws_RK < mean_K - tolerance).mean(axis=0)
    ties = (np.abs(draws_RK - mean_K) <= tolerance).mean(axis=0)
    z0 = stats.norm.ppf(np.clip(below + ties / 2, 1 / (resamples + 1), resamples / (resamples + 1)))
    centred = data_QK - mean_K
    largest = np.abs(centred).max(axis=0)
    # The acceleration has no scale; divided by the largest, powers of values such as 1e-200 (Pass^K) do not underflow.
    centred = np.divide(centred, largest, out=np.zeros_like(centred), where=largest > 0)
    spread = np.where(largest > 0, (centred**2).sum(axis=0), 1.0)
    acceleration = (centred**3).sum(axis=0) / (6 * spread**1.5)
    draws_RK.sort(axis=0)
    bounds = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = z0 + stats.norm.ppf(tail)
        room = 1 - acceleration * z  # 0 and below: the quantile has run off to the end of the draws
        moved = np.where(room > 0, z0 + z / np.where(room > 0, room, 1.0), np.sign(z) * np.inf)
        position = stats.norm.cdf(moved) * (resamples - 1)
        lower = np.floor(position).astype(int)
        upper = np.minimum(lower + 1, resamples - 1)
        columns = np.arange(mean_K.size)
        at = draws_RK[lower, columns]
        bounds.append(at + (position - lower) * (draws_RK[upper, columns] - at))
    return Interval(mean_K.reshape(shape), bounds[0].reshape(shape), bounds[1].reshape(shape), level, resamples)


def cluster_count(problems: int, cluster_Q: IntArray | None) -> float:
    """Returns how many clusters of equal size would be as many: `Q^2 / sum of squared sizes`; without clusters, Q."""
    if cluster_Q is None:
        return float(problems)
    return float(problems**2 / (np.bincount(cluster_Q) ** 2).sum())


def by_cluster(values_QK: FloatArray, cluster_Q: IntArray | None) -> FloatArray:
    """Returns a row per cluster, `(..., G, K)`, whose mean is that over problems; without clusters, the values.

    Deviations from the mean are added up in each cluster, so that the rows vary as whole clusters do.
    """
    if cluster_Q is None:
        return values_QK
    mean = values_QK.mean(axis=-2, keepdims=True)
    member_GQ = (np.arange(cluster_Q.max() + 1)[:, None] == cluster_Q) * ((cluster_Q.max() + 1) / cluster_Q.size)
    rows: FloatArray = mean + member_GQ @ (values_QK - mean)
    return rows


def unseen(problems: float, level: float) -> float:
    """Bounds how far off the mean over problems may be where all have the same value, so that resamples have no width.

    The exact binomial (Clopper-Pearson) upper bound on the share of problems with another value, for values that differ
    by at most 1.
    """
    return float(1 - ((1 - level) / 2) ** (1 / problems))


def enough_problems(problems: float, level: float, margin: float) -> bool:
    """Says whether a share of the problems as large as the margin, that differ wholly, could not have gone unseen.

    Only then can arms be called equivalent, or not worse, within the margin.
    """
    return unseen(problems, level) <= margin


def problems_needed(level: float, margin: float) -> int:
    """Returns the fewest problems that are `enough_problems`, for a margin below 1."""
    needed = max(2, math.ceil(math.log((1 - level) / 2) / math.log1p(-margin)) - 1)
    return needed if enough_problems(needed, level, margin) else needed + 1


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = 0.95, resamples: int | None = None, seed: int = 0
) -> Interval:
    """Returns the mean of `a - b` with its BCa interval; `a`, `b`: `(Q,)` or `(Q, K)`, one row per problem in both.

    With few problems `student_interval` of the differences covers better; `compare` uses that.
    """
    a_QK, b_QK = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a_QK.shape != b_QK.shape:
        raise InputError(f"Paired arms need the same problems and k: shapes {a_QK.shape} and {b_QK.shape} differ.")
    return bootstrap_interval(a_QK - b_QK, level=level, resamples=resamples, seed=seed)


def student_interval(values: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Returns the mean over problems with its Student t interval, one per column; for paired differences.

    Differences are nearly symmetric, and there t keeps its level with few problems, where the bootstraps fall short
    (docs/statistics.md). Arguments and errors as in `bootstrap_interval`.
    """
    check_level(level)
    data_QK, shape = _matrix(values)
    q = data_QK.shape[0]
    mean = data_QK.mean(axis=0)
    half = stats.t.ppf((1 + level) / 2, q - 1) * data_QK.std(axis=0, ddof=1) / np.sqrt(q)
    return Interval(mean.reshape(shape), (mean - half).reshape(shape), (mean + half).reshape(shape), level)
