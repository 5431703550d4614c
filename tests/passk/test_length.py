"""Length control against enumeration of all orders and all draws."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkwise.errors import InputError
from forkwise.passk import compare, make_arm, pass_at_k
from forkwise.passk.length import (
    default_budgets,
    default_caps,
    largest_budget,
    match_curves,
    match_lengths,
    pass_within_budget,
)
from forkwise.report.passk_figures import comparison_figure

SAMPLES = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=6)


def every_order(samples: list[tuple[int, bool]], budget: float) -> float:
    solved, orders = 0, 0
    for order in permutations(samples):
        spent = 0
        orders += 1
        for length, correct in order:
            spent += length
            if spent > budget:
                break
            if correct:
                solved += 1
                break
    return solved / orders


@given(SAMPLES, st.data())
def test_budget_equals_enumeration_of_orders(samples: list[tuple[int, bool]], data: st.DataObject) -> None:
    lengths, correct = (list(column) for column in zip(*samples, strict=True))
    budgets = sorted(data.draw(st.lists(st.integers(1, sum(lengths)), min_size=1, max_size=3)))
    value, variance = pass_within_budget(lengths, correct, budgets, orders=2000)
    expected = [every_order(samples, b) for b in budgets]
    # Five standard errors, floored: a rare order may not have been drawn at all.
    assert (np.abs(value - expected) <= 5 * np.sqrt(variance) + 5e-3).all()


def test_equal_lengths_make_the_budget_a_k() -> None:
    # Every sample costs 10, so a budget of 35 buys 3 of them.
    value, variance = pass_within_budget([10] * 8, [True] * 2 + [False] * 6, [10, 35, 80])
    np.testing.assert_allclose(value, pass_at_k(8, [2], [1, 3, 8])[0])
    assert not variance.any()


def test_a_shorter_model_gets_more_tries() -> None:
    correct = [True] * 2 + [False] * 6
    short, _ = pass_within_budget([5] * 8, correct, [20])
    long, _ = pass_within_budget([10] * 8, correct, [20])
    assert short[0] == pytest.approx(pass_at_k(8, [2], 4)[0])
    assert long[0] == pytest.approx(pass_at_k(8, [2], 2)[0])


def test_budget_edges() -> None:
    assert pass_within_budget([3, 4], [False, False], [7])[0].tolist() == [0.0]
    assert pass_within_budget([3, 4], [True, True], [2, 3, 4, 7])[0].tolist() == [0.0, 0.5, 1.0, 1.0]
    with pytest.raises(InputError, match="exceeds the 7"):
        pass_within_budget([3, 4], [True, False], [8])


def matched_by_enumeration(ours: list[tuple[int, bool]], bins_of_reference: list[int], k: int) -> float:
    """Ours: (bin, correct). Average over k-subsets of the reference, then over our draws from the same bins."""
    total, draws = 0.0, list(combinations(bins_of_reference, k))
    for draw in draws:
        failed = 1.0
        for b in set(draw):
            pool = [correct for bin_, correct in ours if bin_ == b]
            picks = list(combinations(pool, draw.count(b)))
            failed *= np.mean([not any(p) for p in picks])
        total += 1 - failed
    return total / len(draws)


def test_matching_equals_enumeration() -> None:
    # Two bins, 10..19 and 20..29; the reference has 2 short and 4 long samples, we have 4 short and 4 long ones.
    reference = [10, 15, 21, 22, 25, 29]
    ours = [(11, True), (12, False), (13, True), (14, False), (24, False), (26, False), (27, True), (28, False)]
    ks = [1, 2, 3, 4]
    # Quantile bins by the inverted cdf: edges 10, 21, 29, so the short bin holds 10, 15 and 21 of the reference.
    in_bins = [(0 if length <= 21 else 1, correct) for length, correct in ours]
    got = match_lengths([x for x, _ in ours], [c for _, c in ours], reference, ks, bins=2)
    assert got is not None
    expected = [matched_by_enumeration(in_bins, [0, 0, 0, 1, 1, 1], k) for k in ks]
    np.testing.assert_allclose(got.pass_at_k, expected, atol=1e-12)
    # K = 1: half of each bin's rate; effective n = 1 / (0.25/4 + 0.25/4) = 8
    assert got.pass_at_k[0] == pytest.approx(0.5 * 2 / 4 + 0.5 * 1 / 4)
    assert got.effective_n == pytest.approx(8)


def test_matching_an_arm_to_itself_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    lengths, correct = rng.integers(50, 500, size=256), rng.random(256) < 0.2
    got = match_lengths(lengths, correct, lengths, [1, 16, 64], bins=4)
    assert got is not None
    np.testing.assert_allclose(got.pass_at_k, pass_at_k(256, [int(correct.sum())], [1, 16, 64])[0], atol=1e-12)
    assert got.effective_n == pytest.approx(256, rel=1e-3)


def test_matching_removes_a_difference_that_is_all_length() -> None:
    # Both models solve short answers with 0.8 and long ones with 0.2; the arm merely writes long ones more often.
    rng = np.random.default_rng(1)
    n = 4000

    def sample(share_short: float) -> tuple[np.ndarray, np.ndarray]:
        short = rng.random(n) < share_short
        lengths = np.where(short, rng.integers(10, 20, n), rng.integers(30, 40, n))
        return lengths, rng.random(n) < np.where(short, 0.8, 0.2)

    (theirs, solved), (ours, ours_solved) = sample(0.7), sample(0.3)
    got = match_lengths(ours, ours_solved, theirs, [1], bins=20)  # at most one bin mixes short with long
    assert got is not None
    assert solved.mean() - ours_solved.mean() > 0.2
    assert got.pass_at_k[0] == pytest.approx(solved.mean(), abs=0.04)
    assert got.effective_n < n


def test_matching_refuses_where_the_support_is_empty() -> None:
    assert match_lengths([10, 11, 11], [True] * 3, [10, 11, 50, 60], [1], bins=2) is None
    # Support at K = 1, but too few long samples for two of them.
    got = match_lengths([10, 11, 55], [True] * 3, [10, 11, 50, 60], [1, 2], bins=2)
    assert got is not None
    assert np.isfinite(got.pass_at_k).tolist() == [True, False]


def over_runs(*pairs_STQK: np.ndarray) -> list[np.ndarray]:
    return [pairs.mean(axis=(0, 1)) for pairs in pairs_STQK]


def test_at_k_1_both_sides_are_at_the_mean_of_their_lengths() -> None:
    """Kitagawa (1955): the sum over bins of the mean share times the difference of the rates."""
    # Bins: up to 5, and 9. Shares 3/4, 1/4 against 1/4, 3/4; rates 1/3, 1 against 0, 2/3.
    ours = make_arm("a", ["p"] * 4, [1, 0, 0, 1], length=[1, 5, 5, 9])
    theirs = make_arm("b", ["p"] * 4, [0, 1, 1, 0], length=[1, 9, 9, 9])
    # The edges of `ours` are 1, 5, 9; those of `theirs` 1, 9: one bin, in which a direction changes nothing.
    a, b = over_runs(*match_curves(ours, theirs, [1], bins=2)[:2])
    assert a[0, 0] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert b[0, 0] == pytest.approx((1 / 2 + (3 / 4 * 0 + 1 / 4 * 2 / 3)) / 2)
    other, own = over_runs(*match_curves(theirs, ours, [1], bins=2)[:2])
    assert (own[0, 0], other[0, 0]) == (pytest.approx(a[0, 0]), pytest.approx(b[0, 0]))


def test_every_run_is_matched_with_every_other_and_runs_are_never_pooled() -> None:
    # Run 1 solves p alone, run 2 solves q alone: each has Pass@K 1/2, and the mixture has 5/6 at K = 2.
    rows = [("1", "p", 1), ("1", "p", 1), ("1", "q", 0), ("1", "q", 0), ("2", "p", 0), ("2", "p", 0)]
    rows += [("2", "q", 1), ("2", "q", 1)]
    run, problem, correct = (list(column) for column in zip(*rows, strict=True))
    arm = make_arm("a", problem, correct, run=run, length=[5] * 8)
    *pairs, effective = match_curves(arm, arm, [1, 2])
    ours, theirs = over_runs(*pairs)
    np.testing.assert_allclose(ours, 0.5)
    np.testing.assert_allclose(theirs, 0.5)
    np.testing.assert_allclose(effective, 2)
    # Bins: up to 5, and 9, of which the two runs of `other` have 3 and 1, and 2 and 2.
    other = make_arm("b", ["p"] * 8, [0] * 8, run=list("11112222"), length=[1, 5, 5, 9, 1, 5, 9, 9])
    own = make_arm("a", ["p"] * 4, [0, 1, 1, 1], run=list("1122"), length=[5, 9, 5, 9])
    ours, theirs = over_runs(*match_curves(own, other, [1], bins=2)[:2])
    first, second = ((1 / 2 + 1 / 4) / 2, (1 / 2 + 1 / 2) / 2), (1, 1)
    assert ours[0, 0] == pytest.approx(np.mean([*first, *second]))
    assert theirs[0, 0] == 0


def test_runs_of_one_model_do_not_differ_at_equal_lengths() -> None:
    """Whatever lengths have to do with success: an arm against its own runs, in any order, is exactly 0."""
    rng = np.random.default_rng(3)
    run, problem = np.repeat([0, 1, 2], 128), np.tile(np.repeat([0, 1], 64), 3)
    rate = np.array([[0.1, 0.5], [0.3, 0.2], [0.05, 0.9]])[run, problem]
    length = np.ceil(45 * rng.random(384) ** np.array([1, 1.2, 0.9])[run])
    arm = make_arm("a", list(map(str, problem)), rng.random(384) < rate, run=list(map(str, run)), length=length)
    ours, theirs = over_runs(*match_curves(arm, arm, [1, 8])[:2])
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_curves_of_an_arm() -> None:
    a = make_arm("a", list("ppqq"), [1, 0, 1, 1], length=[5, 9, 4, 8])
    b = make_arm("b", list("ppqq"), [0, 0, 1, 0], length=[5, 9, 40, 80])
    n, c = a.counts(max_length=5)
    assert (n.tolist(), c.tolist()) == ([[2, 2]], [[1, 1]])
    assert a.curves([1, 2], 4).tolist() == [[[0.0, 0.0], [0.5, 1.0]]]
    assert largest_budget([a, b]) == 12
    assert default_budgets([a, b])[-1] == 12
    assert default_caps([a, b])[-1] == 80
    *pairs, effective = match_curves(a, b, [1], bins=1)
    matched, theirs = over_runs(*pairs)
    assert np.isnan([matched[1, 0], theirs[1, 0]]).all()  # problem q: none of ours is as long as theirs
    assert (matched[0, 0], theirs[0, 0]) == (pytest.approx(0.5), 0)
    assert effective[0] == pytest.approx(2)


def test_empty_samples_leave_caps_of_one_token_and_no_budget() -> None:
    arms = [make_arm(name, ["p", "p", "q", "q"], [True, False, False, True], length=[0] * 4) for name in "ab"]
    assert default_caps(arms) == [1]
    assert default_budgets(arms) == []
    [difference] = compare(*arms, ks=[1], resamples=99).differences
    assert {row.control for row in difference.length} == {"cap", "matched"}
    assert comparison_figure(compare(*arms, ks=[1], resamples=99)).axes
