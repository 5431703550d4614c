"""Pass@K and its relatives from (n, c) alone: n samples of a problem, c of them correct.

All are averages over every way to draw k of the n samples without replacement, hence unbiased and free of randomness.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from forkwise.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_BLOCK = 1 << 18  # numbers held at a time in the running product: 2 MB, which stays in the cache


def check_counts(n: npt.ArrayLike, c: npt.ArrayLike, k: int | Sequence[int]) -> tuple[IntArray, IntArray, IntArray]:
    """Turns n, c and K into arrays of whole numbers, checked against each other; InputError says what does not fit."""
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
    return n_Q.astype(np.int64), c_Q.astype(np.int64), ks.astype(np.int64)


def distinct_counts(n_Q: IntArray, c_Q: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Returns the distinct (n, c) and the index of each problem's: problems that share (n, c) share the whole curve."""
    pairs, where = np.unique(np.stack([n_Q, c_Q], axis=1), axis=0, return_inverse=True)
    return pairs[:, 0], pairs[:, 1], where.reshape(-1)


def _all_alike(m_P: IntArray, n_P: IntArray, ks: IntArray) -> FloatArray:
    """Returns `C(m, k) / C(n, k)`, the chance that k draws all fall among m of n; `(P, len(ks))`.

    A running product over k, in blocks of columns so that memory does not grow with n.
    """
    chance_PK = np.empty((m_P.size, ks.size))
    product = np.ones(m_P.size)
    width = max(1, _BLOCK // m_P.size)
    n = n_P[0] if (n_P == n_P[0]).all() else n_P[:, None]  # a common n needs one row of divisors instead of a block
    for start in range(0, int(ks.max()), width):
        j = np.arange(start, min(start + width, int(ks.max())), dtype=np.float64)
        block = m_P[:, None] - j
        np.maximum(block, 0.0, out=block)  # beyond m the product stays 0, and must not become -0
        block /= n - j
        block[:, 0] *= product
        np.cumprod(block, axis=1, out=block)
        inside = (ks > start) & (ks <= start + j.size)
        chance_PK[:, inside] = block[:, ks[inside] - start - 1]
        product = block[:, -1].copy()
    return chance_PK


def pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int | Sequence[int]) -> FloatArray:
    """Estimates, without bias, the probability that at least one of `k` samples drawn without replacement is correct.

    `1 - C(n-c, k) / C(n, k)` (Chen et al. 2021, arXiv 2107.03374, eq. 1), as a running product over k, which is exact
    to rounding (the log-gamma form is not). All k cost as much as the largest.

    Args:
        n: samples per problem, shape `(Q,)` or a scalar.
        c: correct samples per problem, shape `(Q,)`.
        k: one k or several.

    Returns:
        `(Q,)` for one k, `(Q, len(k))` for several, float64.

    Raises:
        InputError: if some `k` exceeds some `n` (there is no unbiased estimate), or `c` lies outside `[0, n]`.
    """
    n_Q, c_Q, ks = check_counts(n, c, k)
    n_P, c_P, where = distinct_counts(n_Q, c_Q)
    table = (1.0 - _all_alike(n_P - c_P, n_P, ks))[where]
    return table[:, 0] if np.ndim(k) == 0 else table


def pass_pow_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int | Sequence[int]) -> FloatArray:
    """Estimates Pass^K: the chance that all `k` samples are correct, `C(c, k) / C(n, k)` (arXiv 2406.12045, sec. 3).

    Arguments, shapes and errors as in `pass_at_k`.
    """
    n_Q, c_Q, ks = check_counts(n, c, k)
    n_P, c_P, where = distinct_counts(n_Q, c_Q)
    table = _all_alike(c_P, n_P, ks)[where]
    return table[:, 0] if np.ndim(k) == 0 else table


