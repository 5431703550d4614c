"""An experiment: arms x seeds from the embedded base model, sampled on the same problems and compared by Pass@K.

The folder of an experiment holds `settings.json`, the training runs in `arms/`, the samples table of every run in
`samples/`, and what was found: `summary.txt` and `.md`, `compare.json`, `compare.csv`, perhaps `explore/`, figures and
one HTML page.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.explore.command import run_explore
from forkwise.explore.options import ExploreOptions
from forkwise.folders import json_text, only_process, write_json, write_text
from forkwise.folders.results import write_result
from forkwise.folders.settings import is_new, read_settings, refuse_other
from forkwise.lab.arms import check, gpus, recipe, sample_runs, train, train_problems
from forkwise.lab.reuse import take
from forkwise.lab.spec import BASE, TASK, Experiment, Results
from forkwise.lab.tables import markdown
from forkwise.lab.traces import CLAUSES
from forkwise.passk import compare, evaluate, k_grid, load_arm
from forkwise.passk.design import FEWEST_RUNS
from forkwise.passk.files import COMPARE, read_results, result_file, write_csv
from forkwise.passk.length import default_budgets, default_caps, have_common_lengths, largest_budget
from forkwise.progress import Console, Meter
from forkwise.reading import parse_json
from forkwise.report.command import write_report
from forkwise.report.figures import training_figure
from forkwise.report.passk import FEW, details, overview
from forkwise.report.passk_figures import comparison_figure, save
from forkwise.report.table import Table
from forkwise.report.terminal import print_blocks, print_sentences, print_tables
from forkwise.tasks import Problem, load_task
from forkwise.terminal import complain
from forkwise.training.folder import check_folder, create_folder, read_metrics

EXPLORED = "explore"
"""Folder in which the exploration of the samples lies."""

_WIDE = 170  # columns of a terminal that has room for every K that is shown


def run(
    folder: Path,
    experiment: Experiment,
    *,
    jobs: int,
    resume: bool,
    reuse: Sequence[Path] = (),
    console: Console | None = None,
    flag: str = "--out",
    explore: bool = False,
) -> Results:
    """Trains the arms, samples base and arms, and writes the comparison into `folder`; every stage can be resumed.

    Args:
        explore: look also for behaviours and fork tokens in the samples of base and arms, those of the first seed.
        reuse: folders of other experiments; what they have of this one is copied (see `forkwise.lab.reuse`).

    Raises:
        InputError: the folder is in use (without `resume`) or holds another experiment, one of `reuse` holds none, or
            an arm failed.
    """
    console = console or Console()
    start = time.monotonic()
    check_folder(folder, resume=resume, mark="settings.json", flag=flag)
    if experiment.device == "cuda" and not gpus():
        raise InputError("There is no GPU that CUDA can use: give --device cpu.")
    # Refuse now, not after the training, what the task cannot give, and what would leave an arm untrained.
    for arm in experiment.arms:
        check(arm, experiment.steps)
        warmup = recipe(arm, 0, experiment.steps, folder).get("critic_warmup_steps", 0)
        if experiment.steps <= warmup:
            raise InputError(
                f"With {experiment.steps} steps the policy of '{arm.name}' would not learn: the first {warmup} are the "
                "critic's alone."
            )
    task = load_task(TASK)
    problems = task.problems(experiment.split, experiment.problems)
    task.problems("train", train_problems(experiment.steps))
    create_folder(folder)
    with only_process(folder, "running an experiment in"):
        results = _stages(folder, experiment, problems, jobs, reuse, console)
        if explore:
            _explore(folder, experiment)
        _write(folder, experiment, results, time.monotonic() - start, console)
    return results


def _stages(
    folder: Path,
    experiment: Experiment,
    problems: Sequence[Problem],
    jobs: int,
    reuse: Sequence[Path],
    console: Console,
) -> Results:
    _same_settings(folder / "settings.json", experiment)
    for other in reuse:
        taken = take(folder, experiment, other)
        console.print(f"from {other}: {', '.join(taken) or 'no training run'}", soft_wrap=True, markup=False)
    train(
        folder / "arms",
        experiment.arms,
        experiment.seeds,
        experiment.steps,
        jobs=jobs,
        console=console,
        device=experiment.device,
    )
    models = {BASE: str(EMBEDDED_MODEL)}
    models |= {arm.run(seed): str(folder / "arms" / arm.run(seed)) for arm, seed in experiment.runs()}
    sample_runs(
        folder / "samples",
        models,
        problems,
        experiment.samples,
        jobs=jobs,
        console=console,
        traces=experiment.traces,
        device=experiment.device,
    )
    with Meter(None, 0, console, "comparing (3 of 3)"):
        return analyse(folder, experiment)


def _explore(folder: Path, experiment: Experiment) -> None:
    """Writes `explore.json` about the samples of the base model and of each arm's first seed that have entropies."""
    runs = [runs[0] for runs in _runs(experiment).values()]
    tables = [folder / "samples" / run for run in runs]
    try:
        run_explore(ExploreOptions(tables, out=folder / EXPLORED, breaks=",".join(CLAUSES), only_exact=True))
    except InputError as error:
        complain(f"behaviours and fork tokens were not explored: {error}")


