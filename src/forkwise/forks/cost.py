"""What a run of continuations costs, and what it can find: said, and refused if it is nothing, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from forkwise.errors import InputError
from forkwise.explore.contrast import FloatArray
from forkwise.forks.frame import Frame, Pool
from forkwise.forks.second import number_again
from forkwise.forks.states import DrawnStates

_TAIL = 3.0  # the mean square of what tokens decide, in squares of their mean; fitted to the runs of docs/forks.md


@dataclass(frozen=True)
class Cost:
    """The cost of a run, in what is left to do, and the least that its budget check can resolve."""

    states: int
    continuations: int
    """Continuations of each state."""
    stored: int
    """States that were continued before."""
    tokens: int
    """To be drawn, about: each continuation as long as the rest of its trace."""
    half_width: float
    """Half of the interval of the sum that tokens decide, about."""
    available: float
    """What there is to decide, V0 (1 - V0)."""
    seconds: float | None = None
    """About, by the speed of one state; None where nothing is left to do."""
    again: int = 0
    """States of a later stage, at most; what they cost is in `tokens` and `seconds`."""
    further: int = 0
    """Continuations of each of these."""


def cost_of(
    frame: Frame, pool: Pool, drawn: DrawnStates, continuations: int, stored: int, level: float, further: int = 0
) -> Cost:
    """Estimates the cost of a draw, and forecasts the error of the sum of what tokens decide by its first stage.

    Args:
        further: continuations of a state in the second stage; 0 without one.
    """
    table = frame.table
    length_T = np.bincount(table.units.trace_N)
    rest_N = (length_T[table.units.trace_N] - table.position_N - 1)[drawn.index]
    available = float(pool.available_Q.mean())
    half = _half_width(frame, pool, drawn, continuations, level)
    again = number_again(drawn.index.size, further)
    tokens = int(rest_N[stored:].sum() * continuations + rest_N.mean() * again * further)
    return Cost(drawn.index.size, continuations, stored, tokens, half, available, again=again, further=further)


def _half_width(frame: Frame, pool: Pool, drawn: DrawnStates, continuations: int, level: float) -> float:
    """Forecasts the half width of the interval of the sum that tokens decide, from entropies alone.

    As if all tokens of a state were equally likely, none decided anything beyond its share by entropy, and each state
    had the variance of its problem left.
    """
    entropy_N, problem_N = frame.table.units.value_N, frame.table.units.problem_N
    choice_N = -np.expm1(-entropy_N)
    share_N = frame.per_trace_N * choice_N
    per_Q = np.bincount(problem_N, weights=share_N, minlength=len(pool.problems))
    problem = problem_N[drawn.index]
    available_N = np.maximum(pool.available_Q, 0.0)[problem]
    ways = np.exp(entropy_N[drawn.index])
    noise = (available_N * choice_N[drawn.index]) ** 2 * (4 * ways + 4) / continuations**2
    decided = available_N * choice_N[drawn.index] / np.maximum(per_Q[problem], 1e-12)
    weight: FloatArray = frame.per_trace_N[drawn.index] / drawn.chance / len(pool.problems)
    variance = float((weight**2 * (noise + _TAIL * decided**2)).sum())
    return float(stats.t.ppf((1 + level) / 2, len(pool.problems) - 1) * np.sqrt(variance))


def refuse_too_small(cost: Cost, most: int) -> None:
    """Refuses a budget with which no sentence about shares could be true or false.

    Args:
        most: states that the table has.

    Raises:
        InputError: the interval of the sum would reach from nothing to twice what there is.
    """
    if cost.half_width < cost.available:
        return
    needed = int(np.ceil(cost.states * (cost.half_width / max(cost.available, 1e-9)) ** 2))
    remedy = (
        f"give about --states {needed}"
        if needed <= most
        else "draw more samples of more problems, and give more --states"
    )
    raise InputError(
        f"{cost.states} states with {cost.continuations} continuations each cannot show anything: the sum of what is "
        f"decided would be known to about ±{cost.half_width:.2f}, of the {cost.available:.2f} that there is to decide; "
        f"{remedy}."
    )
