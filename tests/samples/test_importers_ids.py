"""Columns such as `id` in plain files: whether they number problems or samples is read off the whole file.

In every file here a person sees which it is, or that nobody can tell.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importing import jsonl, run_import

from forkwise.report.importing import imported_file
from forkwise.samples.importers import groups
from forkwise.tasks.base import question_id

ASKED = "Which of the following is true?"


def line(prompt: str, completion: str, **other: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "correct": completion == "A", **other}


def several(name: str = "id", ids: Sequence[Any] = (7, 8, 9), **other: Any) -> list[dict[str, Any]]:
    """Two samples of each of three problems of one prompt."""
    return [line(ASKED, c, **{name: value}, **other) for value in ids for c in "AB"]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(records[0]))
            table.writeheader()
            table.writerows(records)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        jsonl(path, *records)
    return path


def sizes(tmp_path: Path, records: list[dict[str, Any]], **options: Any) -> tuple[list[int], str]:
    """Samples of each problem, and the report."""
    tmp_path.mkdir(exist_ok=True)
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *records), **options)
    return sorted(Counter((row["run"], row["problem_id"]) for row in rows).values()), imported_file(report)


# ---- ids of problems


@pytest.mark.parametrize("name", ["id", "idx", "index", "uuid", "qid", "hash", "example_id", "question_id", "task_id"])
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_ids_that_come_back_with_one_prompt_are_problems(tmp_path: Path, name: str, ending: str) -> None:
    records = [*several(name), line("What is 2+2?", "A", **{name: 5}), line("What is 2+2?", "B", **{name: 5})]
    rows, report = run_import(tmp_path, write(tmp_path / f"a.{ending}", records))
    assert sorted(Counter(row["problem_id"] for row in rows).values()) == [2, 2, 2, 2]
    assert "3 documents share 1 problem id" in imported_file(report)
    # Alone with its text, a problem keeps the id that other files give it.
    assert question_id("What is 2+2?") in {row["problem_id"] for row in rows}
    named = name in ("question_id", "task_id")
    assert named or f"'{name}' is read as the problem's id (its values come back" in imported_file(report)
    assert report.fields_left_out == []


def test_the_prompt_can_be_chosen_instead(tmp_path: Path) -> None:
    records = [{"question": row.pop("prompt"), **row} for row in several()]
    _, said = sizes(tmp_path / "a", records)
    assert "--map problem_id=question takes all samples of one prompt for one problem" in said
    rows, report = run_import(tmp_path, jsonl(tmp_path / "b.jsonl", *records), columns={"problem_id": "question"})
    # By the hash of the text, as elsewhere.
    assert Counter(row["problem_id"] for row in rows) == {question_id(ASKED): 6}
    assert "is read as" not in imported_file(report)


def test_golds_that_differ_with_the_id_show_that_it_is_the_problem_s(tmp_path: Path) -> None:
    """One sample of each problem; of three that share a prompt two have the gold answer A by chance."""
    records = [line(ASKED, "A", id=i, gold=gold) for i, gold in enumerate("AAB")]
    records += [line(f"What is {i}+{i}?", "A", id=i, gold=str(2 * i)) for i in range(3, 9)]
    counts, said = sizes(tmp_path, records)
    assert counts == [1] * 9
    assert "'id' is read as the problem's id (gold answers or options differ with it" in said


def test_the_finest_of_several_ids(tmp_path: Path) -> None:
    records = [{**row, "uuid": "u"} for row in several("id")]
    assert sizes(tmp_path, records)[0] == [2, 2, 2]


def test_a_named_id_beside_a_number_within_the_problem(tmp_path: Path) -> None:
    records = [line(ASKED, c, question_id=q, index=i) for q in range(3) for i, c in enumerate("AB")]
    counts, said = sizes(tmp_path, records)
    assert counts == [2, 2, 2]
    assert (
        "'index' is not read as the problem's id (one value stands with several gold answers, options or ids)" in said
    )


def test_a_column_that_is_mapped_to_something_else_is_no_id(tmp_path: Path) -> None:
    assert sizes(tmp_path, several("index"), columns={"seed": "index"})[0] == [6]


def test_runs_pair_by_id(tmp_path: Path) -> None:
    records = several("uuid")
    rows, _ = run_import(
        tmp_path, jsonl(tmp_path / "a.jsonl", *records), jsonl(tmp_path / "b.jsonl", *reversed(records))
    )
    ids = {run: {row["problem_id"] for row in rows if row["run"] == run} for run in "ab"}
    assert len(ids["a"]) == 3
    assert ids["a"] == ids["b"]


def test_lists_of_samples_with_an_id_each(tmp_path: Path) -> None:
    records = [{"prompt": ASKED, "completion": ["A", "B"], "gold": "A", "id": i} for i in range(3)]
    assert sizes(tmp_path, records)[0] == [2, 2, 2]
    single = [{**record, "completion": ["A"]} for record in records]
    assert sizes(tmp_path / "single", single)[0] == [1, 1, 1]
    # The number of a batch that went through all prompts is none of a problem.
    batches = [{"prompt": p, "completion": ["A", "B"], "index": i} for i in range(3) for p in ("P", "Q")]
    counts, said = sizes(tmp_path / "b", batches)
    assert counts == [6, 6]
    assert "'index' is not read as the problem's id (one value stands with several prompts)" in said


def test_a_column_answer_is_the_gold_of_each_id(tmp_path: Path) -> None:
    """Under one text it differs between samples, but not between those of one id."""
    records = [line(ASKED, f"{c}{i}", id=i, answer="XYZ"[i]) for i in range(3) for c in "AB"]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *records))
    assert sorted((row["gold"], row["sample_id"]) for row in rows) == [(g, i) for g in "XYZ" for i in (0, 1)]
    assert "'answer' is read as the gold answer" in imported_file(report)


def boxed(prompt: str, box: str, gold: str, **other: Any) -> dict[str, Any]:
    completion = f"{len(other)} for {gold}: \\boxed{{{box}}}"
    return {"prompt": prompt, "completion": completion, "correct": box == gold, "answer": gold, **other}


def test_gold_answers_in_a_column_answer_differ_with_the_id(tmp_path: Path) -> None:
    """Right samples say what the column says and wrong ones do not, so it is the gold; no id comes back."""
    records = [boxed(f"What is {i}?", str(i) if i % 2 else "0", str(i), id=i) for i in range(3, 20)]
    records += [boxed(ASKED, "1", gold, id=100 + i) for i, gold in enumerate("112")]
    counts, said = sizes(tmp_path, records)
    assert counts == [1] * 20
    assert "'answer' is read as the gold answer" in said


def test_numbers_within_problems_whose_gold_stands_in_a_column_answer(tmp_path: Path) -> None:
    records = [boxed(ASKED, box, gold, idx=i) for gold in "12" for i, box in enumerate("12")]
    counts, said = sizes(tmp_path, records)
    assert "'answer' is read as the gold answer" in said
    assert counts == [2, 2]
    assert "'idx' is not read as the problem's id (one value stands with several gold answers" in said


# ---- numbers of samples


@pytest.mark.parametrize("name", ["id", "uuid", "idx", "task_id", "question_id"])
def test_a_number_of_each_sample_is_none_of_a_problem(tmp_path: Path, name: str) -> None:
    records = [line(f"Q{i // 4}", "AB"[i % 2], **{name: i}, gold="A") for i in range(12)]
    counts, said = sizes(tmp_path, records)
    assert counts == [4, 4, 4]
    assert f"'{name}' is not read as the problem's id (it differs where prompt, gold answer and options" in said
    assert f"--map problem_id={name} takes each value for a problem of its own" in said
    assert "told apart" not in said


def test_numbers_of_samples_beside_two_problems_of_one_text(tmp_path: Path) -> None:
    """The gold answers tell the two apart, and the numbers nothing more."""
    records = [line(ASKED, "AB"[i % 2], id=i, gold="AB"[i // 4]) for i in range(8)]
    counts, said = sizes(tmp_path, records)
    assert counts == [4, 4]
    assert "'id' is not read as the problem's id" in said


def test_a_number_within_the_problem(tmp_path: Path) -> None:
    records = [line(p, c, idx=i) for p in ("P", "Q") for i, c in enumerate("AB")]
    counts, said = sizes(tmp_path, records)
    assert counts == [2, 2]
    assert "'idx' is not read as the problem's id (one value stands with several prompts)" in said
    # Two documents of one prompt, each with its samples 0 and 1.
    counts, said = sizes(tmp_path / "b", [line(ASKED, c, idx=i, gold=g) for g in "AB" for i, c in enumerate("AB")])
    assert counts == [2, 2]
    assert "one value stands with several gold answers, options or ids" in said


def test_numbers_of_samples_that_begin_anew_with_each_run(tmp_path: Path) -> None:
    records = [line(f"Q{i // 4}", "AB"[i % 2], id=i, run=run, gold="A") for run in "xy" for i in range(8)]
    assert sizes(tmp_path, records)[0] == [4, 4, 4, 4]
    # And with each model, or going on from one run to the next.
    for number, other in (("id", "model"), ("uuid", "run")):
        records = [
            {
                **line(f"Q{i % 8 // 4}", "AB"[i % 2], gold="A"),
                number: i if number == "uuid" else i % 8,
                other: "xy"[i // 8],
            }
            for i in range(16)
        ]
        counts, _ = sizes(tmp_path / other, records)
        assert counts == ([4] * 4 if other == "run" else [8, 8])


def test_samples_that_a_resumed_run_wrote_again(tmp_path: Path) -> None:
    records = [line(f"Q{i // 4}", "AB"[i % 2], id=i) for i in range(12)]
    records += [line("Q0", "C", id=0), line("Q0", "D", id=1)]
    assert sizes(tmp_path, records)[0] == [4, 4, 6]


def test_the_hash_of_a_completion(tmp_path: Path) -> None:
    """It comes back with its prompt where a completion does."""
    texts = ["A", "A", "B", "B", "B", "C", "C"]
    assert sizes(tmp_path, [line(ASKED, text, hash=f"h{text}") for text in texts])[0] == [7]


def test_nobody_can_tell(tmp_path: Path) -> None:
    records = [line(ASKED, c, id=i) for i, c in enumerate("ABAB")]
    counts, said = sizes(tmp_path, records)
    assert counts == [4]
    assert "'id' is not read as the problem's id (nothing in the file says whether it numbers problems" in said
    assert "--map problem_id=id" in said
    assert sizes(tmp_path / "b", records, columns={"problem_id": "id"})[0] == [1, 1, 1, 1]
    # A name that says what it is decides.
    records = [{**record, "question_id": record.pop("id")} for record in records]
    assert sizes(tmp_path / "c", records)[0] == [1, 1, 1, 1]
    # Also where two have the same gold answer, since another has one sample.
    records = [line(prompt, "A", question_id=i, gold="A") for i, prompt in enumerate((ASKED, ASKED, "Q"))]
    assert sizes(tmp_path / "d", records)[0] == [1, 1, 1]


def test_where_every_prompt_has_one_id_nothing_is_said(tmp_path: Path) -> None:
    records = [line(f"Q{i}", c, id=i) for i in range(3) for c in "AB"]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *records))
    assert {row["problem_id"] for row in rows} == {question_id(f"Q{i}") for i in range(3)}
    assert report.remarks == []


@pytest.mark.parametrize("value", [{"a": 1}, ["x"], True, None])
def test_values_that_are_no_ids_are_passed_over(tmp_path: Path, value: Any) -> None:
    counts, said = sizes(tmp_path, [line(ASKED, c, id=value) for c in "AB"])
    assert counts == [2]
    assert "'id'" not in said


# ---- large files


@pytest.mark.parametrize("per_id", [1, 2])
def test_a_part_of_the_prompts_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_id: int) -> None:
    monkeypatch.setattr(groups, "_MOST_GROUPS", 50)
    records = [line(f"Q{i // 4}", f"{i}", id=i // per_id, gold="A") for i in range(2000)]
    counts, said = sizes(tmp_path, records)
    assert counts == ([4] * 500 if per_id == 1 else [2] * 1000)
    assert ("'id' is not read" if per_id == 1 else "'id' is read") in said


def sample(prompt: int, completion: int) -> groups.SurveyedSample:
    return groups.SurveyedSample(prompt, 0, completion, 0, 0, 0, right=False, wrong=False, listed=False)


def test_groups_are_bounded_and_those_that_stay_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_MOST_GROUPS", 100)
    grouping = groups.Grouping()
    for i in range(3000):  # three ids of each of a thousand prompts, over the whole file
        grouping.add(sample(groups.digest(str(i % 1000)), i), i // 1000)
        assert len(grouping.groups()) <= 100
    kept = Counter(group.prompt for group in grouping.groups())
    assert kept
    assert set(kept.values()) == {3}
    # One prompt with a thousand ids.
    monkeypatch.undo()
    grouping = groups.Grouping()
    for i in range(1000):
        grouping.add(sample(1, i), i)
    assert len(grouping.groups()) <= 256
    assert grouping.shares_prompts()


# Prints the largest resident set in MiB.
CHILD = """
import process_memory, sys
from pathlib import Path
from forkwise.samples.importers.base import Options, Source
from forkwise.samples.importers.plain import survey
source = Source(Path("a.jsonl"), Options())
text = "word " * 400
def records(n):
    for i in range(n):
        yield {"id": i, "prompt": f"{i // 4} {text}", "completion": f"{i} {text}", "correct": i % 3 == 0, "gold": "3"}
survey(records(int(sys.argv[1])), source)
assert source.readings == {"id": "sample"}
print(process_memory.peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_the_survey_keeps_no_texts(tmp_path: Path) -> None:
    """The texts of the larger file take 60 MB."""
    small, large = (
        float(subprocess.run([sys.executable, "-c", CHILD, n], capture_output=True, text=True, check=True).stdout)
        for n in ("100", "15000")
    )
    assert large < small + 30


def test_numbers_as_json_and_as_text_are_one(tmp_path: Path) -> None:
    rows = [json.loads(json.dumps(row)) for row in several()]
    rows[0]["id"] = str(rows[0]["id"])
    assert sizes(tmp_path, rows)[0] == [2, 2, 2]
