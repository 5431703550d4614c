"""A single run of an arm, held against several runs of the reference: could it be one more of them?

If training by an arm is training by the reference, its run is drawn as theirs are. That is tested, for all arms at
once, by Dunnett's method (1955, JASA 50): Student's t with the spread of the reference's runs, and the largest of the
arms' |t| in the place of one. It says nothing about how much the arm's own runs differ, and asks for none of them.

Suffixes: S runs of the reference, M arms, Z and U nodes of the two integrals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from forkwise.errors import InputError
from forkwise.passk.components import chi_square_interval
from forkwise.passk.design import FEWEST_RUNS
from forkwise.terminal import counted

_NODES = (60, 400)  # of the reference's mean, and of its spread
_FAR = 1e4  # beyond every critical value: with two degrees of freedom and a billion arms it is below that


@dataclass(frozen=True)
class OneMore:
    """The difference of an arm's run from the mean of the reference's runs.

    Attributes:
        difference: of the run from the mean.
        low, high: interval of the difference of what the two trainings come to in the mean, over all arms at once, if
            the runs of both differ alike.
        p: that of the arms' largest difference would be as large if all trained as the reference does; below
            1 - level exactly where 0 is outside the interval.
    """

    arm: str
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class HeldAgainst:
    """Single runs, held against those of the reference.

    Attributes:
        runs, mean, sd: number of the reference's runs, their mean and standard deviation.
        arms: how many arms the intervals and p are over, those included whose runs are not there.
        found: smallest true difference of a single arm that is found with a chance of `power`, if its runs differ as
            the reference's do; `found_low` and `found_high` at the ends of the chi-square interval of `sd`.
    """

    reference: str
    runs: int
    mean: float
    sd: float
    arms: int
    level: float
    power: float
    found: float
    found_low: float
    found_high: float
    rows: list[OneMore]


def hold_against(
    reference: str,
    reference_S: Sequence[float],
    single: Mapping[str, float],
    *,
    arms: int | None = None,
    level: float = 0.95,
    power: float = 0.8,
) -> HeldAgainst:
    """Holds the single run of each arm against the runs of the reference.

    Args:
        reference_S: a number for each run of the reference, such as its Pass@K over all problems.
        single: the same number for the run of each arm, on the same problems.
        arms: how many arms are compared in the end; None is those of `single`.

    Raises:
        InputError: too few runs of the reference, or runs that do not differ at all.
    """
    runs = len(reference_S)
    if runs < FEWEST_RUNS:
        raise InputError(
            f"'{reference}' has {counted(runs, 'run')}, and how training varies shows in {FEWEST_RUNS} at least."
        )
    mean, sd = float(np.mean(reference_S)), float(np.std(reference_S, ddof=1))
    if sd <= 1e-12:
        raise InputError(f"The runs of '{reference}' do not differ at all, so nothing can be held against them.")
    number = max(arms or 0, len(single), 1)
    scale = sd * np.sqrt(1 + 1 / runs)
    half = critical(number, runs, level) * scale
    rows = [
        OneMore(arm, x - mean, x - mean - half, x - mean + half, chance(abs(x - mean) / scale, number, runs))
        for arm, x in single.items()
    ]
    sds = [sd, *map(np.sqrt, chi_square_interval(sd**2, runs - 1, level))]
    smallest = smallest_found(number, runs, level, power)
    found, low, high = (float(smallest * x) for x in sds)
    return HeldAgainst(reference, runs, mean, sd, number, level, power, found, low, high, rows)


def chance(t: float, arms: int, runs: int) -> float:
    """Returns the chance that the largest |t| of so many arms is at least `t`, if all train as the reference does.

    Given the reference's mean z and spread u the arms are independent: it is 1 less the mean over z and u of
    (P(|X - z / sqrt(S)| < t u sqrt(1 + 1/S)))^M, X normal.
    """
    z_Z, weight_Z, u_U, weight_U = _nodes(runs)
    middle = z_Z[:, None] / np.sqrt(runs)
    half = t * u_U[None] * np.sqrt(1 + 1 / runs)
    inside_ZU = stats.norm.cdf(middle + half) - stats.norm.cdf(middle - half)
    return float(min(1.0, max(0.0, weight_Z @ -np.expm1(arms * np.log(np.maximum(inside_ZU, 1e-300))) @ weight_U)))


def critical(arms: int, runs: int, level: float) -> float:
    """Returns the |t| that the largest of so many arms stays below with a chance of `level`."""
    return float(optimize.brentq(lambda t: chance(t, arms, runs) - (1 - level), 0, _FAR))


def smallest_found(arms: int, runs: int, level: float, power: float) -> float:
    """Returns the smallest difference found with a chance of `power`, in standard deviations of a run."""
    limit = critical(arms, runs, level)
    _, _, u_U, weight_U = _nodes(runs)

    def missed(shift: float) -> float:  # |t| of a noncentral t within the limit, given the spread u
        inside_U = stats.norm.cdf(limit * u_U - shift) - stats.norm.cdf(-limit * u_U - shift)
        return float(inside_U @ weight_U) - (1 - power)

    return float(optimize.brentq(missed, 0, 20 * limit) * np.sqrt(1 + 1 / runs))


@lru_cache(maxsize=8)
def _nodes(runs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns nodes and weights for the reference's mean (normal) and spread (chi / sqrt(freedom))."""
    z_Z, weight_Z = np.polynomial.hermite_e.hermegauss(_NODES[0])
    v_U, weight_U = np.polynomial.legendre.leggauss(_NODES[1])
    v_U = (v_U + 1) / 2  # quantiles are v^8: small spreads are what large |t| come from
    u_U = np.sqrt(stats.chi2.ppf(v_U**8, runs - 1) / (runs - 1))
    return z_Z, weight_Z / weight_Z.sum(), u_U, weight_U / 2 * 8 * v_U**7
