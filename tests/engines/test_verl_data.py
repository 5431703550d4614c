"""Files for verl: published ones without their copies, tasks written out, and forkwise's verdicts as verl's reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.engines.verl.data import Deduplicated, deduplicate, write_task
from forkwise.engines.verl.reward import compute_score
from forkwise.errors import InputError
from forkwise.tasks import load_task


def row(prompt: str, gold: str, index: int) -> dict[str, Any]:
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": prompt}],
        "ability": "MATH",
        "reward_model": {"style": "rule-lighteval/MATH_v2", "ground_truth": gold},
        "extra_info": {"index": f"id-{index}"},
    }


def test_copies_are_left_out_whatever_their_other_columns_say(tmp_path: Path) -> None:
    rows = [row(f"problem {i % 3}", str(i % 3), i) for i in range(20_000)]  # three batches of reading
    rows += [row("problem 1", "7", 0), row("problem 3", "3", 0)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "all.parquet")
    done = deduplicate(tmp_path / "all.parquet", tmp_path / "each.parquet")
    assert done == Deduplicated(rows=20_002, kept=4, disagreeing=1)
    left = pq.read_table(tmp_path / "each.parquet")
    assert left.schema == pq.read_schema(tmp_path / "all.parquet")
    assert left.to_pylist() == [*rows[:3], rows[-1]]


def test_the_command_says_what_it_left_out(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row("a", "1", 0), row("a", "1", 1), row("a", "2", 2), row("b", "1", 3)])
    pq.write_table(table, tmp_path / "all.parquet")
    done = CliRunner().invoke(
        app, ["verl-data", str(tmp_path / "all.parquet"), "--out", str(tmp_path / "each.parquet")]
    )
    assert done.exit_code == 0, done.output
    assert "2 problems of 4 rows (each 2 times on average). 1 have copies with another gold" in done.output


@pytest.mark.parametrize("content", [b"no parquet", None])
def test_other_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "all.parquet"
    if content is None:
        pq.write_table(pa.table({"prompt": ["a"]}), path)
    else:
        path.write_bytes(content)
    message = "lacks data_source, reward_model" if content is None else "cannot be read as Parquet"
    with pytest.raises(InputError, match=message):
        deduplicate(path, tmp_path / "each.parquet")
    assert not (tmp_path / "each.parquet").exists()


def test_a_task_is_written_and_judged_by_its_own_rules(tmp_path: Path) -> None:
    path = tmp_path / "countdown.parquet"
    done = CliRunner().invoke(
        app, ["verl-data", "countdown:3", "--split", "test", "--problems", "5", "--out", str(path)]
    )
    assert done.exit_code == 0, done.output
    rows = pq.read_table(path).to_pylist()
    problems = load_task("countdown:3").problems("test", 5)
    assert [r["prompt"] for r in rows] == [[{"role": "user", "content": p.prompt}] for p in problems]
    first = rows[0]
    from forkwise.tasks.countdown import solve

    meta = problems[0].meta
    steps = solve(meta["numbers"], meta["target"])[0]
    right = "answer: " + ", ".join(f"{a} {sign} {b} = {c}" for a, sign, b, c in steps)
    judge = {"data_source": first["data_source"], "ground_truth": first["reward_model"]["ground_truth"]}
    scored = compute_score(solution_str=right, extra_info=first["extra_info"], **judge)
    assert (scored["score"], scored["acc"], scored["unscored"]) == (1.0, True, 0)
    wrong = compute_score(solution_str="answer: 1 + 1", extra_info=first["extra_info"], **judge)
    assert (wrong["score"], wrong["acc"]) == (-1.0, False)
    assert wrong.keys() == scored.keys()  # verl wants the same of every response
    with pytest.raises(InputError, match="no id and meta in its extra_info"):
        compute_score(solution_str=right, extra_info={"index": 0}, **judge)


def test_any_other_row_is_judged_by_its_gold_answer() -> None:
    pytest.importorskip("math_verify")
    scored = compute_score("math_dapo", "So it is \\boxed{\\frac{1}{2}}.", "0.5", {"index": "x"}, reward_router=None)
    assert (scored["score"], scored["acc"], scored["pred"]) == (1.0, True, "\\frac{1}{2}")
    assert compute_score("math_dapo", "So it is \\boxed{3}.", "0.5")["score"] == -1.0


def test_a_conversation_stays_one(tmp_path: Path) -> None:
    from forkwise.tasks import Problem

    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    write_task("math", [Problem("p", messages, "4")], tmp_path / "one.parquet")
    (only,) = pq.read_table(tmp_path / "one.parquet").to_pylist()
    assert only["prompt"] == messages
    assert only["reward_model"] == {"style": "rule", "ground_truth": "4"}
