"""How often do 95 % intervals of the difference in entropy hold the true one? Percentile, BCa, Student.

    python benchmarks/explore_intervals.py

The difference is one of ratios of sums over problems, as in `forkwise.explore.contrast`: problems have tokens and
marked tokens in unequal, skewed numbers (geometric, beta), the base entropy and the effect are skewed over problems
(gamma), and noise is added per token. 1,000 repetitions, 1,000 resamples of problems each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]

LEVEL = 0.95
REPETITIONS = 1000
RESAMPLES = 1000


def draw(rng: np.random.Generator, q: int) -> FloatArray:
    """`(q, 4)`: number and sum of the entropies of marked tokens, and of the others, for each problem."""
    others = rng.geometric(1 / 300, q) + 50
    marked = rng.binomial(others, rng.beta(1.5, 18, q)) + 1
    base, effect = rng.gamma(2.0, 0.2, q), rng.gamma(1.0, 0.3, q)
    sum_marked = marked * (base + effect) + 0.6 * np.sqrt(marked) * rng.normal(size=q)
    sum_others = others * base + 0.6 * np.sqrt(others) * rng.normal(size=q)
    return np.stack([marked, sum_marked, others, sum_others], axis=1)


def difference(sums: FloatArray) -> FloatArray:
    """Mean of marked minus mean of others, along the last axis of summed rows."""
    found: FloatArray = sums[..., 1] / sums[..., 0] - sums[..., 3] / sums[..., 2]
    return found


def intervals(rows: FloatArray, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Each kind of interval from the same resamples and the jackknife over problems."""
    q = len(rows)
    value = difference(rows.sum(axis=0))
    draws = difference(rng.multinomial(q, np.full(q, 1 / q), size=RESAMPLES) @ rows)
    left_out = difference(rows.sum(axis=0) - rows)
    centred = left_out.mean() - left_out
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    edge = 1 / (RESAMPLES + 1)
    z0 = stats.norm.ppf(np.clip((draws < value).mean(), edge, 1 - edge))
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    z = z0 + stats.norm.ppf(tails)
    half = stats.t.ppf(tails[1], q - 1) * np.sqrt((q - 1) / q * (centred**2).sum())
    found = {
        "percentile": np.quantile(draws, tails),
        "BCa": np.quantile(draws, stats.norm.cdf(z0 + z / (1 - acceleration * z))),
        "Student, jackknife": np.array([value - half, value + half]),
    }
    return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def main() -> None:
    rng = np.random.default_rng(0)
    truth = float(difference(draw(rng, 400_000).sum(axis=0)))
    print(f"true difference {truth:.3f}; coverage (mean width) of {LEVEL:.0%} intervals")
    for q in (10, 20, 40, 64, 128):
        made = [intervals(draw(rng, q), rng) for _ in range(REPETITIONS)]
        cells = []
        for name in made[0]:
            ends = np.array([found[name] for found in made])
            hit = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
            cells.append(f"{name} {hit:.3f} ({(ends[:, 1] - ends[:, 0]).mean():.3f})")
        print(f"{q:>4} problems: {'; '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
