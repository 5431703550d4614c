"""Compares arms over several benchmarks: the mean over them, how often better, and in which order.

Every benchmark has the same weight, whatever its size. Problems are drawn within each benchmark; a training run is the
same run on all of them. Suffixes: B benchmarks, S runs, Q problems, G problems or clusters, K values of k, R draws,
A arms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from forkwise.errors import InputError
from forkwise.passk.benchmark_results import Benchmarks, OnBenchmark, effective
from forkwise.passk.design import design_notes, make_design, seed_order
from forkwise.passk.differences import CURVE, MARGIN, DifferenceSettings, Pair
from forkwise.passk.estimator import FloatArray, curve_grid, k_grid
from forkwise.passk.intervals import Interval, check_level, check_margin, default_resamples
from forkwise.passk.looks import look_level, look_note
from forkwise.passk.notes import Note, note
from forkwise.passk.ordering import ArmsOn, order_arms, vary_means
from forkwise.passk.outcomes import Arm, check_ks, common_problems
from forkwise.passk.results import Comparison, Curve, Evaluation
from forkwise.passk.sampling_noise import difference_on_the_same, same_problems, sampling_variance
from forkwise.passk.two_way import Stratum, Variation, joint_test, vary_over


def compare_over(
    benchmarks: Mapping[str, Sequence[Arm]],
    *,
    ks: Sequence[int] | None = None,
    fixed: Collection[str] = (),
    paired_seeds: bool = False,
    primary: int | Literal["curve"] | None = None,
    look_shares: Sequence[float] = (),
    intersect: bool = False,
    margin: float = MARGIN,
    level: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compares arms over several benchmarks: Pass@K is the mean over benchmarks, each of equal weight.

    The test is that of `compare`, with problems drawn within each benchmark, and runs (training seeds) that are the
    same on all of them. Beside it stand the differences on each benchmark, under one band; the probability of
    improvement (Agarwal et al. 2021, arXiv 2108.13264); and the place of every arm.

    Args:
        benchmarks: for each the same arms by name, the reference first.
        primary: also what improvements and places are about; without it they are at K = 1 and the largest K.
        ks, fixed, paired_seeds, look_shares, intersect, margin, level, resamples, seed: as for `compare`.

    Raises:
        InputError: as for `compare`; fewer than two benchmarks, other arms on one than on another, or runs that do not
            correspond.
    """
    check_level(level)
    check_margin(margin)
    if look_shares:
        level = look_level(look_shares, level)
    sets, notes = _sets(benchmarks, fixed, paired_seeds, intersect, level)
    everything = [arm for one in sets for arm in one.arms]
    largest = min(arm.largest_k() for arm in everything)
    grid = curve_grid(largest) if ks is None else check_ks(everything, ks)
    if primary is not None and primary != CURVE:
        grid = check_ks(everything, [*grid, int(primary)])
    sizes = [len(one.arms[0].problems) for one in sets]
    resamples = default_resamples(sum(sizes)) if resamples is None else resamples
    equal_weight = effective([one.design.effective(size) for one, size in zip(sets, sizes, strict=True)])
    judge = DifferenceSettings(level, margin, equal_weight, resamples, seed, largest)
    values = [one.values(grid) for one in sets]
    curve = [[x.mean(axis=2, keepdims=True) for x in one.values(k_grid(largest))] for one in sets]
    evaluations = [_evaluate(sets, values, i, grid, level) for i in range(len(sets[0].arms))]

    pairs = []
    for i, evaluation in enumerate(evaluations[1:], start=1):
        endpoint = None
        variation = vary_means(sets, values, i, 0)
        if primary is not None:
            endpoint = vary_means(sets, curve, i, 0) if primary == CURVE else variation.at(grid.index(int(primary)))
        pairs.append(_pair(sets, i, variation, endpoint, evaluation, evaluations[0]))
    differences = judge.differences(grid, pairs, primary)
    chosen = [largest] if primary == CURVE else [int(primary)] if primary is not None else sorted({1, grid[-1]})
    scores = curve if primary == CURVE else [[x[:, :, [grid.index(k) for k in chosen]] for x in one] for one in values]
    over_benchmarks = Benchmarks(
        [one.name for one in sets],
        sizes,
        [min(arm.largest_k() for arm in one.arms) for one in sets],
        _on_each(sets, values, grid, judge),
        CURVE if primary == CURVE else "pass@k",
        *order_arms(sets, scores, chosen, judge),
    )
    notes += _notes(sets, over_benchmarks, largest) + ([look_note(look_shares, level)] if look_shares else [])
    unit = evaluations[0].length_unit
    reference = evaluations[0].arm
    return Comparison(
        reference, evaluations, differences, sum(sizes), equal_weight, level, unit, notes, over_benchmarks
    )


