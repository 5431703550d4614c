"""Compares arms, as `forkwise compare` does: paired differences, and whether they are evidence.

Suffixes: S runs (training seeds) of an arm, Q problems, K values of k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np

from forkwise.errors import InputError
from forkwise.passk.crossing import find_crossing
from forkwise.passk.diversity import EMBED_NOTE, Embed, diversity
from forkwise.passk.estimator import FloatArray, curve_grid
from forkwise.passk.evaluation import Measured, measure, summarise
from forkwise.passk.intervals import (
    Interval,
    check_level,
    default_resamples,
    sign_flip_p_values,
    student_interval,
)
from forkwise.passk.length import (
    BUDGET,
    CAP,
    MATCHED,
    default_budgets,
    default_caps,
    have_common_lengths,
    match_curves,
)
from forkwise.passk.metrics import Metric, MetricOptions, compared_metrics
from forkwise.passk.outcomes import Arm, check_ks, common_problems
from forkwise.passk.results import Comparison, Curve, Difference, Evaluation, LengthDifference
from forkwise.passk.two_way import difference_intervals, holm, pointwise_interval, relabelling_p

MARGIN = 0.05
"""Default equivalence margin: differences of Pass@K within ±0.05 count as none."""


def compare(
    reference: Arm,
    *others: Arm,
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
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
    """Compares Pass@K of each arm with the reference's, paired by problem, with what it takes to call it a difference.

    With one run per arm the intervals and p-values cover the choice of problems, for these very models. With several
    runs (training seeds) in both arms the interval and the band cover problems and runs: their standard error is the
    two-way one, and the bootstrap resamples problems and the runs of each arm. The sign-flip p still speaks about
    problems; `run_p` relabels the runs; a claim needs both.

    Args:
        reference, others: arms over the same problems; each other arm is compared with the reference.
        ks: where to compare; `None` is `curve_grid(n)`. p-values and bands are adjusted for all of them.
        metrics: names of the statistics to pair besides Pass@K; `None` takes those that are declared so.
        intersect: compare on the shared problems where the sets differ, and say what was dropped.
        margin: differences within ±margin count as equivalent. Two arms are called so where the simultaneous band lies
            within it, which is stricter than two one-sided tests at the same level.
        caps, budgets: lengths for the length control; `None` chooses them from the samples.
        texts: also compare the diversity of the texts.
        embed: turns texts into vectors, for the diversity of these (with `texts`).
        level, resamples, seed: of the intervals.

    Raises:
        InputError: one arm only, arms of one name, problem sets that differ, a k above the samples of some problem, no
            such statistic.
    """
    check_level(level)
    paired = compared_metrics(metrics)
    arms, notes = common_problems(_comparable([reference, *others], margin), intersect=intersect)
    largest = min(arm.largest_k() for arm in arms)
    grid = curve_grid(largest) if ks is None else check_ks(arms, ks)
    problems = len(arms[0].problems)
    resamples = default_resamples(problems) if resamples is None else resamples
    common = have_common_lengths(arms)
    caps = () if not common else default_caps(arms) if caps is None else caps
    budgets = () if not common else default_budgets(arms) if budgets is None else budgets
    measured = [measure(arm, grid, MetricOptions(seed=seed), caps=caps, budgets=budgets) for arm in arms]
    evaluations = [summarise(m, level=level, resamples=resamples) for m in measured]
    notes += _shared_notes(evaluations)
    if len({arm.largest_k() for arm in arms}) > 1:
        notes.append(f"The arms have different numbers of samples; K goes up to {largest}, the smallest.")

    test = _Test(paired, level, len(others), margin, resamples, seed)
    differences = _corrected([_difference(arm, measured[0], test) for arm in measured[1:]])
    if common:
        differences = [
            replace(d, length=_length_rows(arm, measured[0], level))
            for d, arm in zip(differences, measured[1:], strict=True)
        ]
        notes += _matching_notes(differences, problems)
    else:
        notes.append("Some arm has no lengths in the common unit, so nothing here is controlled for length.")
    if texts:
        if embed is not None:
            notes.append(EMBED_NOTE)
        if max(len(arm.runs) for arm in arms) > 1:
            notes.append("The intervals of diversity cover problems, not training runs.")
        changes = _diversity_differences(arms, embed, level)
        differences = [replace(d, diversity=change) for d, change in zip(differences, changes, strict=True)]
    notes += _run_notes(differences, level)
    unit = arms[0].length_unit if len({arm.length_unit for arm in arms}) == 1 else ""
    return Comparison(reference.name, evaluations, differences, problems, level, unit, notes)


def _comparable(arms: list[Arm], margin: float) -> list[Arm]:
    if len(arms) < 2:
        raise InputError("A comparison needs at least two arms.")
    if len({arm.name for arm in arms}) < len(arms):
        raise InputError("Two arms have the same name: name them apart, as in NAME=PATH.")
    if not margin > 0:
        raise InputError(f"The margin is {margin}: it is the largest difference that counts as none, above 0.")
    return arms


# --------------------------------------------------------------------------------------------------------- statistics


@dataclass(frozen=True)
class _Test:
    """Settings of every test: the statistics paired besides Pass@K, and the settings of `compare`."""

    paired: list[Metric]
    level: float
    arms: int
    margin: float
    resamples: int
    seed: int


def _difference(arm: Measured, reference: Measured, test: _Test) -> Difference:
    """Computes the difference, with p-values that are not yet corrected for the number of arms."""
    curve = arm.curves["pass@k"]
    arm_SQK, reference_SQK, ks = curve.values_SQK, reference.curves["pass@k"].values_SQK, curve.ks
    draw = {"resamples": test.resamples, "seed": test.seed}
    pointwise, band, draws = difference_intervals(arm_SQK, reference_SQK, level=test.level, arms=test.arms, **draw)
    p, adjusted = sign_flip_p_values(arm_SQK.mean(axis=0) - reference_SQK.mean(axis=0), **draw)
    inside = (band.low >= -test.margin) & (band.high <= test.margin)
    upto = int(inside.argmin()) if not inside.all() else len(ks)
    return Difference(
        arm.arm.name,
        reference.arm.name,
        ks,
        pointwise,
        band,
        p,
        adjusted,
        relabelling_p(arm_SQK, reference_SQK, test.resamples, test.seed),
        (len(reference.arm.runs), len(arm.arm.runs)),
        find_crossing(ks, pointwise.mean, draws, test.level),
        test.margin,
        ks[upto - 1] if upto else None,
        {
            metric.name: _paired(metric, arm, reference, test.level)
            for metric in test.paired
            if metric.name in arm.curves and metric.name in reference.curves
        },
    )


def _paired(metric: Metric, arm: Measured, reference: Measured, level: float) -> Curve:
    """Computes the paired difference of a statistic; arms have the same K, unless the statistic is taken at n."""
    arm_curve, reference_curve = arm.curves[metric.name], reference.curves[metric.name]
    interval = pointwise_interval(arm_curve.values_SQK, reference_curve.values_SQK, level)
    error = None
    if arm_curve.error_K is not None and reference_curve.error_K is not None:
        error = np.hypot(arm_curve.error_K, reference_curve.error_K)
    return Curve(*metric.labels(arm.options), np.minimum(arm_curve.ks, reference_curve.ks).tolist(), interval, error)


def _corrected(differences: list[Difference]) -> list[Difference]:
    """Corrects the p-values of the differences over arms, by Holm's method."""
    over_problems = holm([d.adjusted_p for d in differences])
    over_runs = iter(holm([d.run_p for d in differences if d.run_p is not None]))
    return [
        replace(d, adjusted_p=p, run_p=None if d.run_p is None else next(over_runs))
        for d, p in zip(differences, over_problems, strict=True)
    ]


