"""Writes numbers, intervals and p-values, by one rule each for every sink."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for types alone: a command that only writes a sentence does not load the statistics
    from forkwise.explore.findings import Estimate
    from forkwise.passk import Interval

_FEW = 10  # problems, below which intervals over problems fall short of their level
_SMALL_P = 5e-5  # rounds to 0 in four digits


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """Writes a number with `digits` after the point; empty where there is none. `sign` is `"+"` for a difference."""
    return "" if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}"


def interval(value: float | None, low: float | None, high: float | None, digits: int = 3, sign: str = "") -> str:
    """Writes a number with its interval, as far as there is one: `0.512 [0.441, 0.583]`."""
    text = number(value, digits, sign)
    ends = bounds(low, high, digits, sign)
    return f"{text} {ends}" if text and ends else text


def bounds(low: float | None, high: float | None, digits: int = 3, sign: str = "") -> str:
    """Writes an interval by itself, `[0.441, 0.583]`; empty where there is none."""
    return "" if low is None or high is None else f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def coverage(level: float) -> str:
    """Writes a level without the digits that it does not need: `95%`, `99.69%`, and never one below 1 as `100%`."""
    texts = (f"{100 * level:.{digits}g}" for digits in range(4, 17))
    return f"{next((text for text in texts if text != '100'), '100')}%"


def at(values: Interval, i: int, sign: str = "") -> str:
    """Writes entry `i` of an interval over K."""
    return interval(float(values.mean[i]), float(values.low[i]), float(values.high[i]), sign=sign)


def estimate(value: Estimate, digits: int = 3, sign: str = "") -> str:
    """Writes an estimate with its interval."""
    return interval(value.value, value.low, value.high, digits, sign)


def correlation(value: Estimate, digits: int = 3) -> str:
    """Writes a correlation or a cosine with the part of its interval that lies in [-1, 1], `not known` if that is all.

    The interval of a mean over problems knows no such limits, and on few problems goes beyond them.
    """
    if value.low is None or value.high is None:
        return estimate(value, digits)
    low, high = max(value.low, -1.0), min(value.high, 1.0)
    if (low, high) == (-1.0, 1.0):
        return f"{number(value.value, digits)} [not known]"
    return interval(value.value, low, high, digits)


def count(value: int) -> str:
    """Writes a whole number with a comma between thousands."""
    return f"{value:,}"


def share(value: float | None, digits: int = 1) -> str:
    """Writes a share in per cent, without the sign; empty where there is none."""
    return number(None if value is None else 100 * value, digits)


def quantile(q: float) -> str:
    """Writes a quantile in per cent, with as many digits as it was given with."""
    return f"{100 * q:g}"


def percent(value: Estimate) -> str:
    """Writes an estimated share in per cent, without the sign, with its interval."""
    share, low, high = (None if x is None else 100 * x for x in (value.value, value.low, value.high))
    return interval(share, low, high, digits=1)


def p_value(p: float | None) -> str:
    """Writes a p-value with as many digits as mean something."""
    if p is None:
        return ""
    return "<0.0001" if p < _SMALL_P else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def few_problems(problems: int) -> list[str]:
    """Warns of intervals over problems where these are few."""
    return [f"With {problems} problems the intervals may be too narrow; ask for {_FEW} or more."] * (problems < _FEW)


def spans(ks: Sequence[int], chosen: Iterable[bool]) -> str:
    """Writes the chosen K as ranges of neighbours on the grid: `1–8, 32`."""
    runs: list[list[int]] = []
    for i in (i for i, is_chosen in enumerate(chosen) if is_chosen):
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return ", ".join(str(ks[r[0]]) if len(r) == 1 else f"{ks[r[0]]}–{ks[r[-1]]}" for r in runs)
