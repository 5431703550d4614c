"""Looks at a study before its end: how much of the error each may spend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import integrate, optimize, stats

from forkwise.errors import InputError
from forkwise.passk.estimator import FloatArray
from forkwise.passk.notes import Note, note

_POINTS = 4001
_LEAST = 1e-9  # level of a test that is still one


def nominal_alphas(shares: Sequence[float], alpha: float) -> list[float]:
    """Returns the two-sided level of the test at each look, so that all looks together err with a chance of `alpha`.

    On each side, `2 - 2 Phi(z_(alpha/4) / sqrt(t))` is spent by the share t of the information (Lan & DeMets 1983,
    Biometrika 70(3), in the form of O'Brien & Fleming): hardly any at first, and nearly all at the end. How many looks
    there will be need not be known. The statistic at share t is taken for a Brownian motion there, over sqrt(t).

    Args:
        shares: of the planned information, such as runs per arm, at each look so far; rising, at most 1.
        alpha: of the whole study.

    Raises:
        InputError: shares that do not rise from above 0 to at most 1.
    """
    t = np.asarray(shares, dtype=np.float64)
    if not t.size or not (np.diff(t, prepend=0.0) > 0).all() or t[-1] > 1:
        listed = ", ".join(f"{x:g}" for x in shares) or "none"
        raise InputError(f"The looks are at {listed} of the study: they rise from above 0 to at most 1, such as 0.5,1.")
    spent = 4 * stats.norm.sf(stats.norm.isf(alpha / 4) / np.sqrt(t))
    levels = [float(spent[0])]
    edge = float(stats.norm.isf(spent[0] / 2) * np.sqrt(t[0]))
    at = np.linspace(-edge, edge, _POINTS)
    density: FloatArray = stats.norm.pdf(at, scale=np.sqrt(t[0]))
    for before, now, allowed in zip(t[:-1], t[1:], np.diff(spent), strict=True):
        step = float(np.sqrt(now - before))

        def crossed(bound: float, at: FloatArray = at, density: FloatArray = density, step: float = step) -> float:
            tails = stats.norm.sf((bound - at) / step) + stats.norm.cdf((-bound - at) / step)
            return float(integrate.trapezoid(density * tails, at))

        edge = float(optimize.brentq(lambda bound, left=allowed: crossed(bound) - left, 0.0, 12.0))
        levels.append(float(2 * stats.norm.sf(edge / np.sqrt(now))))
        further = np.linspace(-edge, edge, _POINTS)
        spread = stats.norm.pdf((further[:, None] - at) / step) / step
        at, density = further, integrate.trapezoid(spread * density, at, axis=1)
    return levels


def look_level(shares: Sequence[float], level: float) -> float:
    """Returns the level of the intervals at the last of these looks, so that all looks together have `level`.

    Raises:
        InputError: as `nominal_alphas`, or a look so early that hardly any error is spent by then.
    """
    alpha = nominal_alphas(shares, 1 - level)[-1]
    if alpha < _LEAST:
        raise InputError(
            f"At {shares[-1]:g} of the study a difference would be claimed at p <= {alpha:.1g}, which no data can "
            "show: make the first look later, such as at 0.3."
        )
    return 1 - alpha


def look_note(shares: Sequence[float], level: float) -> Note:
    """Notes which look this is, and what it takes to claim a difference at it."""
    return note("look", look=len(shares), share=shares[-1], alpha=1 - level)
