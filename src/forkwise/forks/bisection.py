"""Where in a sentence the chance of a right answer changes: found by halving, then measured again.

A sentence across which the chance changes by more than chance allows is halved at its middle token, the sample is
continued from there, and the half across which the change can be told better is halved again, down to one token; if it
can be told of neither half, the change is spread over several. What is found so is an extreme: so both ends of the
token are continued anew, and only these new continuations say how much it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy import stats

SPLIT = 0.05
"""p of no change (Fisher's exact test) above which an interval is not halved."""
STAGE = "bisect"

Place = tuple[int, int]
"""A trace, and how many of its tokens are continued from."""


@dataclass(frozen=True)
class TokenInterval:
    """Tokens of a sample, with how many of the continuations from either end were right."""

    row: int
    """Which sentence it is in."""
    trace: int
    start: int
    end: int
    before: int
    after: int
    number: int
    """Continuations at each end."""

    @property
    def p(self) -> float:
        """Computes the p-value of no change across the interval."""
        table = [[k, self.number - k] for k in (self.before, self.after)]
        return float(stats.fisher_exact(table).pvalue)

    @property
    def cost(self) -> int:
        """States that it takes to get to one token, and to measure that again."""
        return (self.end - self.start - 1).bit_length() + 2


@dataclass(frozen=True)
class Bisected:
    """What halving found."""

    searched: int
    """Sentences that were halved."""
    tokens: list[TokenInterval]
    """Single tokens that change the chance, with the counts that found them."""
    points: list[tuple[Place, int]]
    """Every place that was continued from on the way, with how many were right."""


def worth_halving(intervals: Sequence[TokenInterval], states: int) -> list[TokenInterval]:
    """Chooses the intervals whose change is surest, as many as so many states suffice for."""
    chosen, remaining = [], states
    for interval in sorted(intervals, key=lambda i: (i.p, i.row)):
        if interval.p <= SPLIT and interval.cost <= remaining:
            chosen.append(interval)
            remaining -= interval.cost
    return chosen


def bisected(intervals: Sequence[TokenInterval], measure: Callable[[str, Sequence[Place]], Sequence[int]]) -> Bisected:
    """Halves intervals down to one token.

    Args:
        measure: continues traces from places, and counts right continuations; told the name of the round.
    """
    tokens: list[TokenInterval] = []
    points: list[tuple[Place, int]] = []
    open_intervals, rounds = list(intervals), 0
    while True:
        tokens += [i for i in open_intervals if i.end - i.start == 1]
        open_intervals = [i for i in open_intervals if i.end - i.start > 1]
        if not open_intervals:
            return Bisected(len(intervals), sorted(tokens, key=lambda i: i.row), points)
        rounds += 1
        middles = [(i.trace, (i.start + i.end) // 2) for i in open_intervals]
        halves = []
        for interval, middle, right in zip(open_intervals, middles, measure(f"{STAGE}-{rounds}", middles), strict=True):
            points.append((middle, right))
            at = middle[1]
            parts = (replace(interval, end=at, after=right), replace(interval, start=at, before=right))
            better = min(parts, key=lambda half: half.p)
            if better.p <= SPLIT:
                halves.append(better)
        open_intervals = halves
