"""Marked units against others: effects by hand and by scipy, intervals by brute force, nulls by enumeration."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forkwise import progress
from forkwise.errors import InputError
from forkwise.explore.contrast import (
    Resampling,
    Units,
    benjamini_hochberg,
    contrast,
    entry_null,
    share_interval,
    shift_null,
)

FEW = Resampling(resamples=300)


def units(values: list[float], problems: list[int] | None = None, traces: list[int] | None = None) -> Units:
    n = len(values)
    problem = np.array(problems if problems is not None else [0] * n)
    return Units(np.array(values, dtype=float), problem, np.array(traces) if traces is not None else problem)


def test_difference_and_auc_by_hand() -> None:
    # Marked 3 and 1, others 0, 2, 1: means 2 and 1. Pairs won: 3 beats all 3; 1 beats 0 and ties with 1: 4.5 of 6.
    found = contrast(units([3, 0, 2, 1, 1]), mark(0, 3), ~mark(0, 3))
    assert found is not None
    assert (found.mean_marked, found.mean_other, found.difference.value) == (2.0, 1.0, 1.0)
    assert found.auc.value == pytest.approx(4.5 / 6)
    assert found.difference.low is None  # one problem


def mark(*places: int, n: int = 5) -> np.ndarray:
    marked = np.zeros(n, dtype=bool)
    marked[list(places)] = True
    return marked


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_raw_auc_is_mann_whitney(rows: list[tuple[int, bool]]) -> None:
    value, marked = np.array([v for v, _ in rows], dtype=float), np.array([m for _, m in rows])
    found = contrast(units(value.tolist()), marked, ~marked, null=False)
    if marked.all() or not marked.any():
        assert found is None
        return
    u = stats.mannwhitneyu(value[marked], value[~marked]).statistic
    assert found is not None
    assert found.auc.value == pytest.approx(u / (marked.sum() * (~marked).sum()))


def test_matched_by_hand() -> None:
    # Stratum 0: marked 5, others 4 and 6 (mean 5): gap 0, half of them below. Stratum 1: marked 2 and 4, other 1:
    # gaps 1 and 3, both above. Stratum 2: a marked one without others, left out. Mean gap 4/3, AUC (.5 + 1 + 1) / 3.
    value = [5, 4, 6, 2, 4, 1, 9]
    marked = mark(0, 3, 4, 6, n=7)
    stratum = np.array([0, 0, 0, 1, 1, 1, 2])
    found = contrast(units(value), marked, ~marked, stratum_N=stratum, version="matched")
    assert found is not None
    assert (found.marked, found.others, found.supported) == (3, 3, 0.75)
    assert found.difference.value == pytest.approx(4 / 3)
    assert found.auc.value == pytest.approx(2.5 / 3)
    assert found.mean_other == pytest.approx((5 + 1 + 1) / 3)


def test_an_effect_of_the_stratum_alone_vanishes_when_matched() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    first = rng.random(n) < 0.2  # first tokens of sentences have more entropy, whatever the word
    value = rng.exponential(1.0, n) + 2.0 * first
    marked = rng.random(n) < np.where(first, 0.5, 0.05)
    problem = np.repeat(np.arange(20), n // 20)
    u = Units(value, problem, problem)
    raw = contrast(u, marked, ~marked, resampling=FEW)
    matched = contrast(u, marked, ~marked, stratum_N=first.astype(int), resampling=FEW)
    assert raw is not None
    assert matched is not None
    assert raw.difference.low > 0.8
    assert raw.null.p < 0.01
    assert abs(matched.difference.value) < 0.15
    assert matched.difference.low < 0 < matched.difference.high
    assert matched.auc.low < 0.5 < matched.auc.high


def test_the_interval_is_a_bootstrap_over_problems() -> None:
    rng = np.random.default_rng(1)
    problem = np.repeat(np.arange(12), 30)
    value = rng.normal(size=360) + rng.normal(size=12)[problem]
    marked = rng.random(360) < 0.3
    found = contrast(Units(value, problem, problem), marked, ~marked, resampling=Resampling(resamples=4000), null=False)
    draws, aucs = [], []
    for _ in range(1500):
        chosen = np.concatenate([np.flatnonzero(problem == q) for q in rng.integers(0, 12, 12)])
        a, b = value[chosen][marked[chosen]], value[chosen][~marked[chosen]]
        draws.append(a.mean() - b.mean())
        aucs.append(stats.mannwhitneyu(a, b).statistic / (a.size * b.size))
    assert found is not None
    low, high = np.quantile(draws, [0.025, 0.975])
    width = high - low
    assert found.difference.low == pytest.approx(low, abs=0.12 * width)
    assert found.difference.high == pytest.approx(high, abs=0.12 * width)
    low, high = np.quantile(aucs, [0.025, 0.975])  # ours is the linearised draw
    assert found.auc.low == pytest.approx(low, abs=0.15 * (high - low))
    assert found.auc.high == pytest.approx(high, abs=0.15 * (high - low))


def test_shifts_are_circular_inside_each_trace() -> None:
    # One trace of 4 with its second token marked: the four shifts give gaps x_s - mean of the other three.
    value = np.array([0.0, 8.0, 4.0, 0.0])
    marked = mark(1, n=4)
    weight = np.where(marked, 1.0, -1 / 3)
    null = shift_null(units(value.tolist()), weight, 8 - 4 / 3, Resampling(resamples=4000))
    gaps = [x - (12 - x) / 3 for x in value]
    assert null.mean == pytest.approx(np.mean(gaps))
    assert (null.low, null.high) == pytest.approx((min(gaps), max(gaps)))
    # |gap - mean| is as large as observed (20/3) for the shift that puts 8 there, one of four.
    assert null.p == pytest.approx(0.25, abs=0.03)


def test_the_two_ways_to_shift_agree() -> None:
    rng = np.random.default_rng(2)
    trace = np.repeat(np.arange(6), [5, 40, 17, 1, 30, 23])
    value = rng.exponential(size=trace.size)
    marked = rng.random(trace.size) < 0.15
    u = Units(value, trace, trace)
    weight = np.where(marked, 1 / marked.sum(), -1 / (~marked).sum())
    observed = value[marked].mean() - value[~marked].mean()
    dense = shift_null(u, weight, observed, Resampling(resamples=5000))
    sparse = entry_null(u, np.flatnonzero(marked), Resampling(resamples=5000))
    assert sparse.mean == pytest.approx(dense.mean)
    assert sparse.p == pytest.approx(dense.p, abs=0.04)
    assert (sparse.low, sparse.high) == pytest.approx((dense.low, dense.high), abs=0.05)


def test_p_is_uniform_without_any_effect() -> None:
    rng = np.random.default_rng(3)
    trace = np.repeat(np.arange(10), 40)
    p = []
    for seed in range(200):
        value = np.convolve(rng.normal(size=trace.size + 4), np.ones(5), "valid")  # neighbours depend on each other
        marked = np.convolve(rng.random(trace.size + 4), np.ones(5), "valid") > 3.2
        weight = np.where(marked, 1 / marked.sum(), -1 / (~marked).sum())
        observed = float((weight * value).sum())
        p.append(shift_null(Units(value, trace, trace), weight, observed, Resampling(resamples=199, seed=seed)).p)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_benjamini_hochberg_by_hand() -> None:
    # Sorted .01 .02 .03 .5: times 4/rank = .04 .04 .04 .5, monotone from the end.
    assert benjamini_hochberg([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.04, 0.04, 0.5, 0.04])
    assert benjamini_hochberg([]) == []


def test_bounds_widen_a_difference() -> None:
    u = Units(np.array([1.0, 0.5]), np.zeros(2, dtype=int), np.zeros(2, dtype=int), np.array([1.5, 0.9]))
    found = contrast(u, np.array([True, False]), np.array([False, True]))
    assert found is not None
    assert found.identified == pytest.approx((1.0 - 0.9, 1.5 - 0.5))


def test_an_entry_in_too_few_problems_has_no_interval() -> None:
    # With one of 6 problems holding the mark, a third of the draws miss it.
    problem = np.repeat(np.arange(6), 5)
    marked = mark(2, n=30)
    found = contrast(Units(np.arange(30.0), problem, problem), marked, ~marked, resampling=FEW)
    assert found is not None
    assert found.difference.low is None
    assert share_interval(marked, np.zeros(30, dtype=bool), problem, 6, FEW).value is None


def test_entropies_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        units([0.0, float("nan")])


def test_every_part_says_its_share_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SAY_EVERY", 0.0)
    monkeypatch.setattr(progress, "_SHOWN_EVERY", 0.0)
    said = io.StringIO()
    rng = np.random.default_rng(0)
    trace_N = np.repeat(np.arange(40), 30)
    units = Units(rng.random(trace_N.size), trace_N // 2, trace_N)
    marked_N = rng.random(trace_N.size) < 0.2
    with progress.Meter(console=progress.Console(file=said, width=200), what="exploring"):
        contrast(units, marked_N, ~marked_N, resampling=Resampling(resamples=300_000))
    shares = re.findall(r"Exploring, (\w+ \w+): [\d,]+ of [\d,]+ \w+ are done \(\d+ %\), .* left\.", said.getvalue())
    assert set(shares) == {"drawing problems", "shifting traces"}, said.getvalue()
