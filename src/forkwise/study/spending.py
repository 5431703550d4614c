"""Which p counts as shown at each look at a study, so that all looks together make the agreed error.

The chance of a false claim is spent over the looks as Lan & DeMets 1983, Biometrika 70(3), do with the spending
function of O'Brien and Fleming: hardly anything early, nearly all at the end.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from forkwise.passk.estimator import FloatArray
from forkwise.study.spec import Study

_NODES = 200  # of each integral


def spent(alpha: float, fraction: float) -> float:
    """Returns the two-sided error that may be spent up to this fraction of the study: each side spends its half."""
    return float(4 * stats.norm.sf(stats.norm.isf(alpha / 4) / np.sqrt(fraction)))


@lru_cache
def boundaries(alpha: float, fractions: tuple[float, ...]) -> tuple[float, ...]:
    """Returns the p below which a difference is shown at each look; the last fraction is 1, the end.

    Runs are independent, so `score * sqrt(fraction)` moves from look to look by independent normal steps; what is left
    between the boundaries is integrated step by step (Armitage, McPherson & Rowe 1969, J. R. Stat. Soc. A 132(2)).
    """
    found, before, used = [], 0.0, 0.0
    at_X, density_X = np.zeros(1), np.ones(1)  # where the sum may stand, and how likely; weights are in the latter
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    for t in fractions:
        step = np.sqrt(t - before)

        def crossed(
            edge: float, step: float = step, at_X: FloatArray = at_X, density_X: FloatArray = density_X
        ) -> float:
            outside = stats.norm.sf((edge - at_X) / step) + stats.norm.cdf((-edge - at_X) / step)
            return float(outside @ density_X)

        wanted = spent(alpha, t) - used
        edge = optimize.brentq(lambda edge: crossed(edge) - wanted, 0.0, 12.0 * np.sqrt(t), xtol=1e-10)  # noqa: B023
        found.append(float(2 * stats.norm.sf(edge / np.sqrt(t))))
        inside_X = edge * nodes
        moved = stats.norm.pdf((inside_X[:, None] - at_X) / step) / step
        at_X, density_X = inside_X, edge * weights * (moved @ density_X)
        before, used = t, spent(alpha, t)
    return tuple(found)


def boundary(study: Study, seeds: int) -> float:
    """Returns the p below which the primary difference is shown with so many seeds; 0 where no look was planned."""
    assert study.primary is not None
    planned = [*study.looks, len(study.seeds)]
    fractions = tuple(number / planned[-1] for number in planned)
    if seeds not in planned:
        return 0.0
    return boundaries(1 - study.primary.level, fractions)[planned.index(seeds)]
