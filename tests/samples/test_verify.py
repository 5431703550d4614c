"""Verdicts for tables of any origin: whose they are, what stays as it was, and that hostile answers end."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from forkwise.errors import InputError
from forkwise.report.sampling import verified
from forkwise.samples import read_samples, write_shard
from forkwise.sampling.manifest import MANIFEST
from forkwise.sampling.options import JudgeOptions
from forkwise.sampling.verify import Judge, find_judge, verify
from forkwise.tasks import Problem, Verdict, load_task
from forkwise.tasks.answers import MathVerifier

SHARED = Path(os.environ.get("FORKWISE_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SLOW = r"\sum_{k=1}^{1} 9^{9^{9^{9}}}"
SILENT = Console(file=io.StringIO())


def row(problem: str, sample: int, completion: str | None, **other: Any) -> dict[str, Any]:
    return {"run": "r", "model": "m", "problem_id": problem, "sample_id": sample, "completion": completion, **other}


def answers(folder: Path, **golds: str) -> Path:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps({"problem_id": name, "answer": gold}) + "\n" for name, gold in golds.items()))
    return path


def forkwise(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forkwise", *argv], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


def test_verdicts_are_filled_in_and_everything_else_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    rows = [
        row("p", 0, r"so \boxed{042}", logprobs=[-0.5], n_tokens=7),
        row("p", 1, r"\boxed{43}"),
        row("p", 2, "no answer here"),
        row("q", 0, r"\boxed{2/4}"),
        row("q", 1, r"\boxed{1 - \frac{x}{2x}}"),
        row("unknown", 0, r"\boxed{1}"),
        row("q", 2, None, answer=r"\frac{1}{2}"),
        row("q", 3, None),
        row("q", 5, None, answer=r"\frac{1"),
        row("q", 4, r"\boxed{1}", correct=True, verdict_by="them", answer="1"),
    ]
    table = tmp_path / "s"
    write_shard(table, "a", rows[:4])
    write_shard(table, "b", rows[4:])
    before = read_samples(table)
    report = verify(table, find_judge(table, JudgeOptions(answers=answers(tmp_path, p="42", q="0.5"))), console=SILENT)
    verdicts = {(r["problem_id"], r["sample_id"]): (r["correct"], r["verdict_by"], r["answer"]) for r in read(table)}
    assert verdicts == {
        ("p", 0): (True, "box/integer", "042"),
        ("p", 1): (False, "box/integer", "43"),
        ("p", 2): (False, "no-answer", None),
        ("q", 0): (True, "box/value", "2/4"),
        ("q", 1): (True, "box/value", r"1 - \frac{x}{2x}"),
        ("q", 2): (True, "tags/value", r"\frac{1}{2}"),  # a table that came without completions
        ("q", 3): (None, None, None),
        ("q", 5): (False, "tags/math-verify", r"\frac{1"),  # cut off; but it is all that is known
        ("q", 4): (True, "them", "1"),
        ("unknown", 0): (None, None, None),
    }
    changed = ["answer", "correct", "verdict_by"]
    assert read_samples(table).drop_columns(changed).equals(before.drop_columns(changed))
    assert (report.rows, report.correct, report.wrong, report.kept, report.unknown, report.empty) == (10, 4, 3, 1, 1, 1)
    assert report.by == {"box/integer": 2, "no-answer": 1, "box/value": 2, "tags/value": 1, "tags/math-verify": 1}
    assert "7 of 10 samples verified" in verified(report)


def read(table: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_samples(table).to_pylist()
    return rows


class Counted:
    """Right is what says yes; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        self.asked += completions
        return [Verdict(text == "yes", text, "counted") for text in completions]


def test_equal_completions_are_verified_once_and_force_does_it_all_again(tmp_path: Path) -> None:
    write_shard(tmp_path, "a", [row("p", i, "yes" if i % 2 else "no") for i in range(100)])
    judge = Judge(counted := Counted(), {"p": Problem("p", "")})
    assert verify(tmp_path, judge, console=SILENT).correct == 50
    assert sorted(counted.asked) == ["no", "yes"]
    stamp = (tmp_path / "a.parquet").stat().st_mtime_ns
    assert verify(tmp_path, judge, console=SILENT).kept == 100
    assert (tmp_path / "a.parquet").stat().st_mtime_ns == stamp  # nothing to do, nothing written
    turned = Judge(lambda texts, problems: [Verdict(text == "no", text, "x") for text in texts], judge.problems)
    report = verify(tmp_path, turned, force=True, console=SILENT)
    assert (report.kept, report.turned_right, report.turned_wrong) == (0, 50, 50)
    assert "50 wrong ones are now correct, 50 correct ones now wrong" in verified(report)


