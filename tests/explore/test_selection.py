"""Choosing solutions by log-probs freed of the steps' length: the reference's examples, and the command on a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.explore.selection import ScoredSolution, casl_scores, drop_score, select, step_heads
from forkwise.samples import read_samples, write_shard

# Lengths of the steps of six texts, and the log-probs of their tokens.
TEXTS: list[tuple[list[int], list[float]]] = [
    ([2, 3], [-3, -0.5, -2, -0.4, -0.6]),
    ([5], [-3, -0.5, -0.5, -0.4, -0.6]),
    ([1, 1, 3], [-2, -3, -2, -0.2, -0.3]),
    ([3, 3], [-1, -0.5, -0.2, -2, -0.3, -0.4]),
    ([2, 2, 2], [-2, -0.6, -1, -0.4, -3, -0.2]),
    ([4, 2], [-1.5, -0.3, -0.2, -0.4, -2.5, -0.7]),
]


def solution(lengths: list[int], logprobs: list[float], skip: int = 1) -> ScoredSolution:
    heads = [i < skip for length in lengths for i in range(length)]
    return ScoredSolution(np.array(logprobs), np.array(heads))


def test_drop() -> None:
    """Plain -1.3; without one head per step (-.5 -.4 -.6)/3, without two -.6 alone; nothing left is 0."""
    text = TEXTS[0]
    assert drop_score(solution(*text)) == pytest.approx(-0.5)
    assert drop_score(solution(*text, skip=2)) == pytest.approx(-0.6)
    assert drop_score(solution(*text, skip=3)) == 0.0


def test_casl() -> None:
    scores, slope = casl_scores([solution(*text) for text in TEXTS])
    assert slope == pytest.approx(-2.007841, abs=1e-6)
    assert scores == pytest.approx([-0.496864, -0.598432, -0.295295, -0.064053, -0.196079, -0.264053], abs=1e-6)


def test_casl_needs_a_corpus() -> None:
    with pytest.raises(InputError, match="there are 4: give at least 5, or take --by drop"):
        casl_scores([solution(*text) for text in TEXTS[:4]])


def test_heads_of_steps() -> None:
    tokens = ["So", " 1", ".5", ".", " Why", "?", " It", " is", " so", "."]
    text = "".join(tokens)
    # Steps end at ". " and "? "; 1.5 ends nothing, and the last full stop has no blank behind it.
    for skip, want in ((1, [0, 4, 6]), (2, [0, 1, 4, 5, 6, 7])):
        assert step_heads(tokens, text, skip).nonzero()[0].tolist() == want


def row(
    problem: str, sample: int, tokens: list[str] | None, logprobs: list[float] | None, **more: Any
) -> dict[str, Any]:
    text = "".join(tokens or ["nothing"])
    known = {"run": "teacher", "model": "m", "completion": text, "tokens": tokens, "logprobs": logprobs}
    return {"problem_id": problem, "sample_id": sample, **known, **more}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two problems of three solutions of two steps each; sample 1 is the likeliest but for its heads, sample 0 with."""
    tokens = ["A", " b", ". ", "C", " d", "."]
    rows = []
    for problem in ("p", "q"):
        for sample, (head, rest) in enumerate([(-1.0, -0.5), (-3.0, -0.2), (-2.0, -0.9)]):
            lp = [head, rest, rest, head, rest, rest]
            rows.append(row(problem, sample, tokens, lp, correct=sample != 1))
    rows.append(row("q", 3, None, None, correct=True))
    rows.append(row("q", 4, ["other", " words"], [-1.0, -1.0], completion="quite another text", correct=True))
    write_shard(tmp_path / "in", "a", rows)
    return tmp_path / "in"


@pytest.mark.parametrize(("by", "best"), [("plain", 0), ("drop", 1)])
def test_the_best_of_each_problem_are_kept(tmp_path: Path, table: Path, by: Any, best: int) -> None:
    (folder,) = select(table, tmp_path / by, by=by, keep=1, skip=1)
    assert (folder.solutions, folder.problems, folder.without, folder.misfits) == (6, 2, 1, 1)
    chosen = read_samples(tmp_path / by, ["problem_id", "sample_id", "logprobs"]).to_pylist()
    assert [(r["problem_id"], r["sample_id"]) for r in chosen] == [("p", best), ("q", best)]
    assert len(chosen[0]["logprobs"]) == 6


def test_command(tmp_path: Path, table: Path) -> None:
    folder = tmp_path / "out"
    words = ["select", str(table), "--out", str(folder), "--by", "drop", "--skip", "1", "--keep", "2", "--only-right"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "teacher: 4 of 4 solutions kept, of 2 problems" in done.output
    assert "tokens that do not join to the text, left out: 1 solution" in done.output
    assert read_samples(folder, ["sample_id"])["sample_id"].to_pylist() == [0, 2, 0, 2]
    with pytest.raises(InputError, match="holds a samples table already"):
        select(table, folder, by="drop", keep=1, skip=1)


def test_nothing_to_choose_from_is_a_sentence(tmp_path: Path) -> None:
    write_shard(tmp_path / "bare", "a", [row("p", 0, None, None)])
    with pytest.raises(InputError, match="score the solutions with the student first"):
        select(tmp_path / "bare", tmp_path / "out", by="drop", keep=1, skip=1)
    with pytest.raises(InputError, match="holds no right samples"):
        select(tmp_path / "bare", tmp_path / "out", by="drop", keep=1, skip=1, only_right=True)
    assert not (tmp_path / "out").exists()