# ------------------------------------------------------------------------------------------------- length, diversity


def _length_rows(arm: Measured, reference: Measured, level: float) -> list[LengthDifference]:
    """Computes the difference under each cap, within each budget, and at equal lengths."""
    ks = arm.control_ks
    rows = []
    for cap, capped_SQK in arm.capped.items():
        rows += _controlled(CAP, [cap] * len(ks), ks, capped_SQK, reference.capped[cap], level)
    if arm.within is not None and reference.within is not None:
        none = [None] * len(arm.budgets)
        error = float(np.hypot(arm.within_error, reference.within_error))
        within = _controlled(BUDGET, arm.budgets, none, arm.within, reference.within, level)
        rows += [replace(row, error=error) for row in within]
    return rows + _matched_rows(arm.arm, reference.arm, ks, level)


def _controlled(
    control: str,
    at: Sequence[int],
    ks: Sequence[int | None],
    arm_SQX: FloatArray,
    reference_SQX: FloatArray,
    level: float,
) -> list[LengthDifference]:
    d = pointwise_interval(arm_SQX, reference_SQX, level)
    numbers = (reference_SQX.mean(axis=(0, 1)), arm_SQX.mean(axis=(0, 1)), d.mean, d.low, d.high)
    return [
        LengthDifference(control, at[i], ks[i], arm_SQX.shape[1], *(float(values[i]) for values in numbers))
        for i in range(len(at))
    ]


