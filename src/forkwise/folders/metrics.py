"""Reads what a training run logs: `metrics.jsonl` of forkwise or verl, or `trainer_state.json` of transformers or TRL.

A line of `metrics.jsonl` is one JSON object with its `step`. verl's logger `file` writes `{"step": ..., "data": {...}}`
under names of its own, and empties its file when a run is started again; `metrics-before-*.jsonl` are kept files of
earlier starts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.reading import parse_json

METRICS = "metrics.jsonl"
STATE = "trainer_state.json"
_EARLIER = "metrics-before-*.jsonl"

VERL_NAMES = {
    "actor/pg_loss": "loss",
    "critic/score/mean": "reward",
    "actor/entropy": "entropy",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/kl_loss": "kl",
    "actor/pg_clipfrac": "clip_ratio/region_mean",
    "response_length/mean": "completions/mean_length",
    "response_length/clip_ratio": "completions/clipped_ratio",
    "critic/vf_explained_var": "critic/explained_variance",
    "critic/vf_loss": "critic/value_loss",
    "critic/vf_clipfrac": "critic/value_clip_frac",
}
"""verl's names of what TRL and forkwise log, and theirs; `shaping/...` and `method/...` are the same on both."""


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
    if path.name != METRICS:
        return _in_order(read_state(path).get("log_history", []))
    return _in_order(line for file in [*sorted(folder.glob(_EARLIER)), path] for line in _lines(file))


def is_of_verl(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Tells whether rows that `read_metrics` returned were logged by verl."""
    return any("training/global_step" in row for row in rows)


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
    for row in map(_translated, logged):
        if isinstance(row, dict) and isinstance(row.get("step"), int) and 0 <= row["step"] < 1 << 53:
            finite = {key: math.inf if _is_huge(value) else value for key, value in row.items()}
            rows[row["step"]] = {**rows.get(row["step"], {}), **finite}
    return [rows[step] for step in sorted(rows)]


def _translated(row: Any) -> Any:
    """Returns a line of verl's under the names that forkwise reads; any other line as it is."""
    if not (isinstance(row, dict) and isinstance(row.get("data"), dict)):
        return row
    return {**{VERL_NAMES.get(name, name): value for name, value in row["data"].items()}, "step": row.get("step")}


def _is_huge(value: Any) -> bool:
    """Whether the value is a whole number that no float of NumPy holds."""
    return isinstance(value, int) and abs(value) >= 1 << 63
