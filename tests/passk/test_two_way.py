"""The standard error over problems and runs, and the joint test, against independent references and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from forkwise.passk.two_way import Variation, joint_test, vary


def normal(se: float, freedom: float, mean: float, columns: np.ndarray) -> Variation:
    """A variation whose K move as the rows `columns` say, `(units, K)`."""
    rows = columns / np.sqrt((columns**2).sum(axis=0)) * se
    k = columns.shape[1]
    return Variation(np.full(k, mean), np.full(k, se), np.full(k, freedom), {"problems": rows})


def test_with_one_run_the_interval_is_students() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((1, 40, 3)), rng.random((1, 40, 3))
    variation = vary(a, b)
    peer = stats.ttest_1samp(a[0] - b[0], 0)
    np.testing.assert_allclose(variation.se, stats.sem(a[0] - b[0]))
    np.testing.assert_allclose(variation.p(), peer.pvalue)
    np.testing.assert_allclose(variation.pointwise(0.9).low, peer.confidence_interval(0.9).low)


def test_two_runs_by_hand() -> None:
    # Arm: run means 2 and 4 over two problems with [1, 3] and [5, 3]; reference fixed at 0.
    arm = np.array([[[1.0], [3.0]], [[5.0], [3.0]]])
    variation = vary(arm, np.zeros((1, 2, 1)))
    # Means of problems 3 and 3: variance over problems 0. Of runs: ((2-3)^2 + (4-3)^2) / 1 / 2 = 1.
    # Residuals x - run - problem + mean: 1-2-3+3 = -1, 3-2-3+3 = 1, 5-4-3+3 = 1, 3-4-3+3 = -1: 4 / (1*1) / (2*2) = 1.
    # 0 + 1 - 1 = 0, which may not fall below the interaction, 1. Freedom: 1^2 / (0 + 1^2/1 + 1^2/1) = 1/2.
    assert variation.se[0] == pytest.approx(1.0)
    assert variation.freedom[0] == pytest.approx(0.5)


def test_the_interaction_is_counted_once_by_hand() -> None:
    # Runs (rows) and problems: means of runs 1 and 3, of problems 0 and 4, no interaction but +-1/2 in each cell.
    arm = np.array([[[-0.5], [2.5]], [[0.5], [5.5]]])
    variation = vary(arm, np.zeros((1, 2, 1)))
    # Problems: 0 and 4, variance 8 / 2 = 4. Runs: 1 and 3, variance 2 / 2 = 1. Residuals x - run - problem + 2:
    # -0.5-1-0+2 = 0.5, 2.5-1-4+2 = -0.5, 0.5-3-0+2 = -0.5, 5.5-3-4+2 = 0.5: sum of squares 1 / (1*1) / 4 = 0.25.
    assert variation.se[0] == pytest.approx(np.sqrt(4 + 1 - 0.25))
    assert variation.freedom[0] == pytest.approx(4.75**2 / (4**2 + 1**2 + 0.25**2))


def test_unequal_numbers_of_runs_take_the_smaller_freedom() -> None:
    # No interaction, problems alike: only runs vary. Arm of 2 runs, variance of a run 1e-4; reference of 5, variance 1.
    few = np.array([0.0, np.sqrt(2e-4)])
    many = np.array([-1.0, 1.0, -1.0, 1.0, 0.0])
    arm, reference = (np.broadcast_to(x[:, None, None], (x.size, 30, 1)) for x in (few, many))
    variation = vary(arm, reference)
    own = (1e-4 / 2 + 1 / 5) ** 2 / ((1e-4 / 2) ** 2 / 1 + (1 / 5) ** 2 / 4)  # Satterthwaite: about 4
    mean = (1e-4 * 1 + 1 * 4) / 5
    pooled = (mean / 2 + mean / 5) ** 2 / ((mean / 2) ** 2 / 1 + (mean / 5) ** 2 / 4)  # about 1.9
    assert own > 3.9
    assert variation.freedom[0] == pytest.approx(pooled)
    assert variation.se[0] == pytest.approx(np.sqrt(1e-4 / 2 + 1 / 5))


def test_the_standard_error_covers_problems_and_runs() -> None:
    # x = problem effect (shared by the arms, so it cancels) + run effect + problem-by-arm effect + noise
    rng = np.random.default_rng(1)
    q, s, estimates, squares = 50, 4, [], []
    for _ in range(600):
        problems = rng.normal(0, 1, q)

        def runs(problems: np.ndarray = problems) -> np.ndarray:
            by_arm = rng.normal(0, 0.3, q)
            return (problems + by_arm + rng.normal(0, 0.2, (s, 1)) + rng.normal(0, 0.5, (s, q)))[..., None]

        a, b = runs(), runs()
        estimates.append((a.mean() - b.mean()).item())
        squares.append((vary(a, b).se[0] ** 2).item())
    assert np.mean(squares) == pytest.approx(np.var(estimates), rel=0.15)
    assert np.mean(squares) > 1.5 * np.var(rng.normal(0, 0.3, (2000, q)).mean(axis=1)) * 2  # problems alone fall short


def test_a_fixed_reference_leaves_the_variance_of_the_other_arms_runs() -> None:
    rng = np.random.default_rng(2)
    base = rng.random((1, 4000, 1))
    runs = base + rng.normal(0, 0.1, (5, 1, 1)) + rng.normal(0, 0.01, (5, 4000, 1))
    se = vary(runs, base).se[0]
    assert se == pytest.approx(runs.mean(axis=(1, 2)).std(ddof=1) / np.sqrt(5), rel=0.05)
    assert vary(runs.mean(axis=0, keepdims=True), base).se[0] < se / 20


def test_whole_clusters_vary() -> None:
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(10), 10)
    difference = (rng.normal(size=10)[cluster] + 0.1 * rng.normal(size=100))[None, :, None]
    variation = vary(difference, np.zeros((1, 100, 1)), cluster_Q=cluster)
    means = difference[0, :, 0].reshape(10, 10).mean(axis=1)
    peer = stats.ttest_1samp(means, 0)  # of equal sizes: Student's t over the means of clusters
    assert variation.se[0] == pytest.approx(stats.sem(means))
    assert variation.p()[0] == pytest.approx(peer.pvalue)


def test_clusters_of_unequal_size_by_hand() -> None:
    # Differences 1, 1, 1, 5 in clusters 0, 0, 0, 1: mean 2; sums of deviations -3 and +3.
    difference = np.array([1.0, 1.0, 1.0, 5.0])[None, :, None]
    variation = vary(difference, np.zeros((1, 4, 1)), cluster_Q=np.array([0, 0, 0, 1]))
    # G/(G-1) * sum (S_g / Q)^2 = 2 * (9 + 9) / 16
    assert variation.se[0] == pytest.approx(np.sqrt(2 * 18 / 16))
    assert variation.freedom[0] == pytest.approx(16 / 10 - 1)  # 4^2 / (3^2 + 1^2) clusters of equal size
    assert variation.mean[0] == pytest.approx(2)


def test_no_jump_where_all_problems_agree() -> None:
    """The width changes little from "none of 30 differs" to "one does, by one sample of 256"."""
    exact = 1 - 0.025 ** (1 / 30)
    widths = []
    for differing in range(9):
        d = np.zeros((1, 30, 1))
        d[0, :differing, 0] = 1 / 256
        interval = vary(d, np.zeros_like(d)).pointwise(0.95)
        widths.append(float(interval.high[0] - interval.low[0]) / 2)
    assert widths[0] == pytest.approx(exact)
    np.testing.assert_allclose(widths[1:6], [exact * (1 - m / 6) for m in range(1, 6)], rtol=0.02)
    assert widths[6] < 0.002
    constant = vary(np.full((1, 30, 1), 0.25), np.zeros((1, 30, 1)))
    assert constant.se[0] == pytest.approx(exact / stats.t.ppf(0.975, 29))


def test_one_number_alone_is_tested_exactly() -> None:
    variation = normal(1.0, 7.0, 2.2, np.ones((5, 1)))
    joint = joint_test([variation], resamples=50, seed=0)
    assert joint.p(variation.scores())[0] == pytest.approx(2 * stats.t.sf(2.2, 7))
    assert variation.interval(joint.critical(0.95), 0.95).low[0] == pytest.approx(max(2.2 - stats.t.ppf(0.975, 7), -1))


@pytest.mark.parametrize("columns", [1, 10])
def test_the_band_is_as_wide_as_the_number_of_independent_columns_asks(columns: int) -> None:
    rows = np.eye(10)[:, :columns]
    arms = [normal(0.01, 1e9, 0.0, rows)] if columns > 1 else [normal(0.01, 1e9, 0.0, rows)] * 2
    joint = joint_test(arms, resamples=40_000, seed=0)
    # Sidak: the normal quantile at which `columns` independent intervals all hold with 95 %; an arm twice counts once
    assert joint.critical(0.95) == pytest.approx(stats.norm.ppf((1 + 0.95 ** (1 / columns)) / 2), rel=0.01)


def test_few_degrees_of_freedom_widen_the_band_at_its_own_critical_value() -> None:
    variation = normal(0.001, 4.0, 0.0, np.eye(10))
    joint = joint_test([variation], resamples=40_000, seed=0)
    sidak = (1 - 0.95 ** (1 / 10)) / 2  # the tail of each of ten independent t statistics
    assert variation.interval(joint.critical(0.95), 0.95).high[0] == pytest.approx(
        stats.t.isf(sidak, 4) * 0.001, rel=0.05
    )


def test_p_and_band_say_the_same() -> None:
    rng = np.random.default_rng(5)
    for level in (0.9, 0.95, 0.99):
        a, b = (rng.normal(0.05 * i, 0.15, size=(3, 25, 6)) + 0.05 * rng.normal(size=(3, 1, 6)) for i in (1, 0))
        variations = [vary(a, b, names=("a", "b")), vary(a + 0.02, b, names=("c", "b"))]
        joint = joint_test(variations, resamples=999, seed=0)
        for v in variations:
            band = v.interval(joint.critical(level), level)
            excludes = (band.low > 0) | (band.high < 0)
            np.testing.assert_array_equal(joint.p(v.scores()) <= 1 - level + 1e-12, excludes)


@pytest.mark.parametrize(("resamples", "level"), [(100, 0.999), (999, 0.99999), (999, 1 - 1e-6), (10_000, 1 - 2e-7)])
def test_p_and_band_say_the_same_where_no_draw_lies_in_the_tail(resamples: int, level: float) -> None:
    """Beyond R draws p and band are Bonferroni's over the 8 numbers; a chance below 1 / (R + 1) cannot be drawn."""
    tail = (1 - level) / 2 / 8  # of each number alone
    edge = float(stats.t.isf(tail, 20.0))
    units = np.random.default_rng(0).normal(size=(30, 4))
    near = [normal(0.01, 20.0, t * 0.01, units) for t in np.array([0.8, 0.9, 0.99, 1.01, 1.1, 1.2]) * edge]
    claims = []
    for variation in near:
        joint = joint_test([variation, normal(0.01, 20.0, 0.0, units)], resamples=resamples, seed=0)
        band = variation.interval(joint.critical(level), level)
        excludes = (band.low > 0) | (band.high < 0)
        np.testing.assert_array_equal(joint.p(variation.scores()) <= 1 - level, excludes)
        claims.append(bool(excludes.any()))
    assert claims == [False] * 3 + [True] * 3
    assert joint.p(near[-1].scores())[0] == pytest.approx(8 * 2 * stats.t.sf(1.2 * edge, 20.0))


