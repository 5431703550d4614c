"""Makes what the page's charts draw: plain numbers for JSON, each line with an x of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from forkwise.passk import Comparison, Difference, Evaluation, Interval
from forkwise.passk.length import BUDGET, CAP, MATCHED
from forkwise.report.content import Content
from forkwise.report.figures import training_panels
from forkwise.report.formats import coverage
from forkwise.report.passk import CONTROLS
from forkwise.report.series import series_panels
from forkwise.report.styles import dashes

_POINTS = 500  # logged steps that a training curve keeps

View = dict[str, Any]


def charts(content: Content) -> dict[str, Any]:
    """Makes everything that the charts need; a part without data is None."""
    return {
        "arms": content.arms(),
        "dashes": [dashes(i) for i in range(len(content.arms()))],
        "passk": {"views": _passk_views(content.evaluations, content.comparison)} if content.evaluations else None,
        "training": _training(content) or None,
        "entropy": _entropy(content),
        "behaviours": _behaviours(content),
        "series": _series(content) or None,
    }


def _numbers(values: Any) -> list[float | None]:
    return [round(float(v), 5) if math.isfinite(v) else None for v in values]


def _band(x: Sequence[float], interval: Interval, **more: Any) -> View:
    bounds = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {"x": list(x), **{name: _numbers(v) for name, v in bounds.items()}, **more}


def _passk_views(evaluations: Sequence[Evaluation], comparison: Comparison | None) -> list[View]:
    differences = comparison.differences if comparison else []
    reference = comparison.reference if comparison else ""
    level = coverage(evaluations[0].pass_at_k.level)
    unit = evaluations[0].length_unit
    raw: View = {
        "name": "none (raw Pass@K)",
        "title": "Pass@K",
        "paired": f"Pass@K minus {reference}, paired by problem",
        "x": "K (samples per problem)",
        "y": "Pass@K",
        "log": 2,
        "points": max(len(e.ks) for e in evaluations) <= 20,
        "note": f"Bands: {level} BCa intervals over problems. Difference: dark is the {level} interval at each K, "
        "light the band that covers all K at once. Do not compare bands of arms by eye: the paired difference decides.",
        "values": [_band(e.ks, e.pass_at_k, arm=e.arm) for e in evaluations],
        "differences": [
            {**_band(d.ks, d.interval, arm=d.arm), "wideLow": _numbers(d.band.low), "wideHigh": _numbers(d.band.high)}
            for d in differences
        ],
    }
    views = [raw]
    for control, x, y, note in (
        (CAP, f"cap ({unit})", "Pass@K", "The largest cap caps nothing."),
        (BUDGET, f"budget per problem ({unit})", "pass within the budget", "Who writes shorter gets more tries."),
    ):
        values = [line for e in evaluations for line in _length_lines(e.arm, e.length, control, "value")]
        if values:
            changed = [line for d in differences for line in _length_lines(d.arm, d.length, control, "difference")]
            ks = sorted({line["k"] for line in values if line["k"] is not None})
            places = sorted({at for line in values for at in line["x"]})
            views.append(
                {
                    "name": f"{control}: {CONTROLS[control]}",
                    "title": y,
                    "paired": f"{y} minus {reference}, paired",
                    "x": x,
                    "y": y,
                    "log": 10,
                    "ticks": [[at, str(at)] for at in places],
                    "points": True,
                    "note": f"{note} Intervals are pointwise. Length is itself an outcome: no control of it is causal.",
                    "values": values,
                    "differences": changed,
                    **({"ks": ks} if ks else {}),
                }
            )
    return [*views, *_matched_view(differences, reference)]


def _matched_view(differences: Sequence[Difference], reference: str) -> list[View]:
    """Shows both arms of every difference at equal lengths; no view where nothing could be matched."""
    values: list[View] = []
    changes: list[View] = []
    for d in differences:
        rows = [row for row in d.length if row.control == MATCHED]
        if rows:
            ks = [row.k for row in rows]
            arm_values, base = [row.value for row in rows], [row.reference_value for row in rows]
            change, low, high = (_numbers(getattr(row, key) for row in rows) for key in ("difference", "low", "high"))
            values.append({"arm": d.arm, "name": f"{d.arm}, at equal lengths", "x": ks, "mean": arm_values})
            values.append(
                {"arm": reference, "name": f"{reference}, at the lengths with {d.arm}", "x": ks, "mean": base}
            )
            changes.append({"arm": d.arm, "x": ks, "mean": change, "low": low, "high": high})
    view = {
        "name": f"{MATCHED}: {CONTROLS[MATCHED]}",
        "title": "Pass@K at equal lengths",
        "paired": f"Pass@K minus {reference}, paired by problem, at equal lengths",
        "x": "K (samples per problem)",
        "y": "Pass@K",
        "log": 2,
        "points": True,
        "note": f"The reference is {reference}. Problems without samples of the other's lengths are left out.",
    }
    return [{**view, "values": values, "differences": changes}] if values else []


def _length_lines(arm: str, rows: Sequence[Any], control: str, value: str) -> list[View]:
    """Makes one line for each k."""
    chosen = [row for row in rows if row.control == control]
    lines = []
    for k in dict.fromkeys(row.k for row in chosen):
        at_k = [row for row in chosen if row.k == k]
        ends = [(row.band_low, row.band_high) for row in at_k if getattr(row, "band_low", None) is not None]
        wide = {"wideLow": _numbers(low for low, _ in ends), "wideHigh": _numbers(high for _, high in ends)}
        lines.append(
            {
                **(wide if ends else {}),
                "arm": arm,
                "k": k,
                "x": [row.at for row in at_k],
                "mean": _numbers(getattr(row, value) for row in at_k),
                "low": _numbers(row.low for row in at_k),
                "high": _numbers(row.high for row in at_k),
            }
        )
    return lines


def _training(content: Content) -> list[View]:
    panels = []
    for panel in training_panels(content.training):
        lines: list[View] = []
        for series in panel.series:
            every = max(1, -(-len(series.steps) // _POINTS))
            steps = series.steps[::every]
            for run in series.runs[:, ::every] if len(series.runs) else ():
                lines.append({"arm": series.arm, "x": steps, "mean": _numbers(run), "thin": True, "dash": []})
            lines.append({"arm": series.arm, "x": steps, "mean": _numbers(series.smooth[::every])})
        panels.append({"label": panel.label, "lines": lines})
    return panels


def _series(content: Content) -> list[View]:
    return [
        {
            "label": panel.label,
            "lines": [{"arm": line.name, "x": line.steps, "mean": _numbers(line.values)} for line in panel.lines],
        }
        for panel in series_panels(content.explorations)
    ]


def _entropy(content: Content) -> View | None:
    if not content.distributions:
        return None
    above, position = [], []
    for name, d in content.distributions.items():
        above.append({"arm": name, "x": [round(x, 4) for x in d.above_x], "mean": [round(y, 6) for y in d.above]})
        line: View = {"arm": name, "x": [round(x, 3) for x in d.position], "mean": _numbers(d.position_mean)}
        if d.position_low is not None and d.position_high is not None:
            line |= {"low": _numbers(d.position_low), "high": _numbers(d.position_high)}
        position.append(line)
    return {"above": above, "position": position}


def _behaviours(content: Content) -> View | None:
    """Shows the differences of each behaviour, raw and matched, beside the null; runs stand side by side."""
    runs = [run for run in content.explored() if any(b.contrasts for b in run.behaviours)]
    if not runs:
        return None
    names = list(dict.fromkeys(b.name for run in runs for b in run.behaviours if b.contrasts))
    versions = list(dict.fromkeys(c.version for run in runs for b in run.behaviours for c in b.contrasts))
    slots = len(runs) * (len(versions) + 1)
    lines = []
    for r, run in enumerate(runs):
        for v, version in enumerate([*versions, "null"]):
            line: View = {"name": f"{run.run}, {version}", "group": run.run, "null": version == "null"}
            line |= {"x": [], "mean": [], "low": [], "high": [], "hollow": version != "raw"}
            for b in run.behaviours:
                of = "raw" if version == "null" else version
                contrast = next((c for c in b.contrasts if c.version == of), None)
                if contrast is None or b.name not in names:
                    continue
                if version == "null":
                    if contrast.null is None:
                        continue
                    values = (contrast.null.mean, contrast.null.low, contrast.null.high)
                else:
                    d = contrast.difference
                    if d.value is None:
                        continue
                    values = (d.value, d.value if d.low is None else d.low, d.value if d.high is None else d.high)
                offset = (r * (len(versions) + 1) + v + 0.5) / slots
                line["x"].append(round(names.index(b.name) + 0.8 * (offset - 0.5), 4))
                for key, value in zip(("mean", "low", "high"), values, strict=True):
                    line[key].append(round(value, 5))
            if line["x"]:
                lines.append(line)
    return {"names": names, "title": "Entropy of marked units minus others", "lines": lines}
