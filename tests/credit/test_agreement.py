"""Agreement with true advantages: by hand, against exact enumeration, and what its intervals and band promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tabular_bank import LENGTH, TOKENS, TabularProblem

from forkwise.credit.agreement import (
    Jackknife,
    Truth,
    correlation,
    detectable,
    jackknife,
    judge_together,
    moments,
    slope,
    worth,
)
from forkwise.explore.findings import Estimate
from forkwise.forks.estimators import Branches, halved


def truth(advantage: list[float], *, weight: list[float] | None = None, problem: list[int] | None = None) -> Truth:
    """States whose true advantages have no error."""
    a = np.array(advantage)
    problem_K = np.arange(a.size) if problem is None else np.array(problem)
    weight_K = np.ones(a.size) if weight is None else np.array(weight)
    return Truth(a, np.stack([a, a], axis=1), weight_K, problem_K, int(problem_K.max()) + 1)


def test_correlation_slope_and_factor_by_hand() -> None:
    # x = 1, 2, 3 and A = 0, 1, 5: deviations -1, 0, 1 and -2, -1, 3: covariance 5 / 3, variances 2 / 3 and 14 / 3.
    sums = moments(np.array([[1.0, 2, 3]]), truth([0.0, 1, 5])).sum(axis=0)
    assert float(correlation(sums)) == pytest.approx(5 / np.sqrt(28))
    assert float(slope(sums)) == pytest.approx(5 / 2)
    assert float(worth(sums)) == pytest.approx((2 + 15) / (1 + 4 + 9))  # sum x A / sum x x, not centred


def test_a_state_counts_as_often_as_its_weight() -> None:
    drawn = moments(np.array([[1.0, 2, 3]]), truth([0.0, 1, 5], weight=[1, 3, 2])).sum(axis=0)
    written_out = moments(np.array([[1.0, 2, 2, 2, 3, 3]]), truth([0.0, 1, 1, 1, 5, 5])).sum(axis=0)
    assert float(correlation(drawn)) == pytest.approx(float(correlation(written_out)))


def test_a_random_method_is_that_of_all_its_draws_together() -> None:
    draws = np.array([[1.0, 2, 3], [0.0, 4, 1]])
    together = moments(draws.reshape(1, -1), truth([0.0, 1, 5, 0, 1, 5])).sum(axis=0)
    assert float(correlation(moments(draws, truth([0.0, 1, 5])).sum(axis=0))) == pytest.approx(
        float(correlation(together))
    )


def test_what_does_not_vary_has_no_correlation() -> None:
    assert np.isnan(correlation(moments(np.ones((1, 3)), truth([0.0, 1, 5])).sum(axis=0)))
    assert np.isnan(correlation(moments(np.array([[1.0, 2, 3]]), truth([0.2, 0.2, 0.2])).sum(axis=0)))


def test_halves_correct_for_the_error_of_true_advantages() -> None:
    # A and x with correlation .6, and halves with twice the variance of A as error: uncorrected .6 / sqrt(2).
    rng = np.random.default_rng(0)
    n, problems = 40_000, 40
    a = rng.standard_normal(n)
    x = 0.6 * a + 0.8 * rng.standard_normal(n)
    half = a[:, None] + np.sqrt(2) * rng.standard_normal((n, 2))
    noisy = Truth(half.mean(axis=1), half, np.ones(n), np.arange(n) % problems, problems)
    found = jackknife(moments(x[None], noisy), correlation)
    assert found.value == pytest.approx(0.6, abs=0.02)
    assert abs(found.value - 0.6) < 3 * found.error
    assert np.corrcoef(x, noisy.advantage_K)[0, 1] == pytest.approx(0.6 / np.sqrt(2), abs=0.02)


def test_halves_have_no_bias_by_enumeration() -> None:
    # One forced token, the tail of the two others drawn twice, two continuations after each: all draws and outcomes.
    table = TabularProblem(np.random.default_rng(5))
    prefix = (1,)
    after = [table.value((*prefix, a)) for a in range(TOKENS)]
    chance = table.next[prefix]
    mass = chance[1] + chance[2]
    branches = Branches(np.array([chance[0], mass / 2, mass / 2]), np.array([True, False, False]), np.full(3, 2))
    first = second = product = 0.0
    for tail in itertools.product((1, 2), repeat=2):
        for outcome in itertools.product((0.0, 1.0), repeat=6):
            tokens = (0, *tail)
            p = np.prod([chance[a] / mass for a in tail])
            for a, y in zip(np.repeat(tokens, 2), outcome, strict=True):
                p *= after[a] if y else 1 - after[a]
            one, two = halved(branches, np.array(outcome))
            first, second, product = first + p * one, second + p * two, product + p * one * two
    exact = after[0] - table.value(prefix)
    assert abs(exact) > 0.02
    assert (first, second, product) == pytest.approx((exact, exact, exact**2))
    assert LENGTH == 3


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.array([1.0, 4, 2, 9, 4])
    found = jackknife(np.stack([x, np.ones(5)], axis=1), lambda s: s[..., 0] / s[..., 1])
    assert found.pseudo_Q == pytest.approx(x)
    assert found.error == pytest.approx(x.std(ddof=1) / np.sqrt(5))
    estimate = found.estimate(0.95)
    assert (estimate.value, estimate.high) == pytest.approx((4.0, 4 + 2.7764451 * found.error))  # t of 4 degrees


def test_the_band_holds_all_methods_at_once() -> None:
    # Twenty differences of nothing: one interval in twenty misses 0, a band misses it anywhere once in twenty.
    rng = np.random.default_rng(1)
    anywhere = single = 0
    for seed in range(200):
        columns = rng.standard_normal((30, 20))
        family = judge_together(
            [Jackknife(float(c.mean()), c) for c in columns.T], level=0.95, resamples=400, seed=seed
        )
        out = [b.low > 0 or b.high < 0 for b in family.band if b.low is not None and b.high is not None]
        assert [p is not None and p <= 0.05 for p in family.adjusted_p] == out
        anywhere += any(out)
        single += abs(columns[:, 0].mean()) > 2.045 * columns[:, 0].std(ddof=1) / np.sqrt(30)
    assert 2 <= anywhere <= 20  # 10 expected, standard deviation 3.1
    assert single <= 20


def test_what_can_be_shown_by_hand() -> None:
    # 30 problems; standard errors 1, 2 and 4, and one difference that does not vary. Student's quantiles with 29
    # degrees of freedom: 2.0452 at .975, .8542 at .8. Own intervals: 2.8994 e, of the middle one 5.7989. Bands of half
    # widths 3, 7 and 11: 3.8542, 8.7084, 14.4168.
    base = np.tile([1.0, -1.0], 15)
    base = base / base.std(ddof=1) * np.sqrt(30)
    some = [Jackknife(0.5, 0.5 + base * e) for e in (1.0, 2.0, 4.0, 0.0)]
    bands = [Estimate(0.5, 0.5 - half, 0.5 + half) for half in (3.0, 7.0, 11.0)]
    smallest = detectable(some, [*bands, Estimate(0.5)], 0.95)
    assert smallest is not None
    assert (smallest.alone, smallest.together) == pytest.approx((5.7989, 8.7084), abs=1e-4)
    assert detectable(some[3:], [Estimate(0.5)], 0.95) is None


def test_what_can_be_shown_is_shown_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    smallest = detectable(
        [Jackknife(0.0, np.tile([1.0, -1.0], 20) * np.sqrt(39 / 40))], [Estimate(0.0, -1.0, 1.0)], 0.95
    )
    assert smallest is not None  # of 40 problems whose contributions have the variance 1
    drawn = rng.standard_normal((4000, 40)) + smallest.alone
    shown = [
        own.low is not None and own.low > 0 for own in (Jackknife(float(x.mean()), x).estimate(0.95) for x in drawn)
    ]
    assert abs(np.mean(shown) - 0.8) < 0.03  # standard deviation .006, and t quantiles stand for a noncentral t