def test_arms_that_share_their_reference_are_judged_together() -> None:
    """Two copies of one arm are one comparison; two arms that share nothing are two."""
    rng = np.random.default_rng(6)
    reference = np.zeros((1, 400, 1))
    a, b = rng.normal(size=(2, 1, 400, 1))
    again = [vary(a, reference, names=(name, "r")) for name in ("a", "again")]
    once = joint_test(again, resamples=20_000, seed=0).critical(0.95)
    twice = joint_test([vary(x, reference) for x in (a, b)], resamples=20_000, seed=0).critical(0.95)
    assert once == pytest.approx(1.96, abs=0.03)
    assert twice == pytest.approx(stats.norm.ppf((1 + 0.95**0.5) / 2), abs=0.04)


def test_an_arm_that_differs_at_one_k_lends_no_claim_to_another() -> None:
    """Strong control: nine arms that differ hugely at the first K and not at eight others."""
    false = 0
    for i in range(300):
        rng = np.random.default_rng([7, i])
        arms = []
        for a in range(9):
            d = np.sqrt(0.7) * rng.normal(size=(80, 1)) + np.sqrt(0.3) * rng.normal(size=(80, 9))
            d[:, 0] += 1
            arms.append(vary(d[None], np.zeros((1, 80, 9)), names=(f"a{a}", "r")))
        joint = joint_test(arms, resamples=300, seed=i)
        false += any((joint.p(v.scores())[1:] <= 0.05).any() for v in arms)
    assert false / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
