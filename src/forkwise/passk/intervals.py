"""Intervals and tests that resample problems, never samples.

Resampling the samples of a problem biases Pass@K near k = n, because the resampled count enters a nonlinear estimator;
the problems are the units that a claim generalises over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk.estimator import FloatArray


@dataclass(frozen=True)
class Interval:
    """A mean over problems with its bootstrap interval; each field has the shape of one row of the input."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    level: float


def _matrix(values: npt.ArrayLike) -> tuple[FloatArray, tuple[int, ...]]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[0] < 2:
        raise InputError("An interval over problems needs at least two problems.")
    if not np.isfinite(array).all():
        raise InputError("The values hold NaN or infinity; leave out the problems without a score.")
    return array.reshape(array.shape[0], -1), array.shape[1:]


def bootstrap_interval(
    values: npt.ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean over problems and its BCa bootstrap interval (Efron 1987), one per column.

    Args:
        values: `(Q,)` or `(Q, K)`, one row per problem; e.g. `pass_at_k(n, c, ks)`, or a paired difference.
        level: nominal coverage. With 30 problems and skewed success rates the true coverage at small k is 0.85–0.90.
        resamples: bootstrap draws of Q problems with replacement, the same draws for every column.
        seed: of those draws.

    Raises:
        InputError: fewer than two problems, or values that are not finite.
    """
    data_QK, shape = _matrix(values)
    q = data_QK.shape[0]
    mean_K = data_QK.mean(axis=0)
    rng = np.random.default_rng(seed)
    weights_RQ = rng.multinomial(q, np.full(q, 1.0 / q), size=resamples) / q
    draws_RK = weights_RQ @ data_QK

    # Bias correction from the share of draws below the mean (ties count half), acceleration from the jackknife.
    tolerance = 1e-12 * np.maximum(1.0, np.abs(mean_K))
    below = (draws_RK < mean_K - tolerance).mean(axis=0)
    ties = (np.abs(draws_RK - mean_K) <= tolerance).mean(axis=0)
    z0 = stats.norm.ppf(np.clip(below + ties / 2, 1 / (resamples + 1), resamples / (resamples + 1)))
    centred = data_QK - mean_K
    spread = (centred**2).sum(axis=0)
    safe = np.where(spread > 0, spread, 1.0)
    acceleration = np.where(spread > 0, (centred**3).sum(axis=0) / (6 * safe**1.5), 0.0)
    bounds = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = z0 + stats.norm.ppf(tail)
        share = stats.norm.cdf(z0 + z / (1 - acceleration * z))
        bounds.append(
            np.array([np.quantile(draws_RK[:, i], share[i]) for i in range(draws_RK.shape[1])], dtype=np.float64)
        )
    return Interval(mean_K.reshape(shape), bounds[0].reshape(shape), bounds[1].reshape(shape), level)


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of `a - b` over the same problems, with its BCa interval; `a`, `b`: `(Q,)` or `(Q, K)`, rows paired."""
    a_QK, b_QK = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a_QK.shape != b_QK.shape:
        raise InputError(f"Paired arms need the same problems and k: shapes {a_QK.shape} and {b_QK.shape} differ.")
    return bootstrap_interval(a_QK - b_QK, level=level, resamples=resamples, seed=seed)


def sign_flip_p_values(
    differences: npt.ArrayLike, *, resamples: int = 10_000, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Two-sided sign-flip permutation p-values of "no difference", plain and max-T adjusted over the columns.

    Args:
        differences: `(Q,)` or `(Q, K)` paired differences, one row per problem.

    Returns:
        `(p, adjusted)`, each of shape `(K,)`. `adjusted` is the Westfall–Young single-step max-T p-value, valid for the
        whole curve at once because the same flips are used at every k. Columns without any variation get p = 1.
    """
    data_QK, _ = _matrix(differences)
    q = data_QK.shape[0]
    scale_K = np.sqrt((data_QK**2).sum(axis=0))
    varies = scale_K > 0
    unit_QK = data_QK / np.where(varies, scale_K, 1.0)
    observed_K = np.abs(unit_QK.sum(axis=0))
    rng = np.random.default_rng(seed)
    signs_RQ = rng.integers(0, 2, size=(resamples, q), dtype=np.int8) * 2.0 - 1.0
    null_RK = np.abs(signs_RQ @ unit_QK)
    slack = 1e-12
    p = (1 + (null_RK >= observed_K - slack).sum(axis=0)) / (resamples + 1)
    largest_R = null_RK.max(axis=1, keepdims=True)
    adjusted = (1 + (largest_R >= observed_K - slack).sum(axis=0)) / (resamples + 1)
    return np.where(varies, p, 1.0), np.where(varies, adjusted, 1.0)
