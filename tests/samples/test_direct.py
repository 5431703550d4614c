"""Files of other tools where a samples table is asked for: `passk`, `compare`, `explore` and `report` read them."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importing import jsonl
from typer.testing import CliRunner, Result

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.explore import results as explored
from forkwise.passk import load_arm
from forkwise.passk.files import read_results
from forkwise.report.passk_notes import sentences
from forkwise.samples import read_samples, write_shard
from forkwise.samples.direct import is_foreign, open_table, source_files
from forkwise.samples.importers import import_files
from forkwise.samples.importers.reader import read_records

FIXTURES = Path(__file__).parent / "fixtures"
SOLVED = {"q0": 0, "q1": 1, "q2": 2, "q3": 4}
"""Right samples of four, by problem."""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for temporary files, which every test must leave empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def run(*argv: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in argv])


def refused(*argv: object) -> str:
    result = run(*argv)
    assert isinstance(result.exception, InputError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def text(problem: str, right: bool, i: int) -> str:
    return f"So {problem} is this. However, we look at it {i} times. It is {'fine' if right else 'off'}."


def plain(path: Path) -> Path:
    """JSONL with a record per sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [
        {"problem_id": q, "prompt": f"What is {q}?", "completion": text(q, i < c, i), "correct": i < c}
        for q, c in SOLVED.items()
        for i in range(4)
    ]
    return jsonl(path, *records)


def lm_eval(folder: Path) -> Path:
    """A folder as lm_eval --log_samples --output_path leaves it: per model a folder with results and samples."""
    inner = folder / "my__model"
    inner.mkdir(parents=True)
    (inner / "results_2026-11-20T16-15-43.201295.json").write_text('{"results": {}, "configs": {}}')
    records = [
        {
            "doc_id": i,
            "doc": {"question": f"What is {q}?"},
            "target": "7",
            "arguments": {"gen_args_0": {"arg_0": f"Q: {q}", "arg_1": {"until": []}}},
            "resps": [[text(q, j < c, j) for j in range(4)]],
            "filtered_resps": [text(q, j < c, j) for j in range(4)],
            "filter": "none",
            "metrics": ["exact_match"],
            "exact_match": [float(j < c) for j in range(4)],
        }
        for i, (q, c) in enumerate(SOLVED.items())
    ]
    jsonl(inner / "samples_task_2026-11-20T16-15-43.201295.jsonl", *records)
    return folder


def trl(folder: Path) -> Path:
    """A training folder with what TRL's log_completions leaves in it."""
    (folder / "completions").mkdir(parents=True)
    rows = [(f"What is {q}?", text(q, i < c, i), float(i < c)) for q, c in SOLVED.items() for i in range(4)]
    prompt, completion, reward = map(list, zip(*rows, strict=True))
    columns = {"step": [5] * 16, "prompt": prompt, "completion": completion, "accuracy": reward, "advantage": reward}
    pq.write_table(pa.table(columns), folder / "completions" / "completions_00005.parquet")
    return folder


def zipped(path: Path) -> Path:
    with gzip.open(path, "wb") as file:
        file.write(plain(path.with_suffix(".plain")).read_bytes())
    path.with_suffix(".plain").unlink()
    return path


MADE = {
    "jsonl": lambda folder: plain(folder / "mine.jsonl"),
    "gz": lambda folder: zipped(folder / "mine.jsonl.gz"),
    "lm-eval": lambda folder: lm_eval(folder / "evaluated"),
    "trl": lambda folder: trl(folder / "trained"),
    "trl-file": lambda folder: trl(folder / "trained") / "completions" / "completions_00005.parquet",
}


