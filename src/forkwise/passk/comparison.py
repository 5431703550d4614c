"""Compares arms, as `forkwise compare` does: paired differences, and whether they are evidence.

Suffixes: S runs (training seeds) of an arm, Q problems, K values of k.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from forkwise.errors import InputError
from forkwise.passk.changes import find_changes
from forkwise.passk.design import ComparisonDesign, design_notes, make_design
from forkwise.passk.differences import CURVE, MARGIN, DifferenceSettings, Pair
from forkwise.passk.diversity import Embed, diversity
from forkwise.passk.estimator import curve_grid
from forkwise.passk.evaluation import Measured, measure, summarise
from forkwise.passk.intervals import Interval, check_level, check_margin, default_resamples, student_interval
from forkwise.passk.length import default_budgets, default_caps, have_common_lengths
from forkwise.passk.length_differences import length_rows, matching_notes
from forkwise.passk.looks import look_level, look_note
from forkwise.passk.metrics import Metric, MetricOptions, compared_metrics
from forkwise.passk.notes import note, shared_notes
from forkwise.passk.outcomes import Arm, check_ks, common_problems
from forkwise.passk.results import Comparison, Curve, Evaluation
from forkwise.passk.sampling_noise import difference_on_the_same
from forkwise.passk.two_way import Variation


def compare(
    reference: Arm,
    *others: Arm,
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
    fixed: Collection[str] = (),
    paired_seeds: bool = False,
    primary: int | Literal["curve"] | None = None,
    look_shares: Sequence[float] = (),
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

    One test decides: the largest |t| over all K and arms, where t is studentised by a standard error over problems and
    over the runs (training seeds) of each arm that has several. Its adjusted p is at most `1 - level` exactly where the
    band excludes 0. With one run per arm everything is about these very models on problems like these.

    Args:
        reference, others: arms over the same problems; each other arm is compared with the reference.
        ks: where to compare; `None` is `curve_grid(n)`. p-values and bands are adjusted for all of them.
        metrics: names of the statistics to pair besides Pass@K; `None` takes those that are declared so.
        fixed: arms that are these very models, such as a base model: training them again is not asked about.
        paired_seeds: runs of all arms share seeds (the last numbers in their names), problems and their order.
        primary: the one K, or `"curve"`, that was named beforehand: it is tested by itself, the rest is exploratory.
            The curve is the mean over K = 1, 2, 4, ... up to the largest that all arms have, whatever `ks` are.
        look_shares: shares of a planned study at which it was and is looked at, the last now: the error of `1 - level`
            is spent over them by `nominal_alphas`, and all intervals are at the level of this look.
        intersect: compare on the shared problems where the sets differ, and say what was dropped.
        margin: differences within ±margin count as equivalent. Two arms are called so where the simultaneous band lies
            within it, which is stricter than two one-sided tests at the same level, and where there are problems enough
            to notice a share of that size that differs.
        caps, budgets: lengths for the length control; `None` chooses them from the samples.
        texts: also compare the diversity of the texts.
        embed: turns texts into vectors, for the diversity of these (with `texts`).
        level, resamples, seed: of the intervals.

    Raises:
        InputError: one arm only, arms of one name, problem sets that differ, a k above the samples of some problem, no
            such statistic, fewer than three runs of an arm that is not fixed, or seeds that do not pair.
    """
    check_level(level)
    check_margin(margin)
    if look_shares:
        level = look_level(look_shares, level)
    paired = compared_metrics(metrics)
    arms, notes = common_problems(_comparable([reference, *others]), intersect=intersect)
    design = make_design(arms, fixed, paired_seeds, level)
    largest = min(arm.largest_k() for arm in arms)
    grid = curve_grid(largest) if ks is None else check_ks(arms, ks)
    if primary is not None and primary != CURVE:
        grid = check_ks(arms, [*grid, int(primary)])
    problems = len(arms[0].problems)
    resamples = default_resamples(problems) if resamples is None else resamples
    common = have_common_lengths(arms)
    caps = () if not common else default_caps(arms) if caps is None else caps
    budgets = () if not common else default_budgets(arms) if budgets is None else budgets
    options = MetricOptions(seed=seed)
    measured = [measure(arm, grid, options, caps=caps, budgets=budgets, largest=largest) for arm in arms]
    evaluations = [summarise(m, level=level, resamples=resamples) for m in measured]
    notes += shared_notes((e.arm, e.notes) for e in evaluations)
    if len({arm.largest_k() for arm in arms}) > 1:
        notes.append(note("unequal n", largest=largest))

    test = _Test(
        design, paired, DifferenceSettings(level, margin, design.effective(problems), resamples, seed, largest)
    )
    pairs = [
        _pair(m, measured[0], (e, evaluations[0]), test, primary)
        for m, e in zip(measured[1:], evaluations[1:], strict=True)
    ]
    differences = test.judge.differences(measured[0].curves["pass@k"].ks, pairs, primary)
    if common:
        controlled = length_rows(measured, design, resamples=resamples, seed=seed)
        differences = [replace(d, length=rows) for d, rows in zip(differences, controlled, strict=True)]
        notes += matching_notes(differences, problems)
    else:
        notes.append(note("no common length"))
    if texts:
        if embed is not None:
            notes.append(note("embeddings"))
        if max(len(arm.runs) for arm in arms) > 1:
            notes.append(note("diversity and runs"))
        changes = _diversity_differences(arms, embed, level)
        differences = [replace(d, diversity=change) for d, change in zip(differences, changes, strict=True)]
    notes += design_notes(arms, design)
    if look_shares:
        notes.append(look_note(look_shares, level))
    unit = arms[0].length_unit if len({arm.length_unit for arm in arms}) == 1 else ""
    return Comparison(
        reference.name, evaluations, differences, problems, design.effective(problems), level, unit, notes
    )


