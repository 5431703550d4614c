"""Intervals of Pass@K for a fixed benchmark: how it would change if these models were sampled again on these problems.

Suffixes: S runs, Q problems, P distinct pairs (n, c), K values of k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from forkwise.passk.estimator import FloatArray, IntArray, distinct_counts
from forkwise.passk.extrapolation import SuccessRates, fit_rates
from forkwise.passk.intervals import Interval


def _all_wrong(rates: SuccessRates, n: int, c_P: IntArray, most: int) -> FloatArray:
    """Returns for j = 0, 1, ..., `most` the chance that j new samples are all wrong, `(P, most + 1)`.

    It is `E[(1 - p)^j]` after c of n right samples, where success rates are distributed as in the whole run.
    """
    j = np.arange(most + 1)
    a, b = rates.alpha + c_P[:, None], rates.beta + n - c_P[:, None]
    solvable = np.exp(special.betaln(a, b + j) - special.betaln(a, b))
    unsolved = 1 - float(rates.pass_at_k(n))
    never_P = np.where(c_P == 0, rates.never / unsolved, 0.0)[:, None]
    chance: FloatArray = never_P + (1 - never_P) * solvable
    return chance


def noise_of(wrong_T: FloatArray, ks: Sequence[int], n: int) -> FloatArray:
    """Returns the variance that drawing n samples gives to a problem's mean of Pass@K over the `ks`, `(...)`.

    Two estimates from the same n samples, at k and l, average over all k-subsets and l-subsets; J samples of such a
    pair are the same, J hypergeometric. If q is the chance of a wrong sample, their covariance is
    E q^(k+l-J) - q^(k+l) (Hoeffding 1948, Ann. Math. Statist. 19(3), for U-statistics). Averaged over problems, q^t is
    what Pass@t leaves of one.

    Args:
        wrong_T: q^t, `(..., T)`, or its mean over what is known of q, at t = 0, 1, ..., twice the largest k.
    """
    total = np.zeros(wrong_T.shape[:-1])
    for k in ks:
        for other in ks:
            shared = np.arange(max(0, k + other - n), min(k, other) + 1)
            weight = stats.hypergeom.pmf(shared, n, k, other)
            total += wrong_T[..., k + other - shared] @ weight - wrong_T[..., k + other]
    variance: FloatArray = np.maximum(0.0, total / len(ks) ** 2)
    return variance


def _variance_of_a_run(n_Q: IntArray, c_Q: IntArray, ks: Sequence[int]) -> FloatArray:
    """Returns the variance of a run's Pass@K from its samples, `(K,)`.

    What is known of a problem's success rate is empirical Bayes with the run's own success rates.
    """
    rates = fit_rates(n_Q, c_Q)
    variance = np.zeros(len(ks))
    for n in np.unique(n_Q).tolist():
        _, c_P, where = distinct_counts(n_Q[n_Q == n], c_Q[n_Q == n])
        all_wrong = _all_wrong(rates, n, c_P, 2 * max(ks))
        variance += [np.bincount(where) @ noise_of(all_wrong, [k], n) for k in ks]
    return variance / n_Q.size**2


def sampling_variance(n_SQ: IntArray, c_SQ: IntArray, ks: Sequence[int]) -> FloatArray:
    """Returns the variance that sampling alone gives an arm's mean of Pass@K over runs and problems, `(K,)`.

    Of a run whose samples are all right or all wrong nothing is known: it adds nothing here.
    """
    varied = [(n_Q, c_Q) for n_Q, c_Q in zip(n_SQ, c_SQ, strict=True) if c_Q.any() and (c_Q < n_Q).any()]
    total = sum((_variance_of_a_run(n_Q, c_Q, ks) for n_Q, c_Q in varied), np.zeros(len(ks)))
    variance: FloatArray = total / len(n_SQ) ** 2
    return variance


def same_problems(
    mean_K: FloatArray, variance_K: FloatArray, n_SQ: IntArray, c_SQ: IntArray, ks: Sequence[int], level: float
) -> Interval:
    """Makes the interval of an arm's Pass@K on these very problems, pointwise: normal, with the variance of sampling.

    Where all samples are wrong (or right), the share of right ones has an exact binomial bound, and Pass@K one by it.
    """
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(variance_K)
    low, high = np.maximum(mean_K - half, 0.0), np.minimum(mean_K + half, 1.0)
    rare = float(1 - ((1 - level) / 2) ** (1 / n_SQ.sum()))
    if not c_SQ.any():
        # Pass@K is concave in the success rate, so equal rates make the most of it.
        high = -np.expm1(np.asarray(ks) * np.log1p(-rare))
    elif (c_SQ == n_SQ).all():
        low = np.full(len(ks), 1 - rare)  # Pass@K is no less than Pass@1
    return Interval(mean_K, low, high, level)


def difference_on_the_same(arm: Interval, reference: Interval) -> Interval:
    """Makes the interval of a difference from those of two arms with independent samples.

    Each end takes the distances that move it (Zou & Donner 2008, Stat. Med. 27(10)), so that intervals that are not
    symmetric stay so.
    """
    mean = arm.mean - reference.mean
    low = mean - np.hypot(arm.mean - arm.low, reference.high - reference.mean)
    high = mean + np.hypot(arm.high - arm.mean, reference.mean - reference.low)
    return Interval(mean, np.maximum(low, -1.0), np.minimum(high, 1.0), arm.level)
