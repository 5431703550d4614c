"""Pass@K beyond n: a model's guess, kept apart from the estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from forkwise.errors import InputError
from forkwise.passk.estimator import FloatArray, check_counts, distinct_counts, k_grid, pass_at_k
from forkwise.passk.intervals import Interval, problem_weights


@dataclass(frozen=True)
class Extrapolation:
    """Pass@K under a beta-binomial model: success rates of problems follow Beta(alpha, beta)."""

    alpha: float
    beta: float
    ks: list[int]
    pass_at_k: Interval
    """Percentile bootstrap over problems, refitted each time; it assumes that the model is right."""
    misfit: float
    """Largest distance between the model and the unbiased estimate at the powers of two up to n."""


def _fit(n_P: FloatArray, c_P: FloatArray, weight_P: FloatArray, start: FloatArray) -> FloatArray:
    """Fits log(alpha) and log(beta) by maximum likelihood."""

    def loss(x: FloatArray) -> tuple[float, FloatArray]:
        a, b = np.exp(x)
        log_likelihood_P = special.betaln(c_P + a, n_P - c_P + b) - special.betaln(a, b)
        by_both = special.digamma(a + b) - special.digamma(n_P + a + b)
        by_a = special.digamma(c_P + a) - special.digamma(a) + by_both
        by_b = special.digamma(n_P - c_P + b) - special.digamma(b) + by_both
        return -float(weight_P @ log_likelihood_P), -np.array([a * (weight_P @ by_a), b * (weight_P @ by_b)])

    optimum = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-12, 12)] * 2)
    return np.asarray(optimum.x, dtype=np.float64)


def _curve(x: FloatArray, ks: npt.ArrayLike) -> FloatArray:
    """Returns Pass@K for p ~ Beta(a, b): `1 - E[(1 - p)^k] = 1 - B(a, b + k) / B(a, b)`."""
    a, b = np.exp(x)
    return np.asarray(-np.expm1(special.betaln(a, b + np.asarray(ks, dtype=np.float64)) - special.betaln(a, b)))


def extrapolate(
    n: npt.ArrayLike, c: npt.ArrayLike, ks: Sequence[int], *, level: float = 0.95, resamples: int = 200, seed: int = 0
) -> Extrapolation:
    """Fits a beta-binomial to (n, c) by maximum likelihood and reads Pass@K off it, at any k.

    Args:
        n, c: as in `pass_at_k`.
        ks: where to read the model; may exceed n.

    Raises:
        InputError: fewer than two problems, or counts that are all 0 or all n, which fix no distribution.
    """
    n_Q, c_Q, _ = check_counts(n, c, 1)
    if n_Q.size < 2:
        raise InputError("Extrapolation fits a distribution over problems, so it needs at least two.")
    if (c_Q == 0).all() or (c_Q == n_Q).all():
        raise InputError(
            f"Every sample is {'wrong' if (c_Q == 0).all() else 'right'}, so nothing says how Pass@K would grow: "
            "there is no extrapolation from these samples."
        )
    n_P, c_P, where = distinct_counts(n_Q, c_Q)
    n_F, c_F = n_P.astype(np.float64), c_P.astype(np.float64)
    weight: FloatArray = np.bincount(where, minlength=n_P.size) / n_Q.size
    rate = float((c_Q / n_Q).mean())
    best = _fit(n_F, c_F, weight, np.log([max(rate, 1e-3), max(1 - rate, 1e-3)]))
    inside = k_grid(int(n_Q.min()))
    misfit = float(np.abs(_curve(best, inside) - pass_at_k(n_Q, c_Q, inside).mean(axis=0)).max())
    fits = []
    for block in problem_weights(n_Q.size, resamples, seed):
        for row in block:
            drawn: FloatArray = np.bincount(where, weights=row, minlength=n_P.size).astype(np.float64)
            # A draw in which nothing (or everything) is solved has its likelihood's maximum at the bound; it counts.
            fits.append(_curve(_fit(n_F, c_F, drawn, best), ks))
    low, high = np.quantile(np.array(fits), [(1 - level) / 2, (1 + level) / 2], axis=0)
    interval = Interval(_curve(best, ks), low, high, level, resamples)
    return Extrapolation(float(np.exp(best[0])), float(np.exp(best[1])), [int(k) for k in ks], interval, misfit)