@pytest.mark.parametrize("kind", MADE)
def test_passk_reads_what_import_reads(tmp_path: Path, temporary: Path, kind: str) -> None:
    path = MADE[kind](tmp_path)
    [file] = source_files(path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    result = run("passk", path, "--k", "1,4", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    stored = read_results(tmp_path / "out.json")
    [evaluation] = stored.evaluations
    # 0, 1, 2 and 4 of 4: Pass@1 is 7/16, Pass@4 3/4
    assert evaluation.pass_at_k.mean == pytest.approx([7 / 16, 3 / 4])
    assert [(i.path, i.sha256) for i in stored.inputs] == [(str(file), hashlib.sha256(file.read_bytes()).hexdigest())]
    assert f"'{path}' was imported (" in result.output
    assert "16 samples of 4 problems (4 each), 7 of 16 correct" in result.output
    assert str(temporary) not in result.output
    assert list(temporary.iterdir()) == []
    (tmp_path / "out.json").unlink()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before  # nothing beside the user's files


def test_an_inspect_log_is_read(tmp_path: Path) -> None:
    """The log of the fixtures, its partial verdict (which would need a threshold) made a right one."""
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as changed:
        for i, (_, log) in enumerate(read_records(FIXTURES / "inspect_arithmetic.eval")):
            [sample] = log.pop("samples")
            if not i:
                changed.writestr("header.json", json.dumps(log))
            as_text = re.sub(r'"value":\s*"P"', '"value": "C"', json.dumps(sample))
            changed.writestr(f"samples/{i}_epoch_1.json", as_text)
    list(import_files([path], tmp_path / "imported"))
    direct, table = load_arm(path), load_arm(tmp_path / "imported")
    assert direct.problems == table.problems
    assert np.array_equal(direct.counts(), table.counts())
    assert direct.counts()[1].sum() == 4  # C, C, C and what was P; one is I
    assert direct.name == table.name == "log"


def test_a_samples_table_is_read_as_before(tmp_path: Path) -> None:
    list(import_files([plain(tmp_path / "mine.jsonl")], tmp_path / "table"))
    [shard] = (tmp_path / "table").iterdir()
    jsonl(tmp_path / "table" / "notes.jsonl", {"a": 1})  # beside shards nothing else counts
    for path in (tmp_path / "table", shard):
        assert not is_foreign(path)
        assert source_files(path) == [shard]
        with open_table(path) as opened:
            assert (opened.path, opened.reports) == (path, ())
    assert "was imported" not in run("passk", tmp_path / "table", "--k", "1").output


def test_compare_tells_files_of_one_name_apart(tmp_path: Path) -> None:
    first, second = plain(tmp_path / "seed1" / "samples.jsonl"), plain(tmp_path / "seed2" / "samples.jsonl")
    other = plain(tmp_path / "other.jsonl")
    options = ["--fixed", "both", "--fixed", "other", "--k", "1", "--json", tmp_path / "compare.json"]
    result = run("compare", f"both={first},{second}", other, *options)
    assert result.exit_code == 0, result.output
    stored = read_results(tmp_path / "compare.json")
    assert [i.path for i in stored.inputs] == [str(first), str(second), str(other)]
    both = load_arm([first, second])
    assert both.runs == ("seed1-samples", "seed2-samples")
    # One line for all files of an arm.
    [said] = sentences(both.notes[:1])
    assert said == f"'{first}' and 1 more were imported (plain): 32 samples in 2 runs."
    assert sum(note.topic == "imported" for note in both.notes) == 1
    output = run("passk", first, second, "--k", "1").output
    assert f"{first}/samples has" in output
    assert f"{second}/samples has" in output


def test_a_mix_of_a_table_and_a_file_pairs_by_problem(tmp_path: Path) -> None:
    list(import_files([plain(tmp_path / "a.jsonl")], tmp_path / "table"))
    result = run("compare", tmp_path / "table", plain(tmp_path / "b.jsonl"), "--k", "1", "--brief")
    assert result.output.startswith("On 4 problems, b against a")


def test_explore_reads_a_file_and_records_its_hash(tmp_path: Path, temporary: Path) -> None:
    path = plain(tmp_path / "step_40.jsonl")
    result = run("explore", path, "--resamples", "100", "--out", tmp_path / "explored")
    assert result.exit_code == 0, result.output
    assert f"'{path}' was imported (plain)" in result.output
    exploration = explored.read(tmp_path / "explored" / "explore.json")
    assert exploration.samples == [str(path)]
    assert [i.sha256 for i in exploration.inputs] == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert [row.step for row in exploration.series] == [40]
    assert str(temporary) not in (tmp_path / "explored" / "explore.json").read_text()
    assert list(temporary.iterdir()) == []
    # A report of the exploration finds the samples in the file again.
    shown = run("report", tmp_path / "explored" / "explore.json", "--out", tmp_path / "page.html", "--text")
    assert shown.exit_code == 0, shown.output
    assert "16 of 16 traces" in shown.output


class Lengths:
    """An encoder that knows the lengths of a text's words alone."""

    name = "lengths"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([np.bincount([min(len(word), 9) for word in text.split()], minlength=10) for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_explore_compares_with_a_base_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forkwise.explore.command.load_encoder", lambda *_: Lengths())
    base, path = plain(tmp_path / "base.jsonl"), plain(tmp_path / "mine.jsonl")
    result = run("explore", path, "--base", base, "--resamples", "100", "--out", tmp_path / "explored")
    assert result.exit_code == 0, result.output
    exploration = explored.read(tmp_path / "explored" / "explore.json")
    assert [i.path for i in exploration.inputs] == [str(path), str(base)]
    assert exploration.runs[0].rarity is not None


@pytest.mark.parametrize("kind", ["jsonl", "lm-eval"])
def test_a_report_reads_a_file_or_folder(tmp_path: Path, temporary: Path, kind: str) -> None:
    path = MADE[kind](tmp_path)
    page = tmp_path / "page.html"
    result = run("report", path, "--out", page, "--text")
    assert result.exit_code == 0, result.output
    assert "0.438" in result.output  # Pass@1 is 7/16
    assert "16 of 16 traces" in result.output
    assert "was imported" in result.output
    assert str(temporary) not in page.read_text()
    assert list(temporary.iterdir()) == []


def test_a_page_about_a_file_of_another_tool_goes_to_the_present_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = plain(tmp_path / "theirs" / "mine.jsonl")
    assert run("report", path).exit_code == 0
    assert [p.name for p in path.parent.iterdir()] == ["mine.jsonl"]
    assert (tmp_path / "here" / "report.html").exists()
    list(import_files([path], tmp_path / "table"))
    assert run("report", tmp_path / "table").exit_code == 0
    assert (tmp_path / "table" / "report.html").exists()


def test_a_report_uses_the_result_that_is_about_the_file(tmp_path: Path) -> None:
    path = plain(tmp_path / "mine.jsonl")
    assert run("passk", path, "--k", "1,2", "--json", tmp_path / "passk.json").exit_code == 0
    stored = json.loads((tmp_path / "passk.json").read_text())
    stored["single"][0]["curves"]["pass@k"]["interval"]["mean"][0] = 0.321
    (tmp_path / "passk.json").write_text(json.dumps(stored))
    assert "0.321" in run("report", path, "--out", tmp_path / "page.html", "--text").output
    path.write_text(path.read_text() + path.read_text().replace('"q0"', '"q9"'))
    again = run("report", path, "--out", tmp_path / "page.html", "--text").output
    assert "0.321" not in again
    assert "is not about the samples that are here" in " ".join(again.split())


@pytest.mark.parametrize("command", ["passk", "compare", "explore", "report"])
def test_a_file_that_is_neither_is_refused_as_import_refuses_it(tmp_path: Path, temporary: Path, command: str) -> None:
    notes, other = tmp_path / "notes.txt", jsonl(tmp_path / "other.jsonl", {"a": 1, "b": 2})
    notes.write_text("hello")
    fractions = jsonl(tmp_path / "scores.jsonl", *({"problem_id": q, "completion": "x", "score": 0.5} for q in SOLVED))
    for path, sentence in (
        (notes, "is neither JSON, JSONL, CSV, Parquet nor an inspect_ai log: give a file of one of these kinds"),
        (other, "is of no known format; its fields are a, b: name them"),
        (fractions, "--threshold 1.0 for full marks only (an option of forkwise import: import the file first)"),
    ):
        said = refused(command, path, *([plain(tmp_path / "right.jsonl")] if command == "compare" else []))
        assert f"'{path}'" in said
        assert sentence in said
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("command", ["passk", "explore"])
def test_old_refusals_stay(tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text('{"steps": 4}')
    for name, sentence in (
        ("nowhere", "a folder of them, or files of another tool that forkwise import reads"),
        ("empty", "There are no samples at"),
        ("run", "There are no samples at"),
        ("cut.parquet", "is not a samples table, or was cut off"),
    ):
        assert sentence in refused(command, tmp_path / name)


def test_errors_behind_the_import_name_the_file_of_the_user(tmp_path: Path, temporary: Path) -> None:
    path = jsonl(tmp_path / "empty.jsonl", *({"problem_id": q, "completion": "", "correct": False} for q in SOLVED))
    said = refused("explore", path)
    assert said.startswith(f"'{path}': every sample of the run 'empty' is empty")
    assert str(temporary) not in said


def test_import_takes_a_folder(tmp_path: Path) -> None:
    folder = lm_eval(tmp_path / "evaluated")
    assert run("import", folder, "--out", tmp_path / "out", "--run", "mine").exit_code == 0
    assert read_samples(tmp_path / "out", ["run"])["run"].unique().to_pylist() == ["mine"]
    shutil.rmtree(folder / "my__model")
    assert "is a folder without JSON" in refused("import", folder, "--out", tmp_path / "out")


def test_a_folder_with_one_shard_of_samples_is_a_table(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"run": "a", "model": "m", "problem_id": "p", "sample_id": 0, "correct": True}]
    write_shard(tmp_path / "mixed", "0", rows)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "mixed" / "1.parquet")
    assert "lacks run, model, problem_id, sample_id" in refused("passk", tmp_path / "mixed")
