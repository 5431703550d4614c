"""Which samples belong to one problem: the file's own ids and hashes say so, and a text alone only where it can.

Inputs are made up in the shape in which the tools write; each holds what a person sees to be different problems.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from importing import jsonl, refused, run_import

from forkwise.passk import evaluate, load_arm
from forkwise.report.importing import imported_file
from forkwise.tasks.base import question_id

ASKED = "Which of the following is true?"


def lm_eval(doc_id: int, question: str, **other: Any) -> dict[str, Any]:
    document = {"question": question, "options": [f"o{doc_id}{i}" for i in range(4)], "answer": "A"}
    return {
        "doc_id": doc_id,
        "doc": document,
        "target": "A",
        "arguments": {"gen_args_0": {"arg_0": f"Q{doc_id}", "arg_1": {"until": ["Q"], "temperature": 0.0}}},
        "resps": [["The answer is (A)."]],
        "filtered_resps": ["A"],
        "filter": "custom-extract",
        "metrics": ["exact_match"],
        "doc_hash": f"h{doc_id}",
        "exact_match": float(doc_id == 0),
        **other,
    }


def per_problem(rows: list[Any]) -> Counter[str]:
    return Counter(row["problem_id"] for row in rows)


def test_documents_that_share_their_question_are_problems_of_their_own(tmp_path: Path) -> None:
    """As in MMLU-Pro, whose questions are often the same and only the options differ."""
    lines = [lm_eval(i, ASKED) for i in range(3)] + [lm_eval(3, "What is 2+2?")]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "samples_mmlu.jsonl", *lines))
    assert sorted(per_problem(rows).values()) == [1, 1, 1, 1]
    evaluation = evaluate(load_arm(tmp_path / "out"))
    assert evaluation.pass_at_k.mean[0] == 0.25
    # Alone with its text, a document has the id that every other tool's file gives it.
    assert question_id("What is 2+2?") in per_problem(rows)
    assert question_id(ASKED) not in per_problem(rows)
    assert "3 documents share 1 problem id" in imported_file(report)


def test_documents_pair_between_runs_whatever_their_order(tmp_path: Path) -> None:
    lines = [lm_eval(i, ASKED) for i in range(3)]
    a, b = jsonl(tmp_path / "a.jsonl", *lines), jsonl(tmp_path / "b.jsonl", *reversed(lines))
    rows, _ = run_import(tmp_path, a, b)
    options = {(row["run"], row["prompt"]): row["problem_id"] for row in rows}
    assert all(options["a", f"Q{i}"] == options["b", f"Q{i}"] for i in range(3))
    assert len(set(options.values())) == 3


def test_what_tells_documents_apart(tmp_path: Path) -> None:
    """The hash, without one the document, and between documents that are the same their number."""
    without_hash = [{k: v for k, v in lm_eval(i, ASKED).items() if k != "doc_hash"} for i in range(2)]
    same = [lm_eval(i, ASKED, doc={"question": ASKED}, doc_hash="h") for i in range(2)]
    for name, lines in (("w", without_hash), ("s", same)):
        rows, _ = run_import(tmp_path / name, jsonl(tmp_path / f"{name}.jsonl", *lines))
        assert sorted(per_problem(rows).values()) == [1, 1]
    # Another filter's line of the same document is no other document.
    filters = [lm_eval(0, ASKED, filter=name) for name in ("strict", "flexible")]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "f.jsonl", *filters), score="exact_match,strict")
    assert [row["problem_id"] for row in rows] == [question_id(ASKED)]
    assert report.remarks == []


def test_two_files_of_one_run_must_mean_the_same_problem(tmp_path: Path) -> None:
    math, law = (jsonl(tmp_path / f"{n}.jsonl", lm_eval(0, ASKED, doc_hash=n)) for n in ("math", "law"))
    with pytest.raises(ValueError, match="another hash for the same question in 1 problem.*--run of its own"):
        run_import(tmp_path, math, law, run="both")
    # In runs of their own they stand side by side, and that is said.
    _, report = run_import(tmp_path / "apart", math, law)
    assert f"1 problem, such as {question_id(ASKED)}, with another gold answer" in imported_file(report)
    # Seeds of one run agree about their documents.
    seeds = [jsonl(tmp_path / f"s{i}.jsonl", lm_eval(0, ASKED)) for i in range(2)]
    rows, _ = run_import(tmp_path / "seeds", *seeds, run="base")
    assert sorted(row["sample_id"] for row in rows) == [0, 1]


@pytest.mark.parametrize(
    ("name", "records", "problems"),
    [
        # verl: one decoded prompt, two gold answers.
        (
            "5.jsonl",
            [{"input": "Solve.", "output": "x", "gts": g, "score": 1, "step": 5} for g in ("1", "1", "2", "2")],
            [2, 2],
        ),
        (
            "qwen.jsonl",
            [
                {"idx": i, "question": "Find x.", "gt": str(i), "code": ["a", "b"], "pred": ["1", "2"], "score": [1, 0]}
                for i in range(2)
            ],
            [2, 2],
        ),
        # A plain file without ids: options differ, or gold answers.
        (
            "plain.jsonl",
            [{"prompt": ASKED, "completion": str(i), "correct": True, "options": ["a", str(i % 2)]} for i in range(4)],
            [2, 2],
        ),
        ("gold.jsonl", [{"question": "Q", "completion": "x", "ground_truth": str(i % 3)} for i in range(6)], [2, 2, 2]),
        ("id.jsonl", [{"question": "Q", "completion": "x", "question_id": i // 3} for i in range(6)], [3, 3]),
        # Row numbers in a file of one line per sample are no ids of problems.
        ("rows.jsonl", [{"question": "Q", "completion": "x", "id": i} for i in range(4)], [4]),
        # In a line per problem they are.
        ("lists.jsonl", [{"problem": "Q", "completion": ["a", "b"], "uuid": f"u{i}"} for i in range(2)], [2, 2]),
    ],
)
def test_other_formats(tmp_path: Path, name: str, records: list[dict[str, Any]], problems: list[int]) -> None:
    rows, report = run_import(tmp_path, jsonl(tmp_path / name, *records))
    assert sorted(per_problem(rows).values()) == problems
    assert ("told apart" in imported_file(report)) == (len(problems) > 1)


def test_reasoning_gym_questions_with_other_answers(tmp_path: Path) -> None:
    results = [
        {"question": "Q", "expected_answer": str(i), "completions": [{"full_model_response": "r", "score": 1}] * 2}
        for i in range(2)
    ]
    (tmp_path / "r.json").write_text(json.dumps({"results": results}))
    rows, _ = run_import(tmp_path, tmp_path / "r.json")
    assert sorted(per_problem(rows).values()) == [2, 2]
    assert sorted(row["gold"] for row in rows) == ["0", "0", "1", "1"]


def test_numbered_samples_of_documents_that_share_their_text(tmp_path: Path) -> None:
    lines = [{"prompt": ASKED, "choices": [c], "sample_id": i, "correct": True} for c in "ab" for i in range(2)]
    rows, _ = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *lines))
    assert sorted(per_problem(rows).values()) == [2, 2]
    refused(tmp_path, jsonl(tmp_path / "b.jsonl", *lines, lines[0]), "sample 0 of problem .* is there twice")


def test_one_id_with_several_prompts_or_golds_is_said(tmp_path: Path) -> None:
    """Two benchmarks in one file whose numbers both begin at 0."""
    lines = [
        {"problem_id": 0, "prompt": p, "gold": g, "correct": True} for p, g in (("A", "1"), ("B", "1"), ("A", "2"))
    ]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *lines))
    assert {row["problem_id"] for row in rows} == {"0"}
    assert report.notes == {
        "whose prompt is not that of the first sample with its problem id": 1,
        "whose gold answer is not that of the first sample with its problem id": 1,
    }


def inspect_log(path: Path, ids: list[Any]) -> Path:
    header = {"version": 2, "status": "success", "eval": {"task": "inspect_evals/humaneval", "model": "m"}}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps(header))
        for i in ids:
            for epoch in (1, 2):
                choice = {"message": {"role": "assistant", "content": "3"}, "stop_reason": "stop"}
                sample = {"id": i, "epoch": epoch, "input": f"Q{i}", "target": "3", "output": {"choices": [choice]}}
                archive.writestr(
                    f"samples/{i}_epoch_{epoch}.json", json.dumps({**sample, "scores": {"verify": {"value": "C"}}})
                )
        archive.writestr("summaries.json", "[]")
        archive.writestr("header.json", json.dumps(header))
    return path


@pytest.mark.parametrize(
    "ids",
    [
        [f"HumanEval/{i}" for i in range(4)],
        ["a", "b", "lib/a", "lib/b"],
        ["with blank", "ünïcode/é", "a.json", "../up", "new\nline"],
        [1, 2, 3],
        [1, "1"],
    ],
)
def test_inspect_samples_of_any_id(tmp_path: Path, ids: list[Any]) -> None:
    rows, _ = run_import(tmp_path, inspect_log(tmp_path / "log.eval", ids))
    assert list(per_problem(rows).values()) == [2] * len(ids)
    assert {row["gold"] for row in rows} == {"3"}
    if len(set(map(str, ids))) == len(ids):
        assert set(per_problem(rows)) == {f"inspect_evals/humaneval/{i}" for i in ids}


def test_lm_eval_repeats_with_a_score_each(tmp_path: Path) -> None:
    """Forks of the harness write the scores of all repeats beside the metric; others write them as the metric."""
    texts = ["is 4", "is 5", "is 6"]
    beside = lm_eval(0, "Q", resps=[texts], filtered_resps=texts, exact_match=0, exact_matches=[1, 0, 0])
    listed = lm_eval(1, "R", resps=[texts], filtered_resps=["4"], exact_match=[0, 1, 1])
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", beside, listed))
    verdicts = {p: [r["correct"] for r in rows if r["problem_id"] == question_id(p)] for p in ("Q", "R")}
    assert verdicts == {"Q": [True, False, False], "R": [False, True, True]}
    assert report.notes == {}
    short = lm_eval(0, "Q", resps=[texts], exact_match=[1, 0])
    refused(tmp_path, jsonl(tmp_path / "b.jsonl", short), "3 responses but 2 scores", run="b")


def test_lm_eval_repeats_asked_one_by_one(tmp_path: Path) -> None:
    request = {"arg_0": "Q", "arg_1": {"until": []}}
    line = lm_eval(0, "Q", resps=[["a"], ["b"]], arguments={"gen_args_0": request, "gen_args_1": request})
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", line))
    assert [(row["completion"], row["correct"]) for row in rows] == [("a", None), ("b", None)]
    assert report.notes == {"left unscored, since the file has one score for several samples": 2}
    # Requests with other prompts are no repeats.
    other = {"gen_args_0": request, "gen_args_1": {**request, "arg_0": "R"}}
    refused(tmp_path, jsonl(tmp_path / "b.jsonl", {**line, "arguments": other}), "no samples to import", run="b")


def test_samples_are_numbered_all_or_not_at_all(tmp_path: Path) -> None:
    def line(problem: str, **number: Any) -> dict[str, Any]:
        return {"problem_id": problem, "completion": "a", "correct": True, **number}

    said = "some samples of problem p have a sample_id and others have none"
    for i, lines in enumerate(
        (
            [line("p", sample_id=0), line("p")],
            [line("p"), line("p", sample_id=7)],
            [line("p", sample_id=1), line("p", sample_id=None)],
        )
    ):
        refused(tmp_path, jsonl(tmp_path / f"{i}.jsonl", *lines), said)
    files = (jsonl(tmp_path / "a.jsonl", line("p", sample_id=0)), jsonl(tmp_path / "b.jsonl", line("p")))
    with pytest.raises(ValueError, match=said):
        run_import(tmp_path / "two", *files, run="r")
    rows, _ = run_import(tmp_path, jsonl(tmp_path / "ok.jsonl", line("p", sample_id=3), line("q"), line("q")))
    assert [(row["problem_id"], row["sample_id"]) for row in rows] == [("p", 3), ("q", 0), ("q", 1)]
