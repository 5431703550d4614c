from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkwise.errors import InputError
from forkwise.explore import neighbours
from forkwise.explore.neighbours import mean_distances


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(3, 50), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
def test_tiles_give_what_sorting_all_distances_gives(n: int, m: int, k: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(n * 100 + m)
    a, b = unit(rng, n, 8), unit(rng, m, 8)
    expected = np.sort(1 - a.astype(float) @ b.astype(float).T, axis=1)[:, :k].mean(axis=1)
    before = neighbours._ROWS, neighbours._COLUMNS
    neighbours._ROWS, neighbours._COLUMNS = rows, columns
    try:
        distances = mean_distances(a, b, k, faiss=False)
    finally:
        neighbours._ROWS, neighbours._COLUMNS = before
    np.testing.assert_allclose(distances, np.maximum(expected, 0), atol=1e-6)


def test_a_sentence_s_own_copies_are_at_distance_zero() -> None:
    x = unit(np.random.default_rng(0), 1, 16)
    assert mean_distances(x, np.repeat(x, 5, axis=0), 5, faiss=False)[0] == pytest.approx(0, abs=1e-6)


def test_too_few_to_compare_with() -> None:
    x = unit(np.random.default_rng(0), 3, 4)
    with pytest.raises(InputError, match="There are 3 sentences to compare with, but k is 5"):
        mean_distances(x, x, 5)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_agrees() -> None:
    rng = np.random.default_rng(1)
    a, b = unit(rng, 300, 32), unit(rng, 500, 32)
    np.testing.assert_allclose(mean_distances(a, b, 5, faiss=True), mean_distances(a, b, 5, faiss=False), atol=1e-6)


def test_asking_for_faiss_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    x = unit(np.random.default_rng(0), 6, 4)
    assert mean_distances(x, x, 5).shape == (6,)
    with pytest.raises(InputError, match="faiss is not installed"):
        mean_distances(x, x, 5, faiss=True)


_LARGE = """
import process_memory, numpy as np
from forkwise.explore.neighbours import mean_distances
rng = np.random.default_rng(0)
x = rng.normal(size=(100_000, 384)).astype(np.float32)
x /= np.linalg.norm(x, axis=1, keepdims=True)
found = mean_distances(x, x, 5, faiss=False)
assert found.shape == (100_000,)
print(process_memory.peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_hundred_thousand_squared_in_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _LARGE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2000  # MiB, far below 8 GB; a full matrix would be 40 GB
