"""The kit passes our importers on real files, and notices each way in which an importer can break its contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forkwise.errors import InputError
from forkwise.samples.importers import Options, all_formats
from forkwise.samples.importers.base import Row, Source
from forkwise.testing.importers import check_importer

FIXTURES = Path(__file__).parents[1] / "samples" / "fixtures"


def rows(record: dict[str, Any], source: Source) -> Iterator[Row]:
    yield {
        "run": source.run(),
        "problem_id": source.problem(record["puzzle"]),
        "completion": record["reply"],
        "correct": source.verdict(record["solved"]),
        "verdict_by": "puzzle",
    }


def importer(change: dict[str, Any] | None = None, **parts: Any) -> Any:
    """A sound importer of puzzles; `change` overrides columns of its rows."""

    def changed(record: dict[str, Any], source: Source) -> Iterator[Row]:
        yield from (row | (change or {}) for row in rows(record, source))

    sound = {"USES": frozenset({"puzzle", "reply", "solved"}), "matches": lambda record: "puzzle" in record}
    return SimpleNamespace(**{**sound, "rows": changed, **parts})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    records = [{"puzzle": f"p{i % 2}", "reply": "x", "solved": i % 2} for i in range(4)]
    path = tmp_path / "puzzles.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_sound_importer_passes_and_leaves_no_trace(file: Path) -> None:
    before = dict(all_formats())
    samples = check_importer(importer(), file)
    assert [(row["problem_id"], row["correct"]) for row in samples] == [("p0", False)] * 2 + [("p1", True)] * 2
    assert all_formats() == before


@pytest.mark.parametrize(
    ("name", "file_name", "threshold"),
    [
        ("qwen-math", "qwen_math_cot.jsonl", None),
        ("reasoning-gym", "reasoning_gym_countdown.json", 1.0),
        ("ollama", "ollama_sample.json", None),
    ],
)
def test_ours_pass(name: str, file_name: str, threshold: float | None) -> None:
    assert check_importer(all_formats()[name], FIXTURES / file_name, options=Options(threshold=threshold), damages=5)


def crash(record: dict[str, Any], source: Source) -> Iterator[Row]:
    if not isinstance(record.get("reply"), str):
        raise NotImplementedError("a reply that is no text")
    yield from rows(record, source)


def shout(record: dict[str, Any], source: Source) -> Iterator[Row]:
    if not isinstance(record.get("reply"), str):
        raise InputError("no text:\nsee above")
    yield from rows(record, source)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (importer(matches=lambda record: False), "refuses its own file: .* is of no known format"),
        (importer(matches=lambda record: 1 / 0), "refuses its own file: division by zero"),
        (importer(change={"problem_id": ""}), "has an empty problem_id"),
        (importer(change={"verdict_by": None}), "has correct (True|False) by None"),
        (importer(change={"tokens": ["x"], "logprobs": [-1.0, -1.0]}), "columns of different lengths"),
        (importer(change={"n_tokens": "many"}), "refuses its own file: .* must be a whole number"),
        (importer(rows=lambda record, source: iter(())), "refuses its own file: .* no samples to import"),
        (importer(rows=crash), "ends in NotImplementedError"),
        (importer(rows=shout), "more than one line"),
    ],
)
def test_a_broken_one_is_named(file: Path, broken: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_importer(broken, file)