# ------------------------------------------------------------------------------------------------------------- reading


def _sets(
    benchmarks: Mapping[str, Sequence[Arm]], fixed: Collection[str], paired: bool, intersect: bool, level: float
) -> tuple[list[ArmsOn], list[Note]]:
    if len(benchmarks) < 2:
        raise InputError("Give at least two benchmarks, or compare the tables of the one without its name.")
    first = next(iter(benchmarks))
    names = [arm.name for arm in benchmarks[first]]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError("A comparison needs at least two arms, of different names.")
    sets: list[ArmsOn] = []
    notes: list[Note] = []
    for benchmark, compared in benchmarks.items():
        by_name = {arm.name: arm for arm in compared}
        if set(by_name) != set(names):
            raise InputError(
                f"'{first}' has the arms {', '.join(names)} and '{benchmark}' has {', '.join(sorted(by_name))}: every "
                "arm needs samples of every benchmark."
            )
        try:
            arms, dropped = common_problems([by_name[name] for name in names], intersect=intersect)
            design = make_design(arms, fixed, paired, level)
        except InputError as error:
            raise InputError(f"On {benchmark}: {error}") from error
        about = [(benchmark, dropped), *((f"{benchmark}, {arm.name}", arm.notes) for arm in arms)]
        notes += [replace(one, arms=[name]) for name, of_arm in about for one in of_arm]
        sets.append(ArmsOn(benchmark, arms, design))
    for i, name in enumerate(names):
        of_arm = {one.name: one.arms[i] for one in sets if one.design.trained(name)}
        if not of_arm:
            continue
        if len(of_arm) < len(sets):
            raise InputError(f"'{name}' has several runs on {next(iter(of_arm))} and not on all benchmarks: give all.")
        for benchmark, arm in _corresponding(name, of_arm, paired).items():
            next(one for one in sets if one.name == benchmark).arms[i] = arm
    return sets, notes


def _corresponding(name: str, arms: Mapping[str, Arm], paired: bool) -> dict[str, Arm]:
    """Brings the runs of an arm into one order on all benchmarks: by their names, or by the seeds that these end in.

    Where seeds are paired, the designs do so.
    """
    if len({arm.runs for arm in arms.values()}) == 1:
        return dict(arms)
    try:
        orders = seed_order([replace(arm, name=benchmark) for benchmark, arm in arms.items()])
    except InputError as error:
        runs = "; ".join(f"{benchmark}: {', '.join(arm.runs)}" for benchmark, arm in arms.items())
        raise InputError(
            f"The runs of '{name}' do not correspond ({runs}): a run needs the same name on every benchmark, or one "
            "that ends in the same seed."
        ) from error
    if paired:
        return dict(arms)
    return {benchmark: arm.reordered(orders[benchmark]) for benchmark, arm in arms.items()}


# ------------------------------------------------------------------------------------------------------------ numbers


def _pair(
    sets: Sequence[ArmsOn],
    i: int,
    variation: Variation,
    endpoint: Variation | None,
    evaluation: Evaluation,
    reference: Evaluation,
) -> Pair:
    design = sets[0].design
    return Pair(
        evaluation.arm,
        reference.arm,
        (reference.runs, evaluation.runs),
        (design.trained(reference.arm), design.trained(evaluation.arm)),
        variation,
        difference_on_the_same(evaluation.same_problems, reference.same_problems),
        endpoint,
    )


