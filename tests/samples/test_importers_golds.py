"""A column named `answer`: the gold answer of the problem, or what each sample answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from importing import jsonl, run_import

from forkwise.passk import evaluate, load_arm
from forkwise.report.importing import imported_file
from forkwise.sampling.options import JudgeOptions
from forkwise.sampling.verify import find_judge, verify

BOXES = [["4", "4", "4", "3"], ["3", "3", "5", "6"], ["7", "3", "3", "7"]]
"""Of three problems, whose gold answer is 3."""


def lines(**other: Any) -> list[dict[str, Any]]:
    """A line per sample."""
    return [
        {"prompt": f"Question {q}?", "completion": f"so \\boxed{{{box}}}", "correct": box == "3", **other}
        for q, boxes in enumerate(BOXES)
        for box in boxes
    ]


def own(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    boxes = [box for boxes in BOXES for box in boxes]
    return [{**record, "answer": box} for record, box in zip(records, boxes, strict=True)]


def without(records: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in names} for record in records]


@pytest.mark.parametrize("names", [(), ("correct",), ("completion",)])
def test_the_same_for_all_samples_of_a_problem_is_the_gold(tmp_path: Path, names: tuple[str, ...]) -> None:
    rows, report = run_import(tmp_path, jsonl(tmp_path / "mine.jsonl", *without(lines(answer="3"), *names)))
    assert {row["gold"] for row in rows} == {"3"}
    boxes = sorted(box for boxes in BOXES for box in boxes)
    assert sorted(row["answer"] or "-" for row in rows) == (boxes if "completion" not in names else ["-"] * 12)
    assert "'answer' is read as the gold answer" in imported_file(report)
    assert "--map answer=answer" in imported_file(report)


def test_majority_votes_count_what_was_answered(tmp_path: Path) -> None:
    """Of four votes 4 wins the first problem, 3 the second, and in the third 3 and 7 tie: (0 + 1 + 1/2) / 3."""
    values = []
    for name, records in (("gold", lines(answer="3")), ("none", lines()), ("own", own(lines()))):
        run_import(tmp_path / name, jsonl(tmp_path / f"{name}.jsonl", *records))
        curve = evaluate(load_arm(tmp_path / name / "out")).curves["maj@k"]
        values.append(float(curve.interval.mean[curve.ks.index(4)]))
    assert values == pytest.approx([0.5, 0.5, 0.5])


@pytest.mark.parametrize("names", [(), ("correct",), ("completion",)])
def test_what_differs_between_samples_is_their_own(tmp_path: Path, names: tuple[str, ...]) -> None:
    rows, report = run_import(tmp_path, jsonl(tmp_path / "mine.jsonl", *without(own(lines()), *names)))
    assert [row["answer"] for row in rows[:4]] in (BOXES[0], BOXES[1], BOXES[2])
    assert {row["gold"] for row in rows} == {None}
    assert "'answer' is read as what each sample answered (it differs between samples of a problem)" in imported_file(
        report
    )
    assert "--map gold=answer" in imported_file(report)


def test_wrong_samples_that_all_say_the_same_keep_their_own_answer(tmp_path: Path) -> None:
    records = [
        {"prompt": "Q", "completion": f"{i} gives \\boxed{{4}}", "answer": "4", "correct": False} for i in range(4)
    ]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *records))
    assert {(row["answer"], row["gold"]) for row in rows} == {("4", None)}
    assert "it is what wrong samples say" in imported_file(report)


def test_a_gold_that_wrong_completions_mention_is_still_the_gold(tmp_path: Path) -> None:
    records = [{"prompt": "Q", "completion": f"1 2 3 {i}", "answer": "3", "correct": False} for i in range(4)]
    rows, _ = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *records))
    assert {row["gold"] for row in rows} == {"3"}


@pytest.mark.parametrize(
    ("answers", "verdicts", "reading"),
    [
        (["4", "5", "3"], [False, False, True], "own"),  # what the completions say, right or wrong
        (["3", "3", "3"], [False, False, True], "gold"),  # what the right one says and the wrong ones do not
        (["3", "3", "3"], None, "gold"),
        (["4", "5", "3"], None, "own"),
        (["some work\n#### 3", "#### 3", "so\n#### 3"], None, "gold"),  # whole solutions
    ],
)
def test_one_sample_of_each_problem(
    tmp_path: Path, answers: list[str], verdicts: list[bool] | None, reading: str
) -> None:
    records = [
        {"question": f"Q{i}", "completion": f"\\boxed{{{box}}}", "answer": answers[i]}
        | ({} if verdicts is None else {"correct": verdicts[i]})
        for i, box in enumerate("453")
    ]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *records))
    assert sorted(row["answer"] for row in rows) == ["3", "4", "5"]
    assert sorted(row["gold"] or "" for row in rows) == (sorted(answers) if reading == "gold" else ["", "", ""])
    assert "'answer' is read as" in imported_file(report)


def test_the_user_s_word_counts(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "mine.jsonl", *lines(answer="3"))
    rows, report = run_import(tmp_path, file, columns={"answer": "answer"})
    assert {(row["answer"], row["gold"]) for row in rows} == {("3", None)}
    assert "'answer' is read" not in imported_file(report)
    rows, report = run_import(tmp_path / "b", jsonl(tmp_path / "own.jsonl", *own(lines())), columns={"gold": "answer"})
    assert [row["gold"] for row in rows] == [row["answer"] for row in rows]
    assert "'answer' is read" not in imported_file(report)


def test_another_field_was_named_for_the_answers(tmp_path: Path) -> None:
    boxes = [box for boxes in BOXES for box in boxes]
    records = [{**record, "pred": box} for record, box in zip(lines(answer="3"), boxes, strict=True)]
    rows, _ = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *records), columns={"answer": "pred"})
    assert {row["gold"] for row in rows} == {"3"}
    assert sorted(row["answer"] for row in rows) == sorted(boxes)
    records = [{**record, "pred": "9"} for record in own(lines())]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "b.jsonl", *records), columns={"answer": "pred"})
    assert {(row["answer"], row["gold"]) for row in rows if row["run"] == "b"} == {("9", None)}
    assert "'answer' is left out" in imported_file(report)


def test_open_r1_has_lists_of_generations_beside_the_gold(tmp_path: Path) -> None:
    record = {
        "problem": "Q",
        "solution": "s",
        "answer": "3",
        "uuid": "u",
        "generations": ["\\boxed{3}", "\\boxed{4}"],
        "correctness_math_verify": [True, False],
        "finish_reasons": ["stop", "length"],
    }
    file = jsonl(tmp_path / "openr1.jsonl", record)
    rows, _ = run_import(tmp_path, file, columns={"completion": "generations", "finish_reason": "finish_reasons"})
    assert [(r["answer"], r["gold"], r["finish_reason"]) for r in rows] == [("3", "3", "stop"), ("4", "3", "length")]
    # The gold is of use as it stands.
    report = verify(tmp_path / "out", find_judge(tmp_path / "out", JudgeOptions(gold_column="gold", verifier="exact")))
    assert (report.correct, report.wrong) == (1, 1)


def test_a_list_of_answers_is_one_for_each_sample(tmp_path: Path) -> None:
    record = {"prompt": "Q", "completion": ["\\boxed{3}", "\\boxed{3}"], "answer": ["3", "3"], "gold": "5"}
    rows, _ = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", record))
    assert [(row["answer"], row["gold"]) for row in rows] == [("3", "5")] * 2


@pytest.mark.parametrize("names", [(), ("completion",)])
def test_gold_answers_that_differ_under_one_text(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Two problems of one text; nearly all others show that the column is the gold."""
    records = lines(answer="3") + [
        {"prompt": "Same?", "completion": f"\\boxed{{{box}}}", "correct": box == gold, "answer": gold}
        for gold in ("1", "2")
        for box in ("1", "2")
    ]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *without(records, *names)))
    problems = {(row["problem_id"], row["gold"]) for row in rows if row["prompt"] == "Same?"}
    assert len({problem for problem, _ in problems}) == len(problems) == 2
    assert "2 documents share 1 problem id" in imported_file(report)


@pytest.mark.parametrize("name", ["gold", "ground_truth", "golden_answer", "reference_answer", "target"])
def test_other_names_of_the_gold(tmp_path: Path, name: str) -> None:
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *lines(**{name: 3})))
    assert {row["gold"] for row in rows} == {"3"}
    assert report.fields_left_out == []
    assert report.remarks == []


def test_our_own_tables_come_back_as_they_are(tmp_path: Path) -> None:
    """Their `answer` is what each sample answered, even where all samples of a problem agree."""
    run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *lines(answer="3", step=7, seed=1)))
    [shard] = (tmp_path / "out").iterdir()
    rows, report = run_import(tmp_path / "again", shard)
    assert rows == run_import(tmp_path / "third", *(tmp_path / "again" / "out").iterdir())[0]
    assert {(row["gold"], row["step"], row["seed"]) for row in rows} == {("3", 7, 1)}
    assert report.remarks == []
    assert report.fields_left_out == []
