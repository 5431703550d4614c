"""Folders: the files of another tool in one, and the samples that are in one already."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from forkwise.errors import InputError

_LAYOUTS = ("samples_*.jsonl*", "*/samples_*.jsonl*", "completions/completions_*.parquet")
"""Where tools put samples beside files that hold none: lm-eval (twice) and TRL."""

_ENDING = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet|eval)(\.gz)?$")


def files_in(path: Path) -> list[Path]:
    """Returns the file itself, or the files in a folder that may hold samples, in the order of their names."""
    if not path.is_dir():
        return [path]
    for layout in _LAYOUTS:
        files = sorted(path.glob(layout))
        if files:
            return files
    return sorted(
        file for file in path.iterdir() if file.is_file() and _ENDING.search(file.name) and file.name[0] != "."
    )


def without_ending(path: Path) -> str:
    """Returns the file's name without what says its kind."""
    return _ENDING.sub("", path.name)


def all_files(paths: Iterable[Path]) -> list[Path]:
    """Returns every file, those of folders in their place.

    Raises:
        InputError: a folder without any file of a kind that is imported.
    """
    files = []
    for path in paths:
        inside = files_in(path)
        if not inside:
            raise InputError(f"'{path}' is a folder without JSON, JSONL, CSV, Parquet or .eval files: give such files.")
        files += inside
    return files


def problems_in(out: Path) -> set[tuple[str, str]]:
    """Returns the pairs (run, problem_id) that the folder holds."""
    shards = sorted(out.glob("*.parquet"))
    pairs: set[tuple[str, str]] = set()
    for shard in shards:
        try:
            table = pads.dataset(str(shard), format="parquet").to_table(columns=["run", "problem_id"])
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"'{shard}' is no shard of a samples table: choose another --out.") from error
        distinct = table.group_by(["run", "problem_id"]).aggregate([])
        pairs.update(zip(*(pc.cast(distinct[c], pa.string()).to_pylist() for c in ("run", "problem_id")), strict=True))
    return pairs
