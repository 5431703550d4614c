"""Intervals of means that a few states hold, of numbers whose bounds are known, with problems as clusters.

Few tokens decide most of what is decided, and among some fifty states there may be none of them. Student's interval is
then too short on the side of what was not drawn. That of Gaffke (2005, Math. Methods of Statistics 14:1; Learned-
Miller & Thomas 2019, arXiv:1905.06208) is not. Units get random weights, exponential and independent, and the ends are
quantiles of the weighted mean; each takes one more unit, which stands for what was not drawn and has the bound itself.
Of zeros and ones that is Clopper and Pearson's interval; of many units that vary little it is the normal one.

Here a unit is a problem, a mean is a ratio of two sums over problems, and the unit more is one state. Where problems
are few, tails are those of the normal distribution at Student's quantile, with their degrees of freedom, as survey
statistics take it for shares (Korn & Graubard 1998, Survey Methodology 24:193).

Suffixes: Q problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, special, stats

from forkwise.explore.contrast import ALONE, FloatArray, freedom_of
from forkwise.explore.findings import Estimate

_CERTAIN = 10  # standard deviations from 0
_LEAST_TAIL = 1e-9  # what the integral can still tell from 0


@dataclass(frozen=True)
class Unseen:
    """A state that was not drawn: what it would add to either sum of a ratio."""

    part: float
    whole: float

    @classmethod
    def picked(cls, pick_N: FloatArray, part_N: FloatArray, whole_N: FloatArray) -> Unseen:
        """Makes one like those that were drawn, picked in proportion to `pick_N`."""
        share_N = pick_N / max(float(pick_N.sum()), 1e-300)
        return cls(float(share_N @ part_N), float(share_N @ whole_N))


def bounded_ratio(
    part_Q: FloatArray, whole_Q: FloatArray, size_Q: FloatArray, least: Unseen, most: Unseen, level: float
) -> Estimate:
    """Returns the ratio of two sums over problems, with an interval where there are two problems.

    Where one problem weighs nearly everything Student's quantile is so large that the ends are the extremes of problems
    and of what was not drawn; if one of these may be anything, there is no interval.

    Args:
        size_Q: how much each problem counts; problems without any have no say.
        least, most: what a state that was not drawn may add, at the lowest and at the highest.
    """
    has_say = size_Q > 0
    part, whole, share = part_Q[has_say], whole_Q[has_say], size_Q[has_say] / size_Q.sum()
    value = float(part.sum() / whole.sum())
    if share.size < 2 or share.max() > ALONE:
        return Estimate(value)
    tail = float(stats.norm.sf(stats.t.isf((1 - level) / 2, freedom_of(share))))
    extremes = tail < _LEAST_TAIL
    ends = []
    for sign, unseen in ((-1, least), (1, most)):
        a, b = sign * np.append(part, unseen.part), np.append(whole, unseen.whole)
        if (b <= 0).any() if extremes else positive(-b) >= tail:  # the whole may be nothing
            return Estimate(value)
        ends.append(sign * (float((a / b).max()) if extremes else _farthest(a, b, tail, sign * value)))
    return Estimate(value, *ends)


def p_of_zero(part_Q: FloatArray, size_Q: FloatArray, least: Unseen, most: Unseen) -> float | None:
    """Computes the two-sided p of a ratio that is 0: below 1 - level where `bounded_ratio` leaves 0 out."""
    has_say = size_Q > 0
    part, share = part_Q[has_say], size_Q[has_say] / size_Q.sum()
    if share.size < 2 or share.max() > ALONE:
        return None
    if not part.any():
        return 1.0
    beyond = min(positive(np.append(part, most.part)), positive(-np.append(part, least.part)))
    return min(1.0, float(2 * stats.t.sf(-special.ndtri(max(beyond, 1e-16)), freedom_of(share))))


def _farthest(part: FloatArray, whole: FloatArray, tail: float, value: float) -> float:
    """Returns where the ratio has no more chance than `tail` to be above, from `value` upwards."""

    @cache
    def excess(end: float) -> float:  # in standard deviations, nearly linear
        return float(special.ndtri(max(positive(part - end * whole), 1e-16)) - special.ndtri(tail))

    apart = part - value * whole
    step = 4 * float(np.sqrt(apart @ apart) / abs(whole.sum()))  # standard errors
    if step == 0 or excess(value) <= 0:
        return value
    while excess(value + step) > 0:
        step *= 2
    return float(optimize.brentq(excess, value, value + step, xtol=1e-6 * step, rtol=1e-12))


def positive(factor_Q: FloatArray) -> float:
    """Computes how likely `sum of factor * weight` is above 0, of independent exponential weights.

    By Gil-Pelaez (1951, Biometrika 38:481), where the characteristic function is the product of `1 / (1 - i a t)`: the
    integral over the logarithm of t, by trapezoids.
    """
    size = float(np.sqrt(factor_Q @ factor_Q))
    from_0 = float(factor_Q.sum()) / max(size, 1e-300)
    if abs(from_0) > _CERTAIN or (factor_Q >= 0).all() or (factor_Q <= 0).all():
        return float(from_0 > 0)
    step = 0.2 / (1 + abs(from_0) / 4)
    last = 12.0 if ((factor_Q / size) ** 4).sum() > 1 / 6 else 4.0  # few of them hold nearly everything, or many
    at = np.exp(np.arange(-8.0, last, step))[:, None] * (factor_Q / size)
    wave = np.sin(np.arctan(at).sum(axis=1)) * np.exp(-0.5 * np.log1p(at**2).sum(axis=1))
    below = wave[0] / np.expm1(step)  # where the wave is in proportion to t
    return float(0.5 + (wave.sum() + below) * step / np.pi)
