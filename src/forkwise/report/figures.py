"""The figures of a report as files: the same numbers as the page's charts, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from forkwise.explore.results import RunExploration
from forkwise.report.content import Content
from forkwise.report.distributions import Distribution
from forkwise.report.passk_figures import (
    comparison_figure,
    evaluation_figure,
    finish_axis,
    legend_below,
    name_label,
)
from forkwise.report.series import SeriesPanel, series_panels
from forkwise.report.styles import COLOURS, styles

FloatArray = npt.NDArray[np.float64]
AnyPanel = TypeVar("AnyPanel", "Panel", SeriesPanel)

WINDOW = 5
"""Logged steps in the moving average of training curves."""

PANELS = {
    "reward": "reward (mean over completions)",
    "entropy": "token entropy (nats)",
    "completions/mean_length": "completion length (tokens)",
    "shaping/capped_frac": "fraction of tokens at the cap",
    "shaping/psi_over_adv": "mean of psi / |A|",
    "completions/clipped_ratio": "completions cut off (share)",
    "frac_reward_zero_std": "groups with equal rewards (share)",
    "kl": "KL to the reference (nats)",
    "behaviours/pivotal_per_response": "pivotal tokens per response",
    "behaviours/pivotal_entropy": "entropy of pivotal tokens (nats)",
    "behaviours/reflective_per_response": "reflective sentences per response",
    "behaviours/reflective_entropy": "entropy of reflective sentences (nats)",
    "behaviours/repetition": "repeated 4-grams (share)",
}
"""Label of each logged metric that a figure shows."""


@dataclass(frozen=True)
class Series:
    """One metric of one arm over the steps that all its runs logged."""

    arm: str
    steps: list[int]
    runs: FloatArray
    """`(runs, steps)`."""
    smooth: FloatArray
    """Moving average of the mean over runs, `(steps,)`."""


@dataclass(frozen=True)
class Panel:
    """One metric of all arms that logged it."""

    key: str
    label: str
    series: list[Series]


def training_panels(arms: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], window: int = WINDOW) -> list[Panel]:
    """Makes a panel for each metric of `PANELS` that any arm logged.

    Args:
        arms: for each arm its runs (one per seed), each a list of logged rows with `step`.
        window: steps in the moving average of the mean over seeds.
    """
    panels = []
    for key, label in PANELS.items():
        series = [line for name, runs in arms.items() if (line := _series(name, runs, key, window)) is not None]
        if series:
            panels.append(Panel(key, label, series))
    return panels


def _series(name: str, runs: Sequence[Sequence[Mapping[str, Any]]], key: str, window: int) -> Series | None:
    logged = [{row["step"]: float(row[key]) for row in rows if isinstance(row.get(key), (int, float))} for rows in runs]
    steps = sorted(set.intersection(*(set(s) for s in logged))) if logged else []
    if not steps:
        return None
    values = np.array([[s[step] for step in steps] for s in logged])
    return Series(name, steps, values, _smooth(values.mean(axis=0), window))


def _smooth(values: FloatArray, window: int) -> FloatArray:
    """Returns the centred moving average; at the ends the window is cut."""
    half = window // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def training_figure(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    window: int = WINDOW,
    panels: int | None = 4,
    arms: Sequence[str] = (),
) -> Figure:
    """Draws metrics over steps; thin lines are raw values, thick ones a moving average. More arms than there are
    colours have their averages alone.

    Args:
        runs, window: as in `training_panels`.
        panels: how many of the metrics that were logged; None draws all.
        arms: the names in the order that decides about colours and dashes; by default that of `runs`.
    """
    drawn = training_panels(runs, window)[:panels]
    style_of, many = styles(arms or list(runs)), len(runs) >= len(COLOURS)

    def draw(axis: Any, panel: Panel) -> None:
        for series in panel.series:
            look = style_of[series.arm]
            for row in [] if many else series.runs:
                axis.plot(series.steps, row, color=look["color"], alpha=0.25, linewidth=0.8)
            axis.plot(series.steps, series.smooth, **look, label=name_label(series.arm))

    figure = _grid(drawn, draw, 3.0)
    thin = "" if many else "; thin: each seed as logged"
    figure.suptitle(
        f"Thick: mean over seeds, moving average of {window} logged steps{thin}. Rewards in training are no evidence "
        "about a method.",
        fontsize=9,
    )
    return figure


def _grid(panels: Sequence[AnyPanel], draw: Callable[[Any, AnyPanel], None], height: float) -> Figure:
    """Draws panels over training steps in two columns, each below its label, and one legend below all."""
    rows = max(1, -(-len(panels) // 2))
    figure = Figure(figsize=(10, height * rows + 0.6), layout="constrained")
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    for axis, panel in zip(axes, panels, strict=False):
        draw(axis, panel)
        axis.set_title(panel.label, fontsize=10)
        axis.margins(y=0.08)
        axis.xaxis.get_major_locator().set_params(integer=True)
        finish_axis(axis, "training step", "")
    for axis in axes[len(panels) :]:
        axis.remove()
    legend_below(figure, axes[: len(panels)])
    return figure


def entropy_figure(distributions: Mapping[str, Distribution], arms: Sequence[str] = ()) -> Figure:
    """Draws the share of tokens above each entropy (left) and the mean entropy along the trace (right)."""
    figure = Figure(figsize=(10, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    style_of = styles(arms or list(distributions))
    for name, d in distributions.items():
        look = style_of[name]
        left.plot(d.above_x, d.above, **look, label=name_label(name))
        if d.position_low is not None and d.position_high is not None:
            right.fill_between(
                d.position, d.position_low, d.position_high, color=look["color"], alpha=0.15, linewidth=0
            )
        right.plot(d.position, d.position_mean, **look, label=name_label(name))
    left.set_ylim(0, 1)
    finish_axis(left, "entropy (nats)", "share of tokens above")
    finish_axis(right, "share of the trace (%)", "mean entropy (nats)")
    legend_below(figure, [left, right])
    return figure


def behaviour_figure(runs: Sequence[RunExploration], arms: Sequence[str] = ()) -> Figure:
    """Draws the entropy of marked units minus that of others, beside that of lexicons of other words."""
    rows = [(run, b, c) for run in runs for b in run.behaviours for c in b.contrasts if c.difference.value is not None]
    figure = Figure(figsize=(9, 1 + 0.34 * max(len(rows), 1)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color="black", linewidth=0.8)
    style_of = styles(arms or list(dict.fromkeys(run.run for run in runs)))
    for height, (run, _, c) in enumerate(rows):
        colour = style_of[run.run]["color"]
        if c.null is not None:
            axis.plot([c.null.low, c.null.high], [height, height], color="0.8", linewidth=7, solid_capstyle="butt")
        d = c.difference
        if d.low is not None and d.high is not None:
            axis.plot([d.low, d.high], [height, height], color=colour, linewidth=2)
        axis.plot([d.value or 0.0], [height], "o" if c.version == "raw" else "s", color=colour, markersize=5)
    axis.set_yticks(
        range(len(rows)), [name_label(f"{run.run}: {b.name}, {c.version}") for run, b, c in rows], fontsize=8
    )
    axis.invert_yaxis()
    finish_axis(axis, "difference in entropy (nats); grey: 95 % of lexicons of other words", "")
    return figure


def series_figure(panels: Sequence[SeriesPanel], arms: Sequence[str] = ()) -> Figure:
    """Draws the figures over training, one point per explored checkpoint."""
    style_of = styles(arms or list(dict.fromkeys(line.name for panel in panels for line in panel.lines)))

    def draw(axis: Any, panel: SeriesPanel) -> None:
        for line in panel.lines:
            axis.plot(
                line.steps, line.values, **style_of[line.name], marker="o", markersize=4, label=name_label(line.name)
            )
        axis.set_ylim(0, 1.08 * max([value for line in panel.lines for value in line.values] + [1e-9]))

    return _grid(panels, draw, 2.6)


def figures(content: Content) -> dict[str, Figure]:
    """Draws every figure that there is data for, by file name without ending."""
    by_name: dict[str, Figure] = {}
    arms = content.arms()
    if content.comparison is not None:
        compared = {e.arm for e in content.comparison.arms}
        beside = [e for e in content.evaluations if e.arm not in compared]
        by_name["passk"] = comparison_figure(content.comparison, beside=beside, arms=arms)
    elif content.evaluations:
        by_name["passk"] = evaluation_figure(content.evaluations, arms)
    if content.training:
        by_name["training"] = training_figure(content.training, panels=None, arms=arms)
    if content.distributions:
        by_name["entropy"] = entropy_figure(content.distributions, arms)
    runs = [run for run in content.explored() if any(b.contrasts for b in run.behaviours)]
    if runs:
        by_name["behaviours"] = behaviour_figure(runs, arms)
    over_training = series_panels(content.explorations)
    if over_training:
        by_name["checkpoints"] = series_figure(over_training, arms)
    return by_name
