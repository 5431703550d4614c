"""Draws Pass@K with its bands. Every number drawn is in `rows()`."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from forkwise.errors import InputError
from forkwise.folders import write_bytes
from forkwise.passk import Comparison, Evaluation
from forkwise.passk.estimator import k_grid, shown_ks
from forkwise.passk.length import BUDGET, CAP
from forkwise.report.styles import COLOURS, styles
from forkwise.terminal import one_line, visible

Looks = Mapping[str, Mapping[str, Any]]
"""What the line of each arm is drawn with, by name."""


def _plain(text: str) -> str:
    """Changes text so that matplotlib does not read a formula in it or write a control character into an SVG."""
    return visible(text).replace("$", r"\$")


def name_label(text: str) -> str:
    """Writes a name for a figure: on one line, and such that the legend does not drop it for a leading underscore."""
    return _plain(one_line(text, 60)).lstrip("_")


def _k_axis(axis: Any, ks: Sequence[int], ylabel: str) -> None:
    axis.set_xscale("log", base=2)
    ticks = [k for k in k_grid(ks[-1]) if k >= ks[0]]
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.minorticks_off()
    finish_axis(axis, "K (samples per problem)", ylabel)


def _length_axis(axis: Any, values: Sequence[int]) -> None:
    axis.set_xscale("log")
    # A label that would run into the one before it is left out; its tick stays.
    room, labels, last = 0.055 * math.log(values[-1] / values[0]), [], -math.inf
    for value in values:
        fits = math.log(value) - last >= room
        labels.append(str(value) if fits else "")
        last = math.log(value) if fits else last
    axis.set_xticks(values, labels, rotation=45, fontsize=8)
    axis.minorticks_off()


def finish_axis(axis: Any, xlabel: str, ylabel: str) -> None:
    """Gives an axis its labels and a faint grid, and no frame above and to the right."""
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, axes: Sequence[Any]) -> None:
    """Puts one legend of all arms in these axes below the figure, where it covers nothing."""
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if not named:
        return
    columns = max(1, min(len(named), 150 // (max(map(len, named)) + 8)))
    handles, labels = list(named.values()), list(named)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=4)


def _draw(axis: Any, ks: Sequence[Any], mean: Any, low: Any, high: Any, look: Mapping[str, Any], label: str) -> None:
    axis.fill_between(ks, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axis.plot(ks, mean, **look, marker="o" if len(ks) <= 20 else None, markersize=4, label=label)


def _pass_panel(axis: Any, evaluations: Sequence[Evaluation], style_of: Looks) -> None:
    for e in evaluations:
        band = e.pass_at_k
        _draw(axis, e.ks, band.mean, band.low, band.high, style_of[e.arm], name_label(e.arm))
    axis.set_ylim(0, 1)
    _k_axis(axis, evaluations[0].ks, "Pass@K")


def evaluation_figure(evaluations: Sequence[Evaluation], arms: Sequence[str] = ()) -> Figure:
    """Draws Pass@K of each arm with its interval; beside it, where lengths are known, the pass rate within a budget.

    `arms` are the names in the order that decides about colours and dashes; by default that of the evaluations.
    """
    style_of = styles(arms or [e.arm for e in evaluations])
    lengths = all(any(row.control == BUDGET for row in e.length) for e in evaluations)
    figure = Figure(figsize=(10 if lengths else 6, 4.4), layout="constrained")
    axes = figure.subplots(1, 2 if lengths else 1, squeeze=False)[0]
    _pass_panel(axes[0], evaluations, style_of)
    if lengths:
        for e in evaluations:
            rows = [row for row in e.length if row.control == BUDGET]
            values = ([r.at for r in rows], [r.value for r in rows], [r.low for r in rows], [r.high for r in rows])
            _draw(axes[1], *values, style_of[e.arm], name_label(e.arm))
        _length_axis(axes[1], [row.at for row in evaluations[0].length if row.control == BUDGET])
        axes[1].set_ylim(0, 1)
        finish_axis(axes[1], f"budget per problem ({evaluations[0].length_unit})", "pass within the budget")
    legend_below(figure, axes)
    return figure


def comparison_figure(
    comparison: Comparison, *, beside: Sequence[Evaluation] = (), caption: str = "", arms: Sequence[str] = ()
) -> Figure:
    """Draws Pass@K of all arms, the paired differences with interval and band, and the difference under a cap.

    More arms than there are colours become one row each, with their differences at three K.

    Args:
        beside: evaluations to draw with the arms that are not compared, such as the base model's.
        arms: the names in the order that decides about colours and dashes; by default those beside, then the others.
    """
    if len(comparison.differences) >= len(COLOURS):
        return _rows_figure(comparison, caption)
    drawn = [*beside, *comparison.arms]
    style_of = styles(arms or [e.arm for e in drawn])
    capped = all(any(row.control == CAP for row in d.length) for d in comparison.differences)
    figure = Figure(figsize=(15 if capped else 10, 4.6), layout="constrained")
    axes = figure.subplots(1, 3 if capped else 2)
    _pass_panel(axes[0], drawn, style_of)
    axes[0].set_title("Pass@K; bands: intervals over problems", fontsize=9)
    reference = name_label(comparison.reference)
    axes[1].axhline(0, color="black", linewidth=0.8)
    for d in comparison.differences:
        _draw(axes[1], d.ks, d.interval.mean, d.interval.low, d.interval.high, style_of[d.arm], name_label(d.arm))
        axes[1].fill_between(d.ks, d.band.low, d.band.high, color=style_of[d.arm]["color"], alpha=0.1, linewidth=0)
    axes[1].set_title("Difference; dark: interval at each K, light: band for all K and arms", fontsize=9)
    _k_axis(axes[1], comparison.differences[0].ks, f"Pass@K minus {reference}")
    if capped:
        _cap_panel(axes[2], comparison, style_of)
    legend_below(figure, axes)
    if caption:
        figure.suptitle(_plain(caption), fontsize=9)
    return figure


def _cap_panel(axis: Any, comparison: Comparison, style_of: Looks) -> None:
    """Draws the differences under a cap at the smallest and at the largest K, with their intervals as bars."""
    axis.axhline(0, color="black", linewidth=0.8)
    rows = {d.arm: [row for row in d.length if row.control == CAP and row.at] for d in comparison.differences}
    ks = sorted({row.k for arm_rows in rows.values() for row in arm_rows if row.k is not None})
    marks = {ks[0]: "o", ks[-1]: "s"}
    for i, (arm, arm_rows) in enumerate(rows.items()):
        for j, (k, mark) in enumerate(marks.items()):
            shift = 1 + 0.012 * (j + len(marks) * i)  # so that bars do not hide each other
            at = [row for row in arm_rows if row.k == k]
            values = [r.difference for r in at]
            ends = [
                [v - r.low for v, r in zip(values, at, strict=True)],
                [r.high - v for v, r in zip(values, at, strict=True)],
            ]
            drawn = {"marker": mark, "markersize": 5, "markerfacecolor": "white" if j else style_of[arm]["color"]}
            axis.errorbar([(r.at or 1) * shift for r in at], values, ends, elinewidth=1, **{**style_of[arm], **drawn})
    _length_axis(axis, sorted({row.at for arm_rows in rows.values() for row in arm_rows if row.at}))
    shapes = "; ".join(f"{shape}: K = {k}" for shape, k in zip(("dots", "squares"), marks, strict=False))
    axis.set_title(f"Difference under a cap, pointwise; {shapes}", fontsize=9)
    finish_axis(
        axis, f"cap ({comparison.length_unit}): longer is wrong", f"Pass@K minus {name_label(comparison.reference)}"
    )


def _rows_figure(comparison: Comparison, caption: str) -> Figure:
    differences = comparison.differences
    ks = differences[0].ks
    shown = [ks.index(k) for k in shown_ks(ks, 3)]
    heights = range(len(differences))
    reference = name_label(comparison.reference)
    figure = Figure(figsize=(3.4 * len(shown) + 2, 1.8 + 0.3 * len(differences)), layout="constrained")
    for axis, i in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
        axis.axvline(0, color="black", linewidth=0.8)
        for height, d in zip(heights, differences, strict=True):
            axis.plot([d.band.low[i], d.band.high[i]], [height] * 2, color=COLOURS[1], linewidth=6, alpha=0.2)
            axis.plot([d.interval.low[i], d.interval.high[i]], [height] * 2, color=COLOURS[1], linewidth=2)
            axis.plot([d.interval.mean[i]], [height], "o", color=COLOURS[1], markersize=5)
        axis.set_yticks(heights, [name_label(d.arm) for d in differences])
        axis.set_ylim(len(differences) - 0.5, -0.5)
        level = comparison.arms[0].pass_at_k
        at = comparison.arms[0].ks.index(ks[i])
        axis.locator_params(axis="x", nbins=6)
        finish_axis(axis, f"Pass@{ks[i]} minus {reference}\n({level.mean[at]:.3f})", "")
    figure.suptitle(f"{_plain(caption)}\nline: interval; light: band for all K and arms".strip(), fontsize=9)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes the figure in the format that the file's name ends with.

    Raises:
        InputError: a file type that matplotlib does not write, or a file that cannot be written.
    """
    ending = path.suffix[1:].lower()
    if ending not in figure.canvas.get_supported_filetypes():
        raise InputError(f"'{path}' is not a figure that can be written: let its name end with .png, .svg or .pdf.")
    drawn = io.BytesIO()  # matplotlib's writers hide what the file system says
    figure.savefig(drawn, format=ending, dpi=150)
    write_bytes(path, drawn.getvalue())