def _comparable(arms: list[Arm]) -> list[Arm]:
    if len(arms) < 2:
        raise InputError("A comparison needs at least two arms.")
    if len({arm.name for arm in arms}) < len(arms):
        raise InputError("Two arms have the same name: name them apart, as in NAME=PATH.")
    return arms


# --------------------------------------------------------------------------------------------------------- statistics


@dataclass(frozen=True)
class _Test:
    """What is paired besides Pass@K, and how differences vary and are judged."""

    design: ComparisonDesign
    paired: list[Metric]
    judge: DifferenceSettings

    def vary(self, arm: Measured, reference: Measured, metric: str) -> Variation:
        values = [m.curves[metric].values_SQK for m in (arm, reference)]
        return self.design.vary(arm.arm.name, values[0], reference.arm.name, values[1])


def _pair(
    arm: Measured,
    reference: Measured,
    evaluations: tuple[Evaluation, Evaluation],
    test: _Test,
    primary: int | str | None,
) -> Pair:
    variation = test.vary(arm, reference, "pass@k")
    endpoint = None
    if primary == CURVE:
        endpoint = test.vary(arm, reference, CURVE)
    elif primary is not None:
        endpoint = variation.at(reference.curves["pass@k"].ks.index(int(primary)))
    return Pair(
        arm.arm.name,
        reference.arm.name,
        (len(reference.arm.runs), len(arm.arm.runs)),
        (test.design.trained(reference.arm.name), test.design.trained(arm.arm.name)),
        variation,
        difference_on_the_same(evaluations[0].same_problems, evaluations[1].same_problems),
        endpoint,
        find_changes(arm.arm, reference.arm),
        {
            metric.name: _paired(metric, arm, reference, test)
            for metric in test.paired
            if metric.name in arm.curves and metric.name in reference.curves
        },
    )


def _paired(metric: Metric, arm: Measured, reference: Measured, test: _Test) -> Curve:
    """Computes the paired difference of a statistic; arms have the same K, unless the statistic is taken at n."""
    arm_curve, reference_curve = arm.curves[metric.name], reference.curves[metric.name]
    interval = test.vary(arm, reference, metric.name).pointwise(test.design.level)
    error = None
    if arm_curve.error_K is not None and reference_curve.error_K is not None:
        error = np.hypot(arm_curve.error_K, reference_curve.error_K)
    return Curve(*metric.labels(arm.options), np.minimum(arm_curve.ks, reference_curve.ks).tolist(), interval, error)


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
