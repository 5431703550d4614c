"""Importers of other packages: found like ours, and refused in one sentence where they are broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from importing import jsonl, refused, run_import

from forkwise.errors import InputError
from forkwise.samples.importers import Options, Record, Row, Source, all_formats, import_files, register

IMPORTER = """
USES = frozenset({"puzzle", "reply", "solved"})

def matches(record):
    return "puzzle" in record

def rows(record, source):
    yield {
        "run": source.run(),
        "problem_id": source.problem(record["puzzle"]),
        "completion": record["reply"],
        "correct": source.verdict(record["solved"]),
        "verdict_by": "puzzle",
    }

class Half:
    USES = frozenset()
"""
RECORD = {"puzzle": "a", "reply": "x", "solved": 1}

Install = Callable[[str, str, str], None]


@pytest.fixture(autouse=True)
def _formats_anew() -> Iterator[None]:
    all_formats.cache_clear()
    yield
    all_formats.cache_clear()


def test_a_format_of_another_package_is_found_and_named(tmp_path: Path, installed: Install) -> None:
    file = jsonl(tmp_path / "a.jsonl", RECORD, {**RECORD, "solved": 0, "extra": 1})
    refused(tmp_path, file, "is of no known format")
    installed("forkwise.importers", "puzzles = its_module", IMPORTER)
    all_formats.cache_clear()
    for folder, format_ in (("found", "auto"), ("named", "puzzles")):
        where = tmp_path / folder
        rows, report = run_import(where, file, format_=format_)
        assert (report.format, report.fields_left_out) == ("puzzles", ["extra"])
        assert [(r["problem_id"], r["sample_id"], r["correct"]) for r in rows] == [("a", 0, True), ("a", 1, False)]
    refused(tmp_path, jsonl(tmp_path / "b.jsonl", {"puzzle": "a"}), r"not of the format puzzles: correct or remove it")
    with pytest.raises(InputError, match="There is no format 'puzles'. Did you mean 'puzzles'"):
        list(import_files([file], tmp_path / "out", format_="puzles", options=Options()))


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        (
            "puzzles = its_module:Half",
            "The entry point 'its_module:Half' is no importer: it has no matches and no rows.",
        ),
        ("plain = its_module", "The entry point 'its_module' brings a second format named 'plain'."),
        (
            "puzzles = absent_module",
            "The entry point 'puzzles = absent_module' of the group forkwise.importers cannot be loaded "
            "(ModuleNotFoundError: No module named 'absent_module'): repair or uninstall the package that brings it.",
        ),
    ],
)
def test_a_broken_one_is_one_sentence(tmp_path: Path, installed: Install, entry_point: str, message: str) -> None:
    installed("forkwise.importers", entry_point, IMPORTER)
    refused(tmp_path, jsonl(tmp_path / "a.jsonl", RECORD), re.escape(message))


class Puzzles:
    """An importer as an object, typed by public names alone."""

    USES = frozenset({"puzzle", "reply", "solved"})

    def matches(self, record: Record) -> bool:
        return "puzzle" in record

    def rows(self, record: Record, source: Source) -> Iterator[Row]:
        yield {
            "run": source.run(),
            "problem_id": source.problem(record["puzzle"]),
            "completion": record["reply"],
            "correct": source.verdict(record["solved"]),
            "verdict_by": "puzzle",
        }


def test_a_script_registers_one_for_its_process(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", RECORD)
    register("puzzles", Puzzles())
    rows, report = run_import(tmp_path / "automatic", file)
    assert (report.format, [(r["problem_id"], r["correct"]) for r in rows]) == ("puzzles", [("a", True)])
    for taken in ("puzzles", "plain"):
        with pytest.raises(InputError, match=f"^There is a format named '{taken}' already: give the importer another"):
            register(taken, Puzzles())
    with pytest.raises(InputError, match="^The importer 'half' is no importer: it has no USES and no matches and no"):
        register("half", object())  # type: ignore[arg-type]
    assert "half" not in all_formats()
