"""`forkwise explore` from the command line: real paths through it, and bad input as one sentence."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.explore import results
from forkwise.explore.command import run_explore
from forkwise.explore.options import ExploreOptions
from forkwise.report.explore_notes import notes
from forkwise.samples import write_shard

FAST = ["--resamples", "100"]


def invoke(*args: Any) -> Any:
    return CliRunner().invoke(app, ["explore", *map(str, args)])


def row(problem: str, sample: int, text: str, run: str = "r", **more: Any) -> dict[str, Any]:
    return {
        "run": run,
        "model": "m",
        "problem_id": problem,
        "sample_id": sample,
        "prompt": f"Prompt of {problem}",
        "completion": text,
        **more,
    }


def with_tokens(problem: str, sample: int, text: str, high: dict[str, float], run: str = "r") -> dict[str, Any]:
    """Words as tokens (the blank before each); entropy 0.2, or what `high` says of the word, plus a trifle."""
    words = text.split(" ")
    tokens = [words[0], *(f" {word}" for word in words[1:])]
    rng = np.random.default_rng(len(text) + sample)
    entropies = [high.get(word, 0.2) + 0.05 * rng.random() for word in words]
    return row(problem, sample, text, run, tokens=tokens, entropies=entropies, n_tokens=len(tokens))


TEXTS = (
    "We add three and four now. Because the sum is seven we stop here. Wait that is wrong.",
    "Take the product of both sides. Therefore the root is two. Let me check the result again.",
    "The area is a half of the base. But the height is three. However it is fine and well.",
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    high = {"Because": 1.5, "Therefore": 1.4, "But": 1.6, "However": 1.2}
    rows = [with_tokens(f"p{q}", s, TEXTS[(q + s) % 3], high) for q in range(8) for s in range(3)]
    write_shard(tmp_path / "s", "a", rows)
    return tmp_path / "s"


def test_planted_pivotal_entropy_is_found_with_interval_null_and_match(table: Path, tmp_path: Path) -> None:
    done = invoke(table, "--out", tmp_path / "out", *FAST)
    assert done.exit_code == 0, done.output
    explored = results.read(tmp_path / "out")
    (run,) = explored.runs
    pivotal = next(b for b in run.behaviours if b.name == "pivotal")
    raw = pivotal.contrasts[0]
    # Each trace has two planted words of about 1.2 to 1.6, less "now" of the first text: all others have about 0.225.
    marked = [1.5, 0.2, 1.4, 1.6, 1.2]
    assert raw.mean_marked == pytest.approx(np.mean(marked) + 0.025, abs=0.03)
    assert raw.mean_other == pytest.approx(0.225, abs=0.01)
    assert raw.difference.low > 0.5
    assert raw.p < 0.001
    assert pivotal.count == 8 * (2 + 1 + 2)
    entries = {entry.entry: entry for entry in run.entries}
    assert entries["because"].count == 8
    assert entries["because"].difference.value is None  # fewer than 10
    assert run.entropy.source == "stored"
    assert run.entropy.tokens == sum(len(t.split()) * 8 for t in TEXTS)
    assert {f.token for f in run.entropy.forks[:4]} >= {"Because", "Therefore", "But"}
    assert "Marked against other units" in done.output


def test_high_entropy_is_above_the_quantile_of_all_tokens_at_once(tmp_path: Path) -> None:
    # 400 traces are more than one batch of the reader. Entropies of later traces are larger, so no part has the
    # quantile of the whole.
    entropies = np.arange(400 * 5).reshape(400, 5) / 1000
    for shard in range(2):
        rows = [
            row(f"p{i % 7}", i, "so x is a y", tokens=["so", " x", " is", " a", " y"], entropies=entropies[i].tolist())
            for i in range(200 * shard, 200 * shard + 200)
        ]
        write_shard(tmp_path / "s", str(shard), rows)
    for quantile in (0.8, 0.9):
        done = invoke(tmp_path / "s", "--out", tmp_path / str(quantile), "--quantile", quantile, *FAST)
        assert done.exit_code == 0, done.output
        entropy = results.read(tmp_path / str(quantile)).runs[0].entropy
        assert entropy is not None
        assert entropy.threshold == pytest.approx(quantile * 1.999)
        assert sum(t.tokens * t.high_share for t in entropy.types) == pytest.approx(2000 * (1 - quantile))


def test_the_file_reads_back_equal(table: Path, tmp_path: Path) -> None:
    assert invoke(table, "--out", tmp_path / "out", *FAST).exit_code == 0
    explored = results.read(tmp_path / "out")
    results.write(tmp_path / "again", explored)
    assert results.read(tmp_path / "again") == explored
    text = (tmp_path / "out" / "explore.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert explored.token_data == ["../s"]
    assert explored.run("r") is explored.runs[0]
    with pytest.raises(InputError, match="no run 'x'"):
        explored.run("x")


def test_the_conclusion_comes_first_and_brief_prints_nothing_else(table: Path, tmp_path: Path) -> None:
    long, brief = invoke(table, *FAST).output.splitlines(), invoke(table, "--brief", *FAST).output.splitlines()
    assert long[0].startswith("r: mean entropy of pivotal tokens minus others +")
    assert "24 samples of 8 problems" in long[2]
    assert brief == long[:1]
    written = invoke(table, "--brief", "--out", tmp_path / "out", *FAST).output
    assert written.splitlines() == brief
    assert (tmp_path / "out" / "explore.json").exists()


def test_the_file_says_what_it_was_made_from_and_how(table: Path, tmp_path: Path) -> None:
    write_shard(table, "b", [row("p0", 9, TEXTS[0])])
    assert invoke(table, "--out", tmp_path / "out", "--quantile", 0.9, *FAST).exit_code == 0
    explored = results.read(tmp_path / "out")
    shards = [table / "a.parquet", table / "b.parquet"]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in shards]
    assert [(i.path, i.sha256) for i in explored.inputs] == list(zip(map(str, shards), digests, strict=True))
    assert (explored.settings["quantile"], explored.settings["resamples"], explored.settings["base"]) == (
        0.9,
        100,
        None,
    )


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    for text, message in (
        ("[]", "This is not an explore.json"),
        ('{"schema": 99}', "schema 99, not 5: run forkwise explore --out again"),
        ('{"schema": 4}', "schema 4, not 5: run forkwise explore --out again"),
        ('{"schema": 5}', "is damaged"),
    ):
        (tmp_path / "explore.json").write_text(text)
        with pytest.raises(InputError, match=message):
            results.read(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        results.read(tmp_path / "nowhere.json")


def test_top_k_log_probs_give_bounds_and_say_so(tmp_path: Path) -> None:
    rows = []
    for q in range(9):
        tokens = TEXTS[q % 3].split(" ")
        tokens = [tokens[0], *(f" {word}" for word in tokens[1:])]
        top = [[{"token": t, "logprob": math.log(0.6)}, {"token": "x", "logprob": math.log(0.3)}] for t in tokens]
        logprobs = [math.log(0.6)] * len(tokens)
        rows.append(row(f"p{q}", 0, TEXTS[q % 3], tokens=tokens, logprobs=logprobs, top_logprobs=top))
    write_shard(tmp_path / "s", "a", rows)
    done = invoke(tmp_path / "s", "--out", tmp_path / "out", "--vocabulary", 1000, *FAST)
    assert done.exit_code == 0, done.output
    entropy = results.read(tmp_path / "out").runs[0].entropy
    known = -(0.6 * math.log(0.6) + 0.3 * math.log(0.3))
    assert entropy.source == "top-k"
    assert entropy.mean.value == pytest.approx(known - 0.1 * math.log(0.1), abs=1e-5)
    assert entropy.upper_mean == pytest.approx(known + 0.1 * math.log(998 / 0.1), abs=1e-5)
    assert (entropy.vocabulary, entropy.vocabulary_source, entropy.candidates) == (1000, "as given", 2)
    assert "whatever the unseen tails" in done.output


def test_runs_become_a_series_with_their_steps(tmp_path: Path) -> None:
    for step, text in ((10, TEXTS[2]), (20, TEXTS[0] + " " + TEXTS[0])):
        rows = [row(f"p{q}", 0, text, run=f"step{step}", correct=q == 0) for q in range(4)]
        write_shard(tmp_path / f"s{step}", "a", rows)
    done = invoke(tmp_path / "s10", tmp_path / "s20", "--out", tmp_path / "out", *FAST)
    assert done.exit_code == 0, done.output
    first, second = results.read(tmp_path / "out").series
    assert (first.step, second.step) == (10, 20)
    assert (first.reflective_per_response, second.reflective_per_response) == (0, 2)
    assert (first.pivotal_per_response, second.pivotal_per_response) == (2, 4)
    assert first.accuracy == 0.25
    # The second is 18 words twice over: of its 33 4-grams the 15 inside the second copy came before.
    assert second.repetition == pytest.approx(15 / 33)
    assert first.repetition == 0
    assert second.length_unit == "words"
    assert "Over runs or training" in done.output


def test_rarity_against_a_base_with_an_encoder_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_models import save_encoder

    words = sorted({w.lower().strip(".") for t in TEXTS for w in t.split()})
    folder = tmp_path / "bert"
    save_encoder(folder, words, positions=32, lowercase=True)
    rng = np.random.default_rng(0)
    pool = [w for t in TEXTS for w in t.replace(".", "").split()]

    def text() -> str:
        return " ".join(" ".join(rng.choice(pool, 6)).capitalize() + "." for _ in range(8))

    for name in ("base", "ours"):
        rows = [row(f"p{q}", s, text(), run=name) for q in range(4) for s in range(2)]
        write_shard(tmp_path / name, "a", rows)
    done = invoke(
        tmp_path / "ours", "--base", tmp_path / "base", "--out", tmp_path / "out", "--encoder", folder, "--k", 2, *FAST
    )
    assert done.exit_code == 0, done.output
    run = results.read(tmp_path / "out").runs[0]
    assert run.rarity.distinct == 64
    assert run.rarity.groups[0].sentences == 7  # strictly above the 90 % quantile of 64
    assert [b.name for b in run.behaviours] == ["pivotal", "reflective", "rare"]
    assert "Rare sentences" in done.output
    assert "drawn at random" not in done.output
    options = ExploreOptions(
        [tmp_path / "ours"], base=tmp_path / "base", encoder=str(folder), k=2, max_sentences=40, resamples=99
    )
    explored = run_explore(options)
    (run,) = explored.runs
    assert (run.rarity.distinct, run.rarity.base_distinct) == (40, 40)
    assert any("among 40 distinct sentences of a model, drawn at random" in note for note in notes(explored))


def test_the_embedded_model_scores_its_own_samples_and_sees_its_prompts(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    runner = CliRunner()
    drawn = runner.invoke(
        app,
        [
            *("sample", "--model", "embedded", "--task", "countdown:4", "--problems", "6", "-n", "4"),
            *("--max-tokens", "60", "--out", str(tmp_path / "s"), "--run", "base", "--device", "cpu"),
        ],
    )
    assert drawn.exit_code == 0, drawn.output
    done = invoke(
        tmp_path / "s", "--model", "embedded", "--out", tmp_path / "out", "--cross-prompts", 6, "--device", "cpu",
        "--breaks", "wait,hmm,instead,so", *FAST,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    explored = results.read(tmp_path / "out")
    run = explored.runs[0]
    assert run.entropy.source == "model"
    assert explored.token_data == ["tokens"]
    assert (tmp_path / "out" / "cross-base.npz").exists()
    cross, text = run.dependence
    assert (cross.method, cross.prompts, cross.responses) == ("model", 6, 24)
    assert cross.p < 0.05  # the model reads its prompt
    assert 0 < cross.information.value <= math.log(6)
    assert text.method == "text"
    stored = invoke(tmp_path / "s", "--out", tmp_path / "stored", "--breaks", "wait,hmm,instead,so", *FAST)
    assert stored.exit_code == 0
    again = results.read(tmp_path / "stored").runs[0]
    assert again.entropy.mean.value == pytest.approx(run.entropy.mean.value, abs=1e-4)
    assert [f.token for f in again.entropy.forks[:5]] == [f.token for f in run.entropy.forks[:5]]


_WITHOUT_TORCH = """
import sys

