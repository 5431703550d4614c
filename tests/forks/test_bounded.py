"""Intervals of means with known bounds, against Clopper and Pearson's, and where few states hold nearly everything."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from forkwise.forks.bounded import Unseen, bounded_ratio, p_of_zero, positive
from forkwise.forks.estimators import share_of, weighted_mean


def test_chance_of_a_sum_of_exponentials_by_hand() -> None:
    # Of two exponentials with the means a and b the first is larger with the chance a / (a + b). With three, as the
    # partial fractions of the sum's density say: sum over factors above 0 of the product of a / (a - other).
    assert positive(np.array([2.0, -1.0])) == pytest.approx(2 / 3, abs=1e-9)
    assert positive(np.array([1e-3, -1.0])) == pytest.approx(1 / 1001, abs=1e-9)
    assert positive(np.array([3.0, 1.0, -2.0])) == pytest.approx(3 / 2 * 3 / 5 - 1 / 2 * 1 / 3, abs=1e-9)
    assert positive(np.array([-1.0, -2.0])) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("ones", "units"), [(0, 12), (2, 50), (10, 40), (40, 40)])
def test_zeros_and_ones_have_the_interval_of_clopper_and_pearson(ones: int, units: int) -> None:
    part = (np.arange(units) < ones).astype(np.float64)
    interval = bounded_ratio(part, np.ones(units), np.ones(units), Unseen(0.0, 1.0), Unseen(1.0, 1.0), 0.95)
    tail = stats.norm.sf(stats.t.isf(0.025, units - 1))  # as wide as Student's is, against the normal one
    low = stats.beta.ppf(tail, ones, units - ones + 1) if ones else 0.0
    high = stats.beta.isf(tail, ones + 1, units - ones) if ones < units else 1.0
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-5, abs=1e-9)


def test_many_units_that_vary_little_have_student_s_interval() -> None:
    x = np.random.default_rng(0).normal(0.1, 0.01, 4000)
    interval = weighted_mean(x, np.ones(4000, dtype=np.bool_), np.ones(4000), np.arange(4000), (0.05, 0.15))
    half = stats.t.ppf(0.975, 3999) * x.std(ddof=1) / np.sqrt(4000)
    assert interval.low is not None
    assert interval.high is not None
    assert interval.high - x.mean() == pytest.approx(half, rel=0.1)
    assert x.mean() - interval.low == pytest.approx(half, rel=0.1)


def test_a_share_of_what_may_be_nothing_has_no_interval() -> None:
    decided = np.array([0.2, -0.2, 0.15, -0.1, 0.1, -0.14])
    part = np.array([1.0, 0, 1, 0, 1, 0])
    share = share_of(part, decided, np.ones(6), np.arange(6), np.full(6, 0.25), 0.95)
    assert share.value == pytest.approx(0.45 / 0.01)
    assert share.low is share.high is None
    assert share_of(part, -decided, np.ones(6), np.arange(6), np.full(6, 0.25), 0.95).value is None


@pytest.mark.parametrize("shift", [-0.3, -0.1, 0.2])
def test_p_belongs_to_the_interval(shift: float) -> None:
    x, size = np.random.default_rng(2).normal(shift, 0.5, 12), np.ones(12)
    least, most = Unseen(0.0, 0.0), Unseen(0.8, 0.0)
    p = p_of_zero(x, size, least, most)
    assert p is not None
    interval = bounded_ratio(x, size, size, least, most, 1 - p)
    assert interval.low is not None
    assert interval.high is not None
    assert min(interval.low, interval.high, key=abs) == pytest.approx(0, abs=1e-4)
    # No state more, and of two problems one is twice as far: the chance is 1/3, and there is 1 degree of freedom.
    alone = p_of_zero(np.array([2.0, -1.0]), np.ones(2), Unseen(0.0, 0.0), Unseen(0.0, 0.0))
    assert alone == pytest.approx(2 * stats.t.sf(stats.norm.isf(1 / 3), 1))


def test_what_three_of_a_hundred_states_hold_is_in_the_interval() -> None:
    # A state decides .2 with the chance .03, else nothing: none of 50 is one in a fifth of the cases, and Student's
    # interval of the others is too short.
    rng, held, missed_by_student = np.random.default_rng(1), [], []
    for _ in range(400):
        x = 0.2 * (rng.random(50) < 0.03) + rng.normal(0, 0.005, 50)
        interval = weighted_mean(x, np.ones(50, dtype=np.bool_), np.ones(50), np.arange(50) // 2, (0.0, 0.25))
        assert interval.low is not None
        assert interval.high is not None
        held.append(interval.low <= 0.006 <= interval.high)
        missed_by_student.append(x.mean() + 2 * x.std(ddof=1) / np.sqrt(50) < 0.006)
    assert np.mean(held) >= 0.94
    assert np.mean(missed_by_student) >= 0.15


@pytest.mark.parametrize(("sizes", "ends"), [((1.0, 1.0), (0.0, 0.8)), ((95.0, *[0.5] * 10), (0.0, 0.8))])
def test_where_one_problem_weighs_nearly_all_the_ends_are_the_extremes(
    sizes: tuple[float, ...], ends: tuple[float, float]
) -> None:
    # One degree of freedom: Student's quantile of 12.7 leaves a chance of 3e-37 to either side, and the ends are the
    # least and the most of problems (0.1, 0.3, ...) and of a state that was not drawn: 0 / 0.5 and 0.4 / 0.5.
    whole = np.array(sizes)
    part = whole * np.array([0.1, *[0.3] * (len(sizes) - 1)])
    interval = bounded_ratio(part, whole, whole, Unseen(0.0, 0.5), Unseen(0.4, 0.5), 0.95)
    assert (interval.low, interval.high) == pytest.approx(ends)
    assert bounded_ratio(part, whole, whole, Unseen(0.0, 0.0), Unseen(0.4, 0.0), 0.95).high is None


def test_one_problem_with_all_but_nothing_has_no_interval() -> None:
    size = np.array([1.0, *[1e-9] * 7])
    assert bounded_ratio(size / 2, size, size, Unseen(0.0, 0.1), Unseen(0.1, 0.1), 0.95).low is None
    assert p_of_zero(size / 2, size, Unseen(0.0, 0.1), Unseen(0.1, 0.1)) is None


def test_sums_that_are_all_0_do_not_differ_from_0() -> None:
    assert p_of_zero(np.zeros(8), np.ones(8), Unseen(0.0, 0.0), Unseen(0.1, 0.0)) == 1.0
