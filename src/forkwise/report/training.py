"""Makes the table of the last logged steps of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forkwise.report.formats import count, number
from forkwise.report.table import Table, filled

_LAST = 5  # logged steps
_LOGGED = {
    "reward": ("reward", 3),
    "entropy (nats)": ("entropy", 3),
    "length": ("completions/mean_length", 1),
    "psi/|A|": ("shaping/psi_over_adv", 3),
    "at the cap": ("shaping/capped_frac", 3),
}
"""Logged metric and number of digits of each column."""

Rows = Sequence[Mapping[str, Any]]


def training_table(runs: Mapping[str, Sequence[Rows]]) -> list[Table]:
    """Averages over the last logged steps and the runs of each name; a metric that nobody logged has no column.

    Args:
        runs: for each name its training runs, each the rows of a `metrics.jsonl`.
    """
    rows = []
    for name, logs in runs.items():
        steps = max((log[-1]["step"] for log in logs if log), default=0)
        ends = [(_end(logs, key), digits) for key, digits in _LOGGED.values()]
        cells = [number(end, digits) if end is None or math.isfinite(end) else str(end) for end, digits in ends]
        rows.append([name, count(len(logs)), count(steps), *cells])
    return filled(f"Training, mean of the last {_LAST} logged steps", ["", "runs", "step", *_LOGGED], rows)


def _end(logs: Sequence[Rows], key: str) -> float | None:
    """Averages, over runs, the mean of the last rows that have the metric; None where a run has none."""
    values = [[row[key] for row in log if isinstance(row.get(key), (int, float))][-_LAST:] for log in logs]
    return float(np.mean([np.mean(v) for v in values])) if values and all(values) else None
