"""Intervals against scipy's BCa and Student's t, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk import (
    bootstrap_interval,
    evaluate,
    make_arm,
    paired_difference,
    student_interval,
)
from forkwise.passk.intervals import default_resamples


def test_agrees_with_scipy_bca() -> None:
    values = np.random.default_rng(1).beta(0.5, 2.0, size=60)
    ours = bootstrap_interval(values, resamples=40_000)
    peer = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=40_000, rng=2).confidence_interval
    width = peer.high - peer.low
    assert float(ours.mean) == pytest.approx(values.mean())
    assert float(ours.low) == pytest.approx(peer.low, abs=0.03 * width)
    assert float(ours.high) == pytest.approx(peer.high, abs=0.03 * width)
    # Skewed to the right, so the BCa interval must reach further up than down.
    assert ours.high - ours.mean > ours.mean - ours.low


def test_columns_are_independent_of_each_other() -> None:
    values = np.random.default_rng(0).random((30, 3))
    together = bootstrap_interval(values)
    alone = bootstrap_interval(values[:, 1])
    assert together.low[1] == pytest.approx(float(alone.low))


def test_constant_values_have_a_point_interval() -> None:
    got = bootstrap_interval(np.full((10, 2), 0.25))
    np.testing.assert_allclose([got.low, got.high], 0.25)


@pytest.mark.parametrize("scale", [1e-6, 1e-110, 1e-160, 1e-250, 1e200])
def test_the_interval_has_no_scale(scale: float) -> None:
    """Pass^1024 of hard problems is far below the square root of the smallest number there is."""
    values = np.random.default_rng(1).beta(0.2, 2.0, size=(60, 2))
    plain = bootstrap_interval(values)
    scaled = bootstrap_interval(values * scale)
    np.testing.assert_allclose(scaled.low / scale, plain.low, rtol=1e-9)
    np.testing.assert_allclose(scaled.high / scale, plain.high, rtol=1e-9)


def test_problems_of_very_different_sizes() -> None:
    """Pass^k: a few problems at 0.5^k and all others at almost nothing."""
    rate = np.r_[0.5, 0.3, np.full(58, 1e-3)]
    for k in (1, 16, 256, 1024):
        got = bootstrap_interval(rate**k)
        assert 0 <= got.low <= got.mean <= got.high <= 0.5**k


def test_extreme_levels_end_at_the_extreme_draws() -> None:
    """One problem in 20 solved: acceleration 0.15, and the quantile of level 1 - 1e-12 has a pole below it."""
    values = np.r_[1.0, np.zeros(19)]
    got = bootstrap_interval(values, level=1 - 1e-12, resamples=2000)
    draws = np.random.default_rng(5).multinomial(20, np.full(20, 1 / 20), size=20_000)[:, 0] / 20
    assert got.low == 0
    assert 0.2 <= got.high <= draws.max() + 0.05


def test_coverage_of_the_paired_difference() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for i in range(300):
        base = rng.beta(1, 3, size=60)
        other = np.clip(base + rng.normal(0.02, 0.05, size=60), 0, 1)
        # True mean difference under clipping, estimated once from a large draw.
        got = paired_difference(other, base, resamples=1000, seed=i)
        hits += bool(got.low <= TRUTH <= got.high)
    assert 0.91 <= hits / 300 <= 0.985  # 95 % +- 3 standard errors of 300 runs


def _truth() -> float:
    rng = np.random.default_rng(99)
    base = rng.beta(1, 3, size=2_000_000)
    return float((np.clip(base + rng.normal(0.02, 0.05, size=base.size), 0, 1) - base).mean())


TRUTH = _truth()


def test_refusals() -> None:
    with pytest.raises(InputError, match="at least two problems"):
        bootstrap_interval([0.5])
    with pytest.raises(InputError, match="NaN"):
        bootstrap_interval([0.5, float("nan")])
    with pytest.raises(InputError, match="same problems"):
        paired_difference([0.1, 0.2], [0.1, 0.2, 0.3])


def test_resamples_shrink_with_the_number_of_problems() -> None:
    assert [default_resamples(q) for q in (30, 2000, 10_000, 10**6)] == [10_000, 10_000, 2_000, 1_000]
    assert bootstrap_interval(np.arange(10.0)).resamples == 10_000


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random((40, 2))
    first, again = (bootstrap_interval(values, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.low, again.low)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, float("nan")])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        bootstrap_interval([0.1, 0.2], level=level)


def test_student_interval_agrees_with_scipy() -> None:
    d = np.random.default_rng(0).normal(0.1, 0.3, size=(25, 2))
    got = student_interval(d, level=0.9)
    peer = stats.ttest_1samp(d, 0).confidence_interval(0.9)
    np.testing.assert_allclose([got.low, got.high], [peer.low, peer.high])
    with pytest.raises(InputError, match="at least two problems"):
        student_interval([0.1])


@pytest.mark.parametrize(("solved", "level"), [(8, 0.95), (0, 0.95), (8, 0.9)])
def test_problems_that_are_all_alike_leave_the_exact_binomial_interval(solved: int, level: float) -> None:
    problem = [f"p{q}" for q in range(40) for _ in range(8)]
    arm = make_arm("a", problem, [i < solved for _ in range(40) for i in range(8)])
    estimates = evaluate(arm, ks=[1, 8], level=level, caps=(), budgets=()).pass_at_k
    exact = stats.binomtest(40 if solved else 0, 40).proportion_ci(level, method="exact")
    np.testing.assert_allclose(estimates.low, exact.low, atol=1e-12)
    np.testing.assert_allclose(estimates.high, exact.high, atol=1e-12)


def test_a_problem_that_was_solved_cannot_be_one_of_none() -> None:
    """One of 30 problems is solved in every sample: the bootstrap's lower end is 0, which the data exclude."""
    problem = np.repeat(np.arange(30), 4)
    estimates = evaluate(make_arm("a", problem, problem == 0), ks=[1, 4], caps=(), budgets=()).pass_at_k
    exact = stats.binomtest(1, 30).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(estimates.low, exact.low)
    other = evaluate(make_arm("a", problem, problem > 0), ks=[1, 4], caps=(), budgets=()).pass_at_k
    np.testing.assert_allclose(other.high, 1 - exact.low)


def test_an_arms_interval_covers_the_choice_of_clusters() -> None:
    rng = np.random.default_rng(0)
    cluster, n = np.repeat(np.arange(20), 10), 8
    rate = np.clip(rng.beta(1, 1, 20)[cluster] + rng.normal(0, 0.02, 200), 0, 1)
    correct = (np.arange(n) < rng.binomial(n, rate)[:, None]).ravel()
    problem = np.repeat(np.arange(200), n)
    plain, clustered = (
        evaluate(make_arm("a", problem, correct, cluster=names), ks=[1], caps=(), budgets=()).pass_at_k
        for names in (None, [f"c{c}" for c in np.repeat(cluster, n)])
    )
    means = correct.reshape(20, -1).mean(axis=1)
    peer = stats.bootstrap((means,), np.mean, method="BCa", n_resamples=20_000, rng=2).confidence_interval
    width = peer.high - peer.low
    assert clustered.low[0] == pytest.approx(peer.low, abs=0.04 * width)
    assert clustered.high[0] == pytest.approx(peer.high, abs=0.04 * width)
    assert plain.high[0] - plain.low[0] < 0.5 * width
