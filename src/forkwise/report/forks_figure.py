"""The picture of what tokens decide. Every number drawn is in `forks.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from forkwise.explore.findings import Estimate
from forkwise.forks.results import Forks
from forkwise.report.forks import per_cent
from forkwise.report.passk_figures import finish_axis
from forkwise.report.styles import COLOURS


def forks_figure(forks: Forks) -> Figure:
    """Draws what a token decides by its entropy, where the outcome is decided, and kinds of token at equal entropy.

    Where the budget does not add up, the second panel, which is of shares, says so.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    by_entropy, tops, kinds = figure.subplots(1, 3)
    parts = [p for p in forks.by_entropy if p.decided.value is not None and p.mean_entropy is not None]
    _ribbon(by_entropy, [p.mean_entropy for p in parts], [p.decided for p in parts], 1, "F of a token")
    by_entropy.axhline(0, color="black", linewidth=0.8, linestyle=":")
    by_entropy.axvline(forks.threshold, color=COLOURS[0], linewidth=0.8, linestyle="--")
    finish_axis(by_entropy, "entropy (nats)", "decided by a token, F")
    by_entropy.set_title("by entropy; band: all bins at once", fontsize=10)

    if forks.tops:
        share = [100 * t.of_tokens for t in forks.tops]
        for colour, name in ((1, "share"), (2, "matched")):
            label = {"share": "highest entropy", "matched": "others at these places"}[name]
            _ribbon(tops, share, [per_cent(getattr(t, name)) for t in forks.tops], colour, label)
        tops.plot(share, share, color="black", linewidth=1, linestyle=":", label="random tokens")
        tops.legend(frameon=False, fontsize=8)
    else:
        tops.text(
            0.5, 0.5, "no shares: the budget\ndoes not add up", ha="center", va="center", transform=tops.transAxes
        )
    finish_axis(tops, "% of tokens", "% of what is decided")
    tops.set_title("where the outcome is decided", fontsize=10)

    rows = [p for p in forks.by_class if p.difference.value is not None]
    for i, p in enumerate(rows):
        d = p.difference
        if d.low is not None and d.high is not None:
            kinds.plot([d.low, d.high], [i, i], color=COLOURS[i + 1], linewidth=2)
        kinds.plot([d.value], [i], "o", color=COLOURS[i + 1])
    kinds.axvline(0, color="black", linewidth=0.8, linestyle=":")
    kinds.set_yticks(range(len(rows)), [p.name for p in rows])
    kinds.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    if not rows:
        kinds.text(0.5, 0.5, "too few states\nto compare kinds", ha="center", va="center", transform=kinds.transAxes)
    finish_axis(kinds, "F minus that of others of equal entropy", "")
    kinds.locator_params(axis="x", nbins=4)
    kinds.set_title("kinds of token", fontsize=10)
    return figure


def _ribbon(axis: Any, x: Sequence[float | None], values: Sequence[Estimate], colour: int, label: str) -> None:
    low, middle, high = (np.array([getattr(v, n) for v in values], dtype=float) for n in ("low", "value", "high"))
    axis.fill_between(x, low, high, color=COLOURS[colour], alpha=0.2, linewidth=0)
    axis.plot(x, middle, color=COLOURS[colour], linewidth=2, marker="o", markersize=3, label=label)
