"""From a model: a bank of what `forkwise forks` left, and updates of the groups of a samples table."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_decoders import save_decoder
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.credit.bank import read_bank
from forkwise.credit.command import run_credit
from forkwise.credit.options import CreditOptions
from forkwise.credit.packing import make_bank
from forkwise.errors import InputError
from forkwise.forks import results as forks_results
from forkwise.forks.command import run_forks
from forkwise.forks.options import ForksOptions
from forkwise.forks.stored import read_continued
from forkwise.report.credit import conclusions, notes, tables
from forkwise.samples import read_samples, write_shard
from forkwise.sampling.options import JudgeOptions


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("credit") / "base"
    given = ["--model", "embedded", "--task", "countdown:3", "--problems", "12", "--n", "8", "--max-tokens", "64"]
    done = CliRunner().invoke(app, ["sample", *given, "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def forked(table: Path) -> Path:
    out = table.with_name("forked")
    small = {"states": 36, "continuations": 8, "level": 0.3, "permutations": 100}
    run_forks(table, ForksOptions(model="embedded", out=out, **small), JudgeOptions(), lambda cost: None)
    return out


def test_a_bank_of_a_folder_has_its_states_and_their_groups(table: Path, forked: Path, tmp_path: Path) -> None:
    bank, found = make_bank(forked), forks_results.read(forked)
    groups = bank.groups
    rows = {(r["problem_id"], r["sample_id"]): r for r in read_samples(table).to_pylist()}
    ends = np.cumsum(groups.length_S)
    for s, (q, sample) in enumerate(zip(groups.problem_S, groups.sample_S, strict=True)):
        row = rows[groups.problems[q], int(sample)]
        of = slice(int(ends[s] - groups.length_S[s]), int(ends[s]))
        assert groups.ids_N[of].tolist() == row["token_ids"]
        assert groups.entropy_N[of] == pytest.approx(np.array(row["entropies"]), abs=1e-3)
        assert groups.logprob_N[of] == pytest.approx(np.array(row["logprobs"]), abs=1e-3)
        assert bool(groups.correct_S[s]) == row["correct"]
    assert len(found.states) == bank.at_K.size == 36
    by_token = {(s.problem_id, s.sample_id, s.position): s for s in found.states}
    completion_N = np.repeat(np.arange(groups.length_S.size), groups.length_S)
    for k, at in enumerate(bank.at_K):
        s = int(completion_N[at])
        place = int(at - (ends[s] - groups.length_S[s]))
        state = by_token[groups.problems[groups.problem_S[s]], int(groups.sample_S[s]), place]
        assert groups.ids_N[at] == state.forced[0].token_id
        assert bank.advantage_K[k] == pytest.approx(state.forced[0].advantage)
        assert bank.chance_K[k] == pytest.approx(state.chance)
    # The halves' mean is the whole where both halves of every first token are equally many.
    whole = [c.first for c in read_continued(forked, 36)]
    even = [all(n % 2 == 0 for n in f.sizes) and (len(f.sizes) - f.forced) % 2 == 0 for f in whole]
    assert sum(even) >= 5
    assert bank.half_K2.mean(axis=1)[even] == pytest.approx(bank.advantage_K[even], abs=1e-6)


def test_a_packed_bank_is_the_folder(forked: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.parquet"
    done = CliRunner().invoke(app, ["credit", str(forked), "--only", "--pack", str(packed)])
    assert packed.exists(), done.output
    folder, file = make_bank(forked), read_bank(packed)
    assert file.about == json.loads(json.dumps(folder.about))
    for name in ("at_K", "chance_K", "advantage_K", "error_K", "half_K2"):
        assert np.array_equal(getattr(file, name), getattr(folder, name))
    for name in ("entropy_N", "logprob_N", "sum_p2_N", "sum_p2_log_N", "ids_N"):
        assert np.array_equal(getattr(file.groups, name), getattr(folder.groups, name))
    assert file.about["model"] == "embedded"


def test_updates_of_a_table(table: Path, tmp_path: Path) -> None:
    options = CreditOptions(
        groups=[table], model=["embedded"], group_size=4, only=True, method=["rloo", "credit_weight"], out=tmp_path
    )
    (found,) = run_credit([], options).gradients
    assert (found.problems, found.groups, found.completions, found.group_size) == (12, 24, 96, 4)
    assert [m.method for m in found.methods][:1] == ["grpo"]
    rloo = next(m for m in found.methods if m.method == "rloo")
    assert rloo.direction.value == pytest.approx(1, abs=0.02)  # it is, but for TRL's mean over tokens
    assert found.methods[0].needed.value == pytest.approx(256)
    assert sum(b.share for b in found.bins) == pytest.approx(1)
    assert found.bins[0].share < 0.1  # tokens without entropy change nothing
    credit = run_credit([], options)
    assert "cosine" in conclusions(credit)[0]
    assert len(tables(credit)) == 2
    assert any("24 groups of 4" in note for note in notes(credit))


def test_draws_at_another_temperature_are_refused(table: Path, tmp_path: Path) -> None:
    rows = read_samples(table).to_pylist()
    claim = {"entropies": None, "sampling": {"temperature": 0.5}}
    twice = [{**row, **claim, "sample_id": 8 * again + row["sample_id"]} for again in range(2) for row in rows]
    write_shard(tmp_path / "t", "a", twice)  # of fewer samples it is not sure
    with pytest.raises(InputError, match=r"no draws of 'embedded' at their temperature: they have [\d.]+ nats"):
        run_credit([], CreditOptions(groups=[tmp_path / "t"], model=["embedded"], group_size=4, only=True))


def test_another_model_is_refused(table: Path, tmp_path: Path) -> None:
    other = save_decoder(tmp_path / "other")
    with pytest.raises(InputError, match=r"did not draw the samples in .* differ from its own by \d"):
        run_credit([], CreditOptions(groups=[table], model=[str(other)], group_size=4, only=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"top_p": 0.9}, "is of samples with top-p 0.9, and training draws from everything"),
        ({"temperature": 0.0}, r"are greedy \(temperature 0\), and training draws"),
        ({"temperature": None}, "do not say temperature"),
    ],
)
def test_samples_that_training_would_not_draw_are_refused(
    table: Path, tmp_path: Path, change: dict[str, float | None], said: str
) -> None:
    rows = read_samples(table).to_pylist()
    write_shard(tmp_path / "t", "a", [{**row, "sampling": {**row["sampling"], **change}} for row in rows])
    with pytest.raises(InputError, match=said):
        run_credit([], CreditOptions(groups=[tmp_path / "t"], model=["embedded"], group_size=4, only=True))
    write_shard(tmp_path / "t", "b", [{**row, "problem_id": f"z{row['problem_id']}"} for row in rows])
    if "temperature" in change:
        with pytest.raises(InputError, match="differ in .* temperature"):
            run_credit([], CreditOptions(groups=[tmp_path / "t"], model=["embedded"], group_size=4, only=True))


def test_equal_samples_with_two_verdicts_are_a_random_verifier_s(table: Path, tmp_path: Path) -> None:
    rows = read_samples(table).to_pylist()
    rows[1] = {**rows[0], "sample_id": rows[1]["sample_id"], "correct": not rows[0]["correct"]}
    write_shard(tmp_path / "t", "a", rows)
    with pytest.raises(InputError, match="verifier is random: the same text, a sample in"):
        run_credit([], CreditOptions(groups=[tmp_path / "t"], model=["embedded"], group_size=4, only=True))


def test_groups_larger_than_what_was_drawn_are_refused(table: Path) -> None:
    with pytest.raises(InputError, match="No problem in .* has 16 samples"):
        run_credit([], CreditOptions(groups=[table], model=["embedded"], only=True))


def test_samples_of_no_whole_group_are_counted_and_any_text_names_a_problem(table: Path, tmp_path: Path) -> None:
    rows = read_samples(table).to_pylist()
    options = CreditOptions(model=["embedded"], group_size=4, only=True)
    first = rows[0]["problem_id"]
    kept = [row for row in rows if (row["problem_id"], row["sample_id"]) != (first, 7)]
    write_shard(tmp_path / "t", "a", [{**row, "problem_id": f"p\0{row['problem_id']}"} for row in kept])
    credit = run_credit([], replace(options, groups=[tmp_path / "t"]))
    (found,) = credit.gradients
    # Of eight samples two groups of four; of seven one, and three are left over.
    assert (found.problems, found.groups, found.completions, found.in_no_group) == (12, 23, 92, 3)
    assert any("3 samples of the table made no whole group" in note for note in notes(credit))
    plain = run_credit([], replace(options, groups=[table]))
    assert plain.gradients[0].in_no_group == 0
    assert not any("no whole group" in note for note in notes(plain))


@pytest.mark.parametrize(("column", "what"), [("token_ids", "token ids"), ("correct", "verdict")])
def test_a_sample_that_lacks_something_is_named_as_its_table_names_it(
    table: Path, tmp_path: Path, column: str, what: str
) -> None:
    rows = [{**row, column: None} for row in read_samples(table).to_pylist()]
    write_shard(tmp_path / "t", "a", rows)
    named = re.escape(f"Sample {rows[0]['sample_id']} of problem '{rows[0]['problem_id']}' in")
    with pytest.raises(InputError, match=f"{named} .* has no {what}"):
        run_credit([], CreditOptions(groups=[tmp_path / "t"], model=["embedded"], group_size=4, only=True))


@pytest.mark.parametrize("more", [{"half": "second"}, {"updates": 2}, {"updates": 2, "half": "second"}, {}])
def test_one_problem_is_too_few_before_anything_is_loaded(table: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    rows = read_samples(table).to_pylist()
    write_shard(tmp_path / "t", "a", [row for row in rows if row["problem_id"] == rows[0]["problem_id"]])
    with pytest.raises(InputError, match=r"problems? of .* would be scored, .* at least 5 problems"):
        run_credit([], CreditOptions(groups=[tmp_path / "t"], model=["no model"], group_size=4, only=True, **more))