def _tail_sum(n_P: IntArray, c_P: IntArray, k: int, first: int, weight_X: FloatArray) -> FloatArray:
    """Returns `sum_x weight(x) P(X = x)` over x = first..k, X being the number correct among k samples; `(P,)`.

    From log factorials, whose error (1e-10) no interval notices; the sum over x has no short product form.
    """
    log_factorial = special.gammaln(np.arange(int(n_P.max()) + 1) + 1.0)
    x = np.arange(first, k + 1)
    sum_P = np.empty(n_P.size)
    step = max(1, _BLOCK // max(x.size, 1))
    for start in range(0, n_P.size, step):
        n, c = n_P[start : start + step, None], c_P[start : start + step, None]
        possible = (x <= c) & (k - x <= n - c)
        wrong_left = np.where(possible, n - c - k + x, 0)
        log_p = log_factorial[c] - log_factorial[np.where(possible, c - x, 0)] - log_factorial[x]
        log_p += log_factorial[n - c] - log_factorial[wrong_left] - log_factorial[k - x]
        log_p -= log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        sum_P[start : start + step] = np.exp(np.where(possible, log_p, -np.inf)) @ weight_X
    return sum_P


def g_pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int | Sequence[int], tau: float) -> FloatArray:
    """Estimates G-Pass@K_tau: the chance that at least `ceil(tau * k)` of `k` are correct (arXiv 2412.13147, eq. 4).

    The upper tail of a hypergeometric distribution; `tau -> 0` is Pass@K and `tau = 1` is Pass^K. Arguments, shapes and
    errors as in `pass_at_k`, and InputError for a `tau` outside (0, 1].
    """
    if not 0 < tau <= 1:
        raise InputError(f"tau is {tau}: it is the share of the k samples that must be correct, in (0, 1].")
    n_Q, c_Q, ks = check_counts(n, c, k)
    n_P, c_P, where = distinct_counts(n_Q, c_Q)
    columns = []
    for size in ks.tolist():
        required = max(1, int(np.ceil(tau * size - 1e-9)))  # 0.6 * 5 must need 3 samples, not 4
        columns.append(_tail_sum(n_P, c_P, size, required, np.ones(size - required + 1)))
    table = np.stack(columns, axis=1)[where]
    return table[:, 0] if np.ndim(k) == 0 else table


def mg_pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int | Sequence[int]) -> FloatArray:
    """Estimates mG-Pass@K: twice the mean of G-Pass@K_tau over tau in [0.5, 1] (arXiv 2412.13147, eq. 6).

    `2/k * sum_{i=ceil(k/2)+1..k} G-Pass@K_{i/k}`. At k = 1 the sum is empty and the value 0, as in the paper's formula.
    Arguments, shapes and errors as in `pass_at_k`.
    """
    n_Q, c_Q, ks = check_counts(n, c, k)
    n_P, c_P, where = distinct_counts(n_Q, c_Q)
    columns = []
    for size in ks.tolist():
        half = (size + 1) // 2
        # sum_{i > half} P(X >= i) = E[max(X - half, 0)]
        columns.append(_tail_sum(n_P, c_P, size, half + 1, 2 / size * np.arange(1.0, size - half + 1)))
    table = np.stack(columns, axis=1)[where]
    return table[:, 0] if np.ndim(k) == 0 else table


def sample_counts(problem_ids: Sequence[Hashable], correct: Iterable[bool | None]) -> tuple[list[Hashable], IntArray]:
    """Counts samples and correct ones: ids of problems in order of appearance, and an int array `(Q, 2)` of (n, c).

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
    """Returns the powers of two up to n, and n itself: where Pass@K curves are read."""
    grid = [1 << i for i in range(int(n).bit_length()) if 1 << i <= n]
    return grid if not grid or grid[-1] == n else [*grid, n]


def curve_grid(n: int, most: int = 100) -> list[int]:
    """Returns every k up to n if they are at most `most`, else about `most` evenly spaced in log k and `k_grid(n)`."""
    if n <= most:
        return list(range(1, n + 1))
    spaced = np.unique(np.round(np.geomspace(1, n, most)).astype(int)).tolist()
    return sorted({*spaced, *k_grid(n)})


def grid_of(ks: Sequence[int]) -> list[int]:
    """Picks from rising K the powers of two and the largest."""
    return [k for k in ks if k in k_grid(ks[-1])]


def shown_ks(ks: Sequence[int], most: int) -> list[int]:
    """Picks at most `most` of the K: all if they fit, else the powers of 2, else of 4, ..., and always the largest."""
    shown, base = list(ks), 2
    while len(shown) > max(most, 2):
        powers = {base**i for i in range(ks[-1].bit_length())}
        shown = [k for k in ks if k in powers or k == ks[-1]]
        base *= 2
    return shown
