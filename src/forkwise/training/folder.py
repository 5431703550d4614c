"""The run folder: never overwritten, always resumable from a checkpoint that is known to be whole."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from forkwise.errors import InputError

COMPLETE = "complete"
METRICS = "metrics.jsonl"


def _fsync_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The `checkpoint-N` with the largest N that was written to its end (its marker file is written last)."""
    found = [
        (int(match.group(1)), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / COMPLETE).exists()
    ]
    return max(found)[1] if found else None


def check_folder(folder: Path, *, resume: bool) -> Path | None:
    """Makes sure that `folder` can take this run, without changing it; the checkpoint to start from, if any.

    Raises:
        InputError: something is there already (without `resume`), or it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file; give another --output_dir.")
    used = folder.is_dir() and any(folder.iterdir())
    if used and not resume:
        raise InputError(
            f"The run folder '{folder}' is not empty: add --resume to continue that run, or give another --output_dir."
        )
    ancestor = folder
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise InputError(f"The folder '{folder}' cannot be written: no permission in '{ancestor}'.")
    return newest_complete_checkpoint(folder) if used else None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Logged metrics in order of step; of a step logged twice (after a resume) the later line counts."""
    path = folder / METRICS
    if not path.exists():
        return []
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that a kill cut short; the resumed run logs that step again
        rows[row["step"]] = {**rows.get(row["step"], {}), **row}
    return [rows[step] for step in sorted(rows)]


class RunFolder(TrainerCallback):
    """Writes each logged step to `metrics.jsonl` and marks every checkpoint that was written to its end."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            path = Path(args.output_dir) / METRICS
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        PartialState().wait_for_everyone()  # every process writes its own random numbers into the checkpoint
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            _fsync_text(checkpoint / COMPLETE, f"step {state.global_step}\n")
