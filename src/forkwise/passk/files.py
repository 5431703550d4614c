"""`passk.json` and `compare.json`: results with what they were computed from. `forkwise report` reads them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forkwise.errors import InputError
from forkwise.folders import write_text
from forkwise.folders.results import Input, inputs_of, read_result
from forkwise.passk.intervals import Row
from forkwise.passk.results import COLUMNS, Comparison, Evaluation
from forkwise.samples.direct import source_files
from forkwise.version import __version__

PASSK, COMPARE = "passk.json", "compare.json"
SCHEMA = 5


@dataclass(frozen=True)
class ResultFile:
    """Content of `passk.json` or `compare.json`.

    Attributes:
        schema: version of this layout.
        forkwise: version of forkwise that wrote the file.
        settings: the options that were used; null is the default.
        inputs: every shard that was read.
        sentence: the conclusion in words.
        single: arms that are not compared: all of `forkwise passk`, the base model of an experiment.
        comparison: of the others; None where nothing is compared.
    """

    schema: int
    forkwise: str
    settings: dict[str, Any]
    inputs: list[Input]
    sentence: str
    single: list[Evaluation]
    comparison: Comparison | None = None

    @property
    def evaluations(self) -> list[Evaluation]:
        """Evaluations of all arms: those that are not compared, then the reference and the others."""
        return [*self.single, *(self.comparison.arms if self.comparison else ())]

    def is_about(self, tables: Iterable[Path], names: Iterable[str]) -> bool:
        """Whether the file was computed from just these samples tables, and its arms have just these names."""
        if {e.arm for e in self.evaluations} != set(names):
            return False
        return {i.sha256 for i in self.inputs} == {i.sha256 for i in inputs_of_tables(tables)}


def result_file(
    settings: dict[str, Any],
    tables: Iterable[Path],
    sentence: str,
    single: list[Evaluation],
    comparison: Comparison | None = None,
) -> ResultFile:
    """Adds to results the version and the hashes of every shard of the samples tables that they are about."""
    return ResultFile(SCHEMA, __version__, settings, inputs_of_tables(tables), sentence, single, comparison)


def inputs_of_tables(tables: Iterable[Path]) -> list[Input]:
    """Hashes every shard of the samples tables, and every file of another tool, each once."""
    return inputs_of(file for table in tables for file in source_files(table))


def read_results(path: Path) -> ResultFile:
    """Reads a file that `forkwise passk --json` or `forkwise compare --json` wrote.

    Raises:
        InputError: the file is none, is damaged, or its parts do not fit together.
    """
    command = "forkwise passk --json or forkwise compare --json"
    file = read_result(path, ResultFile, schema=SCHEMA, command=command)
    names = [e.arm for e in file.evaluations]
    whole = bool(names) and len(set(names)) == len(names)
    whole &= all({"pass@k", "mean@n"} <= set(e.curves) for e in file.evaluations)
    if file.comparison is not None:
        differences = file.comparison.differences
        whole &= bool(differences) and {name for d in differences for name in (d.arm, d.reference)} <= set(names)
    if not whole or not _fits(file):
        raise InputError(f"'{path}' is damaged (its parts do not fit together): write it again.")
    return file


def _fits(value: Any, shape: tuple[int, ...] = ()) -> bool:
    """Whether every array has one entry for each K of what holds it, and the K rise; msgspec has checked the types."""
    if isinstance(value, np.ndarray):
        return bool(value.shape == shape)
    if isinstance(value, (list, dict)):
        return all(map(_fits, value.values() if isinstance(value, dict) else value))
    if not is_dataclass(value):
        return True
    ks = getattr(value, "ks", None)
    if ks is not None:
        shape = (len(ks),)
        if not ks or ks[0] < 1 or ks != sorted(set(ks)):
            return False
    return all(_fits(getattr(value, f.name), shape) for f in fields(value))


def csv_text(rows: Iterable[Row]) -> str:
    """Makes a CSV table with one line per number, at full precision."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Writes the table of `csv_text`."""
    write_text(path, csv_text(rows))
