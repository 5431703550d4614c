"""The power curves of a plan. Every number drawn is in `plan.json`."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from forkwise.passk.components import name_of
from forkwise.passk.plan import Plan
from forkwise.report.passk_figures import finish_axis
from forkwise.report.styles import COLOURS

_COLUMNS = 3


def plan_figure(plan: Plan) -> Figure:
    """Draws the power over runs per arm, a panel for each endpoint and a line for each difference.

    The shade spans the ends of the interval of the variance over runs.
    """
    endpoints = list(dict.fromkeys(curve.endpoint for curve in plan.curves))
    columns = min(_COLUMNS, len(endpoints))
    rows = -(-len(endpoints) // columns)
    figure = Figure(figsize=(4 * columns, 3.4 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axis, endpoint in zip(axes, endpoints, strict=False):
        curves = [curve for curve in plan.curves if curve.endpoint == endpoint]
        for i, curve in enumerate(curves, start=1):
            colour = COLOURS[i % len(COLOURS)]
            axis.fill_between(curve.runs, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(curve.runs, curve.power, color=colour, linewidth=2, label=f"+{curve.difference:g}")
        axis.axhline(plan.tests[endpoint].power, color="black", linewidth=0.8, linestyle=":")
        if plan.trained:
            axis.axvline(plan.size.runs, color="black", linewidth=0.8, linestyle=":")
        _runs_axis(axis, float(curves[0].runs[0]), float(curves[0].runs[-1]))
        axis.set_title(name_of(endpoint), fontsize=10)
    for axis in axes[len(endpoints) :]:
        axis.remove()
    axes[0].legend(frameon=False, loc="best")
    size = f"{plan.size.problems} problems x {plan.size.samples} samples"
    figure.suptitle(f"{size}; shade: ends of the interval of the SD over runs", fontsize=9)
    return figure


def _runs_axis(axis: Any, low: float, high: float) -> None:
    ticks = [x for x in (3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000) if low <= x <= high]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(x) for x in ticks])
    axis.minorticks_off()
    axis.set_ylim(0, 1)
    finish_axis(axis, "runs per arm", "power")
