"""Variance components of Pass@K: how much of it changes with the problem, the run, both, and the draw of samples.

The model is that of `forkwise.passk.two_way`: the estimate of a run on a problem is a mean, plus an effect of the
problem, of the run, of the two together, and of the draw of n samples.

Suffixes: S runs of an arm, Q problems, E endpoints, T numbers of samples from 0 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk.design import shared_clusters
from forkwise.passk.differences import CURVE
from forkwise.passk.estimator import FloatArray, distinct_counts, k_grid, pass_at_k
from forkwise.passk.intervals import by_cluster, cluster_count
from forkwise.passk.outcomes import Arm
from forkwise.passk.sampling_noise import noise_of


@dataclass(frozen=True)
class Noise:
    """The sampling variance of the estimate on one problem of one run, from n samples."""

    n: int
    variance: float


@dataclass(frozen=True)
class Components:
    """The variances that one endpoint has, all of Pass@K as a share.

    Attributes:
        endpoint: the K, or `curve`.
        largest_k: fewest samples that the endpoint needs.
        run: variance over runs of the mean over unlimited problems.
        run_low, run_high: chi-square interval of `run`; both equal it where its degrees of freedom are not known.
        run_freedom: degrees of freedom of that interval; 0 where nobody said.
        run_problem: variance of a run on a problem beyond the sum of both effects and the draw of samples.
        noise: sampling variance by number of samples, rising n.
        method_problem: variance over problems of the difference of two arms; None where one arm alone is known.
        problem: variance over problems of an arm's mean, which no difference holds; None where it is not known.
        mean: Pass@K itself, over all arms; None where it is not known.
        rho: correlation of run effects that share a seed; None where it is not known.
        rho_low, rho_high: its interval by Fisher's z.
        cluster_size: problems to a cluster, where they come in clusters: those of a study are taken to come in more
            clusters, as large. Variances over problems are then those of clusters, times this size.
    """

    endpoint: str
    largest_k: int
    run: float
    run_low: float
    run_high: float
    run_freedom: int
    run_problem: float
    noise: list[Noise]
    method_problem: float | None = None
    problem: float | None = None
    mean: float | None = None
    rho: float | None = None
    rho_low: float | None = None
    rho_high: float | None = None
    cluster_size: float = 1.0

    def noise_at(self, n: int) -> float:
        """Returns the sampling variance at n samples, or at the next smaller number that is known: noise only falls.

        Raises:
            InputError: no number that small is known.
        """
        known = [noise.variance for noise in self.noise if noise.n <= n]
        if not known:
            raise InputError(
                f"Nothing says how noisy {n} samples of a problem are at {name_of(self.endpoint)}: the fewest that are "
                f"known are {self.noise[0].n}."
            )
        return known[-1]


def is_endpoint(text: str) -> bool:
    """Whether a text names an endpoint: `curve`, or a K of at most nine digits."""
    return text == CURVE or (text.isdecimal() and len(text) <= 9 and int(text) >= 1)


def name_of(endpoint: str) -> str:
    """Writes an endpoint as in `K = 16`, or `the curve's mean`."""
    return "the curve's mean" if endpoint == CURVE else f"K = {endpoint}"


def grid_of_endpoint(endpoint: str, largest_k: int) -> list[int]:
    """Returns the K whose Pass@K the endpoint averages."""
    return k_grid(largest_k) if endpoint == CURVE else [int(endpoint)]


def chi_square_interval(mean_square: float, freedom: int, level: float) -> tuple[float, float]:
    """Returns the interval of a variance that was estimated with so many degrees of freedom, normal units."""
    tail = (1 - level) / 2
    return (
        mean_square * freedom / float(stats.chi2.ppf(1 - tail, freedom)),
        mean_square * freedom / float(stats.chi2.ppf(tail, freedom)),
    )


def mean_curve(arms: Sequence[Arm]) -> FloatArray:
    """Returns Pass@t over all arms, runs and problems at t = 0, 1, ..., 2n, where n is the fewest samples of a problem.

    Up to n it is the unbiased estimate. Beyond, the curve is drawn on in log t, each octave rising by as much less than
    the one before as the last one did.
    """
    arm_counts = [arm.counts() for arm in arms]
    n_C, c_C = (np.concatenate([pair[i].ravel() for pair in arm_counts]) for i in (0, 1))
    n_P, c_P, where = distinct_counts(n_C, c_C)
    weight_P = np.bincount(where) / where.size
    n = int(n_C.min())
    curve_T = np.concatenate([[0.0], weight_P @ pass_at_k(n_P, c_P, list(range(1, n + 1)))])
    last, before = (curve_T[n >> i] - curve_T[n >> (i + 1)] for i in (0, 1))
    rise = last * min(1.0, last / before) if before > 0 else last
    beyond = np.log2(np.arange(n + 1, 2 * n + 1) / n)
    drawn_on_T: FloatArray = np.minimum(1.0, np.concatenate([curve_T, curve_T[n] + rise * beyond]))
    return drawn_on_T


def _endpoint_values(arm: Arm, endpoints: Sequence[str], largest_k: int) -> FloatArray:
    """Returns each endpoint of every run and problem, `(S, Q, E)`."""
    grids = [grid_of_endpoint(endpoint, largest_k) for endpoint in endpoints]
    ks = sorted({k for grid in grids for k in grid})
    curves_SQK = arm.curves(ks)
    return np.stack([curves_SQK[:, :, [ks.index(k) for k in grid]].mean(axis=2) for grid in grids], axis=2)


def _interaction(x_SGE: FloatArray) -> FloatArray:
    """Returns the residual mean square of runs x problems (or clusters), `(E,)`: their interaction and the samples'."""
    s, g, _ = x_SGE.shape
    by_run, by_problem = x_SGE.mean(axis=1, keepdims=True), x_SGE.mean(axis=0, keepdims=True)
    residual = x_SGE - by_run - by_problem + x_SGE.mean(axis=(0, 1))
    square: FloatArray = (residual**2).sum(axis=(0, 1)) / ((s - 1) * (g - 1))
    return square


