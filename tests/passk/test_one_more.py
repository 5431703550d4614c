"""Single runs held against several runs of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk.one_more import chance, critical, hold_against, smallest_found

# Mean 0.10, squares of deviations .0004 + 0 + .0004: standard deviation (n - 1) sqrt(.0008 / 2) = .02.
REFERENCE = [0.08, 0.10, 0.12]


def test_one_arm_is_students_t_by_hand() -> None:
    """With one arm t is (x - mean) / (sd sqrt(1 + 1/3)), of two degrees of freedom, whose tail is closed.

    P(|t| > x) = 1 - x / sqrt(2 + x^2). For x = .20: t = .10 / (.02 * 1.154701) = 4.330127 and p = 1 - 4.330127 /
    sqrt(2 + 18.75) = .0494. The 95 % point is 4.302653, so the interval is .10 +- 4.302653 * .0230940 = .0993656.
    """
    held = hold_against("GRPO", REFERENCE, {"a": 0.20})
    [row] = held.rows
    assert [held.mean, held.sd] == pytest.approx([0.10, 0.02])
    assert row.difference == pytest.approx(0.10)
    assert row.p == pytest.approx(1 - 4.330127 / np.sqrt(20.75), abs=1e-6)
    assert row.low == pytest.approx(0.10 - 0.0993656, abs=1e-6)
    assert row.high == pytest.approx(0.10 + 0.0993656, abs=1e-6)


def test_several_arms_are_dunnetts_method() -> None:
    rng = np.random.default_rng(0)
    reference, single = rng.normal(size=5), rng.normal(size=3) * 4
    held = hold_against("r", list(reference), dict(zip("abc", single, strict=True)), level=0.9)
    theirs = stats.dunnett(*[[x] for x in single], control=reference, rng=np.random.default_rng(1))
    interval = theirs.confidence_interval(0.9)
    assert [row.p for row in held.rows] == pytest.approx(list(theirs.pvalue), abs=2e-3)
    assert [row.low for row in held.rows] == pytest.approx(list(interval.low), abs=0.05)
    assert [row.high for row in held.rows] == pytest.approx(list(interval.high), abs=0.05)


def test_far_tails_are_exact() -> None:
    """For one arm Student's own, whose tail is where few degrees of freedom make small spreads matter."""
    for runs in (3, 7, 30):
        for t in (1, 5, 40):
            assert chance(t, 1, runs) == pytest.approx(2 * stats.t.sf(t, runs - 1), rel=2e-5)


def test_arms_that_are_one_more_run_are_called_different_in_one_study_of_twenty() -> None:
    """Simulated: 20 arms, none different. 4,000 studies, standard error of the share .0034."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4000, 25))
    reference, single = x[:, :5], x[:, 5:]
    t = np.abs(single - reference.mean(axis=1, keepdims=True)) / (reference.std(axis=1, ddof=1, keepdims=True))
    largest = t.max(axis=1) / np.sqrt(1 + 1 / 5)
    assert np.mean(largest > critical(20, 5, 0.95)) == pytest.approx(0.05, abs=0.012)


def test_the_smallest_difference_is_found_as_often_as_said() -> None:
    """Simulated: one of 20 arms differs by so much. 4,000 studies, standard error .0063."""
    rng = np.random.default_rng(6)
    difference = smallest_found(20, 5, 0.95, 0.8)
    x = rng.normal(size=(4000, 6))
    reference, single = x[:, :5], x[:, 5] + difference
    t = (single - reference.mean(axis=1)) / (reference.std(axis=1, ddof=1) * np.sqrt(1 + 1 / 5))
    assert np.mean(np.abs(t) > critical(20, 5, 0.95)) == pytest.approx(0.8, abs=0.02)


def test_arms_whose_runs_are_not_there_count() -> None:
    few = hold_against("r", REFERENCE, {"a": 0.2})
    more = hold_against("r", REFERENCE, {"a": 0.2}, arms=10)
    assert more.arms == 10
    assert more.rows[0].p > 2 * few.rows[0].p
    assert more.found > few.found


def test_runs_that_say_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="'r' has 2 runs"):
        hold_against("r", [0.1, 0.2], {"a": 0.3})
    with pytest.raises(InputError, match="do not differ at all"):
        hold_against("r", [0.1, 0.1, 0.1], {"a": 0.3})
