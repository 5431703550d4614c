"""What the tests of importers share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forkwise.errors import InputError
from forkwise.samples import read_samples
from forkwise.samples.importers import FileReport, Options, import_files


def run_import(tmp_path: Path, *files: Path, format_: str = "auto", **options: Any) -> tuple[list[Any], FileReport]:
    """The rows of the files' samples, and the last file's report."""
    folder = tmp_path / "out"
    reports = list(import_files(files, folder, format_=format_, options=Options(**options)))
    return read_samples(folder).to_pylist(), reports[-1]


def jsonl(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def refused(tmp_path: Path, file: Path, message: str, **options: Any) -> str:
    """The sentence with which `file` is refused; nothing of it may be written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        run_import(tmp_path, file, **options)
    assert sorted(tmp_path.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)