def estimate(
    arms: Sequence[Arm],
    endpoints: Sequence[str],
    *,
    largest_k: int,
    ns: Sequence[int],
    paired: bool = False,
    level: float = 0.95,
) -> list[Components]:
    """Estimates the components of every endpoint from pilot arms over the same problems.

    Args:
        endpoints: K, or `curve`, the mean over K = 1, 2, 4, ..., `largest_k`.
        ns: numbers of samples for which the sampling variance is wanted.
        paired: run number i of every arm shares its seed, so `rho` is estimated.
        level: of the intervals.

    Raises:
        InputError: no arm has two runs, or there is one problem, or one cluster.
    """
    values = [_endpoint_values(arm, endpoints, largest_k) for arm in arms]
    repeated = [x for x in values if x.shape[0] > 1]
    if not repeated:
        raise InputError(
            "No arm of the pilot has two runs, so nothing says how runs differ: give the seeds of an arm as "
            "TABLE,TABLE,..., or state the variances with --components."
        )
    problems = values[0].shape[1]
    if problems < 2:
        raise InputError("The pilot has one problem, and how runs differ takes at least two.")
    # As in the test, whole clusters vary. Their variance is kept per problem, so that it is divided by problems.
    cluster_Q = shared_clusters(arms)
    values = [by_cluster(x, cluster_Q) for x in values]
    repeated = [x for x in values if x.shape[0] > 1]
    per_problem = problems / values[0].shape[1]
    freedom = sum(x.shape[0] - 1 for x in repeated)
    weights = np.array([(x.shape[0] - 1) / freedom for x in repeated])
    run_square_E = weights @ np.array([x.mean(axis=1).var(axis=0, ddof=1) for x in repeated])
    interaction_E = per_problem * (weights @ np.array([_interaction(x) for x in repeated]))
    by_problem = [x.mean(axis=0) for x in values]
    pairs = zip(by_problem, values, strict=True)
    problem_E = np.mean([per_problem * x.var(axis=0, ddof=1) - interaction_E / v.shape[0] for x, v in pairs], axis=0)
    method_problem_E = None
    if len(arms) > 1:
        noise_E = [interaction_E * (1 / values[0].shape[0] + 1 / v.shape[0]) for v in values[1:]]
        differences = [x - by_problem[0] for x in by_problem[1:]]
        pairs = zip(differences, noise_E, strict=True)
        method_problem_E = np.mean([per_problem * d.var(axis=0, ddof=1) - noise for d, noise in pairs], axis=0)
    correlation = _seed_correlation(values, run_square_E, problems, interaction_E, level) if paired else None
    curve_T = mean_curve(arms)
    drawn = 1 / np.mean([(1 / arm.counts()[0]).mean() for arm in arms])
    components = []
    for e, endpoint in enumerate(endpoints):
        grid = grid_of_endpoint(endpoint, largest_k)
        noise = [Noise(n, float(noise_of(1 - curve_T, grid, n))) for n in sorted(set(ns)) if n >= grid[-1]]
        overlap = float(interaction_E[e]) / problems
        low, high = chi_square_interval(float(run_square_E[e]), freedom, level)
        beyond = float(interaction_E[e]) - float(noise_of(1 - curve_T, grid, max(round(drawn), grid[-1])))
        rho, rho_low, rho_high = (None, None, None) if correlation is None else (float(x[e]) for x in correlation)
        components.append(
            Components(
                endpoint=endpoint,
                largest_k=grid[-1],
                run=max(0.0, float(run_square_E[e]) - overlap),
                run_low=max(0.0, low - overlap),
                run_high=max(0.0, high - overlap),
                run_freedom=freedom,
                run_problem=max(0.0, beyond),
                noise=noise,
                method_problem=None if method_problem_E is None else max(0.0, float(method_problem_E[e])),
                problem=max(0.0, float(problem_E[e])),
                mean=float(np.mean([x[:, :, e].mean() for x in values])),
                rho=rho,
                rho_low=rho_low,
                rho_high=rho_high,
                cluster_size=problems / cluster_count(problems, cluster_Q),
            )
        )
    return components


