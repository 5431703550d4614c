"""Marked units against others: effects by hand, by scipy and by least squares, and how often intervals miss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forkwise.errors import InputError
from forkwise.explore.contrast import (
    ContrastDesign,
    MatchedDesign,
    Units,
    benjamini_hochberg,
    cluster_t,
    contrast,
    difference_interval,
    mean_interval,
    share_interval,
)
from forkwise.explore.findings import Contrast

Bools = np.ndarray


def units(values: np.ndarray | list[float], problem: np.ndarray, trace: np.ndarray | None = None) -> Units:
    return Units(np.array(values, dtype=float), problem, problem if trace is None else trace)


def compare(u: Units, marked: Bools, stratum: np.ndarray | None = None) -> Contrast:
    every = np.ones(marked.size, dtype=bool)
    differs = contrast(ContrastDesign(u, every) if stratum is None else MatchedDesign(u, every, stratum), marked)
    assert differs is not None
    return differs


def test_difference_and_auc_by_hand() -> None:
    # In each of five problems marked 3 and 1, others 0, 2, 1: means 2 and 1. Pairs won: 3 beats all 3; 1 beats 0 and
    # ties with 1: 4.5 of 6.
    differs = compare(
        units([3, 1, 0, 2, 1] * 5, np.repeat(np.arange(5), 5)), np.tile([True, True, False, False, False], 5)
    )
    assert (differs.mean_marked, differs.mean_other, differs.difference.value) == pytest.approx((2.0, 1.0, 1.0))
    assert differs.auc.value == pytest.approx(4.5 / 6)
    assert (differs.marked, differs.others, differs.problems, differs.too_few) == (10, 15, 5, False)


def test_each_problem_counts_alike_by_hand() -> None:
    # Means of marked and other units: 4 and 1, 6 and 5, 1 and 1, 3 and 1, 2 and 0. Differences: 3, 1, 0, 2, 2, whose
    # mean is 1.6 and whose squares about it add up to 5.2. Pairs won: 4 of 4, 2 of 2, 8 of 16, 1 of 1, 2 of 2.
    marked = [[4, 4], [6, 6], [0, 2, 0, 2], [3], [2], [9, 9, 9], []]
    others = [[2, 0], [5], [0, 2, 0, 2], [1], [0, 0], [], [7, 7]]  # nothing but marks, or none: no say
    problem = [np.repeat(np.arange(7), [len(values) for values in side]) for side in (marked, others)]
    mark = np.repeat([True, False], [13, 12])
    differs = compare(units(np.concatenate([*marked, *others]), np.concatenate(problem)), mark)
    assert (differs.marked, differs.others, differs.problems) == (10, 10, 5)
    assert differs.supported == pytest.approx(10 / 13)
    assert (differs.mean_marked, differs.mean_other) == pytest.approx((16 / 5, 8 / 5))
    half = stats.t.ppf(0.975, 4) * np.sqrt(5.2 / 4 / 5)
    assert (differs.difference.value, differs.difference.low) == pytest.approx((1.6, 1.6 - half))
    assert differs.p == pytest.approx(2 * stats.t.sf(1.6 / np.sqrt(5.2 / 20), 4))
    # AUC 1, 1, .5, 1, 1: mean .9, squares about it .2.
    assert (differs.auc.value, differs.auc.low) == pytest.approx((0.9, 0.9 - stats.t.ppf(0.975, 4) * np.sqrt(0.2 / 20)))


Rows = list[tuple[int, bool]]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=3, max_size=20), min_size=7, max_size=7))
def test_raw_is_a_t_test_of_the_differences_and_of_mann_whitney_s_u_in_each_problem(problems: list[Rows]) -> None:
    value, mark = np.concatenate(problems).astype(float).T
    marked = mark > 0
    problem = np.repeat(np.arange(7), [len(rows) for rows in problems])
    differs = contrast(ContrastDesign(units(value, problem), np.ones(value.size, dtype=bool)), marked)
    sides = [(value[marked & (problem == q)], value[~marked & (problem == q)]) for q in range(7)]
    both = [(a, b) for a, b in sides if a.size and b.size]
    if not both:
        assert differs is None
        return
    assert differs is not None
    if len(both) < 5 or sum(a.size for a, _ in both) < 10:
        assert differs.too_few
        return
    differences = np.array([a.mean() - b.mean() for a, b in both])
    assert differs.difference.value == pytest.approx(differences.mean())
    assert differs.mean_other == pytest.approx(np.mean([b.mean() for _, b in both]))
    if differences.std() > 1e-6:
        expected = stats.ttest_1samp(differences, 0.0)
        assert differs.p == pytest.approx(expected.pvalue)
        assert differs.difference.high == pytest.approx(expected.confidence_interval(0.95).high)
    areas = [stats.mannwhitneyu(a, b).statistic / (a.size * b.size) for a, b in both]
    assert differs.auc.value == pytest.approx(np.mean(areas))


def test_copies_of_a_problem_s_units_change_no_raw_number() -> None:
    u, marked, _ = made(3)
    times = np.random.default_rng(3).integers(1, 9, 12)[u.problem_N]  # a long trace repeated is no evidence of its own
    copied = Units(*(np.repeat(column, times) for column in (u.value_N, u.problem_N, u.trace_N)))
    once, often = compare(u, marked), compare(copied, np.repeat(marked, times))
    for name in ("mean_marked", "mean_other", "p"):
        assert getattr(often, name) == pytest.approx(getattr(once, name))
    for name in ("difference", "auc"):
        for end in ("value", "low", "high"):
            assert getattr(getattr(often, name), end) == pytest.approx(getattr(getattr(once, name), end))


def made(seed: int, strata: int = 7, traces: int = 24, each: int = 30) -> tuple[Units, Bools, np.ndarray]:
    """Traces and strata with levels of their own, marks more frequent where both are high, and an effect of 0.3."""
    rng = np.random.default_rng(seed)
    trace = np.repeat(np.arange(traces), each)
    stratum = rng.integers(0, strata, trace.size)
    of_trace, of_stratum = rng.normal(size=traces), rng.normal(size=strata)
    marked = rng.random(trace.size) < stats.norm.cdf(0.7 * of_trace[trace] + 0.7 * of_stratum[stratum] - 1)
    value = of_trace[trace] + of_stratum[stratum] + 0.3 * marked + 0.2 * rng.normal(size=trace.size)
    return units(value, trace // 2, trace), marked, stratum


def test_matched_is_least_squares_with_a_constant_for_each_trace_and_stratum() -> None:
    u, marked, stratum = made(0)
    dummies = np.c_[marked, np.eye(24)[u.trace_N], np.eye(7)[stratum]].astype(float)
    coefficients, *_ = np.linalg.lstsq(dummies, u.value_N, rcond=None)
    differs = compare(u, marked, stratum)
    assert differs.difference.value == pytest.approx(coefficients[0], abs=1e-7)
    assert differs.difference.value == pytest.approx(0.3, abs=0.06)
    # CR2 with the constants partialled out: scores of a problem over the root of what its leverage leaves.
    others = dummies[:, 1:]
    left = marked - others @ np.linalg.lstsq(others, marked.astype(float), rcond=None)[0]
    score = left * (u.value_N - dummies @ coefficients)
    variance = sum(
        score[u.problem_N == q].sum() ** 2 / (1 - (left[u.problem_N == q] ** 2).sum() / (left**2).sum())
        for q in range(12)
    )
    half = (differs.difference.high - differs.difference.low) / 2
    assert half / stats.t.ppf(0.975, 11) == pytest.approx(np.sqrt(variance) / (left**2).sum(), rel=0.03)
    assert half >= stats.t.ppf(0.975, 11) * np.sqrt(variance) / (left**2).sum() * (1 - 1e-6)  # fewer degrees of freedom


def test_marks_without_others_in_their_trace_or_stratum_have_no_weight() -> None:
    u, marked, stratum = made(1)
    whole = (u.trace_N == 0) | (stratum == 3)
    marked = marked | whole
    differs = compare(u, marked, stratum)
    assert differs.marked == (marked & ~whole).sum()
    assert differs.supported == pytest.approx((marked & ~whole).sum() / marked.sum())
    moved = Units(u.value_N + 5.0 * (u.trace_N == 0) + 3.0 * (stratum == 3), u.problem_N, u.trace_N)
    assert compare(moved, marked, stratum).difference.value == pytest.approx(differs.difference.value, abs=1e-6)


def test_the_level_of_a_trace_is_no_effect_once_matched() -> None:
    # Traces of high entropy have more marks, and nothing else is associated: the old matched interval missed 0 in 99 %.
    missed = raw_missed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        trace = np.repeat(np.arange(40), 60)
        level = rng.normal(size=40)
        marked = rng.random(trace.size) < 0.05 * np.exp(0.7 * level[trace])
        value = np.exp(0.5 * level[trace] + 0.5 * rng.normal(size=trace.size))
        u = units(value, trace // 4, trace)
        matched, raw = compare(u, marked, np.arange(trace.size) % 60 // 6), compare(u, marked)
        missed += not matched.difference.low <= 0 <= matched.difference.high
        raw_missed += not raw.difference.low <= 0 <= raw.difference.high
        assert (matched.p < 0.05) == (not matched.difference.low <= 0 <= matched.difference.high)
    assert missed <= 6
    assert raw_missed >= 20


def test_samples_that_follow_one_template_are_not_evidence_of_their_own() -> None:
    # Sixteen samples of each of ten problems share a random part: a shift within each trace found effects in 53 %.
    small = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        value, marked = [], []
        for _ in range(10):
            template, marks = rng.normal(size=60), rng.random(60) < 0.06
            for _ in range(16):
                shared = np.arange(60) < rng.integers(18, 60)
                value.append(np.where(shared, template, rng.normal(size=60)))
                marked.append(np.where(shared, marks, rng.random(60) < 0.06))
        trace = np.repeat(np.arange(160), 60)
        differs = compare(units(np.concatenate(value), trace // 16, trace), np.concatenate(marked), trace * 0)
        small += differs.p <= 0.05
    assert small <= 8  # three expected; more in one of 70 runs of this test


def test_an_effect_of_the_stratum_alone_vanishes_when_matched() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    first = rng.random(n) < 0.2  # first tokens of sentences have more entropy, whatever the word
    value = rng.exponential(1.0, n) + 2.0 * first
    marked = rng.random(n) < np.where(first, 0.5, 0.05)
    problem = np.repeat(np.arange(20), n // 20)
    raw, matched = (compare(units(value, problem), marked, stratum) for stratum in (None, first.astype(int)))
    assert raw.difference.low > 0.8
    assert raw.p < 0.01
    assert abs(matched.difference.value) < 0.15
    assert matched.difference.low < 0 < matched.difference.high
    assert matched.auc.low < 0.5 < matched.auc.high


def test_ranks_are_those_of_scipy_in_each_trace() -> None:
    rng = np.random.default_rng(4)
    trace = np.repeat(np.arange(5), [1, 7, 3, 12, 4])
    value = rng.integers(0, 4, trace.size).astype(float)  # with ties
    design = MatchedDesign(units(value, trace), np.ones(trace.size, dtype=bool), np.zeros(trace.size, dtype=int))
    expected = [(stats.rankdata(value[trace == t]) - 0.5) / (trace == t).sum() for t in range(5)]
    assert design.ranks() == pytest.approx(np.concatenate(expected))


def test_the_spread_of_a_trace_is_no_effect_on_the_matched_auc() -> None:
    # Traces with more marks have larger, skewed entropies; in no trace does the mark matter.
    missed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        trace = np.repeat(np.arange(60), 60)
        level = rng.normal(size=60)
        marked = rng.random(trace.size) < 0.05 * np.exp(0.7 * level[trace])
        value = np.exp(level[trace] + rng.normal(size=trace.size))
        differs = compare(units(value, trace // 4, trace), marked, np.arange(trace.size) % 60 // 6)
        missed += not differs.auc.low <= 0.5 <= differs.auc.high
    assert missed <= 5


def test_few_marks_or_problems_make_no_difference() -> None:
    problem = np.repeat(np.arange(6), 20)
    value = np.random.default_rng(0).normal(size=120)

    def marked(places: list[int]) -> Bools:
        return np.isin(np.arange(120), places)

    nine = compare(units(value, problem), marked(list(range(0, 108, 12))))
    four = compare(units(value, problem), marked(list(range(0, 80, 5))))
    enough = compare(units(value, problem), marked(list(range(0, 120, 12))))
    for row in (nine, four):
        assert row.too_few
        assert (row.difference.value, row.p, row.auc.value) == (None, None, None)
    assert (nine.marked, four.problems) == (9, 4)
    assert enough.difference.low is not None


def test_equal_problems_make_a_t_test() -> None:
    # With problems of one size CR2 is the usual standard error, and the degrees of freedom are one less than problems.
    values = np.random.default_rng(1).normal(0.4, 1.0, size=(8, 5))
    expected = stats.ttest_1samp(values.mean(axis=1), 0.0)
    low, high = expected.confidence_interval(0.9)
    interval = mean_interval(values.ravel(), np.repeat(np.arange(8), 5), 8, 0.9)
    assert (interval.value, interval.low, interval.high) == pytest.approx((values.mean(), low, high))
    _, p = cluster_t(values.mean(), values.sum(axis=1) - 5 * values.mean(), np.full(8, 5.0), 0.9)
    assert p == pytest.approx(expected.pvalue)


def test_a_difference_of_rounding_is_none() -> None:
    value, problem = np.full(60, 1.1), np.repeat(np.arange(6), 10)
    differs = compare(units(value + 1e-16 * problem, problem), np.arange(60) % 5 == 0)
    assert differs.difference.value == pytest.approx(0, abs=1e-12)
    assert differs.p == 1.0


def test_a_difference_of_two_pools_is_paired_by_problem() -> None:
    # Both sides have as many values in each problem, so the difference of means is a paired t test.
    rng = np.random.default_rng(2)
    level = rng.normal(size=(9, 1))
    a, b = level + 0.1 * rng.normal(size=(9, 4)), level + 0.1 * rng.normal(size=(9, 7)) - 0.2
    interval = difference_interval(
        a.ravel(), np.repeat(np.arange(9), 4), b.ravel(), np.repeat(np.arange(9), 7), 9, 0.95
    )
    expected = stats.ttest_rel(a.mean(axis=1), b.mean(axis=1)).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_intervals_of_shares_end_where_shares_do() -> None:
    problem = np.arange(12) % 6
    hit, member = np.arange(12) == 0, np.ones(12, dtype=bool)
    interval = share_interval(hit, member, problem, 6, 0.95)
    assert interval.value == pytest.approx(1 / 12)
    assert interval.low == 0.0
    assert share_interval(hit, ~member, problem, 6, 0.95).value is None
    assert mean_interval(np.arange(3.0), np.zeros(3, dtype=int), 1, 0.95).low is None  # one problem


def test_benjamini_hochberg_by_hand() -> None:
    # Sorted .01 .02 .03 .5: times 4/rank = .04 .04 .04 .5, monotone from the end.
    assert benjamini_hochberg([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.04, 0.04, 0.5, 0.04])
    assert benjamini_hochberg([]) == []


def test_bounds_widen_a_difference() -> None:
    # Marked 1.0 to 1.5, others 0.5 to 0.9, in each of ten pairs.
    marked = np.tile([True, False], 10)
    low, high = np.where(marked, 1.0, 0.5), np.where(marked, 1.5, 0.9)
    problem = np.repeat(np.arange(10), 2)
    differs = compare(Units(low, problem, problem, high), marked)
    assert differs.identified == pytest.approx((1.0 - 0.9, 1.5 - 0.5))


def test_entropies_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        units([0.0, float("nan")], np.zeros(2, dtype=int))
