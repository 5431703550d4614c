"""Curves with bands, in colours that colour-blind readers can tell apart. Every number drawn is in `rows()`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from forkwise.errors import InputError
from forkwise.folders import write_bytes
from forkwise.passk import Comparison, Evaluation
from forkwise.passk.estimator import k_grid, shown_ks
from forkwise.passk.length import BUDGET, CAP
from forkwise.terminal import one_line, visible

# Okabe and Ito's palette.
COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


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
    axis.set_xticks(values, [str(v) for v in values], rotation=45, fontsize=8)
    axis.minorticks_off()


def finish_axis(axis: Any, xlabel: str, ylabel: str) -> None:
    """Gives an axis its labels and a faint grid, and no frame above and to the right."""
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _draw(axis: Any, ks: Sequence[Any], mean: Any, low: Any, high: Any, colour: str, label: str) -> None:
    axis.fill_between(ks, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.plot(ks, mean, color=colour, marker="o" if len(ks) <= 20 else None, markersize=4, label=label)


def _pass_panel(axis: Any, evaluations: Sequence[Evaluation]) -> None:
    for i, e in enumerate(evaluations):
        band = e.pass_at_k
        _draw(axis, e.ks, band.mean, band.low, band.high, COLOURS[i % len(COLOURS)], name_label(e.arm))
    axis.set_ylim(0, 1)
    axis.legend(frameon=False, loc="best")
    _k_axis(axis, evaluations[0].ks, "Pass@K")


def evaluation_figure(evaluations: Sequence[Evaluation]) -> Figure:
    """Draws Pass@K of each arm with its interval; beside it, where lengths are known, the pass rate within a budget."""
    lengths = all(any(row.control == BUDGET for row in e.length) for e in evaluations)
    figure = Figure(figsize=(10 if lengths else 6, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if lengths else 1, squeeze=False)[0]
    _pass_panel(axes[0], evaluations)
    if lengths:
        for i, e in enumerate(evaluations):
            rows = [row for row in e.length if row.control == BUDGET]
            values = ([r.at for r in rows], [r.value for r in rows], [r.low for r in rows], [r.high for r in rows])
            _draw(axes[1], *values, COLOURS[i % len(COLOURS)], name_label(e.arm))
        _length_axis(axes[1], [row.at for row in evaluations[0].length if row.control == BUDGET])
        axes[1].set_ylim(0, 1)
        finish_axis(axes[1], f"budget per problem ({evaluations[0].length_unit})", "pass within the budget")
    return figure


def comparison_figure(comparison: Comparison, *, beside: Sequence[Evaluation] = (), caption: str = "") -> Figure:
    """Draws Pass@K of all arms, the paired differences with interval and band, and the difference under a cap.

    `beside` are evaluations to draw with the arms that are not compared, such as the base model's. More arms than there
    are colours become one row each, with their differences at three K.
    """
    if len(comparison.differences) >= len(COLOURS):
        return _rows_figure(comparison, caption)
    capped = all(any(row.control == CAP for row in d.length) for d in comparison.differences)
    figure = Figure(figsize=(14 if capped else 10, 4.2), layout="constrained")
    axes = figure.subplots(1, 3 if capped else 2)
    _pass_panel(axes[0], [*comparison.arms, *beside])
    axes[1].axhline(0, color="black", linewidth=0.8)
    reference = name_label(comparison.reference)
    for i, d in enumerate(comparison.differences, start=1):
        colour = COLOURS[i % len(COLOURS)]
        _draw(axes[1], d.ks, d.interval.mean, d.interval.low, d.interval.high, colour, name_label(d.arm))
        axes[1].fill_between(d.ks, d.band.low, d.band.high, color=colour, alpha=0.1, linewidth=0)
    axes[1].set_title("dark: interval at each K; light: band for all K and arms", fontsize=9)
    _k_axis(axes[1], comparison.differences[0].ks, f"Pass@K minus {reference}")
    if capped:
        axes[2].axhline(0, color="black", linewidth=0.8)
        for i, d in enumerate(comparison.differences, start=1):
            rows = [row for row in d.length if row.control == CAP]
            ks = sorted({row.k for row in rows if row.k is not None})
            for style, k in zip(("-", "--", ":"), ks, strict=False):
                at = [row for row in rows if row.k == k]
                label = f"K = {k}" if i == 1 else None  # colours are those of the panels beside it
                colour = COLOURS[i % len(COLOURS)]
                places = [r.at for r in at]
                low, high = [r.low for r in at], [r.high for r in at]
                axes[2].fill_between(places, low, high, color=colour, alpha=0.1, linewidth=0)
                axes[2].plot(places, [r.difference for r in at], style, color=colour, label=label)
        _length_axis(axes[2], sorted({row.at for row in rows if row.at is not None}))
        for handle in axes[2].legend(frameon=False, fontsize=8).legend_handles:
            handle.set_color("black")
        finish_axis(axes[2], f"cap ({comparison.length_unit}): longer is wrong", f"Pass@K minus {reference}")
    figure.suptitle(_plain(caption), fontsize=9)
    return figure


def _rows_figure(comparison: Comparison, caption: str) -> Figure:
    differences = comparison.differences
    ks = differences[0].ks
    shown = [ks.index(k) for k in shown_ks(ks, 3)]
    heights = range(len(differences))
    reference = name_label(comparison.reference)
    figure = Figure(figsize=(3.4 * len(shown) + 2, 1.6 + 0.3 * len(differences)), layout="constrained")
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
        finish_axis(axis, f"Pass@{ks[i]} minus {reference} ({level.mean[at]:.3f})", "")
    figure.suptitle(f"{_plain(caption)}\nline: interval; light: band for all K and arms", fontsize=9)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes the figure in the format that the file's name ends with.

    Raises:
        InputError: a file type that matplotlib does not write, or a file that cannot be written.
    """
    ending = path.suffix[1:].lower()
    if ending not in figure.canvas.get_supported_filetypes():
        raise InputError(f"'{path}' is not a figure that can be written: let its name end with .png or .svg.")
    drawn = io.BytesIO()  # matplotlib's writers hide what the file system says
    figure.savefig(drawn, format=ending, dpi=150)
    write_bytes(path, drawn.getvalue())
