"""Pass@K beyond n: a model's guess, kept apart from the estimate.

Suffixes: S runs, Q problems, P distinct pairs (n, c), K values of k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from forkwise.errors import InputError
from forkwise.passk.estimator import FloatArray, IntArray, check_counts, distinct_counts, pass_at_k
from forkwise.passk.intervals import Interval, problem_weights

_FEWEST = 8  # samples that a model is fitted to when it is tried out within the data
_THINNINGS = 5  # random choices of these samples


@dataclass(frozen=True)
class SuccessRates:
    """How the success rates of a run's problems are distributed: Beta(alpha, beta), but for a share that is 0.

    Attributes:
        never: the share of problems that no number of samples would solve.
        alpha, beta: of the others.
    """

    never: float
    alpha: float
    beta: float

    def pass_at_k(self, ks: npt.ArrayLike) -> FloatArray:
        """Returns Pass@K: `(1 - never) (1 - E[(1 - p)^k])` with `E[(1 - p)^k] = B(a, b + k) / B(a, b)`."""
        k = np.asarray(ks, dtype=np.float64)
        missed = special.betaln(self.alpha, self.beta + k) - special.betaln(self.alpha, self.beta)
        return np.asarray(-np.expm1(missed) * (1 - self.never))


@dataclass(frozen=True)
class Extrapolation:
    """Pass@K under a model, fitted to each run: see `SuccessRates`."""

    runs: list[SuccessRates]
    """The fit of each run."""
    ks: list[int]
    pass_at_k: Interval
    """Mean over the runs; percentile bootstrap over problems, refitted each time, as if the model were right."""
    misfit: FloatArray
    """How far the model is off at each K: up to n from the unbiased estimate; beyond, what it says of n from n/K as
    many samples, from the estimate at n."""
    tried: FloatArray
    """By how many times the number of samples the misfit beyond n was measured; less than K/n where n is small."""


def _fit(n_P: FloatArray, c_P: FloatArray, weight_P: FloatArray, start: FloatArray) -> tuple[FloatArray, float]:
    """Fits log(alpha), log(beta) and the log odds of `never` by maximum likelihood; returns them and the loss."""
    none_P = c_P == 0

    def loss(x: FloatArray) -> tuple[float, FloatArray]:
        a, b, never = np.exp(x[0]), np.exp(x[1]), special.expit(x[2])
        binomial_P = special.betaln(c_P + a, n_P - c_P + b) - special.betaln(a, b)
        of_beta_P = (1 - never) * np.exp(np.where(none_P, binomial_P, 0.0))
        # The chance that a problem without a success is one that can be solved.
        solvable_P = np.where(none_P, of_beta_P / (never + of_beta_P), 1.0)
        log_P = np.where(none_P, np.log(never + of_beta_P), np.log1p(-never) + binomial_P)
        by_both = special.digamma(a + b) - special.digamma(n_P + a + b)
        by_a = solvable_P * (special.digamma(c_P + a) - special.digamma(a) + by_both)
        by_b = solvable_P * (special.digamma(n_P - c_P + b) - special.digamma(b) + by_both)
        by_never = np.where(none_P, (1 - solvable_P) - never, -never)
        return -float(weight_P @ log_P), -np.array([a * (weight_P @ by_a), b * (weight_P @ by_b), weight_P @ by_never])

    bounds = [(-12, 12), (-12, 12), (-12, 6)]
    optimum = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(optimum.x, dtype=np.float64), float(optimum.fun)


def _starts(n_Q: IntArray, c_Q: IntArray) -> list[FloatArray]:
    """Returns where the search begins: hardly any problem that is never solved, or most of those without a success."""
    rate = float((c_Q / n_Q).mean())
    beta = np.log([max(rate, 1e-3), max(1 - rate, 1e-3)])
    unsolved = float((c_Q == 0).mean())
    return [np.array([*beta, -8.0]), np.array([*beta, special.logit(np.clip(0.8 * unsolved, 1e-3, 0.9))])]


def _rates(x: FloatArray) -> SuccessRates:
    return SuccessRates(float(special.expit(x[2])), float(np.exp(x[0])), float(np.exp(x[1])))


@dataclass(frozen=True)
class _Run:
    """Counts of a run, and its distinct pairs."""

    n_Q: IntArray
    c_Q: IntArray

    def fit(self, weight_Q: FloatArray | None = None, start: FloatArray | None = None) -> FloatArray:
        """Fits the model, to problems weighted as `weight_Q` says; from one start, or from the better of two."""
        n_P, c_P, where = distinct_counts(self.n_Q, self.c_Q)
        weights = np.full(self.n_Q.size, 1 / self.n_Q.size) if weight_Q is None else weight_Q
        weight_P: FloatArray = np.bincount(where, weights=weights, minlength=n_P.size).astype(np.float64)
        starts = _starts(self.n_Q, self.c_Q) if start is None else [start]
        fits = [_fit(n_P.astype(np.float64), c_P.astype(np.float64), weight_P, x) for x in starts]
        return min(fits, key=lambda fit: fit[1])[0]


def fit_rates(n_Q: IntArray, c_Q: IntArray) -> SuccessRates:
    """Fits the distribution of the success rates of a run's problems."""
    return _rates(_Run(n_Q, c_Q).fit())


