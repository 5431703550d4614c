"""Where two Pass@K curves cross, and how sure that is.

Suffixes: K values of k, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from forkwise.passk.estimator import FloatArray
from forkwise.passk.results import Crossing


def _last_sign_change(curve_K: FloatArray, log_k: FloatArray) -> float:
    """Interpolates log2 k where the curve takes its final sign; NaN if it has one sign throughout or none."""
    nonzero = np.flatnonzero(np.abs(curve_K) > 1e-12)
    signs = np.sign(curve_K[nonzero])
    changes = np.flatnonzero(signs[1:] != signs[:-1])
    if changes.size == 0:
        return float("nan")
    i, j = nonzero[changes[-1]], nonzero[changes[-1] + 1]
    share = curve_K[i] / (curve_K[i] - curve_K[j])
    return float(log_k[i] + share * (log_k[j] - log_k[i]))


def _end_signs(draws_RK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns the first and last sign that is not zero of each draw (0 for a draw that is zero throughout)."""
    signs = np.where(np.abs(draws_RK) > 1e-12, np.sign(draws_RK), 0.0)
    rows = np.arange(len(signs))
    first_sign = signs[rows, (signs != 0).argmax(axis=1)]
    last_sign = signs[rows, signs.shape[1] - 1 - (signs[:, ::-1] != 0).argmax(axis=1)]
    return first_sign, last_sign


def find_crossing(ks: Sequence[int], mean_K: npt.ArrayLike, draws_RK: npt.ArrayLike, level: float = 0.95) -> Crossing:
    """Finds where two Pass@K curves cross, with a percentile interval over bootstrap draws of their difference.

    A curve crosses when it ends with the other sign than it begins with; the place is its last change of sign. A draw
    that has the observed final sign throughout has crossed before k = 1, one that has the observed first sign
    throughout will cross, if at all, after the largest k: an interval may end at either, 0 and None.

    Args:
        ks: the k of the columns.
        mean_K: the observed difference.
        draws_RK: the bootstrap draws of the difference.
    """
    mean, draws = np.asarray(mean_K, dtype=np.float64), np.asarray(draws_RK, dtype=np.float64)
    log_k = np.log2(np.asarray(ks, dtype=np.float64))
    first_sign, last_sign = _end_signs(draws)
    one_sign = first_sign == last_sign
    (start,), (end,) = _end_signs(mean[None])
    if start == end:
        return Crossing(None, 0.0, None, float(one_sign.mean()), 0.0)
    log_crossing = np.empty(len(draws))
    log_crossing[one_sign & (first_sign == end)] = -np.inf
    log_crossing[one_sign & (first_sign != end)] = np.inf
    crossed = np.flatnonzero(~one_sign)
    log_crossing[crossed] = [_last_sign_change(draws[r], log_k) for r in crossed]
    backwards = ~one_sign & (first_sign == end)
    crossings = np.sort(log_crossing[~backwards])
    # Order statistics, because interpolation between infinities has no value.
    low, high = (
        crossings[int(np.clip(round(tail * (crossings.size - 1)), 0, crossings.size - 1))]
        for tail in ((1 - level) / 2, (1 + level) / 2)
    )
    ends = [None if np.isposinf(end) else float(2.0**end) for end in (low, high)]
    return Crossing(
        float(2 ** _last_sign_change(mean, log_k)), ends[0], ends[1], float(one_sign.mean()), float(backwards.mean())
    )
