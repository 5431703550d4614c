"""Pass@K against enumeration: the estimator is the average over all k-subsets, so brute force is the reference."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkwise.errors import InputError
from forkwise.passk import counts, k_grid, pass_at_k


def test_by_hand() -> None:
    # n = 4, c = 1: Pass@1 = 1/4; Pass@2 = 1 - C(3,2)/C(4,2) = 1 - 3/6; Pass@4 = 1
    # n = 4, c = 0: always 0;  n = 4, c = 3: Pass@1 = 3/4; Pass@2 = 1 - 0 = 1
    got = pass_at_k(4, [1, 0, 3], [1, 2, 4])
    np.testing.assert_allclose(got, [[0.25, 0.5, 1.0], [0, 0, 0], [0.75, 1, 1]], atol=1e-15)


@given(st.integers(1, 9), st.data())
def test_equals_the_average_over_all_subsets(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    outcomes = [True] * c + [False] * (n - c)
    subsets = list(combinations(outcomes, k))
    expected = sum(any(s) for s in subsets) / len(subsets)
    assert pass_at_k(n, [c], k)[0] == pytest.approx(expected, abs=1e-14)


def test_exact_at_large_n() -> None:
    n, c = 10_000, 3
    for k in (1, 100, 5000, 9997, 9998, 10_000):
        exact = float(1 - Fraction(comb(n - c, k), comb(n, k)))
        assert pass_at_k(n, [c], k)[0] == pytest.approx(exact, abs=1e-12)


def test_problems_may_have_different_n() -> None:
    np.testing.assert_allclose(pass_at_k([2, 4], [1, 1], 2), [1.0, 0.5])


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (10, [0], 11, "Pass@11 needs at least 11 samples"),
        ([10, 5], [1, 1], 8, "one has only 5"),
        (3, [4], 1, "between 0 and n"),
        (3, [-1], 1, "between 0 and n"),
        (3, [1], 0, "at least 1"),
        (3, [0.5], 1, "whole numbers"),
        (3, np.zeros(0, int), 1, "no problems"),
    ],
)
def test_refusals(n: object, c: object, k: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pass_at_k(n, c, k)  # type: ignore[arg-type]


def test_counts_leave_out_the_unscored() -> None:
    ids, table = counts(["b", "a", "b", "b"], [True, False, None, False])
    assert ids == ["b", "a"]
    assert table.tolist() == [[2, 1], [1, 0]]


def test_k_grid() -> None:
    assert k_grid(256) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert k_grid(50) == [1, 2, 4, 8, 16, 32, 50]
    assert k_grid(1) == [1]
