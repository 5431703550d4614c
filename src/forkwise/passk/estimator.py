"""The unbiased Pass@K estimator (Chen et al. 2021, arXiv 2107.03374, section 2.1)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int | Sequence[int]) -> FloatArray:
    """Unbiased probability that at least one of `k` samples drawn without replacement is correct.

    `1 - C(n-c, k) / C(n, k)`, as a running product over k, which is exact to rounding (the log-gamma form is not).

    Args:
        n: samples per problem, shape `(Q,)` or a scalar.
        c: correct samples per problem, shape `(Q,)`.
        k: one k or several.

    Returns:
        `(Q,)` for one k, `(Q, len(k))` for several, float64.

    Raises:
        InputError: if some `k` exceeds some `n` (there is no unbiased estimate), or `c` lies outside `[0, n]`.
    """
    c_Q = np.atleast_1d(np.asarray(c))
    n_Q = np.broadcast_to(np.asarray(n), c_Q.shape)
    ks = np.atleast_1d(np.asarray(k))
    for name, values in (("n", n_Q), ("c", c_Q), ("k", ks)):
        if not np.issubdtype(values.dtype, np.integer):
            raise InputError(f"{name} must hold whole numbers, not {values.dtype}; count the correct samples first.")
    if c_Q.ndim != 1:
        raise InputError(f"c must be one count per problem, shape (Q,); it has shape {c_Q.shape}.")
    if c_Q.size == 0:
        raise InputError("There are no problems to estimate Pass@K from.")
    if ks.size == 0 or ks.min() < 1:
        raise InputError("k must be at least 1.")
    if (c_Q < 0).any() or (c_Q > n_Q).any():
        raise InputError("Each c must lie between 0 and n: a problem has more correct samples than samples.")
    if ks.max() > n_Q.min():
        raise InputError(
            f"Pass@{ks.max()} needs at least {ks.max()} samples of every problem, but one has only {n_Q.min()}: "
            "draw more samples or ask for a smaller k."
        )

    # Problems that share (n, c) share the whole curve.
    pairs, where = np.unique(np.stack([n_Q, c_Q], axis=1), axis=0, return_inverse=True)
    n_P: FloatArray = pairs[:, :1].astype(np.float64)
    c_P: FloatArray = pairs[:, 1:].astype(np.float64)
    j = np.arange(ks.max(), dtype=np.float64)
    factors = np.clip(n_P - c_P - j, 0.0, None) / (n_P - j)  # chance that draw j+1 is wrong too
    solved = 1.0 - np.cumprod(factors, axis=1, dtype=np.float64)[:, ks - 1]
    table: FloatArray = solved[where.reshape(-1)]
    return table[:, 0] if np.ndim(k) == 0 else table


def counts(problem_ids: Sequence[Hashable], correct: Iterable[bool | None]) -> tuple[list[Hashable], IntArray]:
    """Samples and correct samples per problem: ids in order of first appearance, and an int array `(Q, 2)` of (n, c).

    Samples without a verdict (None) are left out: unscored is not wrong.
    """
    table: dict[Hashable, list[int]] = {}
    for problem, verdict in zip(problem_ids, correct, strict=True):
        row = table.setdefault(problem, [0, 0])
        if verdict is not None:
            row[0] += 1
            row[1] += bool(verdict)
    return list(table), np.array(list(table.values()), dtype=np.int64).reshape(-1, 2)


def k_grid(n: int) -> list[int]:
    """Powers of two up to n, and n itself: where Pass@K curves are read."""
    grid = [1 << i for i in range(int(n).bit_length()) if 1 << i <= n]
    return grid if not grid or grid[-1] == n else [*grid, n]
