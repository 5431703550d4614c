"""`forkwise forks` from the command line, on the embedded model: its results, that a kill costs nothing, bad input."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_decoders import save_decoder
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.explore.findings import Estimate
from forkwise.folders.results import read_result
from forkwise.forks import prepare, results
from forkwise.forks.command import run_forks
from forkwise.forks.estimators import budget, state_value
from forkwise.forks.options import ForksOptions
from forkwise.forks.stored import _Chunk
from forkwise.report.forks import conclusion, tables
from forkwise.report.table import Table
from forkwise.samples import read_samples, write_shard
from forkwise.sampling.options import JudgeOptions
from forkwise.sampling.verify import Judge
from forkwise.tasks import Problem, Verdict
from forkwise.tasks.countdown import Countdown

SIZE = {"states": 36, "continuations": 8, "level": 0.3, "permutations": 100}
"""So few states can show something only at such a level."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forks") / "base"
    given = ["--model", "embedded", "--task", "countdown:3", "--problems", "12", "--n", "8", "--max-tokens", "64"]
    done = CliRunner().invoke(app, ["sample", *given, "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


def forks(table: Path, out: Path, announce: Callable[[Any], None] = lambda cost: None, **more: Any) -> results.Forks:
    options = ForksOptions(**{"model": "embedded", "out": out, "breaks": "wait,hmm,instead,so,check", **SIZE, **more})
    return run_forks(table, options, JudgeOptions(), announce)


def changed(table: Path, out: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of the table with every row changed, and its `sampling.json`."""
    write_shard(out, "a", [change(row) for row in read_samples(table).to_pylist()])
    (out / "sampling.json").write_bytes((table / "sampling.json").read_bytes())
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    folder, announced = tmp_path_factory.mktemp("forks") / "out", []
    forks(table, folder, announced.append)
    return folder, announced


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_and_resumed_equals_undisturbed(table: Path, undisturbed: tuple[Path, list[Any]]) -> None:
    whole, killed = undisturbed[0], undisturbed[0].with_name("killed")
    child = os.fork()
    if child == 0:
        forks(table, killed)
        os._exit(0)
    while len(list((killed / "continuations").glob("0*.json"))) < 3:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (killed / "forks.json").exists()
    announced: list[Any] = []
    forks(table, killed, announced.append)
    assert announced[0].stored >= 12
    assert announced[0].tokens < undisturbed[1][0].tokens
    left, right = files(whole), files(killed)
    assert {n: b for n, b in left.items() if n != "forks.json"} == {n: b for n, b in right.items() if n != "forks.json"}
    a, b = results.read(whole), results.read(killed)
    assert a.states == b.states
    assert (a.budget, a.by_class) == (b.budget, b.by_class)
    with pytest.raises(InputError, match="seed = 0, not 1"):
        forks(table, killed, seed=1)


def test_what_is_written_is_what_can_be_counted(table: Path, undisturbed: tuple[Path, list[Any]]) -> None:
    explored = results.read(undisturbed[0])
    rows = {(r["problem_id"], r["sample_id"]): r for r in read_samples(table).to_pylist()}
    assert len(explored.states) == SIZE["states"]
    for state in explored.states:
        row = rows[state.problem_id, state.sample_id]
        assert state.token == row["tokens"][state.position].strip()
        assert state.entropy == pytest.approx(row["entropies"][state.position], abs=1e-4)
        assert state.correct == row["correct"]
        assert -0.5 <= state.decided <= 1
        assert state.forced[0].token.strip() == state.token
        assert state.forced[0].token_id == row["token_ids"][state.position]
        left = 1 - sum(f.probability for f in state.forced)
        assert abs(sum(f.probability * f.advantage for f in state.forced)) <= left + 1e-9  # all of the mass is worth 0
        if state.entropy < 1e-4:
            assert abs(state.decided) < 1e-3
    # Every second sample of a problem chooses it, the others are used.
    by_problem: dict[str, list[bool]] = {}
    for row in sorted(rows.values(), key=lambda r: (r["problem_id"], r["sample_id"])):
        by_problem.setdefault(row["problem_id"], []).append(row["correct"])
    mixed = [p for p, right in by_problem.items() if len(set(right[::2])) == 2]
    assert (explored.problems, explored.of_problems) == (len(mixed), 12)
    assert {s.problem_id for s in explored.states} <= set(mixed)
    assert all(s.sample_id % 2 for s in explored.states)
    v0 = [np.mean(by_problem[p][1::2]) * (1 - np.mean(by_problem[p][1::2])) * 4 / 3 for p in mixed]
    assert explored.budget.available.value == pytest.approx(np.mean(v0))
    assert explored.log_prob_difference is not None
    assert explored.log_prob_difference < 1e-4
    assert explored.inputs[0].sha256
    assert sum(1 / s.chance for s in explored.states) == pytest.approx(explored.tokens)
    assert sum(s.tokens for s in explored.strata) == explored.tokens
    assert sum(s.states for s in explored.strata) == len(explored.states)


@pytest.mark.filterwarnings("error::UserWarning:forkwise")  # of a figure without kinds to compare
def test_the_command_says_cost_conclusion_and_tables(table: Path, undisturbed: tuple[Path, list[Any]]) -> None:
    given = [f"--{name.replace('_', '-')}={value}" for name, value in SIZE.items()]
    more = ["--model=embedded", f"--out={undisturbed[0]}", "--breaks=wait,hmm,instead,so,check"]
    figure = undisturbed[0].parent / "f.svg"
    done = CliRunner().invoke(app, ["forks", str(table), *given, *more, f"--figure={figure}"])
    assert done.exit_code == 0, done.output
    assert "36 states with 8 continuations each; 36 of them there already." in done.output
    assert "Budget: the tokens of a sample decide" in done.output
    assert "By kind of token" in done.output
    assert figure.read_text().startswith("<?xml")
    page = undisturbed[0].parent / "page.html"
    report = CliRunner().invoke(app, ["report", str(undisturbed[0]), "--out", str(page), "--text"])
    assert report.exit_code == 0, report.output
    assert "By kind of token" in report.output
    assert "By kind of token" in page.read_text()
    brief = CliRunner().invoke(app, ["forks", str(table), *given, *more, "--brief"])
    assert "By kind of token" not in brief.output


def test_a_budget_that_does_not_add_up_is_said_and_nothing_of_shares(undisturbed: tuple[Path, list[Any]]) -> None:
    explored = results.read(undisturbed[0])
    missed = budget(np.full(9, 0.4), np.linspace(0.1, 0.2, 9))
    sentence = conclusion(replace(explored, budget=missed, tops=[]))
    assert sentence.startswith("The budget does not add up, so no shares are given")
    assert "0.400" in sentence
    assert "0.150 [0.1" in sentence
    assert not any(
        "Where the outcome is decided" in getattr(b, "caption", "") for b in tables(replace(explored, tops=[]))
    )


def test_a_sum_that_is_not_above_0_has_no_shares(undisturbed: tuple[Path, list[Any]]) -> None:
    explored = results.read(undisturbed[0])
    below = budget(np.array([-0.5, 0.4] * 4 + [-0.3]), np.full(9, 0.15))
    assert below.agrees
    none = results.Top(0.2, 1.0, Estimate(None), Estimate(None), Estimate(None), Estimate(None))
    sentence = conclusion(replace(explored, budget=below, tops=[none]))
    assert sentence.startswith(
        "No shares are given: the sum of what tokens decide is -0.078 [-0.430, 0.274], not above 0"
    )
    assert "give more --states or --continuations" in sentence


def test_a_share_without_an_interval_is_no_conclusion(undisturbed: tuple[Path, list[Any]]) -> None:
    alone = results.Top(0.2, 1.0, Estimate(0.387), Estimate(0.239), Estimate(0.149), Estimate(0.187))
    sentence = conclusion(replace(results.read(undisturbed[0]), tops=[alone]))
    assert sentence.startswith("No share can be told: the sum of what tokens decide is ")
    assert "38.7" not in sentence


def test_by_the_answer_all_shares_of_answers_count(table: Path, tmp_path: Path) -> None:
    measured = forks(table, tmp_path / "out", outcome="answer", states=10, level=0.1)
    rows = sorted(read_samples(table).to_pylist(), key=lambda r: (r["problem_id"], r["sample_id"]))
    answers: dict[str, list[str]] = {}
    for row in rows:
        answers.setdefault(row["problem_id"], []).append("".join((row["answer"] or "").split()))
    mixed = [a for a in answers.values() if len(set(a[::2])) > 1]
    gini = [
        1 - sum(u.count(x) * (u.count(x) - 1) for x in set(u)) / (len(u) * (len(u) - 1))
        for u in (a[1::2] for a in mixed)
    ]
    assert measured.problems == len(mixed)
    assert measured.budget.available.value == pytest.approx(np.mean(gini), abs=0.02)
    # What is there to read are the answers that came, not how many were right.
    way = results.FirstToken("go", 0.5, True, 6, 0.0, "go on", answers=["12", None, "7", "9"])
    seen = results.Seen(replace(measured.states[0], open=0.9, value=0.0), "and", [way])
    (table_,) = (b for b in tables(replace(measured, forks=[seen])) if getattr(b, "caption", "").startswith("Forks:"))
    assert isinstance(table_, Table)
    assert table_.header[2] == "open"
    assert table_.header[-1] == "token, its chance: answers"
    assert table_.rows[0][2] == "0.90"
    assert table_.rows[0][-1] == "go 0.50: 12, none, 7, …"


def test_a_second_stage_goes_on_where_the_first_ended(table: Path, undisturbed: tuple[Path, list[Any]]) -> None:
    alone, announced = results.read(undisturbed[0]), []
    both = forks(table, undisturbed[0], announced.append, further=16)
    assert (announced[0].stored, announced[0].again, announced[0].further) == (36, 9, 16)
    again = [n for n, state in enumerate(both.states) if state.again is not None]
    assert len(again) == 9  # a fourth of the states
    folder = undisturbed[0] / "continuations" / "further-16"
    further = [s for n in range(3) for s in read_result(folder / f"{n:05d}.json", _Chunk, schema=1, command="").states]
    assert [len(state.continuations) for state in further] == [16] * 9
    for n, state in zip(again, further, strict=True):
        outcome = np.array([[right is True] for right in state.correct], dtype=float)
        second, chance, before = (
            state_value(state.first.branches, outcome).decided,
            both.states[n].again,
            alone.states[n],
        )
        assert both.states[n].decided == pytest.approx(before.decided + 16 / 24 / chance * (second - before.decided))
    others = [n for n in range(36) if n not in again]
    assert [both.states[n].decided for n in others] == [alone.states[n].decided for n in others]
    forks(table, undisturbed[0])  # and the first stage alone is what it was
    assert results.read(undisturbed[0]).states == alone.states


def judged(verify: Callable[[Sequence[str], Sequence[Problem]], list[Verdict]]) -> Callable[..., Judge]:
    problems = {p.id: p for p in Countdown((3,)).problems("test", 12)}
    return lambda path, options: Judge(verify, problems)


def test_a_random_verifier_is_found(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    throws = judged(lambda texts, problems: [Verdict(rng.random() < 0.5, None, "coin") for _ in texts])
    monkeypatch.setattr(prepare, "find_judge", throws)
    with pytest.raises(InputError, match="verifier is random: the same text"):
        forks(table, tmp_path / "out")
    # Once it has judged the samples, it begins to throw coins: equal continuations of a state tell it.
    known = {r["completion"]: r["correct"] for r in read_samples(table).to_pylist()}
    later = judged(lambda texts, ps: [Verdict(known.get(t, rng.random() < 0.5), None, "coin") for t in texts])
    monkeypatch.setattr(prepare, "find_judge", later)
    with pytest.raises(InputError, match="a continuation of countdown"):
        forks(table, tmp_path / "out")


def test_verdicts_of_another_verifier_are_refused(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "find_judge", judged(lambda texts, ps: [Verdict(True, None, "yes") for _ in texts]))
    with pytest.raises(InputError, match="not those of the verifier"):
        forks(table, tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"states": 6, "level": 0.95}, "cannot show anything: .* give about --states"),
        ({"tokenizer": "x"}, "--tokenizer is of --server"),
        ({"further": 4}, "a state needs 8 continuations or more"),
        ({"bisect": 4}, "--bisect looks for tokens within sentences"),
        ({"unit": "sentence", "further": 16}, "--further is of tokens"),
        ({"quantile": 1.5}, "--quantile is 1.5"),
        ({"max_tokens": 20}, "and the limit is 20"),
        ({"temperature": 0.0}, "greedily"),
    ],
)
def test_what_cannot_be_done_is_said(table: Path, tmp_path: Path, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        forks(table, tmp_path / "out", **more)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda r: {**r, "correct": True},
            "Of 12 problems only 0 can be used, with both right and wrong .*12 are always right, 0 never",
        ),
        (lambda r: {**r, "correct": None}, "has no verdicts: run forkwise verify"),
        (lambda r: {**r, "run": f"r{r['sample_id'] % 2}"}, "holds 2 runs"),
        (lambda r: {**r, "sampling": None}, "do not say temperature, .*give --temperature"),
        (lambda r: {**r, "finish_reason": "length"}, "was cut off there"),
        (lambda r: {**r, "logprobs": [x - 0.3 for x in r["logprobs"]]}, "did not draw these samples"),
        # A server's log-probs are of temperature 1: at another one they cannot be compared, and the budget comes next.
        (
            lambda r: {**r, "entropies": None, "sampling": {**r["sampling"], "temperature": 0.5}},
            "cannot show anything",
        ),
        (lambda r: {**r, "problem_id": f"other {r['problem_id']}"}, "not among those with gold answers"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(
    table: Path, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        forks(changed(table, tmp_path / "t", change), tmp_path / "out", states=6, level=0.95)


def test_draws_at_another_temperature_are_refused(table: Path, tmp_path: Path) -> None:
    claim = {"entropies": None, "sampling": {"temperature": 0.5, "top_p": 1.0, "max_tokens": 64}}
    drawn = read_samples(table).to_pylist()
    rows = [{**r, **claim, "sample_id": 8 * again + r["sample_id"]} for again in range(6) for r in drawn]
    write_shard(tmp_path / "t", "a", rows)  # of fewer samples it is not sure
    (tmp_path / "t" / "sampling.json").write_bytes((table / "sampling.json").read_bytes())
    with pytest.raises(InputError, match=r"no draws of 'embedded' at their temperature: they have [\d.]+ nats"):
        forks(tmp_path / "t", tmp_path / "out")
    # Ended by another token than the tokenizer's, which a server named: nobody knows what that one's chance was.
    end = {"stop": ["<pad>"], "length": []}
    other = [
        {**row, "token_ids": None, "tokens": [t for t in row["tokens"] if t != "<eos>"] + end[row["finish_reason"]]}
        for row in rows
    ]
    write_shard(tmp_path / "t", "a", other)
    with pytest.raises(InputError, match="cannot show anything"):  # the budget comes next
        forks(tmp_path / "t", tmp_path / "other", states=6, level=0.95)


def test_problems_of_too_few_samples_are_counted_as_such(table: Path, tmp_path: Path) -> None:
    rows = [row for row in read_samples(table).to_pylist() if row["sample_id"] < 3]
    write_shard(tmp_path / "t", "a", rows)
    (tmp_path / "t" / "sampling.json").write_bytes((table / "sampling.json").read_bytes())
    # Samples 0 and 2 choose, and sample 1 alone would be used, which is one too few.
    by_problem: dict[str, dict[int, bool]] = {}
    for row in rows:
        by_problem.setdefault(row["problem_id"], {})[row["sample_id"]] = row["correct"]
    right = [of[0] + of[2] for of in by_problem.values()]
    assert right.count(1) > 1
    with pytest.raises(
        InputError,
        match=rf"Of 12 problems only 0 .*\({right.count(2)} are always right, {right.count(0)} never, "
        rf"{right.count(1)} have fewer than four samples\)",
    ):
        forks(tmp_path / "t", tmp_path / "out")


def test_another_tokenizer_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokenizer is not the one of the samples"):
        forks(table, tmp_path / "out", model=str(save_decoder(tmp_path / "model")))


def test_a_damaged_file_is_named(table: Path, undisturbed: tuple[Path, list[Any]]) -> None:
    file = undisturbed[0] / "continuations" / "00001.json"
    before = file.read_bytes()
    try:
        file.write_bytes(before[: len(before) // 2])
        with pytest.raises(InputError, match="00001.json"):
            forks(table, undisturbed[0])
    finally:
        file.write_bytes(before)
    assert pq.read_metadata(next((undisturbed[0] / "tokens").glob("*.parquet"))).num_rows > 0
