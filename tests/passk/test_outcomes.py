"""What is accepted as scored samples, what is refused, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forkwise.errors import InputError
from forkwise.passk import load_arm, make_arm
from forkwise.report.passk_notes import sentences
from forkwise.samples import write_shard


def row(problem: str, sample: int, correct: bool | None, **more: Any) -> dict[str, Any]:
    sampling = {"temperature": more.pop("temperature", 1.0), "top_p": 1.0, "max_tokens": 8}
    base = {
        "run": "r", "model": "m", "problem_id": problem, "sample_id": sample, "prompt": "?", "completion": "a b c",
        "answer": "1", "correct": correct, "verdict_by": "test", "n_tokens": 3, "finish_reason": "stop", "seed": 0,
    }  # fmt: skip
    return {**base, "sampling": sampling, **more}


def test_reads_the_samples_table(tmp_path: Path) -> None:
    rows = [row(p, i, (p == "a") ^ (i == 0), n_tokens=i + 1) for p in "ba" for i in range(3)]
    write_shard(tmp_path / "t", "0", rows)
    arm = load_arm(tmp_path / "t", texts=True)
    assert (arm.name, arm.problems, arm.runs, arm.length_unit) == ("r", ("a", "b"), ("r",), "tokens")
    n, c = arm.counts()
    assert (n.tolist(), c.tolist()) == ([[3, 3]], [[2, 1]])
    assert sorted(arm.lengths().tolist()) == [1, 1, 2, 2, 3, 3]
    assert arm.completion_N is not None
    assert arm.completion_N[0] == "a b c"
    assert arm.notes == ()


def test_runs_keep_their_counts_whatever_the_order_of_the_tables(tmp_path: Path) -> None:
    write_shard(tmp_path / "z", "0", [row(p, i, p == "a", run="z") for p in "ab" for i in range(2)])
    write_shard(tmp_path / "a", "0", [row(p, i, False, run="a") for p in "ab" for i in range(2)])
    arm = load_arm([tmp_path / "z", tmp_path / "a"], name="both")
    assert arm.runs == ("a", "z")
    assert arm.counts()[1].tolist() == [[0, 0], [2, 0]]


def test_lengths_fall_back_to_words_and_say_so(tmp_path: Path) -> None:
    write_shard(tmp_path / "t", "0", [row("a", i, True, n_tokens=None, completion="w " * (i + 1)) for i in range(2)])
    arm = load_arm(tmp_path / "t")
    assert (arm.length_unit, arm.lengths().tolist()) == ("words", [1, 2])
    assert "in words" in sentences(arm.notes)[0]


def test_unscored_is_not_wrong() -> None:
    arm = make_arm("a", list("pppqq"), [True, None, False, None, True])
    n, c = arm.counts()
    assert (n.tolist(), c.tolist()) == ([[2, 1]], [[1, 1]])
    assert "2 of 5 samples have no verdict" in sentences(arm.notes)[0]
    assert "between 1 and 2 scored samples" in sentences(arm.notes)[1]
    assert arm.largest_k() == 1


def test_a_problem_without_verdicts_is_left_out_aloud() -> None:
    arm = make_arm("a", list("ppq"), [True, False, None], length=[1, 2, 3])
    assert arm.problems == ("p",)
    assert arm.lengths().tolist() == [1, 2]
    assert any("Left out: 1 problem without a scored sample" in note for note in sentences(arm.notes))


def test_missing_lengths_end_length_control_and_nothing_else() -> None:
    arm = make_arm("a", ["p", "q"], [1, 0], length=[3.0, float("nan")])
    assert arm.length_N is None
    assert "Lengths are missing for 1 of 2" in sentences(arm.notes)[0]
    with pytest.raises(InputError, match="no lengths"):
        arm.lengths()


def test_numpy_columns_are_columns() -> None:
    arm = make_arm("a", np.array([2, 2, 1]), np.array([True, False, True]), length=np.array([1, 2, 3]))
    assert arm.problems == ("1", "2")
    assert arm.counts()[1].tolist() == [[1, 1]]


def test_runs_split_and_stay_apart() -> None:
    arm = make_arm("a", list("pqpq"), [1, 0, 0, 0], run=["s1", "s1", "s0", "s0"])
    assert arm.runs == ("s0", "s1")
    assert arm.counts()[1].tolist() == [[0, 0], [1, 0]]
    first, second = arm.split()
    assert (first.name, second.counts()[1].tolist()) == ("s0", [[1, 0]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"problem_id": [], "correct": []}, "holds no samples"),
        ({"problem_id": ["p"], "correct": [float("nan")]}, "is NaN"),
        ({"problem_id": ["p"], "correct": [0.5]}, "neither right nor wrong: set a threshold"),
        ({"problem_id": ["p"], "correct": np.array([0.5, 1.0])[:1]}, "neither right nor wrong"),
        ({"problem_id": ["p", "q"], "correct": [None, None]}, "forkwise verify"),
        ({"problem_id": ["p", "q"], "correct": [True]}, "different lengths"),
        ({"problem_id": ["p", "q", "p"], "correct": [1, 1, 1], "run": ["a", "a", "b"]}, "do not cover the same"),
    ],
)
def test_refusals(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_arm("a", **columns)


def test_refusals_of_tables(tmp_path: Path) -> None:
    write_shard(tmp_path / "mixed", "0", [row("a", 0, True), row("a", 1, True, temperature=0.6)])
    with pytest.raises(InputError, match="mixes samples drawn at temperature 0.6 and 1"):
        load_arm(tmp_path / "mixed")
    write_shard(tmp_path / "unscored", "0", [row("a", 0, None), row("a", 1, None)])
    with pytest.raises(InputError, match="forkwise verify"):
        load_arm(tmp_path / "unscored")
    write_shard(tmp_path / "ok", "0", [row("a", 0, True), row("a", 1, True)])
    with pytest.raises(InputError, match="There is no run 'x'"):
        load_arm(tmp_path / "ok", runs=["x"])
    with pytest.raises(InputError, match="a run of the same name"):
        load_arm([tmp_path / "ok", tmp_path / "ok2"] if write_copy(tmp_path) else [])
    whole = next((tmp_path / "ok").glob("*.parquet"))
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:200])
    for bad in (cut, tmp_path / "nowhere"):
        with pytest.raises(InputError):
            load_arm(bad)


def write_copy(folder: Path) -> bool:
    write_shard(folder / "ok2", "0", [row("a", 0, True), row("a", 1, True)])
    return True


@pytest.mark.parametrize(("judge", "by_text"), [("countdown", True), ("box/value", False), (None, False)])
def test_answers_of_countdown_are_solutions_and_not_values(tmp_path: Path, judge: str | None, by_text: bool) -> None:
    write_shard(tmp_path / "t", "0", [row(p, i, i == 0, verdict_by=judge) for p in "ab" for i in range(2)])
    assert load_arm(tmp_path / "t").by_text is by_text
