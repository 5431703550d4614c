"""What a run's curves say, in numbers."""

from __future__ import annotations

import math

import pytest

from forkwise.training.doctor import trend


def test_the_trend_of_a_rising_curve() -> None:
    trended = trend([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    # Of the 8! orders, one is sorted and one the reverse: p = 2 / 40320. Ends: means of three.
    assert trended.p == pytest.approx(2 / math.factorial(8))
    assert (trended.word, trended.tau) == ("rose", pytest.approx(1.0))
    assert (trended.start, trended.end) == pytest.approx((0.2, 0.7))
    assert trend([-x for x in range(8)]).word == "fell"
    assert trend([0.5] * 20).word == "no trend"
    assert trend([1.0, 0.0] * 20).word == "no trend"
    assert trend([1.0, 2.0, 3.0]).word == "no trend"  # three values prove nothing
