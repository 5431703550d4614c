"""The power of a study: what difference of two arms it can find, and how many runs, problems and samples that takes.

The test is the two-way one of `forkwise compare` at one endpoint that was named before: Student t with the variance
over problems and runs, for other trainings on problems like these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from forkwise.passk.components import Components
from forkwise.passk.design import FEWEST_PAIRS, FEWEST_RUNS
from forkwise.passk.estimator import FloatArray
from forkwise.passk.intervals import unseen
from forkwise.passk.two_way import ENOUGH, count_sparseness

_SURE = 60  # normal units of which more than six differ, whatever the luck
_DRAWS = 20_000
_FAR = 30.0  # standard errors, beyond which the normal distribution is near enough

MOST_RUNS = 10_000
"""Runs per arm beyond which nobody plans."""


@dataclass(frozen=True)
class Size:
    """How large a study is: runs per arm, problems, and samples of each problem."""

    runs: int
    problems: int
    samples: int


@dataclass(frozen=True)
class Test:
    """How a difference is tested.

    Attributes:
        alpha: two-sided, of one contrast at one endpoint, corrected for all that are tested.
        power: the wanted chance to find a difference.
        rho: correlation of run effects that share a seed, where the test pairs seeds; None: it does not.
        fixed: whether the reference is one model that is not trained again, sampled once.
        method_problem: variance over problems of the difference, in the place of what the components say; None: theirs,
            and 0 where they say nothing.
        arms_pooled: arms whose runs tell the run variance: the two that are compared.
    """

    __test__ = False  # pytest takes a class of this name for tests

    alpha: float
    power: float = 0.8
    rho: float | None = None
    fixed: bool = False
    method_problem: float | None = None
    arms_pooled: int = 2

    @property
    def fewest(self) -> int:
        """Returns the fewest runs per arm that the test takes for claims about other trainings."""
        return FEWEST_RUNS if self.rho is None else FEWEST_PAIRS


@dataclass(frozen=True)
class Variance:
    """The parts of the variance of a difference of two arms, and its degrees of freedom."""

    runs: float
    run_problem: float
    sampling: float
    method_problem: float
    freedom: float

    @property
    def total(self) -> float:
        """Returns the variance itself."""
        return self.runs + self.run_problem + self.sampling + self.method_problem


def variance_of(c: Components, size: Size, test: Test) -> Variance:
    """Returns the variance of the difference of two arms, with Satterthwaite's degrees of freedom.

    One run per arm is the run that there is, not a sample of others: its variance is left out. Where there are few
    problems, or few clusters of them, the variance is no less than the floor of the test.
    """
    variance = _unbounded(c, size, test)
    missing = _floor(c, size, test) - variance.total
    if missing <= 0:
        return variance
    freedom = _freedom_of_problems(c, size.problems)
    return replace(variance, method_problem=variance.method_problem + missing, freedom=freedom)


def _freedom_of_problems(c: Components, problems: int) -> float:
    return max(problems / c.cluster_size - 1.0, 1.0)


def _floor(c: Components, size: Size, test: Test) -> float:
    """Returns the least squared standard error of the test on few problems or clusters, as `two_way.vary_over` has it.

    Six or more have to differ, by Kish's count, which for normal ones is 2 / pi of their number.
    """
    units = size.problems / c.cluster_size
    sparse = max(0.0, 1 - 2 / math.pi * units / ENOUGH)
    if not sparse or units < 2:
        return 0.0
    return float(unseen(units, 1 - test.alpha) * sparse / stats.t.isf(test.alpha / 2, units - 1)) ** 2


def _least(c: Components, size: Size, test: Test) -> float:
    """Returns the half width below which the test's interval on so few problems or clusters seldom falls.

    How many of them differ is luck. The width is the one that studies stay below with the wanted power.
    """
    units = size.problems / c.cluster_size
    return unseen(units, 1 - test.alpha) * sparseness(units, test.power) if units >= 2 else 0.0


def sparseness(units: float, power: float) -> float:
    """Returns how sparse problems (or clusters) are at most with that chance if their differences are normal.

    For a chance of .8 it is 0 from 12 units on; see `two_way.count_sparseness`.
    """
    low = math.floor(units)
    ends = [_sparseness(number, power) for number in (low, low + 1)]
    return ends[0] + (units - low) * (ends[1] - ends[0])


@lru_cache(maxsize=4096)
def _sparseness(units: int, power: float) -> float:
    if units > _SURE:
        return 0.0
    drawn = np.random.default_rng(units).standard_normal((units, _DRAWS))
    return float(np.quantile(count_sparseness(drawn), power))


def _unbounded(c: Components, size: Size, test: Test) -> Variance:
    """Returns the sum of the parts."""
    runs, problems = size.runs, size.problems
    sides = 1 if test.fixed else 2
    noise = c.noise_at(size.samples)
    of_methods = c.method_problem if test.method_problem is None else test.method_problem
    method_problem = (of_methods or 0.0) / problems
    run_problem = sides * c.run_problem / (runs * problems)
    sampling = sides * noise / (runs * problems)
    of_reference = noise / problems if test.fixed else 0.0
    of_problems = _freedom_of_problems(c, problems)
    if runs < FEWEST_RUNS:
        return Variance(0.0, run_problem, sampling + of_reference, method_problem, of_problems)
    shared = test.rho or 0.0
    of_runs = sides * c.run * (1 - shared) / runs
    cells = run_problem + sampling
    by_runs, by_problems = of_runs + cells, method_problem + of_reference
    run_freedom = (runs - 1) * (1 if test.fixed or test.rho is not None else test.arms_pooled)
    if c.cluster_size > 1:
        # Few clusters have few degrees of freedom: those of the test's own sum, in which both ways hold the cells.
        both = by_problems + cells
        spread = both**2 / of_problems + by_runs**2 / run_freedom + cells**2 / (run_freedom * of_problems)
    else:
        spread = by_runs**2 / run_freedom + by_problems**2 / of_problems
    freedom = (by_runs + by_problems) ** 2 / spread if spread > 0 else float(run_freedom)
    return Variance(of_runs, run_problem, sampling + of_reference, method_problem, freedom)


def power_of(difference: float, variance: float, freedom: float, alpha: float, least: float = 0.0) -> float:
    """Returns the power of a two-sided t-test: the noncentral t outside the critical values.

    `least` is the smallest half width of its interval.
    """
    if variance <= 0:
        return 1.0 if abs(difference) > least else 0.0 if least else alpha
    critical = max(float(stats.t.isf(alpha / 2, freedom)), least / math.sqrt(variance))
    away = abs(difference) / math.sqrt(variance)
    if critical > _FAR:
        return float(stats.norm.sf(critical - away))
    outside = float(stats.nct.sf(critical, freedom, away)) + float(stats.nct.cdf(-critical, freedom, away))
    # Far from the critical value SciPy's series fails, and there the answer is near 0 or 1.
    return min(outside, 1.0) if np.isfinite(outside) else float(stats.norm.sf(critical - away))


@lru_cache(maxsize=4096)
def standard_errors(freedom: float, alpha: float, power: float, least: float = 0.0) -> float:
    """Returns how many standard errors a difference must be to be found with that power; `least` as in `power_of`."""
    high = max(float(stats.t.isf(alpha / 2, freedom)), least) + 1.0
    while power_of(high, 1.0, freedom, alpha, least) < power:
        high *= 1.5
    return float(optimize.brentq(lambda away: power_of(away, 1.0, freedom, alpha, least) - power, 0.0, high, xtol=1e-9))


def detectable(c: Components, size: Size, test: Test) -> float:
    """Returns the smallest difference that a study of this size finds with the wanted power."""
    variance, least = _unbounded(c, size, test), _least(c, size, test)
    se = math.sqrt(variance.total)
    return standard_errors(variance.freedom, test.alpha, test.power, least / se) * se if se else least


def power_at(c: Components, difference: float, size: Size, test: Test) -> float:
    """Returns the power of a study of this size for a difference."""
    variance = _unbounded(c, size, test)
    return power_of(difference, variance.total, variance.freedom, test.alpha, _least(c, size, test))


def runs_needed(c: Components, difference: float, size: Size, test: Test) -> int | None:
    """Returns the fewest runs per arm, on the problems and samples of `size`, for the wanted power.

    None where no number of runs is enough: the arms differ too much from problem to problem.
    """
    least = least_runs(c, difference, size, test)
    if least is None or least > MOST_RUNS:
        return None

    def enough(runs: int) -> bool:
        return power_at(c, difference, replace(size, runs=runs), test) >= test.power

    return _first(enough, max(test.fewest, math.floor(least)), MOST_RUNS)


def least_runs(c: Components, difference: float, size: Size, test: Test) -> float | None:
    """Returns how many runs it would take if the variance were known, which is never more; None if none are enough."""
    one, two = (_unbounded(c, replace(size, runs=FEWEST_RUNS * times), test).total for times in (1, 2))
    by_runs = (one - two) * 2 * FEWEST_RUNS  # the variance is by_runs / runs + constant
    constant = one - by_runs / FEWEST_RUNS
    wanted = (difference / float(stats.norm.isf(test.alpha / 2) - stats.norm.isf(test.power))) ** 2
    beyond = wanted > constant and abs(difference) > _least(c, size, test)
    return float(by_runs / (wanted - constant)) if beyond else None


def _first(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """Returns the first number from `low` on that is enough; once it is, all larger ones are."""
    if enough(low):
        return low
    step = 1
    while not enough(min(low + step, high)):
        if low + step >= high:
            return None
        low, step = low + step, step * 2
    top = min(low + step, high)
    while top - low > 1:
        middle = (low + top) // 2
        low, top = (low, middle) if enough(middle) else (middle, top)
    return top


def power_curve(c: Components, difference: float, runs: FloatArray, size: Size, test: Test) -> FloatArray:
    """Returns the power for each number of runs per arm."""
    return np.array([power_at(c, difference, replace(size, runs=int(s)), test) for s in runs])
