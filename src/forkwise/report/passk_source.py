"""Where the Pass@K of a report comes from: a result file about the same samples, or else the samples themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from forkwise.errors import InputError
from forkwise.passk import Arm, Comparison, Evaluation, compare, evaluate, k_grid, load_arm
from forkwise.passk.design import FEWEST_RUNS
from forkwise.passk.files import ResultFile, read_results
from forkwise.passk.length import default_budgets, default_caps, have_common_lengths
from forkwise.report.passk_notes import sentences
from forkwise.report.sources import BASE, ReportSource, SampleArm


@dataclass(frozen=True)
class PasskNumbers:
    """Pass@K of the arms of a report.

    Attributes:
        evaluations: one for every arm.
        comparison: the comparison of the arms that are compared; None if none are.
        files: the result files that the numbers were read from.
        notes: what a reader must know.
    """

    evaluations: list[Evaluation]
    comparison: Comparison | None
    files: list[Path]
    notes: list[str]


def passk_numbers(sources: Sequence[ReportSource], arms: Sequence[SampleArm], experiment: bool) -> PasskNumbers:
    """Reads or computes Pass@K of the arms; without arms, reads what the result files are about.

    Args:
        experiment: the arms were trained side by side from one base model, which is not compared.

    Raises:
        InputError: a result file that was given as a RUN and is damaged.
    """
    notes: list[str] = []
    files = _result_files(sources, notes)
    if arms:
        tables, names = {path for arm in arms for path in arm.inputs}, [arm.name for arm in arms]
        outdated = [path for path, file in files.items() if not file.is_about(tables, names)]
        notes += [
            f"'{path}' is not about the samples that are here (they, or the names of the arms, are others), so Pass@K "
            "was computed again."
            for path in outdated
        ]
        files = {path: file for path, file in files.items() if path not in outdated}
    compared = [(path, file, file.comparison) for path, file in files.items() if file.comparison is not None]
    if compared:
        path, file, stored = compared[0]
        if len(compared) > 1:
            notes.append(f"A report shows one comparison, that of '{path}'; those of the other files are left out.")
        return PasskNumbers(file.evaluations, stored, [path], [*notes, *sentences(stored.notes)])
    evaluations = {e.arm: e for file in files.values() for e in file.evaluations}
    loaded = _load(arms, notes)
    comparison = None
    if loaded:
        evaluations, comparison = _compute(loaded, evaluations, experiment, notes)
    if comparison is not None:
        notes += sentences(comparison.notes)
    else:
        for e in evaluations.values():
            notes += [f"{e.arm}: {note}" if len(evaluations) > 1 else note for note in sentences(e.notes)]
    return PasskNumbers(list(evaluations.values()), comparison, list(files), notes)


def _result_files(sources: Sequence[ReportSource], notes: list[str]) -> dict[Path, ResultFile]:
    """Reads every result file of the sources; a damaged one that only lies beside samples becomes a note."""
    files = {}
    for path in (path for source in sources for path in source.results):
        try:
            files[path] = read_results(path)
        except InputError as error:
            if path in (source.path for source in sources):
                raise
            notes.append(str(error))
    return files


def _load(sample_arms: Sequence[SampleArm], notes: list[str]) -> list[Arm]:
    arms = []
    for sample_arm in sample_arms:
        try:
            arm = load_arm(list(sample_arm.tables), name=sample_arm.name, runs=sample_arm.runs)
        except InputError as error:
            notes.append(f"No Pass@K of {sample_arm.name}: {error}")
            continue
        if len(arm.problems) < 2:
            notes.append(f"No Pass@K of {sample_arm.name}: an interval needs at least two problems.")
            continue
        # Majority votes take long to simulate, and `forkwise passk` shows them.
        arms.append(replace(arm, answer_N=None))
    return arms


def _compute(
    arms: Sequence[Arm], stored: dict[str, Evaluation], experiment: bool, notes: list[str]
) -> tuple[dict[str, Evaluation], Comparison | None]:
    """Computes the evaluations that are not stored, and the comparison."""
    # An experiment adjusts its p-values for these k; the same k give the same p here.
    ks = k_grid(min(arm.largest_k() for arm in arms)) if experiment else None
    common = have_common_lengths(arms)
    caps = default_caps(arms) if common else ()
    budgets = default_budgets(arms) if common else ()
    compared = [arm for arm in arms if not (experiment and arm.name == BASE)]
    comparison = None
    if len(compared) > 1:
        try:
            fixed = [arm.name for arm in compared if len(arm.runs) < FEWEST_RUNS]
            comparison = compare(*compared, ks=ks, fixed=fixed, caps=caps, budgets=budgets, intersect=True)
        except InputError as error:
            notes.append(f"The arms are not compared: {error}")
    evaluations = {}
    for arm in arms:
        reusable = [
            e
            for e in (comparison.arms if comparison else ())
            if (e.arm, e.problems, e.ks[-1]) == (arm.name, len(arm.problems), arm.largest_k())
        ]
        # An arm that was compared on fewer problems or up to a smaller K has more to show.
        evaluations[arm.name] = stored.get(arm.name) or (
            reusable[0] if reusable else evaluate(arm, ks=ks, caps=caps, budgets=budgets)
        )
    return evaluations, comparison
