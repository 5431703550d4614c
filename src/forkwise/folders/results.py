"""Writes and reads result files: a frozen dataclass as strict JSON, with a schema version.

A number that is not finite is null in the file. `msgspec` checks types while it reads.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from forkwise.errors import InputError
from forkwise.folders.whole import json_text, write_bytes
from forkwise.reading import parse_json

Result = TypeVar("Result")


@dataclass(frozen=True)
class Input:
    """A file that a result was computed from: its path as given, and the SHA-256 of its bytes."""

    path: str
    sha256: str


def inputs_of(paths: Iterable[Path]) -> list[Input]:
    """Hashes the files, each once.

    Raises:
        InputError: one of them cannot be read.
    """
    return [Input(str(path), _sha256(path)) for path in dict.fromkeys(paths)]


def sha256_of_path(path: Path) -> str:
    """Hashes a file, or a folder: the names, sizes and SHA-256 of all files in it, but hidden ones.

    Raises:
        InputError: something cannot be read.
    """
    if not path.is_dir():
        return _sha256(path)
    digest = hashlib.sha256()
    inside = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    for name, file in sorted(inside.items()):
        if not any(part.startswith(".") for part in name.split("/")):
            digest.update(f"{name}\0{file.stat().st_size}\0{_sha256(file)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}).") from error
    return digest.hexdigest()


def numerical_versions() -> dict[str, str]:
    """Returns the versions of what numbers depend on beside forkwise: Python, NumPy and SciPy."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "scipy")}}


def result_text(result: Any) -> str:
    """Writes the dataclass as JSON text; NumPy's arrays and numbers become lists and numbers.

    Beside the version of forkwise, which results hold, there are those of Python, NumPy and SciPy.
    """
    content = _finite(msgspec.to_builtins(result, enc_hook=_plain))
    if "forkwise" in content and "versions" not in content:
        places = list(content)
        after = places.index("forkwise") + 1
        ordered = {key: content[key] for key in places[:after]} | {"versions": numerical_versions()}
        content = ordered | {key: content[key] for key in places[after:]}
    return json_text(content)


def write_result(path: Path, result: Any) -> Path:
    """Writes the dataclass to `path`, whole or not at all."""
    write_bytes(path, result_text(result).encode())
    return path


def read_result(path: Path, kind: type[Result], *, schema: int, command: str) -> Result:
    """Reads the file that `write_result` wrote, as the dataclass `kind`.

    Args:
        schema: the version that the field `schema` must have.
        command: what writes such a file, for messages.

    Raises:
        InputError: not such a file, or one of another schema version.
    """
    name = path.name
    try:
        content = parse_json(path.read_bytes())
        found_schema = content["schema"]
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}): write it with {command}.") from error
    except (ValueError, KeyError, TypeError) as error:
        article = "an" if name[0] in "aeiou" else "a"
        raise InputError(f"This is not {article} {name} ({error}): write one with {command}.") from error
    if found_schema != schema:
        raise InputError(f"{name} has schema {found_schema}, not {schema}: run {command} again.")
    try:
        return msgspec.convert(content, kind, dec_hook=_array)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{name} is damaged ({error}): run {command} again.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that a result file holds")


def _array(kind: Any, value: Any) -> Any:
    """Makes an array of float64 from nested lists, null as NaN."""
    return np.array(value, dtype=np.float64)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
