"""A report reads Pass@K from result files about the same samples, and computes it where there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.report.content import Content, gather
from forkwise.report.page import render
from forkwise.report.sources import find_sources
from forkwise.report.text import summary
from forkwise.samples import write_shard


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    for run, right in (("a", 1), ("b", 2)):
        rows = [made.sample(run, f"p{q}", i, correct=i < right, completion="x y") for q in range(6) for i in range(4)]
        write_shard(tmp_path / "samples", run, rows)
    return tmp_path / "samples"


def command(*words: object) -> None:
    result = CliRunner().invoke(app, [*map(str, words), "--resamples", "100"])
    assert result.exit_code == 0, result.output


def marked(path: Path) -> Path:
    """The file with a number that no computation gives."""
    content = json.loads(path.read_text())
    for evaluation in content["single"] or content["comparison"]["arms"]:
        evaluation["curves"]["pass@k"]["interval"]["mean"][0] = 0.123
    path.write_text(json.dumps(content))
    return path


def pass_at_1(content: Content) -> dict[str, float]:
    return {e.arm: float(e.pass_at_k.mean[0]) for e in content.evaluations}


def test_a_comparison_beside_the_samples_is_read(samples: Path) -> None:
    command("compare", samples, "--json", samples / "compare.json")
    marked(samples / "compare.json")
    content = gather(find_sources([samples]))
    assert pass_at_1(content) == {"a": 0.123, "b": 0.123}
    assert content.comparison is not None
    assert content.comparison.differences[0].reference == "a"
    assert str(samples / "compare.json") in content.sources
    assert content.traces is not None
    assert "0.123 [" in summary(content)
    assert "0.123" in render(content)


def test_one_about_other_samples_is_not_and_the_report_says_so(samples: Path) -> None:
    command("compare", samples, "--json", samples / "compare.json")
    marked(samples / "compare.json")
    write_shard(samples, "b", [made.sample("b", f"p{q}", i, correct=i < 3) for q in range(6) for i in range(4)])
    content = gather(find_sources([samples]))
    assert pass_at_1(content) == {"a": 0.25, "b": 0.75}
    (note,) = [note for note in content.notes if "compare.json" in note]
    assert "is not about the samples that are here" in note
    assert "computed again" in note


def test_names_that_differ_are_other_arms(samples: Path) -> None:
    command("compare", f"x={samples / 'a.parquet'}", samples / "b.parquet", "--json", samples / "compare.json")
    marked(samples / "compare.json")
    content = gather(find_sources([samples]))
    assert pass_at_1(content) == {"a": 0.25, "b": 0.5}


def test_evaluations_beside_the_samples_are_read_and_the_arms_compared(samples: Path) -> None:
    command("passk", samples, "--json", samples / "passk.json")
    marked(samples / "passk.json")
    content = gather(find_sources([samples]))
    assert pass_at_1(content) == {"a": 0.123, "b": 0.123}
    assert content.comparison is not None
    np.testing.assert_allclose(content.comparison.differences[0].interval.mean[0], 0.25)


def test_a_damaged_file_beside_the_samples_is_said_and_one_that_is_asked_for_is_refused(samples: Path) -> None:
    (samples / "compare.json").write_text("{}")
    content = gather(find_sources([samples]))
    assert pass_at_1(content) == {"a": 0.25, "b": 0.5}
    assert any("not a compare.json" in note for note in content.notes)
    with pytest.raises(InputError, match=r"not a compare\.json"):
        gather(find_sources([samples / "compare.json"]))


@pytest.mark.parametrize(("words", "said"), [(["passk"], "Nothing is compared here"), (["compare"], "b against a")])
def test_a_result_file_is_a_run_of_its_own(samples: Path, tmp_path: Path, words: list[str], said: str) -> None:
    file = tmp_path / "elsewhere" / "found.json"  # whatever its name
    command(*words, samples, "--json", file)
    for shard in samples.glob("*.parquet"):
        shard.unlink()
    content = gather(find_sources([marked(file)]))
    assert pass_at_1(content) == {"a": 0.123, "b": 0.123}
    assert said in content.conclusion[0]
    assert content.sources == [str(file)]
    page = render(content)
    assert "0.123" in page
    assert "No samples were given, so there are no traces" in page


def test_of_two_comparisons_one_is_shown_and_the_report_says_so(samples: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        command("compare", samples, "--json", file)
    content = gather(find_sources([marked(files[0]), files[1]]))
    assert pass_at_1(content) == {"a": 0.123, "b": 0.123}
    assert any(f"that of '{files[0]}'" in note for note in content.notes)


def test_a_json_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    file: Any = tmp_path / "x.json"
    file.write_text('{"a": 1}')
    with pytest.raises(InputError, match=r"nothing to report on.*compare\.json or passk\.json"):
        find_sources([file])