class Block:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError(name)

sys.meta_path.insert(0, Block())
from forkwise.cli import run
run(["explore", sys.argv[1], "--resamples", "100"])
"""


def test_stored_entropies_need_no_torch(table: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, str(table)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Marked against other units" in done.stdout


# ------------------------------------------------------------------------------------------------------------ bad input


def refused(*args: Any) -> str:
    done = invoke(*args)
    assert isinstance(done.exception, InputError), done.output
    return str(done.exception)


def test_empty_traces_are_left_out_and_counted_and_all_empty_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", "a", [row("p", 0, ""), row("p", 1, None), row("p", 2, "x is 3.")])
    done = invoke(tmp_path / "s", *FAST)
    assert done.exit_code == 0, done.output
    assert "Left out: 2 samples without text." in done.output
    write_shard(tmp_path / "t", "a", [row("p", 0, " "), row("q", 0, "")])
    assert "every sample of the run 'r' is empty" in refused(tmp_path / "t")


def test_one_sentence_of_one_problem_is_told_as_such(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", "a", [with_tokens("p", 0, "So x is 3.", {})])
    done = invoke(tmp_path / "s", *FAST)
    assert done.exit_code == 0, done.output
    assert "There is only one problem" in done.output
    assert "There is at most one sentence" in done.output
    assert "fewer than two different prompts" in done.output


def test_tokens_that_do_not_join(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", "a", [row("p", 7, "So x.", tokens=["So", " y."], entropies=[1.0, 0.5])])
    message = refused(tmp_path / "s")
    assert "sample 7 of problem 'p' in run 'r': the tokens do not join to the text (token 2 of 2 is ' y.'" in message


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"entropies": [1.0]}, "there are 2 tokens but 1 entropies"),
        ({"entropies": [1.0, -0.5]}, "an entropy is negative"),
        ({"top_logprobs": [[{"token": "So", "logprob": 7.0}], []]}, "above 0: these are raw logits"),
        ({"top_logprobs": [[{"token": "So", "logprob": -0.1}]]}, "2 tokens but 1 lists of candidates"),
        ({"top_logprobs": [[{"token": "So", "logprob": -40.0}]] * 2}, "no distribution over 262,144 tokens allows"),
    ],
)
def test_token_data_that_cannot_be(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    write_shard(tmp_path / "s", "a", [row("p", 0, "So x.", tokens=["So", " x."], **columns)])
    assert message in refused(tmp_path / "s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "embedded"], "give --out"),
        (["--cross-prompts", "4"], "needs --model"),
        (["--rare", "1.5"], "--rare is 1.5"),
        (["--quantile", "0"], "quantile is 0.0"),
        (["--vocabulary", "1"], "vocabulary is 1"),
        (["--encoder", "x"], "give --base"),
        (["--level", "2"], "level is 2.0"),
        (["--lexicon", "/nowhere.yaml"], "cannot be read"),
        (["--k", "0"], "k is 0"),
    ],
)
def test_options_that_cannot_be(table: Path, options: list[str], message: str) -> None:
    assert message in refused(table, *options)


def test_a_base_without_the_run_s_problems_is_refused(table: Path, tmp_path: Path) -> None:
    # What another topic's sentences are far from is no rarity: as in `compare`, the problems must be the same.
    write_shard(tmp_path / "b", "a", [row(f"p{q}", s, TEXTS[q % 3], "base") for q in range(4, 10) for s in range(2)])
    said = refused(table, "--base", tmp_path / "b")
    assert "lacks 4 of the 8 problems of the run 'r', and has 2 others" in said
    assert "--intersect" in said
    write_shard(tmp_path / "c", "a", [row(f"x{q}", 0, TEXTS[0], "base") for q in range(4)])
    assert "share no problem" in refused(table, "--base", tmp_path / "c")


def test_bounds_do_not_stand_beside_exact_entropies_of_another_temperature(table: Path, tmp_path: Path) -> None:
    top = [[{"token": "a", "logprob": -0.2}, {"token": "b", "logprob": -2.0}]]
    bounded = row("p0", 0, "a", "server", tokens=["a"], logprobs=[-0.2], top_logprobs=top)
    write_shard(tmp_path / "bounds", "a", [bounded])
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 9}
    cooler = [{**with_tokens(f"p{q}", 0, TEXTS[q % 3], {}), "sampling": sampling} for q in range(6)]
    write_shard(tmp_path / "cool", "a", cooler)
    said = refused(tmp_path / "bounds", tmp_path / "cool")
    assert "at temperature 1, and those of 'r' exact at temperature 0.6: look at them apart" in said
    done = invoke(tmp_path / "bounds", table, *FAST)  # both at temperature 1
    assert done.exit_code == 0, done.output


def test_entropies_under_top_p_are_said_as_what_they_are(table: Path, tmp_path: Path) -> None:
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 9}
    write_shard(tmp_path / "t", "a", [{**with_tokens("p0", 0, TEXTS[0], {}, "cool"), "sampling": sampling}])
    explored = run_explore(ExploreOptions([tmp_path / "t", table], resamples=100))
    said = " ".join(notes(explored))
    assert "Tokens were sampled with top-p 0.95; entropies are those of the whole distribution, before that cut" in said
    assert "of several temperatures and cannot be compared with each other (0.6, 1)" in said
    assert explored.runs[0].entropy.temperatures == [0.6]
    assert "top-p" not in " ".join(notes(run_explore(ExploreOptions([table], resamples=100))))


def test_sentences_that_the_limit_cut_off_are_left_out(tmp_path: Path) -> None:
    rows = [
        row("p0", 0, "We add them. Wait, this is", finish_reason="length"),
        row("p1", 0, "We add them. Wait, this is it.", finish_reason="length"),
        row("p2", 0, "We add them. Wait, this is", finish_reason="stop"),
    ]
    write_shard(tmp_path / "s", "a", rows)
    explored = run_explore(ExploreOptions([tmp_path / "s"], resamples=100))
    assert (explored.runs[0].sentences, explored.runs[0].cut_off) == (5, 1)
    assert explored.runs[0].behaviours[1].count == 2
    assert "Left out: 1 sentence that the limit of tokens cut off." in " ".join(notes(explored))


def test_a_test_on_few_prompts_says_how_small_its_p_can_be(tmp_path: Path) -> None:
    rows = [row(f"p{q}", s, f"Prompt of p{q} has {q}.") for q in range(3) for s in range(4)]
    write_shard(tmp_path / "s", "a", rows)
    explored = run_explore(ExploreOptions([tmp_path / "s"], resamples=1000))
    # Of six orders of three prompts one is the true one.
    assert explored.runs[0].dependence[0].smallest_p == pytest.approx(1 / 6, abs=0.001)
    assert "With 3 prompts the p of input dependence cannot be below about 0.167" in " ".join(notes(explored))


def test_varentropies_are_explored_where_they_are_stored(tmp_path: Path) -> None:
    tokens = ["a", " b", " a", " b"]
    rows = [
        row(
            *(f"p{q}", 0, "a b a b"),
            **{"tokens": tokens, "logprobs": [-1.0, -2.0, -1.0, -2.0], "entropies": [0.5, 1.5, 0.5, 1.5]},
            varentropies=[0.1, 0.3, 0.1, 0.3],
        )
        for q in range(3)
    ]
    write_shard(tmp_path / "s", "a", rows)
    entropy = run_explore(ExploreOptions([tmp_path / "s"], resamples=100, quantile=0.6)).runs[0].entropy
    assert (entropy.surprisal.value, entropy.varentropy.value) == pytest.approx((1.5, 0.2))
    assert entropy.varentropy_correlation == pytest.approx(1.0)
    assert [(f.token, f.mean_varentropy) for f in entropy.forks] == [] or entropy.forks[0].token == "b"


def test_a_base_of_several_runs_is_refused(table: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "b", "a", [row("p", 0, "x is 3.", run=run) for run in ("one", "two")])
    assert "holds 2 runs (one, two)" in refused(table, "--base", tmp_path / "b")


def test_tables_may_be_named_and_there_must_be_one(table: Path, tmp_path: Path) -> None:
    for name, options in (("a", [table]), ("b", ["--samples", table])):
        assert invoke(*options, "--out", tmp_path / name, *FAST).exit_code == 0
    assert (tmp_path / "a" / "explore.json").read_bytes() == (tmp_path / "b" / "explore.json").read_bytes()
    assert "nothing to explore" in refused()


def test_a_cross_matrix_is_of_one_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", logprobs=np.log([[0.9, 0.1], [0.1, 0.9]]), own=np.array([0, 1]))
    write_shard(tmp_path / "s", "a", [row(p, 0, "x is 3.", run=run) for run in ("one", "two") for p in "pq"])
    assert "one run, but" in refused(tmp_path / "s", "--cross", tmp_path / "c.npz")


def test_model_text_cannot_move_the_cursor(tmp_path: Path) -> None:
    text = "\x1b[2J\u202ewait, check so"
    write_shard(
        tmp_path / "s", "a", [with_tokens(f"p{i}", 0, text, {"so": 3.0, "\x1b[2J\u202ewait,": 4.0}) for i in range(3)]
    )
    done = invoke(tmp_path / "s", *FAST)
    assert done.exit_code == 0, done.output
    assert "\x1b[2J" not in done.output
    assert "\u202e" not in done.output


def test_samples_without_entropies_can_be_left_out(tmp_path: Path) -> None:
    rows = [with_tokens(f"p{q}", 0, TEXTS[q], {"Because": 1.5}) for q in range(3)]
    rows += [row(f"p{q}", i, "Nothing but a wait.") for q in range(3) for i in range(1, 4)]
    write_shard(tmp_path / "t", "0000", rows)
    [run] = run_explore(ExploreOptions([tmp_path / "t"], resamples=100, only_exact=True)).runs
    assert run.samples == 3  # one of each problem
    assert all("wait" not in e.entry or e.count == 1 for e in run.entries)  # that of the first text