def _same_settings(file: Path, experiment: Experiment) -> None:
    try:
        wanted: dict[str, Any] = parse_json(json_text(asdict(experiment)))
    except (ValueError, TypeError) as error:
        raise InputError(f"The experiment has a setting that cannot be recorded ({error}): change it.") from error
    if is_new(file):
        write_json(file, wanted)
        return
    recorded = {"device": "cpu", **read_settings(file)}  # what there was before GPUs
    refuse_other(file, recorded, wanted, what="a run", remedy="give another --out")


def analyse(folder: Path, experiment: Experiment) -> Results:
    """Computes Pass@K of all and the comparison with the first arm, or reads them from a compare.json that fits."""
    runs = _runs(experiment)
    tables = [folder / "samples" / run for arm in runs.values() for run in arm]
    file = folder / COMPARE
    if file.exists():
        with suppress(InputError):  # damaged, or of another version: written again
            stored = read_results(file)
            fits = stored.is_about(tables, runs) and stored.settings == _settings(experiment)
            if fits and stored.comparison is not None and [e.arm for e in stored.single] == [BASE]:
                return Results(stored.single[0], stored.comparison, experiment.seeds)
    base_arm, *arms = (load_arm([folder / "samples" / run for run in arm], name=name) for name, arm in runs.items())
    ks = k_grid(experiment.samples)
    common = have_common_lengths([base_arm, *arms])
    caps, budgets = (default_caps(arms), default_budgets(arms)) if common else ([], [])
    fixed = [arm.name for arm in arms if len(arm.runs) < FEWEST_RUNS]
    comparison = compare(*arms, ks=ks, fixed=fixed, caps=caps, budgets=budgets)
    affordable = [budget for budget in budgets if budget <= largest_budget([base_arm])]
    results = Results(evaluate(base_arm, ks=ks, caps=caps, budgets=affordable), comparison, experiment.seeds)
    write_csv(folder / "compare.csv", [*results.base.rows(), *comparison.rows()])
    write_result(file, result_file(_settings(experiment), tables, results.verdict(), [results.base], comparison))
    return results


def _runs(experiment: Experiment) -> dict[str, list[str]]:
    """Returns the runs of the base model and of every arm."""
    return {BASE: [BASE]} | {arm.name: [arm.run(seed) for seed in range(experiment.seeds)] for arm in experiment.arms}


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Returns the options of `compare`; null is the default."""
    defaults = {"margin": None, "caps": None, "budgets": None, "level": None, "resamples": None, "seed": None}
    return {"arms": [arm.name for arm in experiment.arms], "k": k_grid(experiment.samples), **defaults}


def _write(folder: Path, experiment: Experiment, results: Results, seconds: float, console: Console) -> None:
    tables = overview(results.evaluations(), results.comparison)
    if len(experiment.arms) > 2 or experiment.seeds > 1:
        tables += [block for block in details([], results.comparison) if isinstance(block, Table)]
    notes = [f"- {note}" for note in results.comparison.notes]
    text = io.StringIO()
    print_blocks([results.verdict(), *tables, *notes], Console(width=_WIDE, file=text))
    write_text(folder / "summary.txt", text.getvalue())
    write_text(folder / "summary.md", markdown(folder, experiment, results))
    record = {"seconds": round(seconds, 1), "verdict": results.verdict(), "runs": _runs(experiment), "breaks": CLAUSES}
    write_json(folder / "results.json", {"settings": asdict(experiment), **record})

    caption = (
        f"{results.comparison.problems} held-out {TASK} problems x {experiment.samples} samples, T = 1; "
        f"{experiment.steps} steps, {experiment.seeds} seed(s)"
    )
    save(comparison_figure(results.comparison, beside=[results.base], caption=caption), folder / "passk.png")
    runs = _runs(experiment)
    logs = {name: [read_metrics(folder / "arms" / run) for run in runs[name]] for name in runs if name != BASE}
    save(training_figure(logs, arms=list(runs)), folder / "training.png")
    write_report([folder], folder / "report.html")
    print_sentences([results.verdict()], console)
    print_tables(overview(results.evaluations(), results.comparison, FEW if console.width >= _WIDE else 2), console)
    print_sentences([f"\nReport: {folder / 'report.html'}   ({seconds:.0f} s)"], console)
