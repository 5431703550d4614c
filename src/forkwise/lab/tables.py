"""The tables of an experiment as Markdown: Pass@K, paired differences, and what went with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from forkwise.lab.spec import Experiment, Results
from forkwise.passk import Difference, Interval, diversity, make_arm
from forkwise.passk.length import MATCHED
from forkwise.samples import read_samples
from forkwise.training.folder import read_metrics

KS = (1, 4, 16, 64, 256, 1024)
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


def markdown(folder: Path, experiment: Experiment, results: Results) -> str:
    """Pass@K and its spread over seeds, differences from the first arm, also at equal lengths, training, diversity."""
    ks = results.comparison.differences[0].ks
    shown = [i for i, k in enumerate(ks) if k in KS]
    names = [f"Pass@{ks[i]}" for i in shown]
    arms = [[e.arm, *(_cell(e.pass_at_k, e.ks.index(ks[i])) for i in shown)] for e in results.evaluations()]
    differences = [row for d in results.comparison.differences for row in _difference(d, shown)]
    parts = [
        f"{results.comparison.problems} problems x {experiment.samples} samples, {experiment.seeds} training seed(s) "
        f"per arm, {experiment.steps} steps. {results.verdict()}",
        _table("Pass@K, mean [95 % BCa over problems]", ["arm", *names], arms),
        _over_seeds(folder, experiment, [ks[i] for i in shown]),
        _table(
            f"Minus {results.comparison.reference}, paired: mean [95 % band, simultaneous over K and arms]",
            ["arm", *names],
            differences,
        ),
        _lengths(results.comparison.differences),
        _beside(folder, experiment, results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _over_seeds(folder: Path, experiment: Experiment, ks: Sequence[int]) -> str:
    if experiment.seeds < 2:
        return ""
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
        rows.append([arm.name, *(f"{sd:.3f}" for sd in by_run.std(axis=0, ddof=1))])
    return _table("Standard deviation of Pass@K over training seeds", ["arm", *(f"Pass@{k}" for k in ks)], rows)


def _difference(d: Difference, shown: Sequence[int]) -> list[list[str]]:
    rows = [[d.arm, *(_cell(d.band, i, "+") for i in shown)]]
    rows.append(["adjusted p over problems", *(f"{d.adjusted_p[i]:.3f}" for i in shown)])
    if d.run_p is not None:
        rows.append(["adjusted p over runs", *(f"{d.run_p[i]:.3f}" for i in shown)])
    return rows


def _lengths(differences: Sequence[Difference]) -> str:
    found = {(d.arm, row.k): row for d in differences for row in d.length if row.control == MATCHED}
    ks = sorted({k for _, k in found if k is not None})
    rows = [
        [
            d.arm,
            *(f"{r.difference:+.3f} [{r.low:+.3f}, {r.high:+.3f}]" if (r := found.get((d.arm, k))) else "" for k in ks),
        ]
        for d in differences
    ]
    title = (
        "The same at equal lengths: arm and reference each at its own and at the other's, averaged; pointwise intervals"
    )
    return _table(title, ["arm", *(f"Pass@{k}" for k in ks)], rows) if ks else ""


def _beside(folder: Path, experiment: Experiment, results: Results) -> str:
    runs = {"base": ["base"]}
    runs |= {arm.name: [arm.run(seed) for seed in range(experiment.seeds)] for arm in experiment.arms}
    varied = diversity([_texts(folder, name, names) for name, names in runs.items()])
    length = {e.arm: e.mean_length for e in results.evaluations()}
    rows = []
    for measured in varied:
        logs = [read_metrics(folder / "arms" / run) for run in runs[measured.arm]] if measured.arm != "base" else []
        row = [measured.arm, *(_over_runs([_end(log, key) for log in logs]) for key in _LOGGED.values())]
        row.append(_shift(logs))
        row.append(f"{length[measured.arm] or float('nan'):.1f}")
        row += [f"{np.nanmean(measured.values[name]):.3f}" for name in _MEASURES]
        row.append(_over_runs([_total(log, "num_tokens") / 1e6 for log in logs], 2))
        row.append(_over_runs([sum(float(r.get("step_time", 0)) for r in log) / 60 for log in logs], 1))
        rows.append(row)
    title = (
        f"Training (mean of the last {LAST} steps, ± sd over seeds), samples (diversity of the first "
        f"{varied[0].samples} per problem), and compute per run: millions of prompt and completion tokens, minutes"
    )
    note = (
        "dA/abs(A): `sum abs(change) / sum abs(A)` of the arm's methods; where it has several, of each. Minutes: "
        "rollouts and policy updates (TRL's `step_time`, so not the updates of a critic) on one thread, beside "
        "whatever else the machine was doing."
    )
    header = ["arm", *_LOGGED, "dA/abs(A)", "tokens per sample", *_MEASURES, "M tokens", "minutes"]
    return f"{_table(title, header, rows)}\n\n{note}"


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


def _cell(interval: Interval, i: int, sign: str = "") -> str:
    return f"{interval.mean[i]:{sign}.3f} [{interval.low[i]:{sign}.3f}, {interval.high[i]:{sign}.3f}]"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return f"**{title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
