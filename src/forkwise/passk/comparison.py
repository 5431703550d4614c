"""What `forkwise compare` reports: paired differences of Pass@K between arms, and whether they are evidence.

Suffixes: S runs (training seeds) of an arm, Q problems, K values of k, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk.diversity import EMBED_NOTE, Embed, diversity
from forkwise.passk.estimator import FloatArray, curve_grid
from forkwise.passk.evaluation import Evaluation, evaluate
from forkwise.passk.intervals import (
    Interval,
    check_level,
    default_resamples,
    problem_weights,
    sign_flip_p_values,
    student_interval,
    unseen,
)
from forkwise.passk.length import (
    BUDGET,
    CAP,
    MATCHED,
    budget_curves,
    default_budgets,
    default_caps,
    match_curves,
    shown_ks,
)
from forkwise.passk.outcomes import Arm, check_ks, common_problems

_MANY = 3  # differences; of more, the sentence lumps those that are none

MARGIN = 0.05
"""Default equivalence margin: differences of Pass@K within ±0.05 count as none."""


@dataclass(frozen=True)
class Crossing:
    """Where the difference curve changes sign, found again in every bootstrap draw."""

    k: float | None
    """Interpolated in log k; None when the observed curves do not cross."""
    low: float
    """Lower end of the interval; 0 stands for "already before k = 1"."""
    high: float
    """Upper end; infinity stands for "not up to the largest k"."""
    no_crossing: float
    """Share of draws whose curve keeps one sign."""
    reversed: float
    """Share of draws that cross the other way round."""


@dataclass(frozen=True)
class LengthDifference:
    """A difference with length held still. `control` is cap, budget or matched; see docs/passk.md."""

    control: str
    at: int | None
    """The cap or the budget in the arms' length unit; None for matched."""
    k: int | None
    problems: int
    reference_value: float
    value: float
    difference: float
    low: float
    high: float
    effective_n: float | None = None
    """matched: mean over problems of Kish's effective number of samples."""
    error: float = 0.0
    """Monte-Carlo standard error of the difference, 0 where exact."""


@dataclass(frozen=True)
class Difference:
    """Pass@K of one arm minus the reference's, over the same problems."""

    arm: str
    reference: str
    ks: list[int]
    interval: Interval
    """Pointwise Student t: over problems with one run per arm, over problems and runs with several (see `compare`)."""
    band: Interval
    """Simultaneous: covers the whole curve, and all arms, at once."""
    p: FloatArray
    """Sign-flip permutation p at each k, unadjusted."""
    adjusted_p: FloatArray
    """Max-T adjusted over k, then Holm over arms."""
    run_p: FloatArray | None
    """p of relabelling the runs, max-T adjusted over k and Holm over arms; None with one run in either arm."""
    runs: tuple[int, int]
    """Runs of the reference and of the arm."""
    crossing: Crossing
    margin: float
    equivalent_up_to: int | None
    """The largest k such that the band lies within ±margin at every evaluated k up to it; None if there is none."""
    length: list[LengthDifference]
    diversity: dict[str, Interval]

    @property
    def claim_p(self) -> FloatArray:
        """The adjusted p at each k of a claim: over problems, and over runs too where there are several."""
        return self.adjusted_p if self.run_p is None else np.maximum(self.adjusted_p, self.run_p)

    def found(self, alpha: float) -> npt.NDArray[np.bool_]:
        """At which k there is a difference."""
        return self.claim_p <= alpha

    def sentence(self, alpha: float) -> str:
        """What was found, in one sentence."""
        return _sentence(self, alpha)


