"""Whether marked units (tokens, sentences) have more entropy than others: effect, interval, null, matched controls.

Units of a trace depend on each other, and traces of a problem too. So intervals resample problems (cluster bootstrap),
and the null shifts the entropies of each trace circularly against its marks, which keeps the dependence inside the
trace and the differences between traces.

Suffixes: N units, Q problems, S strata, R draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import stats

from forkwise.errors import InputError
from forkwise.explore.results import Contrast, Estimate, Null
from forkwise.passk.intervals import problem_weights
from forkwise.progress import watch

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_ENOUGH = 0.8  # of the draws must hold a marked unit; with fewer there is no interval


@dataclass(frozen=True)
class Units:
    """Units in the order of their traces.

    Attributes:
        value_N: entropy in nats; with top-k log-probs the lower bound.
        problem_N: index of the problem, from 0.
        trace_N: index of the trace, from 0, never falling.
        upper_N: upper bounds of the entropy, where `value_N` are lower ones.
    """

    value_N: FloatArray
    problem_N: IntArray
    trace_N: IntArray
    upper_N: FloatArray | None = None

    def __post_init__(self) -> None:
        if not (self.value_N.shape == self.problem_N.shape == self.trace_N.shape and self.value_N.ndim == 1):
            raise InputError("Values, problems and traces need one entry per unit.")
        if not np.isfinite(self.value_N).all():
            raise InputError("An entropy is NaN or infinite: leave out the traces that hold it.")

    @property
    def problems(self) -> int:
        """Number of problems."""
        return int(self.problem_N.max()) + 1 if self.problem_N.size else 0


@dataclass(frozen=True)
class Resampling:
    """How intervals and nulls are drawn."""

    level: float = 0.95
    resamples: int = 2000
    """Bootstrap draws of problems, and circular shifts."""
    seed: int = 0


def contrast(
    units: Units,
    marked_N: BoolArray,
    other_N: BoolArray,
    *,
    stratum_N: IntArray | None = None,
    version: str = "raw",
    strata: str = "",
    resampling: Resampling | None = None,
    null: bool = True,
) -> Contrast | None:
    """Compares the entropy of marked units with that of others; with strata, with the others of the same stratum.

    Matched versions standardise directly: the difference is the mean over marked units of (own value - mean of the
    others in its stratum), and the AUC the mean over marked units of the share of those others below it.

    Args:
        units: all units, also those that are neither.
        marked_N, other_N: which are compared. Disjoint.
        stratum_N: index of each unit's stratum; marked units in a stratum without others are left out.
        null: also draw the circular shifts.

    Returns:
        None if nothing is left on either side.
    """
    resampling = resampling or Resampling()
    stratum_N = np.zeros(units.value_N.size, dtype=np.int64) if stratum_N is None else stratum_N
    total = int(marked_N.sum())
    have = np.bincount(stratum_N[other_N], minlength=int(stratum_N.max(initial=0)) + 1)
    want = np.bincount(stratum_N[marked_N], minlength=have.size)
    a = marked_N & (have[stratum_N] > 0)
    b = other_N & (want[stratum_N] > 0)
    if not a.any() or not b.any():
        return None
    weight_N = _weights(stratum_N, a, b)
    value = units.value_N
    mean_a, mean_b = float(value[a].mean()), float(-(weight_N * value)[b].sum())
    placement_N = _placements(value, stratum_N, a, b)
    identified = None
    if units.upper_N is not None:
        upper_a, upper_b = float(units.upper_N[a].mean()), float(-(weight_N * units.upper_N)[b].sum())
        identified = (mean_a - upper_b, upper_a - mean_b)
    return Contrast(
        version=version,
        strata=strata,
        marked=int(a.sum()),
        others=int(b.sum()),
        supported=float(a.sum() / total),
        problems=int(np.unique(units.problem_N[a]).size),
        mean_marked=mean_a,
        mean_other=mean_b,
        difference=_difference_interval(units, stratum_N, a, b, mean_a - mean_b, resampling),
        auc=_auc_interval(units, placement_N, weight_N, a, b, resampling),
        null=shift_null(units, weight_N, mean_a - mean_b, resampling) if null else None,
        identified=identified,
    )


def _weights(stratum_N: IntArray, a: BoolArray, b: BoolArray) -> FloatArray:
    """Gives the weights whose product with the values is the difference: 1/M if marked, -m_s/(M n_s) if another."""
    m_S = np.bincount(stratum_N[a], minlength=int(stratum_N.max()) + 1)
    n_S = np.bincount(stratum_N[b], minlength=m_S.size)
    weight_N = np.zeros(stratum_N.size)
    weight_N[a] = 1 / a.sum()
    weight_N[b] = -(m_S / np.maximum(n_S, 1) / a.sum())[stratum_N[b]]
    return weight_N


def _placements(value_N: FloatArray, stratum_N: IntArray, a: BoolArray, b: BoolArray) -> FloatArray:
    """Places each unit in the other side of its stratum: a marked one by the share of others below it (ties half), an
    other one by the share of marked ones above it. Both average to the AUC, the second under the others' weights."""
    placement_N = np.zeros(value_N.size)
    index = np.flatnonzero(a | b)
    order = np.argsort(stratum_N[index], kind="stable")
    index = index[order]
    for stratum in np.split(index, np.flatnonzero(np.diff(stratum_N[index])) + 1):
        is_a = a[stratum]
        m, n = int(is_a.sum()), int((~is_a).sum())
        if m == 0 or n == 0:
            continue
        ranks = stats.rankdata(value_N[stratum])
        placement_N[stratum[is_a]] = (ranks[is_a] - stats.rankdata(value_N[stratum[is_a]])) / n
        marked_below = (ranks[~is_a] - stats.rankdata(value_N[stratum[~is_a]])) / m  # marked units below an other one
        placement_N[stratum[~is_a]] = 1 - marked_below
    return placement_N


