"""The run folder: never overwritten, always resumable from a checkpoint that is known to be whole."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from forkwise.errors import InputError

COMPLETE = "complete"
SETTINGS = "run.yaml"
METRICS = "metrics.jsonl"


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all, and to the disk."""
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


def check_folder(folder: Path, *, resume: bool, mark: str = SETTINGS, flag: str = "--output_dir") -> bool:
    """Makes sure that `folder` can take this run, without changing it; whether a run is there to be continued.

    Args:
        folder: the run folder, which need not exist.
        resume: whether a folder that holds a run is welcome.
        mark: the file that every such run holds.
        flag: what the user chose the folder with.

    Raises:
        InputError: something is there already (without `resume`), or something that is no run, or it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file; give another {flag}.")
    used = folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())
    if used and not resume:
        raise InputError(
            f"The run folder '{folder}' is not empty: add --resume to continue that run, or give another {flag}."
        )
    if used and not (folder / mark).exists():
        raise InputError(f"'{folder}' holds no run to resume (it has no {mark}): give another {flag}.")
    ancestor = folder
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise InputError(f"The folder '{folder}' cannot be written: no permission in '{ancestor}'.")
    return used


def create_folder(folder: Path) -> None:
    """Makes the folder; a sentence where the file system says no."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder '{folder}' cannot be written: {error.strerror}.") from error


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, so that no second process trains in it; the lock ends with the process, however it ends.

    Raises:
        InputError: another process holds it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"Another process is training in '{folder}': wait for it, or end it.") from error
        yield


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
            write_text(checkpoint / COMPLETE, f"step {state.global_step}\n")
