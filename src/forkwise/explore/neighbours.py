"""Exact nearest neighbours among unit vectors, in tiles: memory does not grow with the product of the two counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError
from forkwise.progress import watch

Vectors = npt.NDArray[np.float32]

_ROWS, _COLUMNS = 2048, 16384  # a tile of similarities: 128 MiB


def mean_distances(
    queries: Vectors, reference: Vectors, k: int = 5, *, faiss: bool | None = None
) -> npt.NDArray[np.float64]:
    """Returns the mean cosine distance `1 - cos` of each query to its `k` nearest reference vectors, `(queries,)`.

    Args:
        queries, reference: unit rows, float32, `(n, d)` and `(m, d)`.
        k: neighbours.
        faiss: search with faiss's exact index; None if it is installed.

    Raises:
        InputError: fewer than `k` reference vectors, or `faiss=True` without the package.
    """
    if reference.shape[0] < k:
        raise InputError(f"There are {reference.shape[0]} sentences to compare with, but k is {k}: take a smaller --k.")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    reference = np.ascontiguousarray(reference, dtype=np.float32)
    if faiss is not False:
        distances = _faiss(queries, reference, k, required=faiss is True)
        if distances is not None:
            return distances
    nearest = np.empty((queries.shape[0], k), dtype=np.float32)
    for first in watch(range(0, queries.shape[0], _ROWS), "finding the nearest sentences", "blocks"):
        rows = queries[first : first + _ROWS]
        best = np.full((rows.shape[0], 0), 0, dtype=np.float32)
        for column in range(0, reference.shape[0], _COLUMNS):
            similar = rows @ reference[column : column + _COLUMNS].T
            if similar.shape[1] > k:
                similar = np.partition(similar, similar.shape[1] - k, axis=1)[:, -k:]
            best = np.concatenate([best, similar], axis=1)
            if best.shape[1] > k:
                best = np.partition(best, best.shape[1] - k, axis=1)[:, -k:]
        nearest[first : first + _ROWS] = best
    return _to_distance(nearest)


def _to_distance(similarity: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    distance: npt.NDArray[np.float64] = 1.0 - similarity.astype(np.float64).mean(axis=1)
    return np.maximum(distance, 0.0)


def _faiss(queries: Vectors, reference: Vectors, k: int, *, required: bool) -> npt.NDArray[np.float64] | None:
    try:
        import faiss
    except ImportError as error:
        if required:
            raise InputError("faiss is not installed: pip install faiss-cpu, or leave it to numpy.") from error
        return None
    index = faiss.IndexFlatIP(reference.shape[1])
    index.add(reference)
    similarity, _ = index.search(queries, k)
    return _to_distance(similarity)