def _evaluate(
    sets: Sequence[ArmsOn], values: Sequence[Sequence[FloatArray]], i: int, ks: list[int], level: float
) -> Evaluation:
    """Evaluates an arm in the mean over benchmarks, with Student t intervals over the problems of each."""
    arms, b = [one.arms[i] for one in sets], len(sets)
    arm_counts = [arm.counts() for arm in arms]

    def interval(of_each: Sequence[FloatArray]) -> Interval:
        fixed = [x.mean(axis=0, keepdims=True) for x in of_each]
        strata = [
            Stratum(x, np.zeros_like(x), one.design.cluster_Q, f"problems of {one.name}")
            for x, one in zip(fixed, sets, strict=True)
        ]
        pointwise = vary_over(strata, level=level).pointwise(level)
        return replace(pointwise, low=np.maximum(pointwise.low, 0.0))

    passed = interval([x[i] for x in values])
    means = interval([(c / n)[:, :, None] for n, c in arm_counts])
    alone = [
        same_problems(x[i].mean(axis=(0, 1)), sampling_variance(n, c, ks), n, c, ks, level)
        for x, (n, c) in zip(values, arm_counts, strict=True)
    ]
    low, high = (
        np.sqrt(sum((s.mean - end) ** 2 for s, end in zip(alone, ends, strict=True))) / b
        for ends in ([s.low for s in alone], [s.high for s in alone])
    )
    unit = arms[0].length_unit if len({arm.length_unit for arm in arms}) == 1 else ""
    lengths = [float(arm.length_N.mean()) for arm in arms if arm.length_N is not None]
    return Evaluation(
        arms[0].name,
        max(len(arm.runs) for arm in arms),
        sum(len(arm.problems) for arm in arms),
        (min(arm.largest_k() for arm in arms), max(int(n.max()) for n, _ in arm_counts)),
        {
            "mean@n": Curve("mean@n", "mean@n", [ks[-1]], means, shown=False),
            "pass@k": Curve("pass@k", "Pass@K", ks, passed),
        },
        float(np.mean(lengths)) if unit and len(lengths) == b else None,
        unit,
        None,
        [],
        {},
        None,
        Interval(passed.mean, np.maximum(passed.mean - low, 0.0), np.minimum(passed.mean + high, 1.0), level),
        [],
    )


def _on_each(
    sets: Sequence[ArmsOn], values: Sequence[Sequence[FloatArray]], ks: list[int], judge: DifferenceSettings
) -> list[OnBenchmark]:
    """Judges the differences on each benchmark: all benchmarks, arms and K by one test."""
    places = [(b, i) for b in range(len(sets)) for i in range(1, len(sets[0].arms))]
    variations = [vary_means([sets[b]], [values[b]], i, 0) for b, i in places]
    joint = joint_test(variations, resamples=judge.resamples, seed=judge.seed)
    return [
        OnBenchmark(
            sets[b].name,
            len(sets[b].arms[0].problems),
            sets[b].arms[i].name,
            sets[b].arms[0].name,
            ks,
            values[b][i].mean(axis=(0, 1)),
            values[b][0].mean(axis=(0, 1)),
            variation.pointwise(judge.level),
            variation.interval(joint.critical(judge.level), judge.level),
            joint.p(variation.scores()),
        )
        for (b, i), variation in zip(places, variations, strict=True)
    ]


# -------------------------------------------------------------------------------------------------------------- notes


def _notes(sets: Sequence[ArmsOn], benchmarks: Benchmarks, largest: int) -> list[Note]:
    sizes = [f"{name} {number}" for name, number in zip(benchmarks.names, benchmarks.problems, strict=True)]
    notes = [note("benchmarks", benchmarks=len(sets), sizes=sizes)]
    if len(set(benchmarks.samples)) > 1:
        notes.append(note("benchmarks of unequal n", largest=largest))
    for one in sets:
        notes += [new for new in design_notes(one.arms, one.design) if new not in notes]
    return notes
