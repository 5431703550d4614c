"""The settings that a folder was filled under: whatever continues in it has the same ones, or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.folders.whole import write_json
from forkwise.reading import parse_json


def is_new(file: Path) -> bool:
    """Whether the folder has no such file of settings yet.

    Raises:
        InputError: the folder is a file, or holds Parquet files that are somebody else's.
    """
    folder = file.parent
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file; give another --out.")
    if not file.exists() and any(folder.glob("*.parquet")):
        raise InputError(f"'{folder}' holds Parquet files but no {file.name}: give another --out.")
    return not file.exists()


def read_settings(file: Path) -> dict[str, Any]:
    """Reads a file of settings in JSON; InputError where it cannot be read."""
    try:
        return dict(parse_json(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"'{file}' cannot be read ({error}): restore it, or give another --out.") from error


def refuse_other(
    file: Path,
    before: Mapping[Any, Any],
    now: Mapping[str, Any],
    *,
    content: str,
    remedy: str,
    may_change: tuple[str, ...] = (),
) -> None:
    """Raises an InputError that names every setting which is not as `before`.

    Args:
        file: where the earlier settings are written, in the folder that holds `content`.
        remedy: what the user can do.
        may_change: beginnings of the names of settings that need not be the same.
    """
    changed = [
        f"{key} = {_shown(before.get(key))}, not {_shown(now.get(key))}"
        for key in sorted({*map(str, before), *now})
        if before.get(key) != now.get(key) and not key.startswith(may_change)
    ]
    if changed:
        raise InputError(f"'{file.parent}' holds {content} with other settings ({'; '.join(changed)}): {remedy}.")


def same_settings(file: Path, settings: Mapping[str, Any], *, content: str, remedy: str) -> None:
    """Writes the settings into a folder that is new, and refuses one that was filled under others; see `refuse_other`.

    Raises:
        InputError: other settings, or a folder that holds somebody else's files.
    """
    if is_new(file):
        write_json(file, settings, indent=2)
    else:
        refuse_other(file, read_settings(file), settings, content=content, remedy=remedy)


def _shown(value: Any) -> str:
    return "no value" if value is None else str(value) or "''"
