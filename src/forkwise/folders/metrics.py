"""Reads what a training run logs: `metrics.jsonl` of forkwise, or `trainer_state.json` of transformers or TRL.

A line of `metrics.jsonl` is one JSON object with its `step`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.reading import parse_json

METRICS = "metrics.jsonl"
STATE = "trainer_state.json"


def checkpoints(folder: Path) -> list[Path]:
    """Lists all `checkpoint-N` of a run, the newest first, whole or not."""
    named = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(named, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def metrics_file(folder: Path) -> Path | None:
    """Finds the file with the metrics of the run in `folder`, else that of its newest checkpoint, else None."""
    places = (folder / METRICS, folder / STATE, *(checkpoint / STATE for checkpoint in checkpoints(folder)))
    return next((path for path in places if path.is_file()), None)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Reads logged metrics in order of step; of a step logged twice (after a resume) the later line counts.

    Lines that are no JSON object with a step are left out: a kill may have cut the last one short.

    Raises:
        InputError: there is only a `trainer_state.json`, and it cannot be read.
    """
    path = metrics_file(folder)
    if path is None:
        return []
    return _in_order(_lines(path) if path.name == METRICS else read_state(path).get("log_history", []))


def read_state(path: Path) -> dict[str, Any]:
    """Reads a `trainer_state.json`.

    Raises:
        InputError: it cannot be read.
    """
    try:
        state = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read ({error}): restore it, or remove it.") from error
    if not isinstance(state, dict) or not isinstance(state.get("log_history", []), list):
        raise InputError(f"'{path}' is not the state of a trainer (it has no log_history): restore it, or remove it.")
    return state


def _lines(path: Path) -> Iterable[Any]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield parse_json(line)
        except ValueError:
            continue


def _in_order(logged: Iterable[Any]) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for row in logged:
        if isinstance(row, dict) and isinstance(row.get("step"), int) and 0 <= row["step"] < 1 << 53:
            finite = {key: math.inf if _is_huge(value) else value for key, value in row.items()}
            rows[row["step"]] = {**rows.get(row["step"], {}), **finite}
    return [rows[step] for step in sorted(rows)]


def _is_huge(value: Any) -> bool:
    """Whether the value is a whole number that no float of NumPy holds."""
    return isinstance(value, int) and abs(value) >= 1 << 63