def _by_problem(problem_N: IntArray, q: int, weights: FloatArray | None = None) -> FloatArray:
    return np.bincount(problem_N, weights=weights, minlength=q).astype(np.float64)


def _drawn(problems: int, resampling: Resampling) -> Iterator[FloatArray]:
    """Draws the weights of problems, `(R, Q)` at a time, and shows how many draws are done."""
    drawn: list[int] = []
    blocks = problem_weights(problems, resampling.resamples, resampling.seed)
    for w_RQ in watch(blocks, "drawing problems", "draws", resampling.resamples, lambda: sum(drawn)):
        yield w_RQ
        drawn.append(len(w_RQ))


def _interval(value: float, draws: FloatArray, level: float) -> Estimate:
    """Takes percentiles: for ratios over unequal problems, BCa covers less (benchmarks/explore_intervals.py)."""
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def _difference_interval(
    units: Units, stratum_N: IntArray, a: BoolArray, b: BoolArray, value: float, resampling: Resampling
) -> Estimate:
    """Bootstraps the (matched) difference over problems; strata without support drop out of a draw."""
    q = units.problems
    if q < 2:
        return Estimate(value)
    used, compact = np.unique(stratum_N[a], return_inverse=True)
    s = used.size
    lookup = np.full(int(stratum_N.max()) + 1, -1)
    lookup[used] = np.arange(s)
    sums: list[FloatArray] = []
    for side, stratum in ((a, compact), (b, lookup[stratum_N[b]])):
        cell = units.problem_N[side] * s + stratum
        sums += [_by_problem(cell, q * s, weights).reshape(q, s) for weights in (None, units.value_N[side])]
    draws = []
    for w_RQ in _drawn(q, resampling):
        count_a, sum_a, count_b, sum_b = (w_RQ @ x_QS for x_QS in sums)
        supported = (count_a > 0) & (count_b > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = np.where(supported, sum_a - count_a * sum_b / count_b, 0.0)
            draws.append(gap.sum(axis=1) / np.where(supported, count_a, 0.0).sum(axis=1))
    drawn = np.concatenate(draws)
    if np.isfinite(drawn).mean() < _ENOUGH:
        return Estimate(value)
    return _interval(value, drawn, resampling.level)


def _auc_interval(
    units: Units, placement_N: FloatArray, weight_N: FloatArray, a: BoolArray, b: BoolArray, resampling: Resampling
) -> Estimate:
    """Bootstraps the AUC from the placement values of both sides, summed by problem.

    DeLong et al. 1988 (Biometrics 44:837) with the clusters of Obuchowski 1997 (Biometrics 53:567), drawn instead of
    assumed normal: AUC* = mean* of the marked placements + weighted mean* of the others' - AUC.
    """
    value = float(placement_N[a].mean())
    q = units.problems
    if q < 2:
        return Estimate(value)
    m_Q = _by_problem(units.problem_N[a], q)
    v_Q = _by_problem(units.problem_N[a], q, placement_N[a])
    c_Q = _by_problem(units.problem_N[b], q, -weight_N[b])
    u_Q = _by_problem(units.problem_N[b], q, -weight_N[b] * placement_N[b])
    draws = []
    for w_RQ in _drawn(q, resampling):
        with np.errstate(invalid="ignore", divide="ignore"):
            draws.append((w_RQ @ v_Q) / (w_RQ @ m_Q) + (w_RQ @ u_Q) / (w_RQ @ c_Q) - value)
    drawn = np.concatenate(draws)
    if np.isfinite(drawn).mean() < _ENOUGH:
        return Estimate(value)
    return _interval(value, np.clip(drawn, 0.0, 1.0), resampling.level)


def shift_null(units: Units, weight_N: FloatArray, observed: float, resampling: Resampling) -> Null:
    """Draws the statistic `sum weight_N value_N` with each trace's values shifted circularly by a random amount.

    p is two-sided about the mean over all shifts, which is known exactly: it is not 0 where marks are more frequent in
    traces of high entropy. The smallest p is 1 / (draws + 1).
    """
    rng = np.random.default_rng([resampling.seed, 2])
    drawn = np.zeros(resampling.resamples)
    centre = 0.0
    for rows in watch(trace_slices(units.trace_N), "shifting traces", "traces"):
        weight, value = weight_N[rows], units.value_N[rows]
        if not weight.any():
            continue
        centre += float(weight.sum() * value.mean())
        # correlation[s] = sum_t weight[t] value[(t + s) mod T]
        correlation = np.fft.irfft(np.fft.rfft(weight).conj() * np.fft.rfft(value), value.size)
        drawn += correlation[rng.integers(0, value.size, size=drawn.size)]
    return _null(drawn, centre, observed)


def _null(drawn: FloatArray, centre: float, observed: float) -> Null:
    scale = max(1.0, abs(observed), abs(centre))
    extreme = int((np.abs(drawn - centre) >= abs(observed - centre) - 1e-9 * scale).sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Null(centre, float(low), float(high), (1 + extreme) / (drawn.size + 1), drawn.size)


def trace_slices(trace_N: IntArray) -> list[slice]:
    """Returns the rows of each trace."""
    if trace_N.size == 0:
        return []
    edges = [0, *(np.flatnonzero(np.diff(trace_N)) + 1).tolist(), trace_N.size]
    return [slice(first, last) for first, last in pairwise(edges)]


def entry_null(units: Units, marked: IntArray, resampling: Resampling) -> Null:
    """Draws `shift_null` for few marked units (their indices) against all others, at a cost that grows with them."""
    rng = np.random.default_rng([resampling.seed, 3])
    n, m = units.value_N.size, marked.size
    total = float(units.value_N.sum())
    slices = trace_slices(units.trace_N)
    start = np.array([rows.start for rows in slices])
    length = np.array([rows.stop - rows.start for rows in slices])
    of_trace = np.searchsorted(start, marked, side="right") - 1
    traces, inverse = np.unique(of_trace, return_inverse=True)
    sums = np.empty(resampling.resamples)
    block = max(1, (1 << 22) // max(m, 1))
    for first in range(0, sums.size, block):
        r = min(block, sums.size - first)
        shift = rng.integers(0, length[traces], size=(r, traces.size))[:, inverse]
        shifted = start[of_trace] + (marked - start[of_trace] + shift) % length[of_trace]
        sums[first : first + r] = units.value_N[shifted].sum(axis=1)
    mean_T = np.add.reduceat(units.value_N, start) / length
    centre = float(mean_T[of_trace].sum())

    def gap(marked_sum: FloatArray | float) -> FloatArray | float:
        return marked_sum / m - (total - marked_sum) / max(n - m, 1)

    observed = gap(float(units.value_N[marked].sum()))
    return _null(np.asarray(gap(sums)), float(gap(centre)), float(observed))


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusts the p-values of a family of tests (Benjamini & Hochberg 1995)."""
    return [float(q) for q in stats.false_discovery_control(np.asarray(p))] if p else []


def share_interval(
    hit_N: BoolArray, member_N: BoolArray, problem_N: IntArray, problems: int, resampling: Resampling
) -> Estimate:
    """Returns the share of members that are hits, with its interval over problems; None without members."""
    if not member_N.any():
        return Estimate(None)
    return mean_interval(hit_N[member_N].astype(np.float64), problem_N[member_N], problems, resampling)


def mean_interval(value_N: FloatArray, problem_N: IntArray, problems: int, resampling: Resampling) -> Estimate:
    """Returns the mean over units with its interval over problems."""
    if value_N.size == 0:
        return Estimate(None)
    value = float(value_N.mean())
    if problems < 2:
        return Estimate(value)
    count_Q, sum_Q = _by_problem(problem_N, problems), _by_problem(problem_N, problems, value_N)
    draws = []
    for w_RQ in _drawn(problems, resampling):
        with np.errstate(invalid="ignore", divide="ignore"):
            draws.append((w_RQ @ sum_Q) / (w_RQ @ count_Q))
    drawn = np.concatenate(draws)
    return _interval(value, drawn, resampling.level) if np.isfinite(drawn).mean() >= _ENOUGH else Estimate(value)
