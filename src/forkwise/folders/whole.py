"""Writes files so that they appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from forkwise.errors import InputError
from forkwise.terminal import visible

_PARTIAL = ".forkwise-tmp"
_ABANDONED_AFTER = 24 * 3600  # seconds without a write, after which a temporary file of another machine is removed
_STREAMS = ("/dev", "/dev/fd", "/proc/self/fd")  # what lies here is written to, never replaced


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens `path` for writing; it appears, or is replaced, when the block ends well, and else stays as it was.

    What is written goes to a temporary file beside it, which is flushed to disk and renamed into place; the folder is
    flushed too. Folders that are missing are made, and removed again where the block fails. Links are followed;
    devices and pipes are written to directly.

    Raises:
        InputError: in the place of what the file system says, with the file and the reason.
    """
    new_folders = missing_folders(path.parent)
    try:
        with _direct(path) if _is_stream(path) else _beside(Path(os.path.realpath(path))) as file:
            yield file
    except OSError as error:
        if error.errno is None:  # a library raised it, about something else than the file
            raise
        reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise InputError(f"'{path}' cannot be written: {reason}.") from error
    finally:
        remove_empty(new_folders)  # folders with something in them stay


@contextmanager
def _direct(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        yield file


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    name = path.name if len(os.fsencode(path.name)) < 150 else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    partial = path.with_name(f".{name}.{socket.gethostname()[:60]}.{os.getpid()}{_PARTIAL}")
    replaced = path.stat() if path.exists() else None
    if replaced is not None and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    try:
        with partial.open("wb") as file:
            if replaced is not None:
                with suppress(OSError):
                    partial.chmod(stat.S_IMODE(replaced.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        flush_folder(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    """Whether `path` is something that a file must not replace, such as a pipe; of a folder, opening it says so."""
    try:
        return os.path.dirname(path) in _STREAMS or not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; see `whole_file`."""
    with whole_file(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Writes text for people, whole or not at all: hiding characters are made visible.

    For CSV files and YAML, whose writers let such characters through, this is the only place.
    """
    write_bytes(path, visible(text).encode())


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Writes JSON whole or not at all; see `json_text`."""
    write_bytes(path, json_text(content, indent=indent).encode())


def json_text(content: Any, *, indent: int | None = 1) -> str:
    """Writes strict JSON in ASCII, without a control character; what is read from it is what went in."""
    return json.dumps(content, indent=indent, allow_nan=False).replace("\x7f", "\\u007f") + "\n"


def flush_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut; Windows neither needs nor allows it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def missing_folders(folder: Path) -> list[Path]:
    """Lists the folder and those above it that do not exist, the lowest first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Removes those of the folders, lowest first, that hold nothing."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _remove_abandoned(folder: Path) -> None:
    """Removes what killed writers left: temporary files whose process is gone, or that nobody wrote to for a day."""
    for partial in folder.glob(f".*{_PARTIAL}"):
        owner, _, pid = partial.name.removesuffix(_PARTIAL).rpartition(".")
        is_local = owner.endswith(f".{socket.gethostname()[:60]}")
        with suppress(OSError):  # another process removed it, or this one may not
            silent = time.time() - partial.stat().st_mtime > _ABANDONED_AFTER
            if silent or (is_local and pid.isdigit() and not _is_alive(int(pid))):
                partial.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