def extrapolate(
    n: npt.ArrayLike, c: npt.ArrayLike, ks: Sequence[int], *, level: float = 0.95, resamples: int = 200, seed: int = 0
) -> Extrapolation:
    """Fits the model to (n, c) of each run by maximum likelihood and reads the mean of their Pass@K off it, at any k.

    Runs are never pooled: the Pass@K of a mixture of runs exceeds the mean of theirs.

    Args:
        n, c: as in `pass_at_k`; `(Q,)` of one run or `(S, Q)`.
        ks: where to read the model; may exceed n.

    Raises:
        InputError: fewer than two problems, or counts of a run that are all 0 or all n, which fix no distribution.
    """
    c_SQ = np.atleast_2d(np.asarray(c))
    n_SQ = np.broadcast_to(np.asarray(n), c_SQ.shape)
    runs = []
    for n_Q, c_Q in zip(n_SQ, c_SQ, strict=True):
        run = _Run(*check_counts(n_Q, c_Q, 1)[:2])
        if run.n_Q.size < 2:
            raise InputError("Extrapolation fits a distribution over problems, so it needs at least two.")
        if (run.c_Q == 0).all() or (run.c_Q == run.n_Q).all():
            raise InputError(
                f"Every sample is {'wrong' if (run.c_Q == 0).all() else 'right'}, so nothing says how Pass@K would "
                "grow: there is no extrapolation from these samples."
            )
        runs.append(run)
    best = [run.fit() for run in runs]
    draws = []
    for block in problem_weights(c_SQ.shape[1], resamples, seed):
        # A draw in which nothing (or everything) is solved has its likelihood's maximum at the bound; it counts.
        draws += [
            np.mean([_rates(run.fit(row, x)).pass_at_k(ks) for run, x in zip(runs, best, strict=True)], axis=0)
            for row in block
        ]
    low, high = np.quantile(np.array(draws), [(1 - level) / 2, (1 + level) / 2], axis=0)
    mean = np.mean([_rates(x).pass_at_k(ks) for x in best], axis=0)
    interval = Interval(mean, low, high, level, resamples)
    misfit, tried = zip(*(_misfit(runs, best, int(k), seed) for k in ks), strict=True)
    return Extrapolation([_rates(x) for x in best], [int(k) for k in ks], interval, np.array(misfit), np.array(tried))


def _misfit(runs: Sequence[_Run], best: Sequence[FloatArray], k: int, seed: int) -> tuple[float, float]:
    """Measures how far the model is off at k, and over which factor of the number of samples it was tried."""
    n = min(int(run.n_Q.min()) for run in runs)
    at = min(k, n)
    truth = np.mean([pass_at_k(run.n_Q, run.c_Q, at).mean() for run in runs])
    if k <= n:
        return float(abs(np.mean([_rates(x).pass_at_k(k) for x in best]) - truth)), 1.0
    few = min(n, max(_FEWEST, round(n * n / k)))
    rng = np.random.default_rng([seed, few])
    predictions = []
    for run in runs:
        for _ in range(_THINNINGS):
            thinned_Q = rng.hypergeometric(run.c_Q, run.n_Q - run.c_Q, few)
            if 0 < thinned_Q.sum() < few * thinned_Q.size:
                predictions.append(fit_rates(np.full(thinned_Q.size, few), thinned_Q).pass_at_k(n))
    return (float(abs(np.mean(predictions) - truth)) if predictions else float("nan")), n / few
