"""Which K a simultaneous band certifies: where the arm is better, where it is worse, and where it first gets worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forkwise.passk.intervals import Interval


@dataclass(frozen=True)
class Certified:
    """The K at which a band excludes 0; all of it holds at once, with the level of the band.

    Attributes:
        gains: where the arm is better.
        losses: where it is worse.
        first_loss: between which K the first at which it is worse lies, the second None if no loss is certified; None
            where the curve was not evaluated at every K from 1 on, which leaves those between open.
    """

    gains: list[int]
    losses: list[int]
    first_loss: tuple[int, int | None] | None


def certify(ks: Sequence[int], band: Interval) -> Certified:
    """Reads a band: gains, losses, and between which K the first loss lies."""
    k = np.asarray(ks)
    gains, losses = band.low > 0, band.high < 0
    first_loss = None
    if np.array_equal(k, np.arange(1, k.size + 1)):
        lead = int(k.size if gains.all() else gains.argmin())  # it is better at every K up to here
        first_loss = (lead + 1, int(k[losses][0]) if losses.any() else None)
    return Certified(k[gains].tolist(), k[losses].tolist(), first_loss)
