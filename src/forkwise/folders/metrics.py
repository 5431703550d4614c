"""`metrics.jsonl`: what a training run logs, one JSON object per line with its `step`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from forkwise.reading import parse_json

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Logged metrics in order of step; of a step logged twice (after a resume) the later line counts.

    Lines that are no JSON object with a step are left out: a kill may have cut the last one short.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and 0 <= row["step"] < 1 << 53:
            row = {key: math.inf if _is_huge(value) else value for key, value in row.items()}
            rows[row["step"]] = {**rows.get(row["step"], {}), **row}
    return [rows[step] for step in sorted(rows)]


def _is_huge(value: Any) -> bool:
    """Whether it is a whole number that no float of NumPy holds."""
    return isinstance(value, int) and abs(value) >= 1 << 63
