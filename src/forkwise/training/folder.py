"""The run folder: never overwritten, always resumable from a checkpoint that is known to be whole. Needs no torch.

A checkpoint counts once its marker file `complete` is there. The marker is written last, after everything else is on
the disk, and lists size and CRC-32 of every file, so that damage done later is seen too.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from forkwise.errors import InputError, RunError
from forkwise.folders import only_process, write_bytes, write_text
from forkwise.folders.metrics import METRICS, checkpoints, read_metrics

__all__ = [
    "COLLAPSED",
    "COMPLETE",
    "METRICS",
    "SETTINGS",
    "append_metrics",
    "check_folder",
    "checkpoints",
    "create_folder",
    "damage",
    "finished",
    "mark_complete",
    "mend_metrics",
    "newest_complete_checkpoint",
    "only_writer",
    "read_metrics",
    "set_aside_newer",
    "write_text",
    "writing",
]

COMPLETE = "complete"
COLLAPSED = "collapsed"
"""The file of a run whose numbers were not finite: the sentence that it ended with."""
SETTINGS = "run.yaml"
# What files answer with; a refused connection, say, is an OSError too.
_FILE_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.ESTALE),
}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def finished(folder: Path, steps: int) -> bool:
    """Tells whether the training run in `folder` has come to its end, and that after at least so many steps."""
    try:
        word, _, number = (folder / COMPLETE).read_text(encoding="utf-8").strip().partition(" ")
    except (OSError, UnicodeDecodeError):
        return False
    return word == "step" and number.isdecimal() and int(number) >= steps


def mark_complete(checkpoint: Path) -> None:
    """Puts all of a checkpoint on the disk, and then its marker, which lists the files (but model cards)."""
    listed = (path for path in checkpoint.rglob("*") if path.is_file() and path.suffix != ".md")
    files = sorted(path for path in listed if path.name != COMPLETE)
    lines = [f"step {_step(checkpoint)} files {len(files)}"]
    for path in files:
        _fsync(path)
        lines.append(f"{_crc32(path):08x} {path.stat().st_size} {path.relative_to(checkpoint).as_posix()}")
    for path in {path.parent for path in files} | {checkpoint}:
        _fsync(path)
    write_bytes(checkpoint / COMPLETE, ("\n".join(lines) + "\n").encode())
    _fsync(checkpoint)
    _fsync(checkpoint.parent)


def damage(checkpoint: Path) -> str | None:
    """Says why a checkpoint cannot be continued from, or None if it is whole. It reads all of the checkpoint."""
    try:
        lines = (checkpoint / COMPLETE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return "it was not written to its end"
    head = lines[0].split(" ") if lines else []
    if head[:1] != ["step"] or (len(head) > 2 and head[2:] != ["files", str(len(lines) - 1)]):
        return f"{COMPLETE} is cut short"
    for line in lines[1:]:
        try:
            crc, size, name = line.split(" ", 2)
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != int(size):
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if _crc32(path) != int(crc, 16):
                return f"{name} is not what was written"
        except (ValueError, OSError) as error:
            return f"it cannot be read ({error})"
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """Returns the whole checkpoint with the largest step.

    Warns:
        UserWarning: for each newer one that has been damaged since it was written.
    """
    for checkpoint in checkpoints(folder):
        why = damage(checkpoint)
        if why is None:
            return checkpoint
        if (checkpoint / COMPLETE).exists():
            warnings.warn(f"{checkpoint} is damaged ({why}); an older one is used.", stacklevel=2)
    return None


def set_aside_newer(folder: Path, checkpoint: Path | None) -> None:
    """Removes checkpoints that were never finished and renames damaged ones, from the one after `checkpoint` on.

    They must not count when old checkpoints are deleted, or take the place of what is saved next.
    """
    for newer in checkpoints(folder):
        if checkpoint is not None and _step(newer) <= _step(checkpoint):
            break
        if not (newer / COMPLETE).exists():
            shutil.rmtree(newer)
            continue
        target = folder / f"damaged-{newer.name}"
        if target.exists():
            shutil.rmtree(target)
        newer.rename(target)


@contextmanager
def writing(folder: Path, content: str) -> Iterator[None]:
    """Turns a failed write (full disk, read-only folder, quota) into one sentence that names the reason.

    Raises:
        RunError: in the place of any OSError, and of the errors with which torch and safetensors report one.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, _safetensors_error()) as error:
        if isinstance(error, RunError) or (isinstance(error, InputError) and not isinstance(error.__cause__, OSError)):
            raise
        reason = _why_not_written(folder, error)
        if reason is None:
            raise
        newest = next((path for path in checkpoints(folder) if (path / COMPLETE).exists()), None)
        advice = f"{newest.name} is whole, and --resume continues from it" if newest else "there is no checkpoint yet"
        raise RunError(f"{content} could not be written to '{folder}': {reason}; {advice}.") from error


def _safetensors_error() -> type[Exception]:
    try:
        from safetensors import SafetensorError
    except ImportError:
        return OSError
    error: type[Exception] = SafetensorError
    return error


def _why_not_written(folder: Path, error: BaseException) -> str | None:
    """Returns the file system's reason; libraries that write in C++ and Rust hide it in a sentence, or drop it."""
    chained: BaseException | None = error
    while chained is not None:
        if isinstance(chained, OSError) and chained.errno in _FILE_ERRORS:
            return chained.strerror
        chained = chained.__cause__ or chained.__context__
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if reason := re.search(r"No space left on device|File too large|Read-only file system|Disk quota exceeded", text):
        return reason.group()
    # torch reports a failed write as an unexpected position in the file.
    if not re.search(r"inline_container|PytorchStreamWriter|I/O error|IoError|file write failed", str(error)):
        return None
    with suppress(OSError):
        if shutil.disk_usage(folder).free < 1 << 20:
            return "No space left on device"
    return text


def check_folder(folder: Path, *, resume: bool, mark: str = SETTINGS, flag: str = "--output_dir") -> bool:
    """Makes sure that `folder` can take this run, without changing it; tells whether there is a run to continue.

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
        InputError: another process holds the lock.
    """
    with only_process(folder, "training in"):
        yield


def mend_metrics(folder: Path) -> None:
    """Removes a last line that a kill cut short, so that the next one does not continue it."""
    path = folder / METRICS
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(data.rfind(b"\n") + 1)


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Adds one line to `metrics.jsonl`."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
