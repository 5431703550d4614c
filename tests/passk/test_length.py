"""Length control against enumeration of all orders and all draws."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkwise.errors import InputError
from forkwise.passk import make_arm, pass_at_k
from forkwise.passk.length import (
    default_budgets,
    default_caps,
    largest_budget,
    match_curves,
    match_lengths,
    pass_within_budget,
)

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


def test_runs_are_matched_one_by_one_and_never_pooled() -> None:
    """Run 1 solves p alone, run 2 solves q alone: each has Pass@K 1/2, and the mixture has 5/6 at K = 2."""
    rows = [("1", "p", 1), ("1", "p", 1), ("1", "q", 0), ("1", "q", 0), ("2", "p", 0), ("2", "p", 0)]
    rows += [("2", "q", 1), ("2", "q", 1)]
    run, problem, correct = (list(column) for column in zip(*rows, strict=True))
    arm = make_arm("a", problem, correct, run=run, length=[5] * 8)
    matched, effective = match_curves(arm, arm, [1, 2])
    np.testing.assert_allclose(matched, 0.5)
    np.testing.assert_allclose(effective, 2)
    # Against three runs, each with each: run 1 at lengths 5, 5, 9 has one long sample, which is right on p.
    other = make_arm("b", ["p"] * 6, [0] * 6, run=list("112233"), length=[5, 5, 5, 9, 9, 9])
    own = make_arm("a", ["p"] * 4, [0, 1, 1, 1], run=list("1122"), length=[5, 9, 5, 9])
    got, _ = match_curves(own, other, [1], bins=2)
    # run 1: 0, 1/2, 1; run 2: 1, 1, 1
    assert got[0, 0] == pytest.approx((0 + 0.5 + 1 + 3) / 6)


def test_matching_several_runs_to_themselves_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    run, problem = np.repeat([0, 1, 2], 128), np.tile(np.repeat([0, 1], 64), 3)
    correct = rng.random(384) < np.array([[0.1, 0.5], [0.3, 0.2], [0.05, 0.9]])[run, problem]
    arm = make_arm("a", list(map(str, problem)), correct, run=list(map(str, run)), length=rng.integers(5, 50, 384))
    matched, _ = match_curves(arm, arm, [1, 8, 64])
    by_hand = [
        np.mean([pass_at_k(64, [int(correct[(run == s) & (problem == q)].sum())], [1, 8, 64])[0] for s in range(3)], 0)
        for q in range(2)
    ]
    np.testing.assert_allclose(matched, by_hand, atol=1e-9)


def test_curves_of_an_arm() -> None:
    a = make_arm("a", list("ppqq"), [1, 0, 1, 1], length=[5, 9, 4, 8])
    b = make_arm("b", list("ppqq"), [0, 0, 1, 0], length=[5, 9, 40, 80])
    n, c = a.counts(max_length=5)
    assert (n.tolist(), c.tolist()) == ([[2, 2]], [[1, 1]])
    assert a.curves([1, 2], 4).tolist() == [[[0.0, 0.0], [0.5, 1.0]]]
    assert largest_budget([a, b]) == 12
    assert default_budgets([a, b])[-1] == 12
    assert default_caps([a, b])[-1] == 80
    matched, effective = match_curves(a, b, [1], bins=1)
    assert np.isnan(matched[1, 0])  # problem q: none of ours is as long as theirs
    assert matched[0, 0] == pytest.approx(0.5)
    assert effective[0] == pytest.approx(2)