@dataclass(frozen=True)
class Comparison:
    """All arms against the first."""

    reference: str
    arms: list[Evaluation]
    differences: list[Difference]
    problems: int
    level: float
    length_unit: str
    notes: list[str]

    @property
    def sentence(self) -> str:
        """The conclusion in one plain sentence; of many arms, those that show no difference are said together."""
        alpha, many = 1 - self.level, len(self.differences) > _MANY
        parts = [d.sentence(alpha) for d in self.differences if d.found(alpha).any() or not many]
        if len(parts) < len(self.differences):
            quiet = [d for d in self.differences if not d.found(alpha).any()]
            parts.append(_no_difference(quiet, len(self.differences)))
        return f"On {self.problems} problems, " + "; ".join(parts) + "."

    def rows(self) -> list[dict[str, Any]]:
        """Every number as one row; what --csv and --json hold. Rows with a `reference` are differences."""
        out = [row for arm in self.arms for row in arm.rows()]
        for d in self.differences:
            names = {"arm": d.arm, "reference": d.reference}
            for i, k in enumerate(d.ks):
                row: dict[str, Any] = {**names, "metric": "pass@k", "k": k, "value": float(d.interval.mean[i])}
                row |= {"low": float(d.interval.low[i]), "high": float(d.interval.high[i])}
                row |= {"band_low": float(d.band.low[i]), "band_high": float(d.band.high[i])}
                row |= {"p": float(d.p[i]), "adjusted_p": float(d.adjusted_p[i])}
                if d.run_p is not None:
                    row["run_p"] = float(d.run_p[i])
                out.append(row)
            for control in d.length:
                row = {**names, "metric": f"pass@k, {control.control}", "k": control.k, "at": control.at}
                row |= {"value": control.difference, "low": control.low, "high": control.high}
                row |= {"problems": control.problems, "effective_n": control.effective_n, "error": control.error}
                row |= {"of_reference": control.reference_value, "of_arm": control.value}
                out.append(row)
            for metric, interval in d.diversity.items():
                bounds = {"value": float(interval.mean), "low": float(interval.low), "high": float(interval.high)}
                out.append({**names, "metric": metric, **bounds})
            if d.crossing.k is not None:
                bounds = {"value": d.crossing.k, "low": d.crossing.low, "high": d.crossing.high}
                out.append({**names, "metric": "crossing k", **bounds})
        return out

    def to_pandas(self) -> Any:
        """`rows()` as a pandas DataFrame; needs pandas."""
        import pandas

        return pandas.DataFrame(self.rows())


# ------------------------------------------------------------------------------------------- difference of two arms


