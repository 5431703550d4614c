"""`forkwise forks --unit sentence`: changes across sentences, counted by hand, and on the embedded model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.explore.lexicon import load_reflective
from forkwise.explore.spans import token_spans
from forkwise.forks import sentence_results, sentences
from forkwise.forks.branches import FirstTokens

TEXT = ["We", "add", ".", "Wait", ",", "no", ".", "It", "is", "four", "."]


def trace(problem: str, correct: bool, sample: int = 1) -> Any:
    text = "We add. Wait, no. It is four."
    return SimpleNamespace(
        problem_id=problem,
        sample_id=sample,
        text=text,
        correct=correct,
        tokens=SimpleNamespace(spans=token_spans(TEXT, text), text=TEXT),
    )


def continued(right: list[int], texts: list[str] | None = None) -> Any:
    return SimpleNamespace(
        correct=[bool(r) for r in right],
        answers=["4" if r else "5" for r in right],
        continuations=texts or [""] * len(right),
        first=FirstTokens([], [], [], [], 0),
    )


def ready(outcome: str = "correct", level: float = 0.95, traces: Any = ()) -> Any:
    rows = [{"problem_id": t.problem_id, "sample_id": t.sample_id, "answer": "4" if t.correct else "5"} for t in traces]
    return SimpleNamespace(
        options=SimpleNamespace(outcome=outcome, level=level),
        reflective=load_reflective(),
        breaks=[],
        frame=SimpleNamespace(traces=traces),
        pool=SimpleNamespace(rows=rows, problems=[t.problem_id for t in traces]),
    )


@pytest.mark.parametrize(("outcome", "factor"), [("correct", 1), ("answer", 2)])
def test_squared_changes_by_hand(outcome: str, factor: int) -> None:
    # States of 4 continuations: V is 1/4, 1/2, 1; the sample is right. Errors of the shares: 3/16/3, 1/4/3, 0, 0.
    made = ready(outcome, traces=[trace("p", correct=True)])
    states = [continued([1, 0, 0, 0]), continued([1, 0, 1, 0]), continued([1, 1, 1, 1])]
    rows = sentences._rows(made, sentences._Profile(0, 0, [0, 3, 7]), states)
    assert [row.text for row in rows] == ["We add.", "Wait, no.", "It is four."]
    assert [row.reflective for row in rows] == [False, True, False]
    assert [(row.before, row.after) for row in rows] == [(0.25, 0.5), (0.5, 1.0), (1.0, 1.0)]
    expected = [1 / 16 - 1 / 16 - 1 / 12, 1 / 4 - 1 / 12, 0]
    assert [row.decided for row in rows] == pytest.approx([factor * x for x in expected])


def test_squared_changes_have_no_bias_and_add_up() -> None:
    # V is .3 at the start, then .1 or .7 (with chance 1/3), then the outcome: squares add up to .3 * .7 in the mean.
    rng = np.random.default_rng(0)
    ends = [ready(traces=[trace("p", correct=right)]) for right in (False, True)]
    total = []
    for _ in range(1500):
        middle = 0.7 if rng.random() < 1 / 3 else 0.1
        made = ends[int(rng.random() < middle)]
        states = [continued((rng.random(6) < v).astype(int).tolist()) for v in (0.3, middle)]
        total.append(sum(row.decided for row in sentences._rows(made, sentences._Profile(0, 0, [0, 3]), states)))
    assert np.mean(total) == pytest.approx(0.21, abs=4 * np.std(total) / np.sqrt(1500))


def test_what_a_reflective_sentence_causes_is_told_within_states() -> None:
    # Two problems. In the first both reflective continuations are right and one of two others is: +1/2, weight 1. In
    # the second one of one and one of three: +2/3, weight 3/4. Reflection is common where V is low, which is no effect.
    # What ends at once, right or wrong, has no next sentence: it is neither.
    made = ready(traces=[trace("a", correct=True), trace("b", correct=True)])
    states = [SimpleNamespace(problem=SimpleNamespace(id=p)) for p in ("a", "b", "b")]
    blocks = [
        continued([1, 1, 1, 0, 1, 1], ["Wait, no. Yes.", "Let me check this. So.", "So it is.", "We add.", "", " ."]),
        continued([1, 1, 0, 0], ["Wait, no.", "We.", "So.", "It is."]),
        continued([0, 0, 0, 0], ["Wait, no."] * 4),
    ]
    effect = sentences._effect(made, states, blocks)
    assert (effect.states, effect.reflective, effect.others) == (2, 3, 5)
    assert effect.difference.value == pytest.approx((0.5 + 0.75 * 2 / 3) / 1.75)
    assert effect.difference.low < effect.difference.value < effect.difference.high


def test_on_the_embedded_model(tmp_path: Path) -> None:
    drawn = "--model embedded --task countdown:3 --problems 12 --n 8 --max-tokens 64"
    done = CliRunner().invoke(app, ["sample", *drawn.split(), "--out", str(tmp_path / "base")])
    assert done.exit_code == 0, done.output
    more = (
        "--model embedded --unit sentence --states 64 --continuations 8 --level 0.3 --bisect 12 "
        "--breaks wait,hmm,instead,so,check"
    )
    given = ["forks", str(tmp_path / "base"), *more.split(), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert "A reflective sentence as the next one" in done.output
    measured = sentence_results.read(tmp_path / "out")
    per_sample: dict[tuple[str, int], list[Any]] = {}
    for row in measured.sentences:
        per_sample.setdefault((row.problem_id, row.sample_id), []).append(row)
    assert len(per_sample) == measured.traces
    for rows in per_sample.values():
        assert [row.place for row in rows] == list(range(len(rows)))
        assert rows[-1].after in (0.0, 1.0)
        assert all(a.after == b.before for a, b in pairwise(rows))
    assert "then 12 more states within sentences at most" in done.output
    assert measured.bisected > 0
    assert 0 < len(measured.points) + 2 * len(measured.steps) <= 12
    positions = {(r.problem_id, r.sample_id, r.place): r.position for r in measured.sentences}
    for step in measured.steps:
        assert step.position >= positions[step.problem_id, step.sample_id, step.place]
        assert 0 <= step.before <= 1
    starts: dict[str, set[float]] = {}
    for (problem, _), rows in per_sample.items():
        starts.setdefault(problem, set()).add(rows[0].before)
    assert all(len(values) == 1 for values in starts.values())  # a problem's start is continued once
    means = [
        np.mean([sum(r.decided for r in rows) for (p, _), rows in per_sample.items() if p == problem])
        for problem in starts
    ]
    assert measured.budget.decided.value == pytest.approx(np.mean(means))
    again = CliRunner().invoke(app, [*given, "--bisect", "6"])  # of fewer sentences, in the same folder
    assert again.exit_code == 0, again.output
    fewer = sentence_results.read(tmp_path / "out")
    assert fewer.sentences == measured.sentences
    assert fewer.bisected < measured.bisected
    refused = CliRunner().invoke(app, [*given, "--states", "6"])
    assert isinstance(refused.exception, ValueError)
    assert "6 states do not suffice" in str(refused.exception)
