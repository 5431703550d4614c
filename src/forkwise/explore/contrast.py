"""Whether marked units (tokens, sentences) have more entropy than others: effect, interval and p of one statistic.

The raw difference is the mean, over problems, of the difference in each: pooled, a few long traces would weigh most.
The matched one is the coefficient of the mark in a regression of entropy, with a constant for each trace and each
stratum. Units of a trace depend on each other, and so do samples of a problem, so standard errors add up scores by
problem (CR2: Bell & McCaffrey 2002, Survey Methodology 28:169), with their degrees of freedom.

Suffixes: N units, Q problems, B blocks (problems; of a matched design traces), S strata, R lexicons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse, stats

from forkwise.errors import InputError
from forkwise.explore.findings import Contrast, Estimate

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

FEWEST_MARKS, FEWEST_PROBLEMS = 10, 5
"""With fewer marked units, or marks in fewer problems, no difference is given: intervals would not hold."""

ALONE = 1 - 1e-6
"""Share of all weight with which a problem counts as the only one: there is no variance over problems."""
_ROUNDING = 1e-9  # nats, or a share: what is smaller is no difference
_RIDGE = 1e-9  # of the largest stratum: constants of traces and strata are only known up to one number


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
        """Returns the number of problems."""
        return int(self.problem_N.max()) + 1 if self.problem_N.size else 0


@dataclass(frozen=True)
class Resampling:
    """How intervals and nulls are drawn."""

    level: float = 0.95
    resamples: int = 2000
    """Placebo lexicons, permutations of prompts, and bootstrap draws of rarity."""
    seed: int = 0


class ContrastDesign:
    """The units of a raw comparison: marked units of a problem against its others, and each problem counts alike.

    Args:
        units: all units.
        member_N: which of them are compared, marked or not.
    """

    def __init__(self, units: Units, member_N: BoolArray) -> None:
        self.member_N = member_N
        self.value = self.left = units.value_N[member_N]
        self.upper = None if units.upper_N is None else units.upper_N[member_N]
        self.problem, self.problems = units.problem_N[member_N], units.problems
        self.block = self.stratum = self.problem
        self.blocks = self.strata = self.problems

    def marks(self, supported_N: BoolArray) -> FloatArray:
        """Weighs marked units: those of each problem are one together."""
        weight_N: FloatArray = (
            supported_N / np.maximum(_sums(self.problem, self.problems, supported_N), 1)[self.problem]
        )
        return weight_N

    def weights(self, marked_N: BoolArray, supported_N: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Returns the weights with which `left` makes up the difference, and the part of each problem in it.

        Args:
            marked_N: all marks.
            supported_N: those that have others to be compared with.
        """
        weight_N = self.marks(supported_N)
        return weight_N - self.others(weight_N, ~marked_N), _sums(self.problem, self.problems, weight_N)

    def others(self, weight_N: FloatArray, other_N: BoolArray) -> FloatArray:
        """Weighs other units so that those of a stratum weigh together what its marked ones do."""
        ratio_S = _sums(self.stratum, self.strata, weight_N) / np.maximum(_sums(self.stratum, self.strata, other_N), 1)
        return np.where(other_N, ratio_S[self.stratum], 0.0)

    def auc(self, a_N: BoolArray, b_N: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Returns the AUC of each problem, times its part, and the parts."""
        weight_N = self.marks(a_N)
        auc_Q = _sums(self.problem, self.problems, weight_N * _placements(self.value, self.stratum, a_N, b_N))
        return auc_Q, _sums(self.problem, self.problems, weight_N)

    def differences(self, left_RB: FloatArray, marks_RB: FloatArray, marks_RS: FloatArray) -> FloatArray:
        """Computes the difference of other marks from their sums and counts; NaN where too few are left."""
        sum_B, size_B = _sums(self.block, self.blocks, self.left), _sums(self.block, self.blocks)
        both_RB = (marks_RB > 0) & (marks_RB < size_B)
        with np.errstate(invalid="ignore", divide="ignore"):
            difference_RB = np.where(both_RB, left_RB / marks_RB - (sum_B - left_RB) / (size_B - marks_RB), 0.0)
            enough_R = (marks_RB * both_RB).sum(axis=1) > FEWEST_MARKS / 2
            return np.where(enough_R, difference_RB.sum(axis=1) / both_RB.sum(axis=1), np.nan)


class MatchedDesign(ContrastDesign):
    """The units of a comparison within traces and strata: each trace and each stratum has a constant of its own.

    Args:
        units: all units.
        member_N: which of them are compared, marked or not.
        stratum_N: index of each unit's stratum.
    """

    def __init__(self, units: Units, member_N: BoolArray, stratum_N: IntArray) -> None:
        super().__init__(units, member_N)
        self.block = np.unique(units.trace_N[member_N], return_inverse=True)[1]
        self.stratum = np.unique(stratum_N[member_N], return_inverse=True)[1]
        self.blocks, self.strata = (int(index.max(initial=0)) + 1 for index in (self.block, self.stratum))
        self.size_B = _sums(self.block, self.blocks)
        self.cell_BS = sparse.csr_array(
            (np.ones(self.value.size), (self.block, self.stratum)), shape=(self.blocks, self.strata), dtype=np.float64
        )
        between = (self.cell_BS.T @ self.cell_BS.multiply(1 / np.maximum(self.size_B, 1)[:, None])).toarray()
        within_SS = np.diag(self.cell_BS.sum(axis=0)) - between
        self._factor = linalg.cho_factor(within_SS + _RIDGE * max(1.0, within_SS.max()) * np.eye(self.strata))
        self.left = self.residual(self.value)
        """What the constants leave of the entropies."""

    def marks(self, supported_N: BoolArray) -> FloatArray:
        """Weighs marked units alike."""
        return supported_N.astype(np.float64)

    def weights(self, marked_N: BoolArray, supported_N: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Returns what the constants leave of the mark, and the sum of its squares in each problem."""
        weight_N = self.residual(marked_N.astype(np.float64))
        return weight_N, _sums(self.problem, self.problems, weight_N**2)

    def auc(self, a_N: BoolArray, b_N: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Returns each problem's scores about the AUC of ranks, plus its part of the AUC, and the parts.

        Scores are the placement values of both sides, summed by problem (DeLong et al. 1988, Biometrics 44:837;
        Obuchowski 1997, Biometrics 53:567).
        """
        weight_N = self.marks(a_N)
        placement = _placements(self.ranks(), self.stratum, a_N, b_N)
        auc = float(placement[a_N].mean())
        both_N = weight_N + self.others(weight_N, b_N)
        size_Q = _sums(self.problem, self.problems, weight_N)
        return _sums(self.problem, self.problems, both_N * (placement - auc)) + auc * size_Q, size_Q

    def residual(self, x: FloatArray) -> FloatArray:
        """Takes from `x` what the constants of its trace and stratum explain (least squares)."""
        block_B, stratum_S = self._constants(x)
        return x - block_B[self.block] - stratum_S[self.stratum]

    def _constants(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean_B = _sums(self.block, self.blocks, x) / np.maximum(self.size_B, 1)
        within_S = _sums(self.stratum, self.strata, x - mean_B[self.block])
        stratum_S: FloatArray = linalg.cho_solve(self._factor, within_S)
        return mean_B - (self.cell_BS @ stratum_S) / np.maximum(self.size_B, 1), stratum_S

    def ranks(self) -> FloatArray:
        """Ranks each entropy in its trace, as a share of it, so that neither level nor spread of a trace matters."""
        order = np.lexsort((self.value, self.block))
        changed = (np.diff(self.block[order], prepend=-1) != 0) | (np.diff(self.value[order], prepend=np.nan) != 0)
        tied = np.cumsum(changed) - 1  # equal entropies of a trace share their mean rank
        first = (np.cumsum(self.size_B) - self.size_B)[self.block[order]]
        from_first = np.arange(self.value.size) - first + 0.5
        mean = np.bincount(tied, from_first) / np.bincount(tied)
        rank = np.empty(self.value.size)
        rank[order] = mean[tied] / self.size_B[self.block[order]]
        return rank

    def differences(self, left_RB: FloatArray, marks_RB: FloatArray, marks_RS: FloatArray) -> FloatArray:
        """Computes the coefficient of other marks from their sums and counts; NaN where too few are left."""
        share_RB = marks_RB / np.maximum(self.size_B, 1)
        within_RS = marks_RS - share_RB @ self.cell_BS
        explained_R = np.einsum("rs,sr->r", within_RS, linalg.cho_solve(self._factor, within_RS.T))
        spread_R = marks_RB.sum(axis=1) - (share_RB * marks_RB).sum(axis=1) - explained_R
        enough_R = spread_R > FEWEST_MARKS / 2  # a mark with as many others as marks counts for a half
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(enough_R, left_RB.sum(axis=1) / spread_R, np.nan)


def contrast(
    design: ContrastDesign,
    marked_N: BoolArray,
    *,
    version: str = "raw",
    strata: str = "",
    level: float = 0.95,
    auc: bool = True,
) -> Contrast | None:
    """Compares the entropy of marked units with that of the design's others.

    Marked units whose trace or stratum has no others have no weight. Where all that are left are fewer than
    `FEWEST_MARKS`, or stand in fewer than `FEWEST_PROBLEMS` problems, no difference is given.

    Args:
        version, strata: how the comparison is called, and what it holds equal.
        level: of the intervals.
        auc: also compute the AUC, which needs the ranks of all entropies.

    Returns:
        None if nothing is left on either side.
    """
    marked = marked_N[design.member_N]
    a = _supported(design, marked)
    if not a.any():
        return None
    weight, size_Q = design.weights(marked, a)
    size = float(size_Q.sum())
    problems = int(np.unique(design.problem[a]).size)
    b = ~marked & np.isin(design.stratum, design.stratum[a])
    of_marks = design.marks(a)
    too_few = int(a.sum()) < FEWEST_MARKS or problems < FEWEST_PROBLEMS or size <= 0
    bare = Contrast(
        version=version,
        strata=strata,
        marked=int(a.sum()),
        others=int(b.sum()),
        supported=float(a.sum() / marked.sum()),
        problems=problems,
        mean_marked=float(of_marks @ design.value / of_marks.sum()),
        too_few=too_few,
    )
    if too_few:
        return bare
    difference = float(weight @ design.left) / size
    score_Q = _sums(design.problem, design.problems, weight * design.left) - difference * size_Q
    estimate, p = cluster_t(difference, score_Q, size_Q, level)
    identified = None
    if design.upper is not None:
        rising, falling = weight.clip(min=0) / size, weight.clip(max=0) / size
        least = rising @ design.value + falling @ design.upper
        identified = (float(least), float(rising @ design.upper + falling @ design.value))
    return replace(
        bare,
        mean_other=bare.mean_marked - difference,
        difference=estimate,
        p=p,
        auc=_auc(design, a, b, level) if auc else Estimate(None),
        identified=identified,
    )


def _supported(design: ContrastDesign, marked: BoolArray) -> BoolArray:
    """Says which marked units have others in their stratum, and in their trace (raw: in their problem)."""
    others_B = _sums(design.block, design.blocks, ~marked)
    others_S = _sums(design.stratum, design.strata, ~marked)
    supported: BoolArray = marked & (others_B > 0)[design.block] & (others_S > 0)[design.stratum]
    return supported


def _sums(index: IntArray, size: int, weights: FloatArray | BoolArray | None = None) -> FloatArray:
    return np.bincount(index, weights=weights, minlength=size).astype(np.float64)


def cluster_t(value: float, score_Q: FloatArray, size_Q: FloatArray, level: float) -> tuple[Estimate, float | None]:
    """Returns an estimate that is linear in problems with its interval, and the two-sided p of zero.

    Args:
        value: the estimate, `sum of problems' contributions / sum of size_Q`.
        score_Q: what each problem adds to the numerator beyond `value * size_Q`.
        size_Q: each problem's part of the denominator; problems without any have no say.
    """
    share_Q = size_Q / max(float(size_Q.sum()), 1e-300)
    if not _has_interval(share_Q):
        return Estimate(value), None
    squares = score_Q[share_Q > 0] ** 2 / (1 - share_Q[share_Q > 0])
    error = float(np.sqrt(squares.sum()) / size_Q.sum())
    if error <= _ROUNDING:  # every problem says the same
        return t_interval(value, error, size_Q, level), float(abs(value) <= _ROUNDING)
    p = float(2 * stats.t.sf(abs(value) / error, freedom_of(share_Q)))
    return t_interval(value, error, size_Q, level), p


def t_interval(value: float, error: float, size_Q: FloatArray, level: float) -> Estimate:
    """Returns an estimate with Student's interval for its standard error over problems of unequal size."""
    share_Q = size_Q / max(float(size_Q.sum()), 1e-300)
    if not _has_interval(share_Q):
        return Estimate(value)
    half = float(stats.t.ppf((1 + level) / 2, freedom_of(share_Q))) * error
    return Estimate(value, value - half, value + half)


def _has_interval(share_Q: FloatArray) -> bool:
    return int((share_Q > 0).sum()) >= 2 and float(share_Q.max()) < ALONE


def freedom_of(share_Q: FloatArray) -> float:
    """Returns the degrees of freedom of CR2 (Satterthwaite) for independent units: fewer if few weigh most."""
    odds_Q = share_Q**2 / (1 - share_Q)
    return 1 / float((share_Q**2).sum() + odds_Q.sum() ** 2 - (odds_Q**2).sum())


def _auc(design: ContrastDesign, a: BoolArray, b: BoolArray, level: float) -> Estimate:
    """Returns the chance that a marked unit has more entropy than another, with its interval over problems."""
    auc_Q, size_Q = design.auc(a, b)
    auc = float(auc_Q.sum() / size_Q.sum())
    return bounded(cluster_t(auc, auc_Q - auc * size_Q, size_Q, level)[0], 0.0, 1.0)


def _placements(value: FloatArray, stratum: IntArray, a: BoolArray, b: BoolArray) -> FloatArray:
    """Places each unit in the other side of its stratum: a marked one by the share of others below it (ties half), an
    other one by the share of marked ones above it. Both average to the AUC, the second under the others' weights."""
    index = np.flatnonzero(a | b)
    index = index[np.lexsort((value[index], stratum[index]))]
    is_a, in_stratum = a[index], np.unique(stratum[index], return_inverse=True)[1]
    changed = np.diff(in_stratum, prepend=-1) != 0
    tie = np.cumsum(changed | (np.diff(value[index], prepend=np.nan) != 0)) - 1
    placement = np.zeros(value.size)
    for side, flip in ((is_a, False), (~is_a, True)):
        of_stratum = np.bincount(in_stratum, ~side)
        of_tie = np.bincount(tie, ~side)
        below_tie = np.cumsum(of_tie) - of_tie
        below = below_tie[tie] + of_tie[tie] / 2 - (np.cumsum(of_stratum) - of_stratum)[in_stratum]
        share = below / np.maximum(of_stratum, 1)[in_stratum]
        placement[index[side]] = (1 - share if flip else share)[side]
    return placement


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusts the p-values of a family of tests (Benjamini & Hochberg 1995)."""
    return [float(q) for q in stats.false_discovery_control(np.asarray(p))] if p else []


def share_interval(hit_N: BoolArray, member_N: BoolArray, problem_N: IntArray, problems: int, level: float) -> Estimate:
    """Returns the share of members that are hits, with its interval over problems; None without members."""
    hits = hit_N[member_N].astype(np.float64)
    return mean_interval(hits, problem_N[member_N], problems, level, within=(0.0, 1.0))


def mean_interval(
    value_N: FloatArray,
    problem_N: IntArray,
    problems: int,
    level: float,
    *,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Returns the mean over units with its interval over problems, which ends where values can."""
    if value_N.size == 0:
        return Estimate(None)
    value = float(value_N.mean())
    size_Q = _sums(problem_N, problems)
    score_Q = _sums(problem_N, problems, value_N - value)
    return bounded(cluster_t(value, score_Q, size_Q, level)[0], *within)


def difference_interval(
    a_N: FloatArray, problem_a: IntArray, b_M: FloatArray, problem_b: IntArray, problems: int, level: float
) -> Estimate:
    """Returns the mean of `a_N` minus that of `b_M`, with its interval over the problems that both are of."""
    mean_a, mean_b = float(a_N.mean()), float(b_M.mean())
    score_Q = _sums(problem_a, problems, a_N - mean_a)
    score_Q -= _sums(problem_b, problems, b_M - mean_b) * (a_N.size / b_M.size)
    return cluster_t(mean_a - mean_b, score_Q, _sums(problem_a, problems), level)[0]


def bounded(estimate: Estimate, least: float, most: float) -> Estimate:
    """Ends an interval where the number itself cannot be beyond."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return Estimate(estimate.value, max(estimate.low, least), min(estimate.high, most))
