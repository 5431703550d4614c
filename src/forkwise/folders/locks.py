"""Lets one process hold a folder, so that a second one cannot write to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from forkwise.errors import InputError
from forkwise.folders.whole import missing_folders, remove_empty

LOCK = ".lock"


@contextmanager
def only_process(folder: Path, doing: str = "writing to") -> Iterator[None]:
    """Holds the folder, made if need be, against a second process. The kernel frees the lock however this process ends.

    The lock file is removed at the end, and so are folders that were made for it and hold nothing.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    new_folders = missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder / LOCK)
    except BlockingIOError:
        raise InputError(f"Another process is {doing} '{folder}': wait for it, or give another folder.") from None
    except OSError as error:
        raise InputError(f"'{folder}' cannot be written ({error.strerror}): give another folder.") from error
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):  # a killed process may have left it there
                (folder / LOCK).unlink(missing_ok=True)
            remove_empty(new_folders)


def is_held(folder: Path) -> bool:
    """Whether a process is working in the folder under `only_process`."""
    import fcntl

    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # noqa: TID251
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(path: Path) -> BinaryIO:
    """Opens the lock file and locks it; BlockingIOError where another process has it."""
    import fcntl

    while True:
        file = path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # noqa: TID251
        except BlockingIOError:
            file.close()
            raise
        except OSError:
            return file  # some network file systems have no locks
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()  # the process that held it removed it between `open` and `flock`
