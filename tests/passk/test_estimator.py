"""Pass@K and its relatives against enumeration: each is an average over all k-subsets, so brute force is the reference.

Published values: the closed forms of the papers are re-derived from binomial coefficients with exact fractions, and the
human-eval formula (Chen et al. 2021, fig. 3) is written out below beside ours.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import ceil, comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk import curve_grid, g_pass_at_k, k_grid, mg_pass_at_k, pass_at_k, pass_pow_k, sample_counts


@st.composite
def n_c_k(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 9))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


def subsets(n: int, c: int, k: int) -> list[int]:
    """Number of correct ones in each k-subset of n outcomes."""
    return [sum(s) for s in combinations([1] * c + [0] * (n - c), k)]


def test_by_hand() -> None:
    # n = 4, c = 1: Pass@1 = 1/4; Pass@2 = 1 - C(3,2)/C(4,2) = 1 - 3/6; Pass@4 = 1
    # n = 4, c = 0: always 0;  n = 4, c = 3: Pass@1 = 3/4; Pass@2 = 1 - 0 = 1
    got = pass_at_k(4, [1, 0, 3], [1, 2, 4])
    np.testing.assert_allclose(got, [[0.25, 0.5, 1.0], [0, 0, 0], [0.75, 1, 1]], atol=1e-15)
    # n = 4, c = 3, all of 2 correct: C(3,2)/C(4,2) = 3/6
    np.testing.assert_allclose(pass_pow_k(4, [1, 0, 3], [1, 2, 4]), [[0.25, 0, 0], [0, 0, 0], [0.75, 0.5, 0]])
    # n = 4, c = 2, at least ceil(0.5 * 3) = 2 of 3: C(2,2) C(2,1) / C(4,3) = 2/4
    assert g_pass_at_k(4, [2], 3, 0.5)[0] == pytest.approx(0.5)


@given(n_c_k())
def test_equals_the_average_over_all_subsets(case: tuple[int, int, int]) -> None:
    n, c, k = case
    drawn = subsets(n, c, k)
    assert pass_at_k(n, [c], k)[0] == pytest.approx(np.mean([x > 0 for x in drawn]), abs=1e-14)
    assert pass_pow_k(n, [c], k)[0] == pytest.approx(np.mean([x == k for x in drawn]), abs=1e-14)


@given(n_c_k(), st.sampled_from([0.1, 0.25, 0.5, 0.6, 0.75, 1.0]))
def test_g_pass_equals_the_average_over_all_subsets(case: tuple[int, int, int], tau: float) -> None:
    n, c, k = case
    needed = ceil(Fraction(str(tau)) * k)
    assert g_pass_at_k(n, [c], k, tau)[0] == pytest.approx(np.mean([x >= needed for x in subsets(n, c, k)]), abs=1e-12)


@given(n_c_k())
def test_mg_pass_is_the_sum_in_the_paper(case: tuple[int, int, int]) -> None:
    n, c, k = case
    drawn = subsets(n, c, k)
    expected = 2 / k * sum(np.mean([x >= i for x in drawn]) for i in range(ceil(k / 2) + 1, k + 1))
    assert mg_pass_at_k(n, [c], k)[0] == pytest.approx(expected, abs=1e-12)


def test_the_ends_of_tau_are_pass_at_k_and_pass_pow_k() -> None:
    c = np.arange(257)
    ks = k_grid(256)
    np.testing.assert_allclose(g_pass_at_k(256, c, ks, 1e-6), pass_at_k(256, c, ks), atol=1e-9)
    np.testing.assert_allclose(g_pass_at_k(256, c, ks, 1.0), pass_pow_k(256, c, ks), atol=1e-9)
    expected = stats.hypergeom.sf(15, 256, c, 32)  # at least 16 of 32
    np.testing.assert_allclose(g_pass_at_k(256, c, 32, 0.5), expected, atol=1e-9)


def test_agrees_with_the_human_eval_formula() -> None:
    def human_eval(n: int, c: int, k: int) -> float:
        return 1.0 if n - c < k else float(1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)))

    rng = np.random.default_rng(0)
    n = rng.integers(200, 300, size=50)
    c = rng.integers(0, n + 1)
    for k in (1, 10, 100, 200):
        expected = [human_eval(int(a), int(b), k) for a, b in zip(n, c, strict=True)]
        np.testing.assert_allclose(pass_at_k(n, c, k), expected, atol=1e-12)


def test_exact_at_large_n() -> None:
    n, c = 10_000, 3
    for k in (1, 100, 5000, 9997, 9998, 10_000):
        exact = float(1 - Fraction(comb(n - c, k), comb(n, k)))
        assert pass_at_k(n, [c], k)[0] == pytest.approx(exact, abs=1e-12)


def test_blocks_of_columns_join_seamlessly() -> None:
    # 300 problems of different n, so that one block holds 873 columns and the product crosses block borders
    rng = np.random.default_rng(1)
    n = rng.integers(2500, 2600, size=300)
    c = rng.integers(1, 4, size=300)
    ks = [1, 872, 873, 874, 1747, 2500]
    got = pass_at_k(n, c, ks)
    for q in (0, 17, 299):
        for i, k in enumerate(ks):
            exact = float(1 - Fraction(comb(int(n[q] - c[q]), k), comb(int(n[q]), k)))
            assert got[q, i] == pytest.approx(exact, abs=1e-12)


@given(n_c_k(), st.data())
def test_rises_with_k_and_c(case: tuple[int, int, int], data: st.DataObject) -> None:
    n, c, _ = case
    curve = pass_at_k(n, [c], list(range(1, n + 1)))[0]
    assert (np.diff(curve) >= -1e-15).all()
    if c < n:
        assert (pass_at_k(n, [c + 1], list(range(1, n + 1)))[0] >= curve - 1e-15).all()


def test_problems_may_have_different_n() -> None:
    np.testing.assert_allclose(pass_at_k([2, 4], [1, 1], 2), [1.0, 0.5])


@pytest.mark.parametrize("function", [pass_at_k, pass_pow_k, mg_pass_at_k, lambda n, c, k: g_pass_at_k(n, c, k, 0.5)])
@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (10, [0], 11, "Pass@11 needs at least 11 samples"),
        ([10, 5], [1, 1], 8, "one has only 5"),
        (3, [4], 1, "between 0 and n"),
        (3, [-1], 1, "between 0 and n"),
        (3, [1], 0, "at least 1"),
        (3, [0.5], 1, "whole numbers"),
        (3, [float("nan")], 1, "whole numbers"),
        (3, np.zeros(0, int), 1, "no problems"),
    ],
)
def test_refusals(function: object, n: object, c: object, k: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(n, c, k)  # type: ignore[operator]


@pytest.mark.parametrize("tau", [0.0, -0.1, 1.01, float("nan")])
def test_tau_outside_its_range(tau: float) -> None:
    with pytest.raises(InputError, match="tau is"):
        g_pass_at_k(4, [2], 2, tau)


def test_counts_leave_out_the_unscored() -> None:
    ids, table = sample_counts(["b", "a", "b", "b"], [True, False, None, False])
    assert ids == ["b", "a"]
    assert table.tolist() == [[2, 1], [1, 0]]


def test_grids() -> None:
    assert k_grid(256) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert k_grid(50) == [1, 2, 4, 8, 16, 32, 50]
    assert k_grid(1) == [1]
    assert curve_grid(50) == list(range(1, 51))
    wide = curve_grid(10_000)
    assert set(k_grid(10_000)) <= set(wide)
    assert 80 <= len(wide) <= 115