def _seed_correlation(
    values: Sequence[FloatArray], run_square_E: FloatArray, problems: int, interaction_E: FloatArray, level: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns the correlation of the effects of runs that share a seed, with its interval by Fisher's z, each `(E,)`.

    The noise that problems and samples add to a run's mean is taken out of the variances.
    """
    by_run = [x.mean(axis=1) - x.mean(axis=(0, 1)) for x in values]
    seeds = by_run[0].shape[0]
    pairs = [(a, b) for i, a in enumerate(by_run) for b in by_run[i + 1 :]]
    covariance_E = np.mean([(a * b).sum(axis=0) / (seeds - 1) for a, b in pairs], axis=0)
    raw_E = np.divide(covariance_E, run_square_E, out=np.zeros_like(covariance_E), where=run_square_E > 0)
    raw_E = np.clip(raw_E, -0.999, 0.999)
    pure_E = np.maximum(run_square_E - interaction_E / problems, 0.0)
    larger_E = np.divide(run_square_E, pure_E, out=np.ones_like(pure_E), where=pure_E > 0)
    if seeds > 3:
        half = float(stats.norm.ppf((1 + level) / 2)) / np.sqrt(seeds - 3)
        ends = [np.tanh(np.arctanh(raw_E) + sign * half) * larger_E for sign in (-1, 1)]
    else:
        ends = [np.full_like(raw_E, -1.0), np.full_like(raw_E, 1.0)]
    rho_E, low_E, high_E = (np.clip(x, -1.0, 1.0) for x in (raw_E * larger_E, *ends))
    return rho_E, low_E, high_E
