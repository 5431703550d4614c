"""Terminal tables, JSON and CSV of evaluations and comparisons."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from forkwise import folders
from forkwise.folders import json_text, write_text
from forkwise.passk.comparison import Comparison, Difference
from forkwise.passk.estimator import k_grid
from forkwise.passk.evaluation import Evaluation
from forkwise.passk.intervals import Interval
from forkwise.passk.length import BUDGET, CAP, MATCHED
from forkwise.progress import Console
from forkwise.terminal import echo

COLUMNS = [
    *("arm", "reference", "metric", "k", "at", "value", "low", "high", "band_low", "band_high"),
    *("p", "adjusted_p", "run_p", "problems", "effective_n", "of_reference", "of_arm", "error"),
]
"""Columns of the CSV; a row leaves empty what does not apply to it."""


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One line per number, at full precision."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Valid JSON (infinite bounds become null); to the standard output if `path` is `-`."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    content = {**content, "rows": [{key: finite(value) for key, value in row.items()} for row in content["rows"]]}
    if str(path) == "-":
        echo(json_text(content), end="")
    else:
        folders.write_json(path, content)


def evaluations_content(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """What `forkwise passk --json` holds."""
    arms = [{"arm": e.arm, "runs": e.runs, "problems": e.problems, "samples": e.samples} for e in evaluations]
    notes = {e.arm: e.notes for e in evaluations}
    return {"arms": arms, "notes": notes, "rows": [row for e in evaluations for row in e.rows()]}


def comparison_content(comparison: Comparison) -> dict[str, Any]:
    """What `forkwise compare --json` holds."""
    return {
        "sentence": comparison.sentence,
        "reference": comparison.reference,
        "problems": comparison.problems,
        "level": comparison.level,
        "notes": comparison.notes,
        "rows": comparison.rows(),
    }


def _cell(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _at(interval: Interval, i: int, sign: str = "") -> str:
    return _cell(float(interval.mean[i]), float(interval.low[i]), float(interval.high[i]), sign)


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table()
    for i, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
    console.print(table)


def _shown(ks: Sequence[int]) -> list[int]:
    """Positions of the k that a terminal has room for: powers of two, and the last; all of a short list."""
    return [i for i, k in enumerate(ks) if len(ks) <= 10 or k in k_grid(ks[-1])]


def print_evaluation(e: Evaluation, console: Console) -> None:
    """The tables of `forkwise passk`."""
    n = f"{e.samples[0]}" if e.samples[0] == e.samples[1] else f"{e.samples[0]}–{e.samples[1]}"
    curves = e.curves
    rows = []
    for i in _shown(e.ks):
        row = [str(e.ks[i]), _at(e.pass_at_k, i), _at(curves["pass^k"].interval, i)]
        for name in ("g-pass@k", "maj@k"):
            curve = curves.get(name)
            if curve is not None:
                row.append(_at(curve.interval, curve.ks.index(e.ks[i])) if e.ks[i] in curve.ks else "")
        rows.append(row)
    tau = curves["g-pass@k"].metric
    columns = ["K", "Pass@K", "Pass^K", "G-" + tau[2:3].upper() + tau[3:].replace("@k", "@K")]
    if "maj@k" in curves:
        columns.append("maj@K")
    level = f"{e.pass_at_k.level:.0%}"
    title = f"{e.arm}: {e.problems} problems x {n} samples; mean [{level} BCa interval over problems]"
    _print_table(console, title, columns, rows)
    mean = curves["mean@n"].interval
    facts = [f"mean@{curves['mean@n'].ks[0]} {_at(mean, 0)}"]
    if e.mean_length is not None:
        facts.append(f"mean length {e.mean_length:.1f} {e.length_unit}")
    if e.no_answer is not None:
        facts.append(f"no answer in {e.no_answer:.1%} of the samples")
    facts.append(f"{e.pass_at_k.resamples} resamples of problems")
    console.print(escape("; ".join(facts) + "."), soft_wrap=True)

    cap = [row for row in e.length if row.control == CAP]
    if cap:
        ks = sorted({row.k for row in cap if row.k is not None})
        table = {(row.at, row.k): _cell(row.value, row.low, row.high) for row in cap}
        lines = [[str(at), *(table[at, k] for k in ks)] for at in dict.fromkeys(row.at for row in cap)]
        title = f"Longer than the cap counts as wrong ({e.length_unit}); pointwise intervals"
        _print_table(console, title, ["cap", *(f"Pass@{k}" for k in ks)], lines)
    budget = [row for row in e.length if row.control == BUDGET]
    if budget:
        lines = [[str(row.at), _cell(row.value, row.low, row.high)] for row in budget]
        title = f"Pass within a budget per problem ({e.length_unit}), samples in random order; simulation error"
        _print_table(console, f"{title} <= {max(row.error for row in budget):.4f}", ["budget", "pass"], lines)
    if e.diversity:
        lines = [[name, _cell(float(v.mean), float(v.low), float(v.high))] for name, v in e.diversity.items()]
        _print_table(console, "Diversity within a problem", ["measure", "mean"], lines)
    model = e.extrapolation
    if model is not None:
        lines = [[str(k), _at(model.pass_at_k, i)] for i, k in enumerate(model.ks)]
        title = f"Extrapolation: {model.note} Misfit up to n: {model.misfit:.3f}"
        _print_table(console, title, ["K", "Pass@K (model)"], lines)
    _print_notes(e.notes, console)


def _print_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes:
        console.print(escape(f"- {note}"), soft_wrap=True)


def _print_length(d: Difference, unit: str, console: Console) -> None:
    for control, title in (
        (CAP, f"Longer than the cap counts as wrong for both ({unit}); pointwise intervals"),
        (BUDGET, f"Pass within an equal budget per problem ({unit})"),
        (MATCHED, f"{d.arm} and {d.reference} at equal lengths: each at its own and at the other's, averaged"),
    ):
        rows = [row for row in d.length if row.control == control]
        if not rows:
            continue
        lines = []
        for row in rows:
            place = [str(row.at)] * (control != MATCHED) + [str(row.k)] * (control != BUDGET)
            extra = [str(row.problems), f"{row.effective_n:.1f}"] if row.effective_n is not None else []
            values = [f"{row.reference_value:.3f}", f"{row.value:.3f}"]
            lines.append([*place, *values, _cell(row.difference, row.low, row.high, "+"), *extra])
        place = [control] * (control != MATCHED) + ["K"] * (control != BUDGET)
        extra = ["problems", "effective n"] if control == MATCHED else []
        error = max(row.error for row in rows)
        said = f"; simulation error <= {error:.4f}" if error else ""
        _print_table(console, title + said, [*place, d.reference, d.arm, "difference", *extra], lines)


def print_comparison(c: Comparison, console: Console) -> None:
    """The tables of `forkwise compare`; the last line is the conclusion."""
    grid = c.differences[0].ks
    lines = [
        [e.arm, *(_at(e.pass_at_k, i) for i in _shown(grid)), "" if e.mean_length is None else f"{e.mean_length:.1f}"]
        for e in c.arms
    ]
    level = f"{c.level:.0%}"
    columns = ["arm", *(f"Pass@{grid[i]}" for i in _shown(grid)), c.length_unit or "length"]
    turned = [[columns[i], *(line[i] for line in lines)] for i in range(1, len(columns))]
    title = f"Raw Pass@K on {c.problems} problems; mean [{level} BCa interval over problems]"
    _print_table(console, title, ["", *(line[0] for line in lines)], turned)
    for d in c.differences:
        columns = ["K", "difference", f"{level} interval", f"{level} band (all K)", "p", "adjusted p"]
        rows = []
        for i in _shown(d.ks):
            row = [str(d.ks[i]), f"{d.interval.mean[i]:+.3f}"]
            row += [f"[{x.low[i]:+.3f}, {x.high[i]:+.3f}]" for x in (d.interval, d.band)]
            row += [_p(d.p[i]), _p(d.adjusted_p[i])]
            if d.run_p is not None:
                row.append(_p(d.run_p[i]))
            rows.append(row)
        if d.run_p is not None:
            columns.append("p over runs")
        _print_table(console, f"{d.arm} minus {d.reference}, paired by problem", columns, rows)
        _print_length(d, c.length_unit, console)
        if d.diversity:
            rows = [[name, _cell(float(v.mean), float(v.low), float(v.high), "+")] for name, v in d.diversity.items()]
            _print_table(console, f"Diversity: {d.arm} minus {d.reference}", ["measure", "difference"], rows)
    _print_notes(c.notes, console)
    console.print(escape(c.sentence), soft_wrap=True)
