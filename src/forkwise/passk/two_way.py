"""Intervals, bands and p-values of a difference that vary over problems and over training runs.

Suffixes: S runs (training seeds) of an arm, Q problems, K values of k, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
from scipy import stats

from forkwise.passk.estimator import FloatArray
from forkwise.passk.intervals import Interval, default_resamples, problem_weights, unseen


def run_weights(runs: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Draws bootstrap weights of an arm's runs, `(R, S)`, each row summing to 1.

    Drawing S runs from S understates their variance by (S-1)/S; stretching the weights about 1/S corrects this.
    """
    if runs == 1:
        return np.ones((resamples, 1))
    drawn = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs
    weights: FloatArray = 1 / runs + np.sqrt(runs / (runs - 1)) * (drawn - 1 / runs)
    return weights


def mean_draws(arm_SQK: FloatArray, reference_SQK: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Draws bootstraps of the mean difference, `(R, K)`: problems resampled jointly, runs of each arm on their own."""
    rng = np.random.default_rng([seed, 1])
    v_RS, u_RS = (run_weights(x.shape[0], resamples, rng) for x in (arm_SQK, reference_SQK))
    draws_RK, start = np.empty((resamples, arm_SQK.shape[2])), 0
    for w_RQ in problem_weights(arm_SQK.shape[1], resamples, seed):
        rows = slice(start, start + w_RQ.shape[0])
        if arm_SQK.shape[0] == reference_SQK.shape[0] == 1:
            draws_RK[rows] = w_RQ @ (arm_SQK[0] - reference_SQK[0])
        else:
            arm_RK = sum(v_RS[rows, s, None] * (w_RQ @ arm_SQK[s]) for s in range(arm_SQK.shape[0]))
            reference_RK = sum(u_RS[rows, s, None] * (w_RQ @ reference_SQK[s]) for s in range(reference_SQK.shape[0]))
            draws_RK[rows] = arm_RK - reference_RK
        start += w_RQ.shape[0]
    return draws_RK


def _run_variance(x_SQK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns the variance of an arm's mean from its runs, and the part that problems already carry; each `(K,)`."""
    s, q, _ = x_SQK.shape
    if s == 1:
        return np.zeros(x_SQK.shape[2]), np.zeros(x_SQK.shape[2])
    by_run = x_SQK.mean(axis=1)
    residual = x_SQK - by_run[:, None] - x_SQK.mean(axis=0)[None] + by_run.mean(axis=0)
    interaction = (residual**2).sum(axis=(0, 1)) / ((s - 1) * (q - 1)) / (s * q)
    return by_run.var(axis=0, ddof=1) / s, interaction


def standard_error(arm_SQK: FloatArray, reference_SQK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns the standard error of the mean difference and its Satterthwaite degrees of freedom, each `(K,)`.

    It is two-way: variance over problems plus that over the runs of each arm, minus their interaction, which both hold
    (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat. 29(2), eq. 2.10). With one run per arm, the ordinary one.
    """
    q = arm_SQK.shape[1]
    problems = (arm_SQK.mean(axis=0) - reference_SQK.mean(axis=0)).var(axis=0, ddof=1) / q
    (arm, overlap), (other, other_overlap) = _run_variance(arm_SQK), _run_variance(reference_SQK)
    total = np.maximum(problems + arm + other - overlap - other_overlap, np.maximum(problems, arm + other))
    spread = problems**2 / (q - 1)
    for component, x in ((arm, arm_SQK), (other, reference_SQK)):
        spread = spread + component**2 / max(x.shape[0] - 1, 1)
    components = problems + arm + other
    freedom = np.where(spread > 0, components**2 / np.where(spread > 0, spread, 1), q - 1)
    return np.sqrt(total), freedom


def _within(mean_K: FloatArray, half_K: FloatArray, level: float) -> Interval:
    """Makes the interval `mean ± half`, cut at ±1, which no difference of probabilities exceeds."""
    return Interval(mean_K, np.maximum(mean_K - half_K, -1.0), np.minimum(mean_K + half_K, 1.0), level)


def _band(
    mean_K: FloatArray, se_K: FloatArray, freedom_K: FloatArray, draws_RK: FloatArray, problems: int, level: float
) -> Interval:
    """Makes the sup-t band `mean ± critical * se`; `critical` is the quantile of the largest |t| over k in the draws.

    Montiel Olea & Plagborg-Møller 2019, J. Appl. Econometrics 34(1), algorithm 1; widened by the ratio of the Student
    to the normal quantile, because the standard error of few problems or runs is itself uncertain.
    """
    spread = draws_RK.std(axis=0)
    moves = spread > 1e-12
    tail = (1 + level) / 2
    half = np.full(mean_K.size, unseen(problems, level))
    if moves.any():
        t_R = (np.abs(draws_RK[:, moves] - mean_K[moves]) / spread[moves]).max(axis=1)
        student = stats.t.ppf(tail, freedom_K[moves]) / stats.norm.ppf(tail)
        half[moves] = np.quantile(t_R, level) * se_K[moves] * student
    return replace(_within(mean_K, half, level), resamples=draws_RK.shape[0])


def relabelling_p(arm_SQK: FloatArray, reference_SQK: FloatArray, resamples: int, seed: int) -> FloatArray | None:
    """Tests "the runs of both arms are exchangeable" on these problems: max-T adjusted p, `(K,)`.

    The test deals the runs to the two arms in all ways, or in `resamples` random ones where there are more. With S runs
    on each side the smallest p is 2 / C(2S, S).
    """
    s, t = arm_SQK.shape[0], reference_SQK.shape[0]
    if min(s, t) < 2:
        return None
    runs_RK = np.concatenate([arm_SQK.mean(axis=1), reference_SQK.mean(axis=1)])
    if comb(s + t, s) <= resamples:
        chosen = np.array(list(combinations(range(s + t), s)))  # the first is the observed one
    else:
        rng = np.random.default_rng([seed, 2])
        chosen = np.stack([np.arange(s), *(rng.permutation(s + t)[:s] for _ in range(resamples))])
    member = np.zeros((len(chosen), s + t))
    np.put_along_axis(member, chosen, 1.0, axis=1)
    means = (member / s - (1 - member) / t) @ runs_RK
    scale = np.sqrt((means**2).mean(axis=0))
    moves = scale > 1e-12
    ratio = np.abs(means) / np.where(moves, scale, 1.0)
    p = (ratio.max(axis=1, keepdims=True) >= ratio[0] - 1e-9).mean(axis=0)
    return np.where(moves, p, 1.0)


def difference_intervals(
    arm_SQK: FloatArray,
    reference_SQK: FloatArray,
    *,
    level: float = 0.95,
    arms: int = 1,
    resamples: int | None = None,
    seed: int = 0,
) -> tuple[Interval, Interval, FloatArray]:
    """Returns the mean difference of two arms' curves as pointwise interval `(K,)` and band `(K,)`, and draws `(R, K)`.

    The pointwise one is Student t with the two-way standard error; with one run per arm it is the paired t interval.

    Args:
        arm_SQK, reference_SQK: Pass@K per run and problem, the same problems in both, any number of runs in each.
        arms: comparisons made at once; the band of each is widened (Bonferroni) so that all hold together.
    """
    resamples = default_resamples(arm_SQK.shape[1]) if resamples is None else resamples
    arm_SQK, reference_SQK = _fixed_runs(arm_SQK, reference_SQK)
    pointwise = pointwise_interval(arm_SQK, reference_SQK, level)
    draws = mean_draws(arm_SQK, reference_SQK, resamples, seed)
    se, freedom = standard_error(arm_SQK, reference_SQK)
    band = _band(pointwise.mean, se, freedom, draws, arm_SQK.shape[1], 1 - (1 - level) / arms)
    return pointwise, replace(band, level=level), draws


def _fixed_runs(arm_SQK: FloatArray, reference_SQK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Averages the runs of both arms where one arm has a single run, which says nothing about their spread."""
    if min(arm_SQK.shape[0], reference_SQK.shape[0]) > 1:
        return arm_SQK, reference_SQK
    return arm_SQK.mean(axis=0, keepdims=True), reference_SQK.mean(axis=0, keepdims=True)


def pointwise_interval(arm_SQK: FloatArray, reference_SQK: FloatArray, level: float) -> Interval:
    """Returns the mean difference with its Student t interval at each K alone, by the two-way standard error."""
    arm_SQK, reference_SQK = _fixed_runs(arm_SQK, reference_SQK)
    se, freedom = standard_error(arm_SQK, reference_SQK)
    half = stats.t.ppf((1 + level) / 2, freedom) * se
    half[se == 0] = unseen(arm_SQK.shape[1], level)
    return _within((arm_SQK.mean(axis=0) - reference_SQK.mean(axis=0)).mean(axis=0), half, level)


def holm(adjusted: Sequence[FloatArray]) -> list[FloatArray]:
    """Applies Holm's step-down over arms to p-values that are already adjusted over k within each arm.

    Arms are ordered by their smallest p; each is multiplied by the number of arms still in play, and none may fall
    below the smallest adjusted p of an arm before it.
    """
    smallest = np.array([p.min() for p in adjusted])
    corrected: list[FloatArray] = list(adjusted)
    floor = 0.0
    for rank, a in enumerate(np.argsort(smallest, kind="stable")):
        corrected[a] = np.minimum(1.0, np.maximum(floor, (len(adjusted) - rank) * adjusted[a]))
        floor = float(corrected[a].min())
    return corrected
