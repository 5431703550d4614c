"""An experiment: arms x seeds from the embedded base model, sampled on the same problems and compared by Pass@K.

The folder of an experiment holds `settings.json`, the training runs in `arms/`, the samples table of every run in
`samples/`, and what was found: `summary.txt` and `.md`, `comparison.json`, `comparison.csv`, figures and one HTML page.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.folders import json_text, only_process, write_json, write_text
from forkwise.lab.arms import check, gpus, recipe, sample, train, train_problems
from forkwise.lab.reuse import take
from forkwise.lab.spec import BASE, TASK, Experiment, Results
from forkwise.lab.tables import markdown
from forkwise.lab.traces import CLAUSES
from forkwise.passk import Arm, Interval, compare, evaluate, k_grid, load_arm, output
from forkwise.passk.figures import comparison_figure, save
from forkwise.passk.output import comparison_content, print_comparison, write_csv
from forkwise.progress import Console, Meter
from forkwise.reading import parse_json
from forkwise.report import training_figure, write_report
from forkwise.tasks import Problem, load_task
from forkwise.training.folder import check_folder, create_folder, read_metrics


def run(
    folder: Path,
    experiment: Experiment,
    *,
    jobs: int,
    resume: bool,
    reuse: Sequence[Path] = (),
    console: Console | None = None,
    flag: str = "--out",
) -> Results:
    """Trains the arms, samples base and arms, and writes the comparison into `folder`; every stage can be resumed.

    Args:
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
        return _stages(folder, experiment, problems, start, jobs, reuse, console)


def _stages(
    folder: Path,
    experiment: Experiment,
    problems: Sequence[Problem],
    start: float,
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
    sample(
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
        results = analyse(folder, experiment)
    _write(folder, experiment, results, time.monotonic() - start, console)
    return results


def _same_settings(file: Path, experiment: Experiment) -> None:
    try:
        wanted: dict[str, Any] = parse_json(json_text(asdict(experiment)))
    except (ValueError, TypeError) as error:
        raise InputError(f"The experiment has a setting that cannot be recorded ({error}): change it.") from error
    if not file.exists():
        write_json(file, wanted)
        return
    try:
        there = dict(parse_json(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"'{file}' cannot be read ({error}): restore it, or give another --out.") from error
    found = {"device": "cpu", **there}  # what there was before GPUs
    if found != wanted:
        changed = ", ".join(f"{k} {found.get(k)} -> {v}" for k, v in wanted.items() if found.get(k) != v)
        raise InputError(f"'{file.parent}' holds a run with other settings ({changed}): give another --out.")


def analyse(folder: Path, experiment: Experiment) -> Results:
    """Pass@K of base and arms from the stored samples, and the paired comparison of the arms with the first."""
    ks = k_grid(experiment.samples)
    arms = [
        _load(arm.name, [folder / "samples" / arm.run(seed) for seed in range(experiment.seeds)])
        for arm in experiment.arms
    ]
    base = evaluate(_load(BASE, [folder / "samples" / BASE]), ks=ks, caps=(), budgets=())
    return Results(base, compare(*arms, ks=ks), experiment.seeds)


def _load(name: str, folders: Sequence[Path]) -> Arm:
    return load_arm([str(folder) for folder in folders], name=name)


# ------------------------------------------------------------------------------------------------------------ output


def cells(results: Results, wanted: Sequence[int] = (1, 4, 16, 64)) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table, at the wanted k and the largest one."""
    ks = results.base.ks
    shown = [i for i, k in enumerate(ks) if k in wanted or i == len(ks) - 1]
    header = ["", *(f"Pass@{ks[i]}" for i in shown), "tokens"]

    def row(name: str, interval: Interval, sign: str, tokens: float | None) -> list[str]:
        numbers = [
            f"{interval.mean[i]:{sign}.3f} [{interval.low[i]:{sign}.3f}, {interval.high[i]:{sign}.3f}]" for i in shown
        ]
        return [name, *numbers, f"{tokens:{sign}.1f}" if tokens is not None else ""]

    length = {e.arm: e.mean_length or float("nan") for e in results.evaluations()}
    rows = [row(e.arm, e.pass_at_k, "", length[e.arm]) for e in results.evaluations()]
    for d in results.comparison.differences:
        rows.append(row(f"{d.arm} - {d.reference}", d.interval, "+", length[d.arm] - length[d.reference]))
        rows.append(["  adjusted p, problems", *(f"{d.adjusted_p[i]:.3f}" for i in shown), ""])
        if d.run_p is not None:
            rows.append(["  adjusted p, runs", *(f"{d.run_p[i]:.3f}" for i in shown), ""])
    return header, rows


def _table(header: list[str], rows: list[list[str]]) -> Table:
    table = Table(title="Pass@K on held-out problems, mean [95 % interval]")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=bool(i))
    for row in rows:
        table.add_row(*row)
    return table


def _write(folder: Path, experiment: Experiment, results: Results, seconds: float, console: Console) -> None:
    header, rows = cells(results)
    wide = Console(width=170, record=True, file=io.StringIO())
    wide.print(_table(header, rows))
    wide.print(results.verdict(), soft_wrap=True, markup=False)  # "[before 1, 7]" is no markup
    if len(experiment.arms) > 2 or experiment.seeds > 1:
        print_comparison(results.comparison, wide)
    write_text(folder / "summary.txt", wide.export_text())
    write_text(folder / "summary.md", markdown(folder, experiment, results))
    output.write_json(folder / "comparison.json", comparison_content(results.comparison))
    write_csv(folder / "comparison.csv", [*results.base.rows(), *results.comparison.rows()])
    runs = {BASE: [BASE]} | {arm.name: [arm.run(seed) for seed in range(experiment.seeds)] for arm in experiment.arms}
    found = {"seconds": round(seconds, 1), "verdict": results.verdict(), "runs": runs, "breaks": CLAUSES}
    write_json(folder / "results.json", {"settings": asdict(experiment), **found})

    caption = (
        f"{results.comparison.problems} held-out {TASK} problems x {experiment.samples} samples, T = 1; "
        f"{experiment.steps} steps, {experiment.seeds} seed(s)"
    )
    passk = comparison_figure(results.comparison, beside=[results.base], caption=caption)
    training = training_figure(
        {
            arm.name: [read_metrics(folder / "arms" / arm.run(seed)) for seed in range(experiment.seeds)]
            for arm in experiment.arms
        }
    )
    save(passk, folder / "passk.png")
    save(training, folder / "training.png")
    write_report([folder], folder / "report.html")
    console.print(_table(*(cells(results) if console.width >= 150 else cells(results, (1,)))))
    console.print(results.verdict(), soft_wrap=True, markup=False)
    console.print(f"\nReport: {folder / 'report.html'}   ({seconds:.0f} s)", soft_wrap=True)
