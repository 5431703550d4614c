"""Pass@K and training curves with matplotlib, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from forkwise.passk import Interval

# Okabe and Ito's palette: distinguishable with any common colour vision deficiency.
COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("s", "o", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Curve:
    """Pass@K of one arm at each k, with its interval."""

    ks: Sequence[int]
    interval: Interval


def _style(axis: Any, xlabel: str, ylabel: str) -> None:
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _log2_axis(axis: Any, ks: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.minorticks_off()


def passk_figure(arms: Mapping[str, Curve], difference: Curve, label: str, caption: str) -> Figure:
    """Left: Pass@K of every arm with its band. Right: the paired difference named by `label`, with its band."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for i, (name, curve) in enumerate(arms.items()):
        band = curve.interval
        left.fill_between(curve.ks, band.low, band.high, color=COLOURS[i], alpha=0.15, linewidth=0)
        left.plot(curve.ks, band.mean, color=COLOURS[i], marker=MARKERS[i], markersize=4, label=name)
    _log2_axis(left, next(iter(arms.values())).ks)
    left.set_ylim(0, 1)
    left.legend(frameon=False, loc="lower right")
    _style(left, "K (samples per problem)", "Pass@K")

    band = difference.interval
    right.axhline(0, color="black", linewidth=0.8)
    right.fill_between(difference.ks, band.low, band.high, color=COLOURS[2], alpha=0.2, linewidth=0)
    right.plot(difference.ks, band.mean, color=COLOURS[2], marker="o", markersize=4)
    _log2_axis(right, difference.ks)
    right.set_title(label, fontsize=10)
    _style(right, "K (samples per problem)", "paired difference of Pass@K")
    figure.text(0.5, -0.02, caption, ha="center", va="top", fontsize=8)
    return figure


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average; at the ends the window is cut to what there is."""
    half = window // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


PANELS = (
    ("reward", "reward (mean over completions)"),
    ("entropy", "token entropy (nats)"),
    ("completions/mean_length", "completion length (tokens)"),
    ("shaping/capped_frac", "fraction of tokens at the cap"),
)


def training_figure(arms: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], window: int = 5) -> Figure:
    """Reward, entropy, length and capped fraction over steps; thin lines are raw values, thick ones a moving average.

    Args:
        arms: for each arm its runs (one per seed), each a list of logged rows with `step`.
        window: steps in the moving average of the mean over seeds.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 2).flat
    for axis, (key, label) in zip(axes, PANELS, strict=True):
        for i, (name, runs) in enumerate(arms.items(), start=1):
            series = [{row["step"]: row[key] for row in rows if key in row} for rows in runs]
            steps = sorted(set.intersection(*(set(s) for s in series))) if series else []
            if not steps:
                continue
            values = np.array([[s[step] for step in steps] for s in series], dtype=float)
            for row in values:
                axis.plot(steps, row, color=COLOURS[i], alpha=0.25, linewidth=0.8)
            axis.plot(steps, _smooth(values.mean(axis=0), window), color=COLOURS[i], linewidth=2, label=name)
        _style(axis, "training step", label)
    figure.axes[0].legend(frameon=False)
    return figure
