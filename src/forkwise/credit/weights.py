"""The weight g(H) that is best for credit: which factor of GRPO's advantage by entropy brings an update nearest to the
true gradient.

With u_b the part of GRPO's update that comes from tokens of the entropy bin b, an update with the weights g is
`sum_b g_b u_b`, and its cosine with the true gradient v, with n completions, is `g's / sqrt(g'(M + C / n) g)` times
`1 / |Ev|`, where `s_b = <E u_b, E v>`, `M_bc = <E u_b, E u_c>` and C is the noise of a completion, `G` times the inner
products of deviations. It is largest for `g = (M + C / n)^-1 s`, up to a factor. Here g is asked to rise with H and not
to be negative, which is least squares with non-negative steps; without noise M alone decides, and g = 1 were best if
the tokens' advantages were.

Suffixes: B bins.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg, optimize, stats

from forkwise.credit.gradients import Products
from forkwise.credit.results import WeightBin
from forkwise.explore.contrast import FloatArray
from forkwise.explore.findings import Estimate

BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)
"""Lower edges of the bins of entropy, nats."""
_RIDGE = 1e-9


def best_weights(of: Products, completions: int, level: float) -> list[WeightBin]:
    """Estimates the weight of each bin, rising and free, scaled to a mean square of 1 over the bins that have any.

    Args:
        of: products of the bins' updates, the true gradient last.
        completions: of an update.
    """
    problems, whole, without_one = of.problems, of.all_pairs(), of.left_out()
    square = of.square_QMM.sum(axis=0)
    rising_B, free_B = _solved(whole, square, problems, of, completions)
    without_each = [
        _solved(without_one[q], square - of.square_QMM[q], problems - 1, of, completions)[0] for q in range(problems)
    ]
    error_B = np.sqrt((problems - 1) / problems * ((without_each - np.mean(without_each, axis=0)) ** 2).sum(axis=0))
    half = float(stats.t.ppf((1 + level) / 2, problems - 1))
    return [
        WeightBin(
            low=low,
            rising=Estimate(float(g), float(g - half * e), float(g + half * e)),
            free=float(f),
            share=float(square[b, b] / max(np.trace(square[:-1, :-1]), 1e-300)),
        )
        for b, (low, g, f, e) in enumerate(zip(BINS, rising_B, free_B, error_B, strict=True))
    ]


def _solved(
    pairs: FloatArray, square: FloatArray, problems: int, of: Products, completions: int
) -> tuple[FloatArray, FloatArray]:
    bins = len(BINS)
    expected = pairs / (problems * (problems - 1))
    mean_BB = (expected + expected.T)[:bins, :bins] / 2
    noise_BB = of.size * (square[:bins, :bins] / problems - mean_BB)
    s_B = (expected + expected.T)[:bins, bins] / 2
    values, vectors = linalg.eigh(mean_BB + noise_BB / completions)
    root_BB = (vectors * np.sqrt(np.maximum(values, _RIDGE * values.max()))).T
    target_B = linalg.lstsq(root_BB.T, s_B)[0]
    steps, _ = optimize.nnls(root_BB @ np.tril(np.ones((bins, bins))), target_B)
    free_B = linalg.lstsq(root_BB, target_B)[0]
    there_B = np.diag(square)[:bins] > 0
    rising_B = np.cumsum(steps)
    return tuple(x / max(float(np.sqrt((x[there_B] ** 2).mean())), 1e-300) for x in (rising_B, free_B))  # type: ignore[return-value]