def _run_weights(runs: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Bootstrap weights of an arm's runs, `(R, S)`, each row summing to 1.

    Drawing S runs from S understates their variance by (S-1)/S; stretching the weights about 1/S makes it right.
    """
    if runs == 1:
        return np.ones((resamples, 1))
    drawn = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs
    weights: FloatArray = 1 / runs + np.sqrt(runs / (runs - 1)) * (drawn - 1 / runs)
    return weights


def _draws(arm_SQK: FloatArray, other_SQK: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Bootstrap draws of the mean difference, `(R, K)`: problems resampled jointly, runs of each arm on their own."""
    rng = np.random.default_rng([seed, 1])
    v_RS, u_RS = (_run_weights(x.shape[0], resamples, rng) for x in (arm_SQK, other_SQK))
    out, first = np.empty((resamples, arm_SQK.shape[2])), 0
    for w_RQ in problem_weights(arm_SQK.shape[1], resamples, seed):
        rows = slice(first, first + w_RQ.shape[0])
        if arm_SQK.shape[0] == other_SQK.shape[0] == 1:
            out[rows] = w_RQ @ (arm_SQK[0] - other_SQK[0])
        else:
            ours = sum(v_RS[rows, s, None] * (w_RQ @ arm_SQK[s]) for s in range(arm_SQK.shape[0]))
            theirs = sum(u_RS[rows, s, None] * (w_RQ @ other_SQK[s]) for s in range(other_SQK.shape[0]))
            out[rows] = ours - theirs
        first += w_RQ.shape[0]
    return out


def _run_variance(x_SQK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Variance of an arm's mean from its runs, and the part of it that the problems already carry; each `(K,)`."""
    s, q, _ = x_SQK.shape
    if s == 1:
        return np.zeros(x_SQK.shape[2]), np.zeros(x_SQK.shape[2])
    by_run = x_SQK.mean(axis=1)
    rest = x_SQK - by_run[:, None] - x_SQK.mean(axis=0)[None] + by_run.mean(axis=0)
    interaction = (rest**2).sum(axis=(0, 1)) / ((s - 1) * (q - 1)) / (s * q)
    return by_run.var(axis=0, ddof=1) / s, interaction


def _standard_error(arm_SQK: FloatArray, other_SQK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Standard error of the mean difference and its Satterthwaite degrees of freedom, each `(K,)`.

    Two-way: variance over problems plus variance over the runs of each arm, minus their interaction, which both hold
    (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat. 29(2), eq. 2.10). With one run per arm, the ordinary one.
    """
    q = arm_SQK.shape[1]
    problems = (arm_SQK.mean(axis=0) - other_SQK.mean(axis=0)).var(axis=0, ddof=1) / q
    (ours, overlap), (theirs, other_overlap) = _run_variance(arm_SQK), _run_variance(other_SQK)
    total = np.maximum(problems + ours + theirs - overlap - other_overlap, np.maximum(problems, ours + theirs))
    spread = problems**2 / (q - 1)
    for part, x in ((ours, arm_SQK), (theirs, other_SQK)):
        spread = spread + part**2 / max(x.shape[0] - 1, 1)
    parts = problems + ours + theirs
    freedom = np.where(spread > 0, parts**2 / np.where(spread > 0, spread, 1), q - 1)
    return np.sqrt(total), freedom


def _within(mean_K: FloatArray, half_K: FloatArray, level: float) -> Interval:
    """Differences of probabilities stay within ±1."""
    return Interval(mean_K, np.maximum(mean_K - half_K, -1.0), np.minimum(mean_K + half_K, 1.0), level)


def _band(
    mean_K: FloatArray, se_K: FloatArray, freedom_K: FloatArray, draws_RK: FloatArray, problems: int, level: float
) -> Interval:
    """Sup-t band: `mean ± critical * se`, the critical value being the quantile of the largest |t| over k in the draws.

    Montiel Olea & Plagborg-Møller 2019, J. Appl. Econometrics 34(1), algorithm 1; widened by the ratio of the Student
    to the normal quantile, because the standard error of few problems or runs is itself uncertain.
    """
    spread = draws_RK.std(axis=0)
    moves = spread > 1e-12
    tail = (1 + level) / 2
    half = np.full(mean_K.size, unseen(problems, level))
    if moves.any():
        t_R = (np.abs(draws_RK[:, moves] - mean_K[moves]) / spread[moves]).max(axis=1)
        student = stats.t.ppf(tail, freedom_K[moves]) / stats.norm.ppf(tail)
        half[moves] = np.quantile(t_R, level) * se_K[moves] * student
    return replace(_within(mean_K, half, level), resamples=draws_RK.shape[0])


def _relabelling_p(arm_SQK: FloatArray, other_SQK: FloatArray, resamples: int, seed: int) -> FloatArray | None:
    """Max-T adjusted p of "the runs of both arms are exchangeable", on these problems; `(K,)`.

    All ways to deal the runs to the two arms, or `resamples` random ones where there are more. With S runs on each side
    the smallest p is 2 / C(2S, S).
    """
    s, t = arm_SQK.shape[0], other_SQK.shape[0]
    if min(s, t) < 2:
        return None
    runs_RK = np.concatenate([arm_SQK.mean(axis=1), other_SQK.mean(axis=1)])
    if comb(s + t, s) <= resamples:
        chosen = np.array(list(combinations(range(s + t), s)))  # the first is the observed one
    else:
        rng = np.random.default_rng([seed, 2])
        chosen = np.stack([np.arange(s), *(rng.permutation(s + t)[:s] for _ in range(resamples))])
    member = np.zeros((len(chosen), s + t))
    np.put_along_axis(member, chosen, 1.0, axis=1)
    means = (member / s - (1 - member) / t) @ runs_RK
    scale = np.sqrt((means**2).mean(axis=0))
    moves = scale > 1e-12
    ratio = np.abs(means) / np.where(moves, scale, 1.0)
    p = (ratio.max(axis=1, keepdims=True) >= ratio[0] - 1e-9).mean(axis=0)
    return np.where(moves, p, 1.0)


def _last_sign_change(curve_K: FloatArray, log_k: FloatArray) -> float:
    """log2 k at which the curve takes its final sign, interpolated; NaN if it has one sign throughout or none."""
    kept = np.flatnonzero(np.abs(curve_K) > 1e-12)
    signs = np.sign(curve_K[kept])
    changes = np.flatnonzero(signs[1:] != signs[:-1])
    if changes.size == 0:
        return float("nan")
    i, j = kept[changes[-1]], kept[changes[-1] + 1]
    share = curve_K[i] / (curve_K[i] - curve_K[j])
    return float(log_k[i] + share * (log_k[j] - log_k[i]))


def _end_signs(draws_RK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """First and last sign of each draw that is not zero (0 for a draw that is zero throughout)."""
    signs = np.where(np.abs(draws_RK) > 1e-12, np.sign(draws_RK), 0.0)
    rows = np.arange(len(signs))
    first = signs[rows, (signs != 0).argmax(axis=1)]
    last = signs[rows, signs.shape[1] - 1 - (signs[:, ::-1] != 0).argmax(axis=1)]
    return first, last


def find_crossing(ks: Sequence[int], mean_K: npt.ArrayLike, draws_RK: npt.ArrayLike, level: float = 0.95) -> Crossing:
    """Where two Pass@K curves cross, with a percentile interval over bootstrap draws of their difference.

    A curve crosses when it ends with the other sign than it begins with; the place is its last change of sign. A draw
    that has the observed final sign throughout has crossed before k = 1, one that has the observed first sign
    throughout will cross, if at all, after the largest k: they count as 0 and infinity, so an interval may end there.

    Args:
        ks: the k of the columns.
        mean_K: the observed difference.
        draws_RK: the bootstrap draws of it.
    """
    mean, draws = np.asarray(mean_K, dtype=np.float64), np.asarray(draws_RK, dtype=np.float64)
    log_k = np.log2(np.asarray(ks, dtype=np.float64))
    first, last = _end_signs(draws)
    same = first == last
    (start,), (end,) = _end_signs(mean[None])
    if start == end:
        return Crossing(None, 0.0, float("inf"), float(same.mean()), 0.0)
    place = np.empty(len(draws))
    place[same & (first == end)] = -np.inf
    place[same & (first != end)] = np.inf
    crossed = np.flatnonzero(~same)
    place[crossed] = [_last_sign_change(draws[r], log_k) for r in crossed]
    backwards = ~same & (first == end)
    kept = np.sort(place[~backwards])
    # Order statistics, because interpolation between infinities has no value.
    low, high = (
        kept[int(np.clip(round(tail * (kept.size - 1)), 0, kept.size - 1))]
        for tail in ((1 - level) / 2, (1 + level) / 2)
    )
    return Crossing(
        float(2 ** _last_sign_change(mean, log_k)),
        float(2.0**low),
        float(2.0**high),
        float(same.mean()),
        float(backwards.mean()),
    )


def difference_intervals(
    ours_SQK: FloatArray,
    theirs_SQK: FloatArray,
    *,
    level: float = 0.95,
    arms: int = 1,
    resamples: int | None = None,
    seed: int = 0,
) -> tuple[Interval, Interval, FloatArray]:
    """Mean difference of two arms' curves with its pointwise interval `(K,)`, its band `(K,)`, and the draws `(R, K)`.

    The pointwise one is Student t with the two-way standard error, which with one run per arm is the paired t interval.

    Args:
        ours_SQK, theirs_SQK: Pass@K per run and problem, the same problems in both, any number of runs in each.
        arms: comparisons made at once; the band of each is widened (Bonferroni) so that all hold together.
    """
    resamples = default_resamples(ours_SQK.shape[1]) if resamples is None else resamples
    ours_SQK, theirs_SQK = _fixed_runs(ours_SQK, theirs_SQK)
    pointwise = _pointwise(ours_SQK, theirs_SQK, level)
    draws = _draws(ours_SQK, theirs_SQK, resamples, seed)
    se, freedom = _standard_error(ours_SQK, theirs_SQK)
    band = _band(pointwise.mean, se, freedom, draws, ours_SQK.shape[1], 1 - (1 - level) / arms)
    return pointwise, replace(band, level=level), draws


def _fixed_runs(ours_SQK: FloatArray, theirs_SQK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """One run says nothing about its arm's spread: then the runs of both arms are taken as fixed, by their mean."""
    if min(ours_SQK.shape[0], theirs_SQK.shape[0]) > 1:
        return ours_SQK, theirs_SQK
    return ours_SQK.mean(axis=0, keepdims=True), theirs_SQK.mean(axis=0, keepdims=True)


def _pointwise(ours_SQK: FloatArray, theirs_SQK: FloatArray, level: float) -> Interval:
    ours_SQK, theirs_SQK = _fixed_runs(ours_SQK, theirs_SQK)
    se, freedom = _standard_error(ours_SQK, theirs_SQK)
    half = stats.t.ppf((1 + level) / 2, freedom) * se
    half[se == 0] = unseen(ours_SQK.shape[1], level)
    return _within((ours_SQK.mean(axis=0) - theirs_SQK.mean(axis=0)).mean(axis=0), half, level)


def _difference(
    arm: Arm, reference: Arm, ks: list[int], *, level: float, arms: int, margin: float, resamples: int, seed: int
) -> Difference:
    ours, theirs = arm.curves(ks), reference.curves(ks)
    pointwise, band, draws = difference_intervals(ours, theirs, level=level, arms=arms, resamples=resamples, seed=seed)
    p, adjusted = sign_flip_p_values(ours.mean(axis=0) - theirs.mean(axis=0), resamples=resamples, seed=seed)
    inside = (band.low >= -margin) & (band.high <= margin)
    upto = int(inside.argmin()) if not inside.all() else len(ks)
    return Difference(
        arm.name,
        reference.name,
        ks,
        pointwise,
        band,
        p,
        adjusted,
        _relabelling_p(ours, theirs, resamples, seed),
        (len(reference.runs), len(arm.runs)),
        find_crossing(ks, pointwise.mean, draws, level),
        margin,
        ks[upto - 1] if upto else None,
        [],
        {},
    )


def holm(adjusted: Sequence[FloatArray]) -> list[FloatArray]:
    """Holm's step-down over arms on p-values that are already adjusted over k within each arm.

    Arms are ordered by their smallest p; each is multiplied by the number of arms still in play, and none may fall
    below the smallest adjusted p of an arm before it.
    """
    smallest = np.array([p.min() for p in adjusted])
    out: list[FloatArray] = list(adjusted)
    floor = 0.0
    for rank, a in enumerate(np.argsort(smallest, kind="stable")):
        out[a] = np.minimum(1.0, np.maximum(floor, (len(adjusted) - rank) * adjusted[a]))
        floor = float(out[a].min())
    return out


# ------------------------------------------------------------------------------------------------- length, diversity


def _length_rows(
    arm: Arm,
    reference: Arm,
    caps: Sequence[int],
    budgets: Sequence[int],
    within: tuple[tuple[FloatArray, float], tuple[FloatArray, float]] | None,
    ks: list[int],
    level: float,
) -> list[LengthDifference]:
    """`within`: `budget_curves` of arm and reference at `budgets`."""
    rows = []

    def add(
        control: str, at: Sequence[int | None], k: Sequence[int | None], ours_SQX: FloatArray, theirs_SQX: FloatArray
    ) -> None:
        d = _pointwise(ours_SQX, theirs_SQX, level)
        ours_X, theirs_X = ours_SQX.mean(axis=(0, 1)), theirs_SQX.mean(axis=(0, 1))
        for i in range(len(ours_X)):
            bounds = float(d.mean[i]), float(d.low[i]), float(d.high[i])
            values = float(theirs_X[i]), float(ours_X[i])
            rows.append(LengthDifference(control, at[i], k[i], ours_SQX.shape[1], *values, *bounds))

    for cap in caps:
        add(CAP, [int(cap)] * len(ks), ks, arm.curves(ks, cap), reference.curves(ks, cap))
    if within is not None:
        (ours, error), (theirs, other_error) = within
        start = len(rows)
        add(BUDGET, list(map(int, budgets)), [None] * len(budgets), ours, theirs)
        rows[start:] = [replace(row, error=float(np.hypot(error, other_error))) for row in rows[start:]]
    ours_STQK, theirs_STQK, effective = match_curves(arm, reference, ks)
    # Where some run has no match, nothing can be said about runs.
    supported = np.isfinite(ours_STQK)
    known_QK = np.all(supported.any(axis=1), axis=0) & np.all(supported.any(axis=0), axis=0)
    for i, k in enumerate(ks):
        use = known_QK[:, i]
        # A number over a minority of the problems would be about other problems than the raw one.
        if use.sum() >= max(2, len(use) / 2):
            ours, theirs = (x[:, :, use, i : i + 1] for x in (ours_STQK, theirs_STQK))
            change = ours - theirs
            mean_Q = np.nanmean(change, axis=(0, 1))
            # The runs of both arms move the change of a pair: its mean for each of the one's, and of the other's.
            interval = _pointwise(np.nanmean(change, axis=1), mean_Q - np.nanmean(change, axis=0), level)
            centre, half = float(mean_Q.mean()), float(interval.high[0] - interval.low[0]) / 2
            row = LengthDifference(
                MATCHED,
                None,
                k,
                int(use.sum()),
                float(np.nanmean(theirs, axis=(0, 1)).mean()),
                float(np.nanmean(ours, axis=(0, 1)).mean()),
                centre,
                max(centre - half, -1.0),
                min(centre + half, 1.0),
                float(effective[use].mean()),
            )
            rows.append(row)
    return rows


def _span(ks: Sequence[int], chosen: npt.NDArray[np.bool_]) -> str:
    """The chosen k as ranges of neighbours on the grid: `1–8, 32`."""
    runs: list[list[int]] = []
    for i in np.flatnonzero(chosen):
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(int(i))
        else:
            runs.append([int(i)])
    return ", ".join(str(ks[r[0]]) if len(r) == 1 else f"{ks[r[0]]}–{ks[r[-1]]}" for r in runs)


def _edge(value: float, last: int) -> str:
    return "before 1" if value == 0 else f"beyond {last}" if np.isinf(value) else f"{value:.3g}"


def _no_difference(quiet: Sequence[Difference], arms: int) -> str:
    """What is to be said of arms that show none."""
    reference, margin = quiet[0].reference, quiet[0].margin
    who = f"none of {arms} arms" if len(quiet) == arms else f"none of the others ({', '.join(d.arm for d in quiet)})"
    lowest = min(quiet, key=lambda d: float(d.claim_p.min()))
    far = max(quiet, key=lambda d: float(np.abs(d.interval.mean).max()))
    named = f", {lowest.arm}" if lowest.claim_p.min() < 1 else ""
    i = int(np.abs(far.interval.mean).argmax())
    largest = f"{far.interval.mean[i]:+.3f} [{far.band.low[i]:+.3f}, {far.band.high[i]:+.3f}] at K = {far.ks[i]}"
    text = (
        f"{who} shows a difference from {reference} that can be told from luck at any K (smallest adjusted p "
        f"{lowest.claim_p.min():.2g}{named}; largest difference {largest}, {far.arm})"
    )
    equal = [d.arm for d in quiet if d.equivalent_up_to == d.ks[-1]]
    if len(equal) == len(quiet):
        return f"{text}, and all are equivalent to it within ±{margin:g} at every K"
    if equal:
        return f"{text}; equivalent to it within ±{margin:g} at every K: {', '.join(equal)}"
    return f"{text}, but no band is narrow enough to call an arm equivalent to it within ±{margin:g} at every K"


def _sentence(d: Difference, alpha: float) -> str:
    p, found = d.claim_p, d.found(alpha)
    mean, band = d.interval.mean, d.band

    def at(i: int) -> str:
        return f"Pass@{d.ks[i]} {mean[i]:+.3f} [{band.low[i]:+.3f}, {band.high[i]:+.3f}]"

    pair = f"{d.arm} against {d.reference}"
    both = " and for other training runs" if d.run_p is not None else ""
    if found.any():
        up, down = found & (mean > 0), found & (mean < 0)
        words = [
            f"{word} at K = {_span(d.ks, where)} ({at(int(np.flatnonzero(where)[np.argmin(p[where])]))})"
            for word, where in (("better", up), ("worse", down))
            if where.any()
        ]
        text = f"{pair} is {' and '.join(words)}, adjusted p <= {alpha:.2g}{both}"
    else:
        ends = at(0) if len(d.ks) == 1 else f"{at(0)}, {at(len(d.ks) - 1)}"
        text = (
            f"{pair} shows no difference that can be told from luck at any K "
            f"(smallest adjusted p {p.min():.2g}; {ends})"
        )
    if d.equivalent_up_to == d.ks[-1]:
        text += f", and the two are equivalent within ±{d.margin:g} at every K"
    elif not found.any():
        text += f", but the band is too wide to call them equivalent within ±{d.margin:g}"
        if d.equivalent_up_to is not None:
            text += f" beyond K = {d.equivalent_up_to}"
    crossing = d.crossing
    if crossing.k is not None:
        where = f"[{_edge(crossing.low, d.ks[-1])}, {_edge(crossing.high, d.ks[-1])}]"
        proved = (found & (np.sign(mean) == np.sign(mean[0]))).any() and (found & (mean * mean[0] < 0)).any()
        text += (
            f"; the curves cross near K = {crossing.k:.3g} {where}, with a proved lead on either side"
            if proved
            else f", and their crossing near K = {crossing.k:.3g} {where} is not proved "
            f"({crossing.no_crossing:.0%} of the resamples do not cross)"
        )
    return text


def compare(
    reference: Arm,
    *others: Arm,
    ks: Sequence[int] | None = None,
    intersect: bool = False,
    margin: float = MARGIN,
    caps: Sequence[int] | None = None,
    budgets: Sequence[int] | None = None,
    texts: bool = False,
    embed: Embed | None = None,
    level: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Pass@K of each arm minus the reference's, paired by problem, with what it takes to call it a difference.

    With one run per arm the intervals and p-values cover the choice of problems, for these very models. With several
    runs (training seeds) in both arms the interval and the band cover problems and runs: their standard error is the
    two-way one, and the bootstrap resamples problems and the runs of each arm. The sign-flip p still speaks about
    problems; `run_p` relabels the runs; a claim needs both.

    Args:
        reference, others: arms over the same problems; each other arm is compared with the reference.
        ks: where to compare; `None` is `curve_grid(n)`. p-values and bands are adjusted for all of them.
        intersect: compare on the shared problems where the sets differ, and say what was dropped.
        margin: differences within ±margin count as equivalent. The two are called so where the simultaneous band lies
            within it, which is stricter than two one-sided tests at the same level.
        caps, budgets: lengths for the length control; `None` chooses them from the samples.
        texts: also compare the diversity of the texts.
        embed: turns texts into vectors, for the diversity of these (with `texts`).
        level, resamples, seed: of the intervals.

    Raises:
        InputError: one arm only, arms of one name, problem sets that differ, a k above the samples of some problem.
    """
    check_level(level)
    arms = [reference, *others]
    if not others:
        raise InputError("A comparison needs at least two arms.")
    if len({arm.name for arm in arms}) < len(arms):
        raise InputError("Two arms have the same name: name them apart, as in NAME=PATH.")
    if not margin > 0:
        raise InputError(f"The margin is {margin}: it is the largest difference that counts as none, above 0.")
    arms, notes = common_problems(arms, intersect=intersect)
    largest = min(arm.largest_k() for arm in arms)
    grid = curve_grid(largest) if ks is None else check_ks(arms, ks)
    resamples = default_resamples(len(arms[0].problems)) if resamples is None else resamples
    evaluations = [
        evaluate(arm, ks=grid, caps=(), budgets=(), level=level, resamples=resamples, seed=seed) for arm in arms
    ]
    said = list(dict.fromkeys(note for e in evaluations for note in e.notes))
    for note in said:
        who = [e.arm for e in evaluations if note in e.notes]
        notes.append(note if len(who) == len(arms) else f"{', '.join(who)}: {note}")
    if len({arm.largest_k() for arm in arms}) > 1:
        notes.append(f"The arms have different numbers of samples; K goes up to {largest}, the smallest.")

    differences = [
        _difference(arm, arms[0], grid, level=level, arms=len(others), margin=margin, resamples=resamples, seed=seed)
        for arm in arms[1:]
    ]
    over_arms = holm([d.adjusted_p for d in differences])
    differences = [replace(d, adjusted_p=p) for d, p in zip(differences, over_arms, strict=True)]
    relabelled = {i: d.run_p for i, d in enumerate(differences) if d.run_p is not None}
    for i, p in zip(relabelled, holm(list(relabelled.values())), strict=True):
        differences[i] = replace(differences[i], run_p=p)

    units = {arm.length_unit for arm in arms}
    if all(arm.length_N is not None for arm in arms) and len(units) == 1:
        at = [k for k in shown_ks(largest) if k in grid] or [grid[-1]]
        caps = default_caps(arms) if caps is None else caps
        budgets = default_budgets(arms) if budgets is None else budgets
        curves = [budget_curves(arm, budgets, seed=seed) for arm in arms] if budgets else []
        for i, arm in enumerate(arms[1:], start=1):
            within = (curves[i], curves[0]) if curves else None
            rows = _length_rows(arm, arms[0], caps, budgets, within, at, level)
            differences[i - 1] = replace(differences[i - 1], length=rows)
        q = len(arms[0].problems)
        for d in differences:
            matched = [row for row in d.length if row.control == MATCHED]
            if not matched:
                notes.append(
                    f"Length matching is refused: in most problems one of {d.arm} and {d.reference} has no samples of "
                    "some lengths that the other has."
                )
            elif matched[0].problems < q:
                notes.append(
                    f"Length matching leaves out {q - matched[0].problems} of {q} problems, where one of {d.arm} and "
                    f"{d.reference} has no samples of some lengths that the other has."
                )
    else:
        notes.append("Some arm has no lengths in the common unit, so nothing here is controlled for length.")
    if texts:
        if embed is not None:
            notes.append(EMBED_NOTE)
        if max(len(arm.runs) for arm in arms) > 1:
            notes.append("The intervals of diversity cover problems, not training runs.")
        measured = diversity(arms, embed=embed)
        for i, d in enumerate(differences):
            found = {}
            for name in measured[0].values:
                both = measured[i + 1].values.get(name, np.full(1, np.nan)) - measured[0].values[name]
                both = both[np.isfinite(both)]
                if both.size >= 2:
                    found[name] = student_interval(both, level=level)
            differences[i] = replace(d, diversity=found)
    for d in differences:
        if max(d.runs) > 1 and d.run_p is None:
            notes.append(
                f"{d.arm}: one of the two arms has a single run, so the interval covers problems, not training runs."
            )
        elif d.run_p is not None:
            floor = 2 / comb(sum(d.runs), d.runs[0]) if d.runs[0] == d.runs[1] else 1 / comb(sum(d.runs), d.runs[0])
            corrected = min(1.0, floor * len(differences))
            notes.append(
                f"{d.arm}: the interval covers problems and training runs ({d.runs[1]} and {d.runs[0]}); relabelling "
                f"that many runs cannot give a p below {floor:.2g}"
                + (f", {corrected:.2g} with Holm's correction for {len(differences)} arms" if len(others) > 1 else "")
                + (", so that no difference could have been claimed." if corrected > 1 - level else ".")
            )
    if all(max(d.runs) == 1 for d in differences):
        notes.append("One run per arm: this compares these models, and says nothing about training them again.")
    return Comparison(
        reference.name, evaluations, differences, len(arms[0].problems), level, units.pop() if units else "", notes
    )
