"""Compares arms, as `forkwise compare` does: paired differences, and whether they are evidence.

Suffixes: S runs (training seeds) of an arm, Q problems, K values of k.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError
from forkwise.passk.changes import find_changes
from forkwise.passk.crossing import find_crossing
from forkwise.passk.design import Design, make_design
from forkwise.passk.diversity import Embed, diversity
from forkwise.passk.estimator import curve_grid
from forkwise.passk.evaluation import Measured, measure, summarise
from forkwise.passk.intervals import Interval, check_level, default_resamples, student_interval, unseen
from forkwise.passk.length import default_budgets, default_caps, have_common_lengths
from forkwise.passk.length_differences import length_rows, matching_notes
from forkwise.passk.looks import nominal_alphas
from forkwise.passk.metrics import Metric, MetricOptions, compared_metrics
from forkwise.passk.notes import Note, note, shared_notes
from forkwise.passk.outcomes import Arm, check_ks, common_problems
from forkwise.passk.results import Comparison, Curve, Difference, Endpoint, Evaluation
from forkwise.passk.sampling_noise import difference_on_the_same
from forkwise.passk.two_way import Variation, joint_test

MARGIN = 0.05
"""Default equivalence margin: differences of Pass@K within ±0.05 count as none."""

CURVE = "curve"
"""As the primary endpoint, the mean of Pass@K over K = 1, 2, 4, ..., n."""


def compare(
    reference: Arm,
    *others: Arm,
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
    fixed: Collection[str] = (),
    paired_seeds: bool = False,
    primary: int | Literal["curve"] | None = None,
    looks: Sequence[float] = (),
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
        looks: shares of a planned study at which it was and is looked at, the last now: the error of `1 - level` is
            spent over them by `nominal_alphas`, and all intervals are at the level of this look.
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
    if looks:
        level = 1 - nominal_alphas(looks, 1 - level)[-1]
    paired = compared_metrics(metrics)
    arms, notes = common_problems(_comparable([reference, *others], margin), intersect=intersect)
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
    measured = [measure(arm, grid, MetricOptions(seed=seed), caps=caps, budgets=budgets) for arm in arms]
    evaluations = [summarise(m, level=level, resamples=resamples) for m in measured]
    notes += shared_notes((e.arm, e.notes) for e in evaluations)
    if len({arm.largest_k() for arm in arms}) > 1:
        notes.append(note("unequal n", largest=largest))

    differences = _differences(measured, evaluations, _Test(design, paired, margin, resamples, seed), primary)
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
    notes += _design_notes(arms, design)
    if looks:
        notes.append(note("look", look=len(looks), share=looks[-1], alpha=1 - level))
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

    design: Design
    paired: list[Metric]
    margin: float
    resamples: int
    seed: int

    def vary(self, arm: Measured, reference: Measured, metric: str) -> Variation:
        values = [m.curves[metric].values_SQK for m in (arm, reference)]
        return self.design.vary(arm.arm.name, values[0], reference.arm.name, values[1])


def _differences(
    measured: Sequence[Measured], evaluations: Sequence[Evaluation], test: _Test, primary: int | str | None
) -> list[Difference]:
    """Computes the differences of all arms from the first, judged together."""
    reference, *others = measured
    ks, level = reference.curves["pass@k"].ks, test.design.level
    variations = [test.vary(arm, reference, "pass@k") for arm in others]
    joint = joint_test(variations, resamples=test.resamples, seed=test.seed)
    endpoints = _endpoints(others, reference, test, variations, primary)
    differences = []
    for arm, evaluation, variation, endpoint in zip(others, evaluations[1:], variations, endpoints, strict=True):
        band = replace(variation.interval(joint.critical(level), level), resamples=test.resamples)
        inside = _equivalent(band, reference, test)
        upto = int(inside.argmin()) if not inside.all() else len(ks)
        draws_RK = variation.mean + variation.draws(test.resamples, test.seed)
        difference = Difference(
            arm.arm.name,
            reference.arm.name,
            ks,
            variation.pointwise(level),
            difference_on_the_same(evaluation.same_problems, evaluations[0].same_problems),
            band,
            variation.p(),
            joint.p(variation.scores()),
            (len(reference.arm.runs), len(arm.arm.runs)),
            (test.design.trained(reference.arm.name), test.design.trained(arm.arm.name)),
            find_crossing(ks, variation.mean, draws_RK, level),
            test.margin,
            ks[upto - 1] if upto else None,
            find_changes(arm.arm, reference.arm),
            endpoint,
            {
                metric.name: _paired(metric, arm, reference, test)
                for metric in test.paired
                if metric.name in arm.curves and metric.name in reference.curves
            },
        )
        differences.append(difference)
    return differences


def _endpoints(
    others: Sequence[Measured],
    reference: Measured,
    test: _Test,
    variations: Sequence[Variation],
    primary: int | str | None,
) -> list[Endpoint | None]:
    """Tests the primary endpoint of every arm, by itself but for the other arms."""
    if primary is None:
        return [None] * len(others)
    ks = reference.curves["pass@k"].ks
    if primary == CURVE:
        name, k, chosen = CURVE, ks[-1], [test.vary(arm, reference, CURVE) for arm in others]
    else:
        i = ks.index(int(primary))
        name, k, chosen = "pass@k", ks[i], [v.at(i) for v in variations]
    joint = joint_test(chosen, resamples=test.resamples, seed=test.seed)
    level = test.design.level
    endpoints: list[Endpoint | None] = []
    for variation in chosen:
        found = variation.interval(joint.critical(level), level)
        scalar = Interval(found.mean[0], found.low[0], found.high[0], level)
        p = float(joint.p(variation.scores())[0])
        endpoints.append(Endpoint(name, k, scalar, p, bool(_equivalent(found, reference, test)[0])))
    return endpoints


def _equivalent(band: Interval, reference: Measured, test: _Test) -> npt.NDArray[np.bool_]:
    """Says at which K the band lies within the margin, on problems enough for it.

    A share of the problems as large as the margin that differ wholly must not have gone unseen.
    """
    enough = unseen(len(reference.arm.problems), test.design.level) <= test.margin
    inside: npt.NDArray[np.bool_] = (band.low >= -test.margin) & (band.high <= test.margin) & enough
    return inside


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


# -------------------------------------------------------------------------------------------------------------- notes


def _design_notes(arms: Sequence[Arm], design: Design) -> list[Note]:
    """Notes what the intervals of differences cover, and what not."""
    trained = [arm for arm in arms if design.trained(arm.name)]
    notes = []
    if not trained:
        notes.append(note("all fixed", single=all(len(arm.runs) == 1 for arm in arms)))
    elif len(trained) < len(arms):
        notes.append(note("some fixed", fixed=[arm.name for arm in arms if not design.trained(arm.name)]))
    if trained:
        runs = [str(n) for n in dict.fromkeys(len(arm.runs) for arm in trained)]
        notes.append(note("covered", runs=runs, paired=design.seeds is not None))
    if design.cluster_Q is not None:
        sizes = np.bincount(design.cluster_Q)
        alone = int((sizes == 1).sum())
        notes.append(
            note("clusters of one") if sizes.max() == 1 else note("clusters", clusters=sizes.size, single=alone)
        )
    return notes
