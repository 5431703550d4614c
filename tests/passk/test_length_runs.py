"""Intervals of length-controlled differences with several training runs."""

from __future__ import annotations

import numpy as np
import pytest

from forkwise.passk import compare, make_arm
from forkwise.passk.length import budget_curves
from forkwise.passk.outcomes import Arm
from forkwise.passk.two_way import joint_test, vary

RUNS, PROBLEMS, N = 5, 20, 32


def trained(name: str, seed: int, *, luck: float, gain: float = 0.0) -> Arm:
    """Runs whose skill varies by `luck` from one training to the next, and answers of 5 to 12 tokens."""
    rng = np.random.default_rng(seed)
    skill = 0.5 + gain + luck * rng.standard_normal((RUNS, 1, 1)) + 0.1 * np.linspace(-1, 1, PROBLEMS)[None, :, None]
    correct = rng.random((RUNS, PROBLEMS, N)) < skill
    run, problem, _ = np.indices(correct.shape)
    return make_arm(
        name,
        [f"p{q:02d}" for q in problem.ravel()],
        correct.ravel(),
        run=[f"{name}{s}" for s in run.ravel()],
        length=rng.integers(5, 13, correct.size),
    )


@pytest.fixture(scope="module")
def lucky() -> dict[tuple[str, int | None, int | None], tuple[float, float]]:
    result = compare(
        trained("a", 1, luck=0.1), trained("b", 2, luck=0.1), ks=[1], caps=[12], budgets=[16], resamples=99
    )
    return {(row.control, row.at, row.k): (row.low, row.high) for row in result.differences[0].length}


def test_a_cap_that_cuts_nothing_has_the_interval_of_the_raw_difference(
    lucky: dict[tuple[str, int | None, int | None], tuple[float, float]],
) -> None:
    ours, theirs = (trained(name, seed, luck=0.1).curves([1]) for name, seed in (("b", 2), ("a", 1)))
    raw = vary(ours, theirs).pointwise(0.95)
    assert lucky["cap", 12, 1] == pytest.approx((raw.low[0], raw.high[0]))


def test_intervals_cover_the_luck_of_training(
    lucky: dict[tuple[str, int | None, int | None], tuple[float, float]],
) -> None:
    """Lengths say nothing here, so every control has about the width of the raw two-way interval."""
    ours, theirs = (trained(name, seed, luck=0.1).curves([1]) for name, seed in (("b", 2), ("a", 1)))
    by_run = ours.mean(axis=(1, 2)).var(ddof=1) / RUNS + theirs.mean(axis=(1, 2)).var(ddof=1) / RUNS
    for key in (("cap", 12, 1), ("matched", None, 1)):
        low, high = lucky[key]
        assert high - low > 2 * 2 * np.sqrt(by_run) * 0.95  # t is above 2
        assert high - low < 4 * 2 * np.sqrt(by_run)
    low, high = lucky["budget", 16, None]
    assert high - low > 2 * 2 * np.sqrt(by_run) * 0.8  # about two samples fit, so runs differ a little less


def test_matched_covers_equal_arms_whose_runs_differ() -> None:
    """Arms of one distribution: 0 is in nearly all 95 % intervals; over problems alone it would be in a third."""
    hits = 0
    for seed in range(16):
        result = compare(
            trained("a", 2 * seed, luck=0.1),
            trained("b", 2 * seed + 1, luck=0.1),
            ks=[1],
            caps=[],
            budgets=[],
            resamples=20,
        )
        (row,) = result.differences[0].length
        hits += row.low <= 0 <= row.high
    assert hits >= 13


def test_the_curve_over_tokens_spent_has_a_band_for_all_budgets() -> None:
    """The band is the joint one of all budgets and arms, and wider than the interval at one budget."""
    arms = [trained(name, seed, luck=0.1) for name, seed in (("a", 1), ("b", 2), ("c", 3))]
    result = compare(*arms, ks=[1], budgets=[8, 16, 24], caps=[], resamples=2000)
    values = [budget_curves(arm, [8, 16, 24])[0] for arm in arms]
    variations = [vary(x, values[0], names=(arm.name, "a")) for arm, x in zip(arms[1:], values[1:], strict=True)]
    critical = joint_test(variations, resamples=2000, seed=0).critical(0.95)
    for difference, variation in zip(result.differences, variations, strict=True):
        rows = [row for row in difference.length if row.control == "budget"]
        assert [row.at for row in rows] == [8, 16, 24]
        expected = variation.interval(critical, 0.95)
        np.testing.assert_allclose([row.band_low for row in rows], expected.low)
        np.testing.assert_allclose([row.band_high for row in rows], expected.high)
        assert all(row.band_low < row.low and row.band_high > row.high for row in rows)
    assert all(row.band_low is None for row in result.differences[0].length if row.control != "budget")
