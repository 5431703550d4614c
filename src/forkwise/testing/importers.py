"""Checks that every importer must pass on a file of its format: valid rows, and one sentence for a damaged file.

from forkwise.testing.importers import check_importer

def test_puzzles() -> None:
    check_importer(puzzles, Path("tests/puzzles.jsonl"))
"""

from __future__ import annotations

import copy
import json
import random
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from forkwise.errors import InputError
from forkwise.samples import read_samples
from forkwise.samples.importers import Options, all_formats, import_files
from forkwise.samples.importers.base import Importer, Row
from forkwise.samples.importers.reader import Record, read_records
from forkwise.samples.store import TOKEN_COLUMNS

_RECORDS = 20  # of a file, that are damaged

ODD: list[Any] = [
    *(None, True, 0, -1, 3.5, 2**70, 1e308, float("nan"), float("inf"), "", "x", "\x1b[2J\n\x00", "\ud800", "None"),
    *([], {}, [None], [[]], {"a": None}, [1, "x"], "y" * 5000, {"\x1b]0;": 1}, -9999.0, [{"role": 3}]),
]
"""Values that a file may hold where another was meant."""


def check_importer(importer: Importer, file: Path, *, options: Options | None = None, damages: int = 30) -> list[Row]:
    """Imports a file of the format, checks its rows, and imports it again with `damages` random damages.

    Args:
        importer: as an entry point of `forkwise.importers` would bring it.
        file: a file that the importer takes, found by its shape alone.
        options: the options with which the file is imported.
        damages: how many damaged copies are tried.

    Returns:
        The rows of the undamaged file.

    Raises:
        AssertionError: saying what does not hold.
    """
    names = [name for name, known in all_formats().items() if known is importer]
    name = names[0] if names else "the importer under test"
    with patch.dict(all_formats(), {name: importer}), tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "out"
        try:
            [report] = import_files([file], table, options=options)
        except Exception as error:
            raise AssertionError(f"The importer refuses its own file: {error!s}") from error
        _hold(report.format == name, f"The file is taken for the format {report.format}")
        rows: list[Row] = read_samples(table).to_pylist()
        check_rows(rows)
        records = [record for _, record in islice(read_records(file), _RECORDS)]
        for seed in range(damages):
            check_damaged(name, records, Path(folder) / str(seed), random.Random(f"{name}{seed}"), options)
    return rows


def check_rows(rows: list[Row]) -> None:
    """Checks rows as they are read back from the samples table.

    Raises:
        AssertionError: naming the sample and what does not hold.
    """
    _hold(bool(rows), "No row was imported")
    for row in rows:
        sample = f"Sample {row['sample_id']} of problem {row['problem_id']!r} in run {row['run']!r}"
        for column in ("run", "problem_id", "model"):
            _hold(bool(row[column]), f"{sample} has an empty {column}")
        agree = (row["correct"] is None) == (row["verdict_by"] is None)
        _hold(agree, f"{sample} has correct {row['correct']} by {row['verdict_by']}")
        lengths = {column: len(row[column]) for column in TOKEN_COLUMNS.names if row[column] is not None}
        _hold(len(set(lengths.values())) < 2, f"{sample} has columns of different lengths: {lengths}")


def check_damaged(
    name: str, records: list[Record], folder: Path, rng: random.Random, options: Options | None = None
) -> Path | None:
    """Imports `records` with a few random damages, which must be taken, or refused in one sentence that writes nothing.

    Returns:
        The samples table, or None if the file was refused.

    Raises:
        AssertionError: saying what does not hold.
    """
    records = copy.deepcopy(records)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(records))
        records[at] = damaged(records[at], rng)
    folder.mkdir()
    file, table = folder / "damaged.jsonl", folder / "out"
    file.write_text("".join(json.dumps(record, default=str) + "\n" for record in records))
    try:
        [report] = import_files([file], table, format_=rng.choice(["auto", name]), options=options)
    except InputError as error:
        _hold("\n" not in str(error), f"A damaged file is refused in more than one line: {error!r}")
        _hold(not table.exists(), f"A damaged file is refused, but left something behind ({error})")
        return None
    except Exception as error:
        raise AssertionError(f"A damaged file ends in {error!r} and not in a sentence: {records}") from error
    count = sum(run.samples for run in report.runs.values())
    _hold(read_samples(table).num_rows == count, f"The report counts {count} samples, and the table holds others")
    return table


def damaged(value: Any, rng: random.Random) -> Any:
    """Returns `value` with one thing in it replaced, removed or doubled."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def collect(part: Any) -> None:
        for key in list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            places.append((part, key))
            collect(part[key])

    collect(value)
    if places:
        part, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.7:
            part[key] = copy.deepcopy(rng.choice(ODD))
        elif kind < 0.85:
            del part[key]
        elif isinstance(part, list):
            part.insert(key, copy.deepcopy(part[key]))
        else:
            part[f"{key}\x1b"] = part.pop(key)
    return value


def _hold(holds: bool, claim: str) -> None:
    if not holds:
        raise AssertionError(f"{claim}.")
