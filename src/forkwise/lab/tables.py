"""The tables of an experiment as Markdown: Pass@K, paired differences, and what went with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from forkwise.lab.spec import Experiment, Results
from forkwise.passk import diversity, make_arm
from forkwise.passk.estimator import shown_ks
from forkwise.report.formats import number
from forkwise.report.markdown import markdown_table, paragraph
from forkwise.report.passk import FEW, matched, overview
from forkwise.report.table import Table, filled
from forkwise.samples import read_samples
from forkwise.training.folder import read_metrics

LAST = 10  # training steps averaged
TEXTS = 64  # samples per problem whose texts are compared: self-BLEU and distinct texts depend on the number
_MEASURES = ("distinct-3", "self-BLEU", "distinct correct texts")
_LOGGED = {
    "entropy (nats)": "entropy",
    "psi/abs(A)": "shaping/psi_over_adv",
    "capped": "shaping/capped_frac",
    "ratio clipped": "clip_ratio/region_mean",
}
_SHIFT = re.compile("method/.+/shift")
_NOTE = (
    "dA/abs(A): `sum abs(change) / sum abs(A)` of the arm's methods; where it has several, of each. Minutes: "
    "rollouts and policy updates (TRL's `step_time`, so not the updates of a critic) on one thread, beside "
    "whatever else the machine was doing."
)


def markdown(folder: Path, experiment: Experiment, results: Results) -> str:
    """Writes Pass@K and its spread over seeds, differences (also at equal lengths), training, diversity."""
    summary = (
        f"{results.comparison.problems} problems x {experiment.samples} samples, {experiment.seeds} training seed(s) "
        f"per arm, {experiment.steps} steps. {results.verdict()}"
    )
    tables = [
        *overview(results.evaluations(), results.comparison),
        *_over_seeds(folder, experiment, shown_ks(results.comparison.differences[0].ks, FEW)),
        *matched(results.comparison),
        *_beside(folder, experiment, results),
    ]
    return "\n\n".join([paragraph(summary), *map(markdown_table, tables), _NOTE]) + "\n"


def _over_seeds(folder: Path, experiment: Experiment, ks: Sequence[int]) -> list[Table]:
    if experiment.seeds < 2:
        return []
    rows = []
    for arm in experiment.arms:
        tables = [
            read_samples(folder / "samples" / arm.run(seed), ["run", "problem_id", "correct"])
            for seed in range(experiment.seeds)
        ]
        run, problem, correct = (
            [x for table in tables for x in table[key].to_pylist()] for key in ("run", "problem_id", "correct")
        )
        by_run = make_arm(arm.name, problem, correct, run=run).curves(ks).mean(axis=1)
        rows.append([arm.name, *map(number, by_run.std(axis=0, ddof=1))])
    return filled("Standard deviation of Pass@K over training seeds", ["arm", *(f"Pass@{k}" for k in ks)], rows)


def _beside(folder: Path, experiment: Experiment, results: Results) -> list[Table]:
    runs = {"base": ["base"]}
    runs |= {arm.name: [arm.run(seed) for seed in range(experiment.seeds)] for arm in experiment.arms}
    varied = diversity([_texts(folder, name, names) for name, names in runs.items()])
    length = {e.arm: e.mean_length for e in results.evaluations()}
    rows = []
    for measured in varied:
        logs = [read_metrics(folder / "arms" / run) for run in runs[measured.arm]] if measured.arm != "base" else []
        row = [measured.arm, *(_over_runs([_end(log, key) for log in logs]) for key in _LOGGED.values())]
        row.append(_shift(logs))
        row.append(number(length[measured.arm], 1))
        row += [number(float(np.nanmean(measured.values[name]))) for name in _MEASURES]
        row.append(_over_runs([_total(log, "num_tokens") / 1e6 for log in logs], 2))
        row.append(_over_runs([sum(float(r.get("step_time", 0)) for r in log) / 60 for log in logs], 1))
        rows.append(row)
    title = (
        f"Training (mean of the last {LAST} steps, ± sd over seeds), samples (diversity of the first "
        f"{varied[0].samples} per problem), and compute per run: millions of prompt and completion tokens, minutes"
    )
    header = ["arm", *_LOGGED, "dA/abs(A)", "tokens per sample", *_MEASURES, "M tokens", "minutes"]
    return [Table(title, header, rows)]


def _shift(logs: Sequence[Sequence[dict[str, Any]]]) -> str:
    keys = dict.fromkeys(key for log in logs for row in log for key in row if _SHIFT.fullmatch(key))
    return ", ".join(_over_runs([_end(log, key) for log in logs]) for key in keys)


def _texts(folder: Path, name: str, runs: Sequence[str]) -> Any:
    columns: dict[str, list[Any]] = {key: [] for key in ("run", "problem_id", "correct", "completion")}
    for run in runs:
        table = read_samples(folder / "samples" / run, [*columns, "sample_id"])
        table = table.filter(pc.less(table["sample_id"], TEXTS))
        for key in columns:
            columns[key] += table[key].to_pylist()
    return make_arm(
        name, columns["problem_id"], columns["correct"], run=columns["run"], completion=columns["completion"]
    )


def _end(log: Sequence[dict[str, Any]], key: str) -> float:
    values = [row[key] for row in log if key in row][-LAST:]
    return float(np.mean(values)) if values else float("nan")


def _total(log: Sequence[dict[str, Any]], key: str) -> float:
    return max((float(row[key]) for row in log if key in row), default=float("nan"))


def _over_runs(values: Sequence[float], digits: int = 3) -> str:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return ""
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"
