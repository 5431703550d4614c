"""TRL's completions tables: as `GRPOTrainer.log` writes them (TRL 1.16), one Parquet file per logged step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importing import jsonl, refused, run_import

from forkwise.report.importing import imported_file
from forkwise.sampling.options import JudgeOptions
from forkwise.sampling.verify import find_judge, verify
from forkwise.tasks.base import question_id


def completions(path: Path, **columns: list[Any]) -> Path:
    """Four samples of two problems in step 5, in the order of columns that TRL gives them."""
    last = {"advantage": columns.pop("advantage", [0.9, -0.9, 0.0, 0.0])}
    table = {"step": [5] * 4, "prompt": ["P", "P", "Q", "Q"], "completion": ["\\boxed{3}", "\\boxed{4}", "x", ""]}
    pq.write_table(pa.table({**table, **columns, **last}), path)
    return path


def test_the_only_reward_decides_if_it_is_a_verdict(tmp_path: Path) -> None:
    file = completions(tmp_path / "completions_00005.parquet", accuracy_reward=[1.0, 0.0, 0.0, math.nan])
    rows, report = run_import(tmp_path, file)
    assert report.format == "trl"
    assert {(r["prompt"], r["problem_id"]) for r in rows} == {(text, question_id(text)) for text in "PQ"}
    by_sample = {(r["prompt"], r["sample_id"]): r for r in rows}
    assert {key: r["correct"] for key, r in by_sample.items()} == {
        ("P", 0): True,
        ("P", 1): False,
        ("Q", 0): False,
        ("Q", 1): None,  # the reward function gave None
    }
    assert (
        by_sample["P", 0]
        | {
            "run": "step5",
            "step": 5,
            "verdict_by": "trl:accuracy_reward",
            "rewards": [{"name": "accuracy_reward", "value": 1.0}],
            "advantage": 0.9,
            "answer": "3",
        }
        == by_sample["P", 0]
    )
    assert by_sample["Q", 1]["rewards"] == [{"name": "accuracy_reward", "value": None}]
    assert "'accuracy_reward', the only reward, decides what is correct" in imported_file(report)
    assert report.fields_left_out == []


def test_of_several_rewards_the_user_chooses(tmp_path: Path) -> None:
    rewards = {"accuracy_reward": [1.0, 0.0, 0.0, 0.0], "format_reward": [1.0, 1.0, 1.0, 0.0]}
    file = completions(tmp_path / "completions_00005.parquet", **rewards)
    rows, report = run_import(tmp_path, file)
    assert {r["correct"] for r in rows} == {None}
    assert "choose --score from accuracy_reward, format_reward, or run forkwise verify" in imported_file(report)
    rows, _ = run_import(tmp_path, file, score="accuracy_reward", run="a")
    assert sum(r["correct"] is True for r in rows) == 1
    assert {r["run"] for r in rows} == {"step5", "a/step5"}
    refused(
        tmp_path, file, "no reward 'accuracy': choose --score from accuracy_reward, format_reward", score="accuracy"
    )


def test_rewards_that_are_no_verdicts_need_a_threshold(tmp_path: Path) -> None:
    file = completions(tmp_path / "completions_00005.parquet", reward=[1.0, -1.0, 0.5, 0.25])
    rows, report = run_import(tmp_path, file)
    assert {r["correct"] for r in rows} == {None}
    assert "say with --threshold from which one on a sample is correct" in imported_file(report)
    rows, _ = run_import(tmp_path, file, threshold=0.5, run="a")
    assert sum(r["correct"] is True for r in rows) == 2
    refused(tmp_path, file, "holds scores other than 0 and 1", score="reward", run="b")


def test_what_reward_functions_log_is_no_reward_and_may_be_the_gold(tmp_path: Path) -> None:
    """TRL's accuracy_reward logs `solution`, `gold_parsed` and `answer_parsed`, all text."""
    logged = {"solution": ["is 3", "is 3", "is 5", "is 5"], "answer_parsed": ["3", "4", "", ""]}
    file = completions(tmp_path / "completions_00005.parquet", accuracy_reward=[1.0, 0.0, 0.0, 0.0], **logged)
    rows, report = run_import(tmp_path, file)
    assert {(r["prompt"], r["gold"]) for r in rows} == {("P", "is 3"), ("Q", "is 5")}
    assert report.fields_left_out == ["answer_parsed"]
    # And documents of one prompt are told apart by it.
    (tmp_path / "b").mkdir()
    other = completions(tmp_path / "b" / "c.parquet", r=[1.0] * 4, solution=["1", "1", "1", "2"])
    rows, _ = run_import(tmp_path / "b", other)
    assert len({r["problem_id"] for r in rows}) == 3


def test_conversations(tmp_path: Path) -> None:
    user = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2"}]
    alone = [{"role": "user", "content": "2+2"}]
    said = [{"role": "assistant", "content": "4", "reasoning_content": "hm"}]
    called = [{"role": "assistant", "content": "calling"}, {"role": "tool", "content": "4"}]
    table = {"step": [1] * 3, "prompt": [user, alone, alone], "completion": [said, said, called], "r": [1.0] * 3}
    pq.write_table(pa.table({**table, "advantage": [0.0] * 3}), tmp_path / "completions_00001.parquet")
    rows, _ = run_import(tmp_path, tmp_path / "completions_00001.parquet")
    assert sorted(r["prompt"] for r in rows) == ["2+2", "2+2", "system: be brief\n\nuser: 2+2"]
    assert [r["completion"] for r in rows if r["problem_id"] == question_id("2+2")] == [
        "<think>\nhm\n</think>\n\n4",
        "assistant: calling\n\ntool: 4",
    ]


def test_steps_are_runs_and_other_containers_are_fine(tmp_path: Path) -> None:
    lines = [{"step": str(s), "prompt": "P", "completion": "x", "reward": s % 2} for s in (1, 1, 2)]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "old.jsonl", *lines))
    assert [(r["run"], r["sample_id"], r["correct"]) for r in rows] == [
        ("step1", 0, True),
        ("step1", 1, True),
        ("step2", 0, False),
    ]
    assert report.format == "trl"
    files = [completions(tmp_path / f"completions_{i}.parquet", r=[1.0] * 4) for i in range(2)]
    with pytest.raises(ValueError, match="would both become run 'step5'"):
        run_import(tmp_path / "two", *files)


def test_the_gold_that_was_kept_verifies_the_samples(tmp_path: Path) -> None:
    file = completions(tmp_path / "completions_00005.parquet", f=[0.1] * 4, solution=["3", "3", "3", "3"])
    run_import(tmp_path, file)
    report = verify(tmp_path / "out", find_judge(tmp_path / "out", JudgeOptions(gold_column="gold", verifier="exact")))
    assert (report.correct, report.wrong) == (1, 3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": [None] * 4}, "the prompt is None: it must be text or a list of messages"),
        ({"completion": [1, 2, 3, 4]}, "the completion is 1: it must be text"),
        ({"step": ["x"] * 4}, "not of the format trl"),
    ],
)
def test_other_values(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    refused(tmp_path, completions(tmp_path / "c.parquet", reward=[1.0] * 4, **columns), message)
