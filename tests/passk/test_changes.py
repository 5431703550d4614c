"""Problems that changed hands, with exact tests by hand; and the gate for CI, with its exit code."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.passk import Arm, compare, make_arm
from forkwise.passk.changes import find_changes
from forkwise.report.passk import details
from forkwise.report.passk_conclusion import gate
from forkwise.report.table import Table
from forkwise.samples import write_shard


def arm(name: str, counts: list[int], n: int = 4) -> Arm:
    problem = [f"p{q:03d}" for q in range(len(counts)) for _ in range(n)]
    return make_arm(name, problem, [i < c for c in counts for i in range(n)])


def coin(one: int, other: int) -> float:
    """Two-sided: twice the smaller tail of a fair coin, at most 1."""
    n = one + other
    return min(1.0, 2 * sum(comb(n, i) for i in range(min(one, other) + 1)) / 2**n)


def test_changes_by_hand() -> None:
    before = arm("a", [0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 0, 3])
    after = arm("b", [1, 2, 1, 3, 1, 1, 1, 0, 1, 4, 0, 4])
    changes = find_changes(after, before)
    assert changes is not None
    assert [(p.problem, p.right, p.n) for p in changes.by_arm[:2]] == [("p003", 3, 4), ("p001", 2, 4)]
    assert [p.problem for p in changes.by_reference] == ["p007"]
    assert (len(changes.by_arm), changes.by_both, changes.by_neither) == (7, 3, 1)
    assert changes.solved_p == pytest.approx(coin(7, 1))
    assert changes.solved_p == pytest.approx(18 / 256)  # (1 + 8) / 2^8 on either side
    # More often: the seven, and p011 (3 to 4); less often: p007, and p008 (2 to 1).
    assert (changes.better, changes.worse) == (8, 2)
    assert changes.rate_p == pytest.approx(112 / 1024)  # 2 (1 + 10 + 45) / 2^10


def test_nothing_changed() -> None:
    changes = find_changes(arm("b", [1, 2, 0]), arm("a", [1, 2, 0]))
    assert changes is not None
    assert (changes.by_arm, changes.by_reference, changes.solved_p, changes.rate_p) == ([], [], 1.0, 1.0)


def test_unequal_numbers_of_samples_are_not_counted() -> None:
    assert find_changes(arm("b", [1, 2, 0], n=8), arm("a", [1, 2, 0])) is None
    assert compare(arm("a", [1, 2, 0]), arm("b", [1, 2, 0], n=8)).differences[0].changes is None


def test_what_is_shown_of_changes() -> None:
    result = compare(arm("a", [0] * 6 + [2, 3]), arm("b", [1] * 5 + [0, 0, 3]), resamples=100)
    blocks = details([], result)
    said = next(block for block in blocks if isinstance(block, str) and block.startswith("Problems solved"))
    assert "1 by both, 5 by b alone, 1 by a alone (exact McNemar p 0.219), 1 by neither" in said
    (table,) = [b for b in blocks if isinstance(b, Table) and "solved by b or a alone" in b.caption]
    assert table.rows[0] == ["b", "p000: 1 of 4", "p001: 1 of 4", "p002: 1 of 4", "p003: 1 of 4"]
    assert table.rows[1] == ["a", "p006: 2 of 4", "", "", ""]
    counts = {row["metric"]: row["value"] for row in result.rows() if "alone" in row["metric"]}
    assert counts == {"problems solved by the arm alone": 5, "problems solved by the reference alone": 1}


def table(folder: Path, name: str, rate: float, problems: int = 120, n: int = 8) -> Path:
    rng = np.random.default_rng([*name.encode()])
    skill = np.random.default_rng(0).beta(2, 2, problems)
    rows = [
        {"run": name, "model": "m", "problem_id": f"p{q}", "sample_id": i, "correct": bool(rng.random() < p * rate)}
        for q, p in enumerate(skill)
        for i in range(n)
    ]
    return write_shard(folder / name, "0", rows).parent


def test_the_gate_has_an_exit_code(tmp_path: Path) -> None:
    old, same, worse = (table(tmp_path, name, rate) for name, rate in (("old", 1), ("same", 1), ("worse", 0.6)))

    def run(new: Path, *more: object) -> tuple[int, str]:
        argv = ["compare", old, new, "--k", "1", "--resamples", 200, "--brief", *more]
        result = CliRunner().invoke(app, [str(x) for x in argv])
        return result.exit_code, " ".join(result.output.split())

    code, output = run(same, "--gate", "0.1")
    assert code == 0
    assert "Gate passed: less than 0.1 worse than old at every K is shown (lower ends: same -0.0" in output
    code, output = run(worse, "--gate", "0.1")
    assert code == 1
    assert "Gate not passed: less than 0.1 worse than old at every K is not shown (lower ends: worse -0.2" in output
    code, output = run(worse, "--gate", "0.1", "--primary", "1", "--json", tmp_path / "out.json")
    assert code == 1
    assert "at the primary endpoint is not shown" in output
    assert (tmp_path / "out.json").exists()
    assert run(worse)[0] == 0  # without a gate, a worse arm is a result like any other


def test_a_gate_needs_problems_enough_and_a_margin() -> None:
    rates = [4, 2, 3, 1, 4, 2] * 5
    result = compare(arm("a", rates), arm("b", rates), ks=[1], resamples=100)
    assert result.differences[0].least > -0.1159  # the exact bound of 30 problems of which none differs
    assert not result.not_worse(0.1)
    assert result.not_worse(0.12)
    many = compare(arm("a", [2] * 35), arm("b", [2] * 35), ks=[1], resamples=100)
    assert not many.not_worse(0.05)
    # Seven of 60 differ by one sample of 64: a narrow interval, and still 60 problems.
    few = compare(arm("a", [32] * 60, n=64), arm("b", [33] * 3 + [31] * 4 + [32] * 53, n=64), ks=[1], resamples=100)
    assert few.differences[0].least > -0.05
    assert "60 problems are too few for this margin" in gate(few, 0.05)
    with pytest.raises(InputError, match="gate's margin is 0"):
        few.not_worse(0)