def _matched_rows(arm: Arm, reference: Arm, ks: list[int], level: float) -> list[LengthDifference]:
    arm_STQK, reference_STQK, effective_Q = match_curves(arm, reference, ks)
    # Where some run has no match, nothing can be said about runs.
    supported = np.isfinite(arm_STQK)
    known_QK = np.all(supported.any(axis=1), axis=0) & np.all(supported.any(axis=0), axis=0)
    rows = []
    for i, k in enumerate(ks):
        use = known_QK[:, i]
        # A number over a minority of the problems would be about other problems than the raw one.
        if use.sum() < max(2, len(use) / 2):
            continue
        arm_STQ1, reference_STQ1 = (x[:, :, use, i : i + 1] for x in (arm_STQK, reference_STQK))
        change = arm_STQ1 - reference_STQ1
        mean_Q = np.nanmean(change, axis=(0, 1))
        # Runs of either arm move the change of a pair: its mean for each run of the arm, and of the reference.
        interval = pointwise_interval(np.nanmean(change, axis=1), mean_Q - np.nanmean(change, axis=0), level)
        centre, half = float(mean_Q.mean()), float(interval.high[0] - interval.low[0]) / 2
        row = LengthDifference(
            MATCHED,
            None,
            k,
            int(use.sum()),
            float(np.nanmean(reference_STQ1, axis=(0, 1)).mean()),
            float(np.nanmean(arm_STQ1, axis=(0, 1)).mean()),
            centre,
            max(centre - half, -1.0),
            min(centre + half, 1.0),
            float(effective_Q[use].mean()),
        )
        rows.append(row)
    return rows


def _diversity_differences(arms: list[Arm], embed: Embed | None, level: float) -> list[dict[str, Interval]]:
    """Computes the paired differences in diversity of each arm but the first from the first."""
    reference, *others = diversity(arms, embed=embed)
    changes = []
    for other in others:
        change = {}
        for name, reference_Q in reference.values.items():
            change_Q = other.values.get(name, np.full(1, np.nan)) - reference_Q
            change_Q = change_Q[np.isfinite(change_Q)]
            if change_Q.size >= 2:
                change[name] = student_interval(change_Q, level=level)
        changes.append(change)
    return changes


# -------------------------------------------------------------------------------------------------------------- notes


def _shared_notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Collects the notes of the arms, each once; a note that is not about all arms gets their names."""
    notes = []
    for note in dict.fromkeys(note for e in evaluations for note in e.notes):
        who = [e.arm for e in evaluations if note in e.notes]
        notes.append(note if len(who) == len(evaluations) else f"{', '.join(who)}: {note}")
    return notes


def _matching_notes(differences: Sequence[Difference], problems: int) -> list[str]:
    notes = []
    for d in differences:
        matched = [row.problems for row in d.length if row.control == MATCHED]
        if not matched:
            notes.append(
                f"Length matching is refused: in most problems one of {d.arm} and {d.reference} has no samples of "
                "some lengths that the other has."
            )
        elif matched[0] < problems:
            notes.append(
                f"Length matching leaves out {problems - matched[0]} of {problems} problems, where one of {d.arm} and "
                f"{d.reference} has no samples of some lengths that the other has."
            )
    return notes


def _run_notes(differences: Sequence[Difference], level: float) -> list[str]:
    """Notes what the intervals cover besides problems, and which p the numbers of runs allow."""
    notes = []
    for d in differences:
        if max(d.runs) > 1 and d.run_p is None:
            notes.append(
                f"{d.arm}: one of the two arms has a single run, so the interval covers problems, not training runs."
            )
        elif d.run_p is not None:
            floor = 2 / comb(sum(d.runs), d.runs[0]) if d.runs[0] == d.runs[1] else 1 / comb(sum(d.runs), d.runs[0])
            corrected, arms = min(1.0, floor * len(differences)), len(differences)
            notes.append(
                f"{d.arm}: the interval covers problems and training runs ({d.runs[1]} and {d.runs[0]}); relabelling "
                f"that many runs cannot give a p below {floor:.2g}"
                + (f", {corrected:.2g} with Holm's correction for {arms} arms" if arms > 1 else "")
                + (", so that no difference could have been claimed." if corrected > 1 - level else ".")
            )
    if all(max(d.runs) == 1 for d in differences):
        notes.append("One run per arm: this compares these models, and says nothing about training them again.")
    return notes
