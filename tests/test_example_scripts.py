"""The example scripts run as they are and print what can be counted by hand."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkwise.methods import all_methods
from forkwise.samples.importers import all_formats

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def _tables_as_before() -> Iterator[None]:
    methods, formats = dict(all_methods()), dict(all_formats())
    yield
    for table, before in ((all_methods(), methods), (all_formats(), formats)):
        for name in table.keys() - before.keys():
            del table[name]


def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    correct = [
        sum(sum(json.loads(line)["correct"]) for line in (EXAMPLES / "data" / f"{name}.jsonl").read_text().splitlines())
        for name in ("step400", "step800")
    ]
    assert correct == [288, 283]  # of 2,000 each, as the files' own scores have it
    runpy.run_path(str(EXAMPLES / "compare.py"), run_name="__main__")
    head, *table, conclusion = capsys.readouterr().out.splitlines()
    assert head == "step800 minus step400, on 40 problems"
    assert [line.split()[0] for line in table] == ["Pass@1", "Pass@4", "Pass@16", "Pass@50"]
    # Equal numbers of samples per problem, so Pass@1 is the share of correct ones: (283 - 288) / 2000 = -0.0025.
    assert float(table[0].split()[1]) == pytest.approx(-0.0025, abs=0.0006)
    assert conclusion == "No difference that can be told from luck."


def test_own_importer(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_importer.py"), run_name="__main__")
    report, curve = capsys.readouterr().out.splitlines()
    assert report == "puzzles: 6 of 24 samples correct"
    # One of four is right: the chance that it is among one, two or four of them.
    assert curve == "Pass@1, 2, 4: 0.25, 0.50, 1.00"


def test_own_method(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    runpy.run_path(str(EXAMPLES / "own_method.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[[1.0, 0.0, -2.0, 0.0]]"
    skipped = [line for line in lines if line.endswith("of the tokens skipped")]
    assert [line.split(":")[0] for line in skipped] == ["step 1", "step 2"]
    # Some tokens of the embedded model are certain and some are not.
    assert all(0 < int(line.split()[2].rstrip("%")) < 100 for line in skipped)
