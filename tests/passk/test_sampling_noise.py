"""The interval for a fixed benchmark: its variance against enumeration, its coverage against redrawn samples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import integrate, stats

from forkwise.passk import Interval, compare, evaluate, make_arm, pass_at_k
from forkwise.passk.extrapolation import SuccessRates, fit_rates
from forkwise.passk.sampling_noise import _all_wrong, difference_on_the_same, same_problems, sampling_variance


def test_what_is_known_after_c_of_n_is_an_integral() -> None:
    rates, n = SuccessRates(0.3, 0.6, 1.7), 5
    table = _all_wrong(rates, n, np.array([0, 2]), 4)
    for c, row in zip((0, 2), table, strict=True):

        def likelihood(p: float, j: int, c: int = c) -> float:
            return float(stats.beta.pdf(p, 0.6, 1.7) * p**c * (1 - p) ** (n - c + j))

        for j in range(5):
            above = 0.7 * integrate.quad(likelihood, 0, 1, args=(j,))[0] + (0.3 if c == 0 else 0)
            below = 0.7 * integrate.quad(likelihood, 0, 1, args=(0,))[0] + (0.3 if c == 0 else 0)
            assert row[j] == pytest.approx(above / below, rel=1e-5)


def test_the_square_of_the_estimator_by_enumeration() -> None:
    """`E[(C(n-c, k) / C(n, k))^2]` over the 2^n outcomes of n samples is what overlapping sets of k give."""
    n, p = 6, 0.3
    for k in (1, 2, 4, 6):
        c = np.arange(n + 1)
        failing = 1 - pass_at_k(np.full(n + 1, n), c, k)
        direct = stats.binom.pmf(c, n, p) @ failing**2
        pairs = [len(set(a) | set(b)) for a in combinations(range(n), k) for b in combinations(range(n), k)]
        assert direct == pytest.approx(np.mean([(1 - p) ** size for size in pairs]))
        shared = np.arange(max(0, 2 * k - n), k + 1)
        formula = (1 - p) ** (2 * k - shared) @ stats.hypergeom.pmf(shared, n, k, k)
        assert direct == pytest.approx(formula)


def test_the_variance_is_that_of_redrawn_samples() -> None:
    rng = np.random.default_rng(0)
    n, q, ks = 32, 300, [1, 4, 16, 32]
    rate = np.where(rng.random(q) < 0.3, 0, rng.beta(0.5, 1.5, q))
    drawn = np.array([pass_at_k(n, rng.binomial(n, rate), ks).mean(axis=0) for _ in range(1500)])
    estimated = np.mean(
        [sampling_variance(np.full((1, q), n), rng.binomial(n, rate)[None], ks) for _ in range(20)], axis=0
    )
    np.testing.assert_allclose(estimated, drawn.var(axis=0), rtol=0.15)
    two = sampling_variance(np.full((2, q), n), np.stack([rng.binomial(n, rate)] * 2), ks)
    np.testing.assert_allclose(two, estimated / 2, rtol=0.2)  # of the mean of two runs


@pytest.mark.parametrize("k", [1, 8, 32])
def test_the_interval_covers_the_benchmarks_own_mean(k: int) -> None:
    rng = np.random.default_rng(1)
    n, q, hits, wide = 32, 50, 0, 0
    for _ in range(200):
        rate = np.where(rng.random(q) < 0.4, 0, rng.beta(0.6, 1.5, q))
        truth = (1 - (1 - rate) ** k).mean()
        c = rng.binomial(n, rate)[None]
        counts = np.full((1, q), n)
        mean = pass_at_k(n, c[0], [k]).mean(axis=0)
        interval = same_problems(mean, sampling_variance(counts, c, [k]), counts, c, [k], 0.95)
        hits += bool(interval.low[0] <= truth <= interval.high[0])
        wide += bool(interval.high[0] - interval.low[0] > 3.9 * stats.sem(pass_at_k(n, c[0], k)))
    assert 0.89 <= hits / 200 <= 0.995
    assert wide == 0  # narrower than the interval for problems like these


@pytest.mark.parametrize("right", [False, True])
def test_samples_that_are_all_alike_leave_the_binomial_bound(right: bool) -> None:
    arm = make_arm("a", np.repeat(np.arange(10), 8), [right] * 80)
    interval = evaluate(arm, ks=[1, 8], caps=(), budgets=()).same_problems
    exact = stats.binomtest(80 if right else 0, 80).proportion_ci(0.95, method="exact")
    if right:
        assert interval.low.tolist() == pytest.approx([exact.low] * 2)
        assert interval.high.tolist() == [1, 1]
    else:
        assert interval.high.tolist() == pytest.approx([exact.high, 1 - (1 - exact.high) ** 8])
        assert interval.low.tolist() == [0, 0]


def test_unequal_numbers_of_samples() -> None:
    rng = np.random.default_rng(2)
    n = np.where(np.arange(200) < 100, 16, 48)
    c = rng.binomial(n, rng.beta(0.5, 1.5, 200))
    both = sampling_variance(n[None], c[None], [4])[0]
    rates = fit_rates(n, c)
    halves = 0.0
    for of_n in (16, 48):
        wrong = _all_wrong(rates, of_n, c[n == of_n], 8)
        shared = np.arange(5)
        square = wrong[:, 8 - shared] @ stats.hypergeom.pmf(shared, of_n, 4, 4)
        halves += (square - wrong[:, 8]).sum()
    assert both == pytest.approx(halves / 200**2)


def test_a_difference_on_the_same_problems_adds_the_variances() -> None:
    a, b = (Interval(np.array([m]), np.array([m - h]), np.array([m + h]), 0.95) for m, h in ((0.5, 0.03), (0.4, 0.04)))
    d = difference_on_the_same(a, b)
    assert (d.low[0], d.high[0]) == (pytest.approx(0.05), pytest.approx(0.15))


def test_sampling_noise_is_less_than_the_choice_of_problems() -> None:
    rng = np.random.default_rng(3)
    rate = rng.beta(0.5, 1.5, 80)
    problem = np.repeat(np.arange(80), 64)
    arms = [
        make_arm(
            name,
            problem,
            (np.arange(64) < rng.binomial(64, np.clip(rate + rng.normal(0, 0.2, 80), 0, 1))[:, None]).ravel(),
        )
        for name in "ab"
    ]
    d = compare(*arms, ks=[1, 8], resamples=100).differences[0]
    assert (d.same_problems.high - d.same_problems.low < 0.5 * (d.interval.high - d.interval.low)).all()
    np.testing.assert_allclose(d.same_problems.mean, d.interval.mean)
