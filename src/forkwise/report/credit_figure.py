"""The picture of what methods see of a token's worth. Every number drawn is in `credit.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from forkwise.credit.results import Agreement, Credit, MethodGradient
from forkwise.explore.findings import Estimate
from forkwise.report.passk_figures import finish_axis, name_label
from forkwise.report.styles import COLOURS

_ROW = 0.19  # inches, as the two below
_AXIS, _LETTER = 3.8, 0.06
_LINEAR = 0.02  # differences up to which the axis is linear


def credit_figure(credit: Credit) -> Figure:
    """Draws how much better than GRPO each method agrees with the truth, and its placebo: a panel for each bank."""
    panels: list[tuple[str, str, Sequence[tuple[str, Agreement | MethodGradient]]]] = [
        *((b.name, "r", [(m.method, m.sized) for m in b.methods[1:]]) for b in credit.banks),
        *((g.name, f"cosine with {g.of}", [(m.method, m) for m in g.methods[1:]]) for g in credit.gradients),
    ]
    rows = max(len(methods) for _, _, methods in panels)
    widest = max(len(method) for _, _, methods in panels for method, _ in methods)
    width = len(panels) * (_AXIS + _LETTER * widest)
    figure = Figure(figsize=(width, 1.2 + _ROW * rows), layout="constrained")
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axis, *panel)
    return figure


def _panel(axis: Any, name: str, measure: str, methods: Sequence[tuple[str, Agreement | MethodGradient]]) -> None:
    shown = [(method, m) for method, m in methods if m.minus_grpo.value is not None]
    for i, (_, m) in enumerate(shown):
        _line(axis, i, m.band if m.band.low is not None else m.minus_grpo, COLOURS[1], "o")
        if m.placebo_minus_grpo.value is not None:
            axis.plot([m.placebo_minus_grpo.value], [i], "x", color=COLOURS[0], markersize=5)
    axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axis.set_xscale("symlog", linthresh=_LINEAR, linscale=2)  # a method far off does not hide the others
    ticks = [-1, -0.1, -_LINEAR, 0, _LINEAR, 0.1, 1]
    reached = [x for _, m in shown for x in (m.minus_grpo.value, m.placebo_minus_grpo.value) if x is not None]
    most = max(map(abs, reached), default=0.0)
    axis.set_xticks([t for t in ticks if abs(t) <= max(2 * most, _LINEAR)])
    axis.set_xticklabels([f"{t:g}" for t in axis.get_xticks()], fontsize=7)
    axis.minorticks_off()
    axis.set_yticks(range(len(shown)), [name_label(method) for method, _ in shown], fontsize=7)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    finish_axis(axis, f"{measure}\nminus GRPO's (x: the placebo's)", "")
    axis.set_title(f"{name_label(name)}; band: all at once", fontsize=9)


def _line(axis: Any, at: int, value: Estimate, colour: str, marker: str) -> None:
    if value.low is not None and value.high is not None:
        axis.plot([value.low, value.high], [at, at], color=colour, linewidth=1.5)
    axis.plot([value.value], [at], marker, color=colour, markersize=4)