def test_an_error_is_no_verdict_and_is_tried_again(tmp_path: Path) -> None:
    write_shard(tmp_path, "a", [row("p", 0, "?")])
    judge = Judge(lambda texts, problems: [Verdict(None, text, "error") for text in texts], {"p": Problem("p", "")})
    assert verify(tmp_path, judge, console=SILENT).unscored == 1
    assert verify(tmp_path, judge, console=SILENT).unscored == 1
    assert read(tmp_path)[0]["verdict_by"] == "error"


def test_a_table_of_somebody_else_brings_its_gold_answers_and_keeps_its_columns(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    path = tmp_path / "theirs.parquet"
    columns = {
        "problem_id": [1, 2, 3],
        "completion": [r"\boxed{5}", r"\boxed{6}", r"\boxed{7}"],
        "mine": ["a", "b", "c"],
    }
    pq.write_table(pa.table({**columns, "target": pa.array([5, 7, None])}), path)
    report = verify(path, find_judge(path, JudgeOptions(gold_column="target")), console=SILENT)
    table = pq.read_table(path)
    assert table["correct"].to_pylist() == [True, False, None]
    assert table["mine"].to_pylist() == ["a", "b", "c"]
    assert table["problem_id"].to_pylist() == [1, 2, 3]
    assert report.unknown == 1


@pytest.mark.parametrize("column", ["answer", "completion", "correct", "copy"])
def test_what_the_samples_answered_is_no_gold_answer(tmp_path: Path, column: str) -> None:
    rows = [row("p", 0, r"\boxed{5}", answer="5"), row("p", 1, r"\boxed{6}", answer="6")]
    columns = {name: [r.get(name) for r in rows] for name in ("problem_id", "completion", "answer")}
    table = pa.table({**columns, "copy": ["5", "6"], "correct": pa.array([None, None], pa.bool_())})
    path = tmp_path / "table.parquet"
    pq.write_table(table, path)
    judge = find_judge(path, JudgeOptions(gold_column=column, verifier="exact"))
    with pytest.raises(InputError, match=f"'{column}' of .* no gold answer: give another column, or --answers"):
        verify(path, judge, console=SILENT)
    pq.write_table(table.append_column("gold", pa.array(["5", "5"])), path)
    with pytest.raises(InputError, match="no gold answer: give --gold-column gold"):
        verify(path, judge, console=SILENT)
    report = verify(path, find_judge(path, JudgeOptions(gold_column="gold", verifier="exact")), console=SILENT)
    assert (report.correct, report.wrong) == (1, 1)


def test_a_model_that_is_always_right_may_agree_with_the_gold_column(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    columns = {"problem_id": ["p", "p"], "completion": [r"\boxed{5}"] * 2, "answer": ["5", "5"], "target": ["5", "5"]}
    pq.write_table(pa.table(columns), path)
    judge = find_judge(path, JudgeOptions(gold_column="target", verifier="exact"))
    assert verify(path, judge, console=SILENT).correct == 2


def test_a_task_is_the_judge_of_its_own_samples_and_a_sampled_folder_knows_its_task(tmp_path: Path) -> None:
    problem = load_task("countdown:3").problems("test", 1)[0]
    numbers, target = problem.meta["numbers"], problem.meta["target"]
    solved = next(
        f"answer: {a} {s} {b} {t} {c}"
        for a, b, c in [(x, y, z) for x in numbers for y in numbers for z in numbers if sorted([x, y, z]) == numbers]
        for s in "+-*/"
        for t in "+-*/"
        if load_task("countdown:3").verify([f"answer: {a} {s} {b} {t} {c}"], [problem])[0].correct
    )
    assert target is not None
    write_shard(
        tmp_path,
        "a",
        [row(problem.id, 0, solved), row(problem.id, 1, "answer: 1"), row(problem.id, 2, None, answer=solved[8:])],
    )
    for options in ({"task": "countdown"}, {"verifier": "countdown:3"}):
        verify(tmp_path, find_judge(tmp_path, JudgeOptions(**options)), force=True, console=SILENT)
        assert [r["correct"] for r in read(tmp_path)] == [True, False, True]
    settings = {"task": "countdown:3", "dataset": None, "split": "test", "problems": 1, "sampling": {}}
    (tmp_path / MANIFEST).write_text(json.dumps({"settings": settings}))
    assert set(find_judge(tmp_path, JudgeOptions()).problems) == {problem.id}


def test_a_dataset_gives_gold_answers_by_id_and_exact_needs_no_algebra(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    data = tmp_path / "d.jsonl"
    data.write_text('{"id": "p", "prompt": "?", "answer": "x+1"}\n')
    write_shard(tmp_path / "s", "a", [row("p", 0, r"\boxed{1+x}"), row("p", 1, r"\boxed{x + 1}")])
    verify(
        tmp_path / "s", find_judge(tmp_path / "s", JudgeOptions(dataset=str(data), verifier="exact")), console=SILENT
    )
    assert [r["correct"] for r in read(tmp_path / "s")] == [False, True]
    verify(tmp_path / "s", find_judge(tmp_path / "s", JudgeOptions(dataset=str(data))), force=True, console=SILENT)
    assert [r["correct"] for r in read(tmp_path / "s")] == [True, True]


def test_hostile_answers_end_in_bounded_time_through_the_command(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    canary = tmp_path / "canary"
    hostile = [
        rf"\boxed{{{SLOW}}}",
        r"\boxed{" + "(" * 300 + "1" + ")" * 300 + "}",
        r"\boxed{" + "(" * 10_000_000 + "}",
        r"\boxed{" + "{" * 100_000,
        "\\boxed{\0\x1b[31m}",
        rf"\boxed{{__import__('os').system('touch {canary}')}}",
        r"\boxed{\input{/etc/passwd}}",
        r"\boxed{10!!!!!!}",
        "answer is " * 200_000,
    ]
    write_shard(tmp_path / "s", "a", [row("p", i, text) for i, text in enumerate([*hostile, r"\boxed{\frac{y}{2}}"])])
    answers(tmp_path, p="y/2")
    start = time.monotonic()
    done = forkwise("verify", "s", "--answers", "answers.jsonl", "--timeout", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 60
    rows = read(tmp_path / "s")
    assert [r["correct"] for r in rows] == [False] * len(hostile) + [True]
    assert rows[0]["verdict_by"] == "box/timeout"
    assert max(len(r["answer"] or "") for r in rows) <= 2000
    assert not canary.exists()
    assert any(f"{n} box/timeout" in done.stdout for n in (1, 2, 3))


def test_killed_while_it_verifies_it_goes_on_where_it_was(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    for shard in range(4):
        # Each shard costs the time limit once: something to be killed in.
        rows = [row("p", 10 * shard + i, r"\boxed{%s}" % (SLOW + f"+{shard}" if i == 5 else i)) for i in range(10)]
        write_shard(tmp_path / "s", f"{shard}", rows)
    before = read(tmp_path / "s")
    gold = answers(tmp_path, p="3")
    argv = [sys.executable, "-m", "forkwise", "verify", "s", "--answers", str(gold), "--timeout", "0.7"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 60
        while not any(r["correct"] is not None for r in read(tmp_path / "s")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    half = [r["correct"] for r in read(tmp_path / "s")]
    assert None in half
    done = forkwise(*argv[3:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{sum(c is not None for c in half)} had a verdict already" in done.stdout
    after = read(tmp_path / "s")
    assert [r["correct"] for r in after] == [i % 10 == 3 for i in range(40)]
    assert [r["completion"] for r in after] == [r["completion"] for r in before]
    assert [r["verdict_by"] for r in after].count("box/timeout") == 4
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [f"{i}.parquet" for i in range(4)]


def test_what_cannot_be_verified_is_said_before_anything_is_written(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    table = tmp_path / "s"
    write_shard(table, "a", [row("0", 0, r"\boxed{1}")])
    stamp = (table / "a.parquet").read_bytes()
    gold = answers(tmp_path, p="1")
    (tmp_path / "two.jsonl").write_text('{"id": 1, "answer": "1"}\n{"id": 1, "answer": "2"}\n')
    (tmp_path / "none.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "empty.jsonl").write_text("")
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "Say where the gold answers are"),
        ({"task": "countdown", "answers": gold}, "one source"),
        ({"task": "countdown", "verifier": "math500"}, "contradict"),
        ({"verifier": "mathh"}, "no task 'mathh'"),
        ({"answers": tmp_path / "absent.jsonl"}, "no file"),
        ({"answers": tmp_path / "two.jsonl"}, "two answers to the problem '1'"),
        ({"answers": tmp_path / "none.jsonl"}, "Row 1 .* needs a problem_id"),
        ({"answers": tmp_path / "empty.jsonl"}, "is empty"),
        ({"timeout": 0, "answers": gold}, "timeout"),
    ]
    for options, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            find_judge(table, JudgeOptions(**options))
    with pytest.raises(InputError, match="it has '0', they are called 'p'; give --answers"):
        verify(table, find_judge(table, JudgeOptions(answers=gold)), console=SILENT)
    with pytest.raises(InputError, match="has a gold answer in the column 'gold'"):
        verify(table, find_judge(table, JudgeOptions(gold_column="gold")), console=SILENT)
    with pytest.raises(InputError, match="no column 'solution'"):
        verify(table, find_judge(table, JudgeOptions(gold_column="solution")), console=SILENT)
    assert (table / "a.parquet").read_bytes() == stamp
    (tmp_path / "cut.parquet").write_bytes(stamp[:-9])
    with pytest.raises(InputError, match="cut off"):
        verify(tmp_path / "cut.parquet", find_judge(table, JudgeOptions(answers=gold)), console=SILENT)
    pq.write_table(pa.table({"problem_id": ["p"], "correct": [1]}), tmp_path / "ints.parquet")
    with pytest.raises(InputError, match="correct is not bool"):
        verify(tmp_path / "ints.parquet", find_judge(table, JudgeOptions(answers=gold)), console=SILENT)


def test_a_damaged_shard_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    write_shard(tmp_path, "a", [row("p", 0, "yes")])
    bad = write_shard(tmp_path, "b", [row("p", i + 1, f"yes {i}" * 50) for i in range(500)])
    data = bytearray(bad.read_bytes())
    group = pq.read_metadata(bad).row_group(0)
    (completions,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "completion")
    data[completions.data_page_offset + 8 : completions.data_page_offset + 60] = bytes(52)
    bad.write_bytes(data)
    with pytest.raises(InputError, match=r"b.parquet' is damaged"):
        verify(tmp_path, Judge(Counted(), {"p": Problem("p", "")}), console=SILENT)
    assert pq.read_table(tmp_path / "a.parquet")["correct"].to_pylist() == [True]
    assert bad.read_bytes() == data
    assert not list(tmp_path.glob(".*.verifying"))


def test_verdicts_of_this_path_are_those_of_the_verifier_on_real_samples(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    path = SHARED / "samples" / "qwen25math_math100x8_scored.jsonl.gz"
    if not path.exists():
        pytest.skip("the scored samples are not here; set FORKWISE_SHARED_DATA to the folder that holds samples/")
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]]
    write_shard(tmp_path / "s", "a", [row(str(r["idx"]), i, text) for r in lines for i, text in enumerate(r["code"])])
    (tmp_path / "gold.jsonl").write_text(
        "".join(json.dumps({"id": r["idx"], "answer": r["answer"]}) + "\n" for r in lines)
    )
    verify(tmp_path / "s", find_judge(tmp_path / "s", JudgeOptions(answers=tmp_path / "gold.jsonl")), console=SILENT)
    by_table = {(r["problem_id"], r["sample_id"]): (r["correct"], r["answer"]) for r in read(tmp_path / "s")}
    with MathVerifier() as verifier:
        for r in lines:
            verdicts = verifier.verify([r["answer"]] * len(r["code"]), r["code"])
            assert [by_table[str(r["idx"]), i] for i in range(len(verdicts))] == [
                (v.correct, v.answer) for v in verdicts
            ]


def test_the_last_number_is_an_answer_only_where_that_is_said(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    golds = answers(tmp_path, p="11")
    guesses = ["5 + 6 makes 11 apples.", "5 + 6 makes 12 apples.", "She has many apples."]
    for settings, right in (({}, [False] * 3), ({"last_number": True}, [True, False, False])):
        for verifier in ("math", "exact"):
            judge = find_judge(tmp_path, JudgeOptions(answers=golds, verifier=verifier, **settings))
            verdicts = judge.verify(guesses, [judge.problems["p"]] * 3)
            assert [verdict.correct for verdict in verdicts] == right
    with pytest.raises(InputError, match="the task 'gsm8k' says itself what an answer is"):
        find_judge(tmp_path, JudgeOptions(task="gsm8k", last_number=True))
