"""Figures over training from samples: one point per explored checkpoint (arXiv 2506.14758, Figure 8)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from forkwise.explore.results import Exploration, TrainingRow

UNNAMED = "checkpoints"
"""Name of the series of runs whose names are a step and nothing else."""

_STEP = re.compile(r"[-_. /]*\(?(?:step|checkpoint)[-_ ]?\d+\)?", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """One metric of one training run over its checkpoints; steps rise."""

    name: str
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class SeriesPanel:
    """One metric of every training run that has it at two checkpoints or more."""

    label: str
    lines: list[Line]


def series_name(run: str) -> str:
    """Returns the name that the checkpoints of one training run have in common: theirs without the step."""
    return _STEP.sub("", run).strip("-_. /") or UNNAMED


def series_panels(explorations: Sequence[Exploration]) -> list[SeriesPanel]:
    """Makes the panels of the figures over training from all explorations; runs without a step are left out."""
    points: dict[str, dict[int, TrainingRow]] = {}
    for exploration in explorations:
        for row in exploration.series:
            if row.step is not None:
                points.setdefault(series_name(row.run), {})[row.step] = row
    units = {row.length_unit for rows in points.values() for row in rows.values()}
    labels = {
        "pivotal_per_response": "pivotal tokens per response",
        "pivotal_entropy": "entropy of pivotal tokens (nats)",
        "reflective_per_response": "reflective sentences per response",
        "reflective_entropy": "entropy of reflective sentences (nats)",
        "mean_length": f"response length ({' or '.join(sorted(units))})",
        "repetition": "repeated 4-grams (share)",
        "mean_entropy": "token entropy (nats)",
        "accuracy": "accuracy",
    }
    panels = []
    for key, label in labels.items():
        lines = []
        for name, rows in points.items():
            by_step = {step: value for step in sorted(rows) if (value := getattr(rows[step], key)) is not None}
            if len(by_step) > 1:
                lines.append(Line(name, list(by_step), list(by_step.values())))
        if lines:
            panels.append(SeriesPanel(label, lines))
    return panels
