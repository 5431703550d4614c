"""The commands `passk` and `compare`: files, exit codes, sentences for bad input, and the public paired checkpoints."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from forkwise.cli import app
from forkwise.errors import InputError
from forkwise.passk import compare, diversity, evaluate, make_arm
from forkwise.passk.arguments import parse_arm, parse_numbers
from forkwise.passk.files import read_results
from forkwise.report.passk_conclusion import conclusion
from forkwise.report.passk_figures import comparison_figure, save
from forkwise.report.passk_notes import sentences
from forkwise.samples import write_shard


def rows(run: str, c: list[int], n: int = 8, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "run": run, "model": "m", "problem_id": f"p{q}", "sample_id": i, "prompt": "?",
            "completion": f"so {i % 3} and then {q} is {run} [/bold]", "answer": "7" if i < solved else str(i % 3),
            "correct": i < solved, "verdict_by": "test", "n_tokens": 10 + i, "finish_reason": "stop", "seed": 0,
            "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 64}, **more,
        }
        for q, solved in enumerate(c)
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    write_shard(tmp_path / "a", "0", rows("a", [0, 1, 2, 3, 4, 8]))
    write_shard(tmp_path / "b", "0", rows("b", [0, 2, 2, 4, 4, 8]))
    write_shard(tmp_path / "seeds", "0", rows("s0", [0, 2, 2, 4, 4, 8]))
    write_shard(tmp_path / "seeds", "1", rows("s1", [1, 2, 2, 4, 4, 8]))
    return tmp_path


def run(*argv: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in argv])


def refused(*argv: object) -> str:
    result = run(*argv)
    assert isinstance(result.exception, InputError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_passk_prints_tables_and_writes_files(tables: Path) -> None:
    files = {option: tables / f"out/x.{option}" for option in ("json", "csv", "png", "svg")}
    result = run(
        "passk", tables / "a", tables / "b", "--diversity", "--extrapolate", "16", "--resamples", 500,
        "--json", files["json"], "--csv", files["csv"], "--figure", files["png"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for text in (
        "a: 6 problems x 8 samples",
        "maj@K",
        "budget",
        "self-BLEU",
        "model, not an estimate",
        "With 6 problems",
    ):
        assert text in result.output
    numbers = list(csv.DictReader(files["csv"].open(encoding="utf-8")))
    stored = read_results(files["json"])
    again = [row for evaluation in stored.evaluations for row in evaluation.rows()]
    assert len(numbers) == len(again)
    assert [float(row["value"]) for row in numbers] == [row["value"] for row in again]  # both to the last digit
    assert stored.settings["extrapolate"] == "16"
    assert [Path(i.path) for i in stored.inputs] == [tables / "a/0.parquet", tables / "b/0.parquet"]
    shard = (tables / "a/0.parquet").read_bytes()
    assert stored.inputs[0].sha256 == hashlib.sha256(shard).hexdigest()
    (first,) = [r for r in again if r["arm"] == "a" and r["metric"] == "pass@k" and r["k"] == 1]
    assert first["value"] == pytest.approx(18 / 48)
    assert {r["metric"] for r in again} >= {
        "mean@n",
        "pass@k",
        "pass^k",
        "maj@k",
        "mg-pass@k",
        "pass@k, cap",
        "pass@k, budget",
    }
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert run("passk", tables / "a", "--k", "1,8", "--resamples", 200, "--figure", files["svg"]).exit_code == 0
    assert "<svg" in files["svg"].read_text(encoding="utf-8")


def test_passk_shows_every_run_on_its_own(tables: Path) -> None:
    output = run("passk", tables / "seeds", "--k", "1,2", "--resamples", 200).output
    assert "s0: 6 problems" in output
    assert "s1: 6 problems" in output


def test_compare_begins_with_its_sentence(tables: Path) -> None:
    result = run(
        "compare", f"base={tables / 'a'}", tables / "b", "--resamples", 500, "--diversity",
        "--csv", tables / "x.csv", "--figure", tables / "x.svg",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first = result.output.splitlines()[0]
    assert first.startswith("On 6 problems, b against base shows no difference")
    assert first.endswith(".")
    assert "b minus base, paired by problem" in result.output
    assert "longer than the cap" in result.output
    assert run("compare", f"base={tables / 'a'}", tables / "b", "--resamples", 500, "--brief").output == f"{first}\n"
    differences = [r for r in csv.DictReader((tables / "x.csv").open(encoding="utf-8")) if r["reference"] == "base"]
    assert {r["metric"] for r in differences} >= {"pass@k", "pass@k, cap", "pass@k, budget", "self-BLEU"}


def test_names_are_printed_as_they_are_and_told_apart(tables: Path) -> None:
    output = run("compare", f"[/bold]x={tables / 'a'}", tables / "b", "--k", "1", "--resamples", 200).output
    assert "b against [/bold]x" in output
    write_shard(tables / "other", "0", rows("a", [0, 1, 2, 3, 4, 8]))
    output = run("compare", tables / "a", tables / "other", "--k", "1", "--resamples", 200).output
    assert "other/a against a/a" in output


def test_json_alone_is_json(tables: Path) -> None:
    result = run("compare", tables / "a", tables / "b", "--json", "-", "--resamples", 200, "--k", "all")
    content = json.loads(result.stdout)
    assert content["sentence"].startswith("On 6 problems")
    assert content["comparison"]["differences"][0]["ks"] == list(range(1, 9))
    (tables / "compare.json").write_text(result.stdout)
    again = read_results(tables / "compare.json").comparison
    assert again is not None
    direct = compare(parse_arm(str(tables / "a")), parse_arm(str(tables / "b")), ks=range(1, 9), resamples=200)
    assert repr(again.rows()) == repr(direct.rows())


def test_csv_alone_is_csv(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tables)
    for arguments in (["compare", tables / "a", tables / "b"], ["passk", tables / "a"]):
        few = (*arguments, "--k", "1", "--resamples", 200)
        run(*few, "--csv", "there.csv")
        printed = list(csv.DictReader(io.StringIO(run(*few, "--csv", "-").stdout)))
        assert printed == list(csv.DictReader((tables / "there.csv").open()))
        assert "1" in {row["k"] for row in printed}
        assert not (tables / "-").exists()
        assert "both print their result alone" in refused(*few, "--csv", "-", "--json", "-")


def test_an_arm_without_a_name_is_refused(tables: Path) -> None:
    for empty in (f"={tables / 'a'}", f" ={tables / 'a'}", f"=aime:{tables / 'a'}"):
        said = refused("compare", empty, f"x={tables / 'a'}")
        assert said.startswith(f"'{empty}' has an empty name: write NAME={empty.partition('=')[2]}"), said
    write_shard(tables / "=odd", "0", rows("odd", [1, 2]))
    assert parse_arm(str(tables / "=odd")).runs == ("odd",)  # a path, not a name


def test_runs_of_one_table_are_arms_or_seeds(tables: Path) -> None:
    alone = run("compare", tables / "seeds", "--k", "1", "--resamples", 200)
    assert "s1 minus s0" in alone.output
    both, few = f"both={tables / 'seeds'}", ("--k", "1", "--resamples", 200)
    seeds = run("compare", tables / "a", both, *few, "--fixed", "a", "--fixed", "both")
    assert "both minus a" in seeds.output
    assert "says nothing about training them again" in seeds.output
    message = refused("compare", tables / "a", both, *few, "--fixed", "a")
    assert message.startswith("'both' has 2 runs, and how training varies shows in 3 at least")
    assert "'a' has 1 run, and" in refused("compare", tables / "a", both, *few)
    assert "no arm 'bothe' to be fixed: there are a, both. Did you mean 'both'?" in refused(
        "compare", tables / "a", both, *few, "--fixed", "bothe"
    )
    assert parse_arm(f"x={tables / 'a'},{tables / 'b'}").runs == ("a", "b")


def test_bad_input_ends_in_one_sentence(tables: Path) -> None:
    assert "needs at least 9 samples" in refused("passk", tables / "a", "--k", "9")
    assert "whole numbers with commas" in refused("passk", tables / "a", "--k", "1;2")
    assert "k must be at least 1" in refused("passk", tables / "a", "--k", "0")
    assert "tau is 2" in refused("passk", tables / "a", "--tau", "2")
    assert "level is 95" in refused("passk", tables / "a", "--level", "95")
    assert "budget of 10000" in refused("passk", tables / "a", "--budgets", "10000")
    assert "A budget is 0" in refused("passk", tables / "a", "--budgets", "0,8")
    assert "A cap is 0" in refused("compare", tables / "a", tables / "b", "--caps", "0")
    assert "at least two arms" in refused("compare", tables / "a")
    assert "There are no samples" in refused("compare", tables / "a", tables / "nowhere")
    assert ".png, .svg or .pdf" in refused(
        "passk", tables / "a", "--k", "1", "--resamples", 200, "--figure", tables / "x.doc"
    )
    write_shard(tables / "other", "0", rows("o", [1, 1]))
    assert "--intersect" in refused("compare", tables / "a", tables / "other")
    assert "4 dropped" in run("compare", tables / "a", tables / "other", "--intersect", "--resamples", 200).output
    write_shard(tables / "none", "0", [])
    assert "holds no samples" in refused("passk", tables / "none")
    write_shard(tables / "unscored", "0", rows("u", [1, 1], correct=None))
    assert "forkwise verify" in refused("passk", tables / "unscored")


@pytest.mark.parametrize("c", [0, 2], ids=["all wrong", "all right"])
def test_no_variation_is_said(tables: Path, c: int) -> None:
    write_shard(tables / "flat", "0", rows("flat", [c] * 5, n=2))
    output = run("passk", tables / "flat", "--resamples", 200).output
    # 1 - 0.025^(1/5) = 52.2 %
    assert f"Every sample is {'right' if c else 'wrong'}" in output
    assert "52.2%" in output
    message = refused("passk", tables / "flat", "--extrapolate", "10")
    assert "no extrapolation" in message


def test_one_sample_per_problem_is_said(tables: Path) -> None:
    write_shard(tables / "greedy", "0", rows("g", [0, 1, 1, 0], n=1))
    assert "only Pass@1 can be estimated" in run("passk", tables / "greedy", "--resamples", 200).output
    assert refused("passk", tables / "greedy", "--diversity").startswith("Diversity compares samples")


def test_one_problem_has_no_interval(tables: Path) -> None:
    write_shard(tables / "one", "0", rows("one", [1], n=4))
    assert "at least two problems" in refused("passk", tables / "one")


def test_several_runs_are_averaged_by_evaluate() -> None:
    arm = make_arm("x", list("ppqqppqq"), [1, 0, 0, 0, 1, 1, 0, 0], run=["s"] * 4 + ["t"] * 4)
    result = evaluate(arm, ks=[1])
    assert result.pass_at_k.mean[0] == pytest.approx(np.mean([0.5, 0, 1, 0]))
    assert any("not of runs" in note for note in sentences(result.notes))
    pandas = pytest.importorskip("pandas", reason="to_pandas needs pandas")
    assert isinstance(result.to_pandas(), pandas.DataFrame)


def test_numbers_on_the_command_line() -> None:
    assert parse_numbers("1,8", "--k") == [1, 8]
    with pytest.raises(InputError, match="--caps"):
        parse_numbers("", "--caps")


# ------------------------------------------------------------------------------------- two public training checkpoints


def public_file(step: int, benchmark: str) -> Any:
    """What open-thought/reasoning-gym-eval (Apache-2.0) says of Llama-3.2-3B after 400 and 800 steps of RL."""
    folder = Path(os.environ.get("FORKWISE_SHARED_DATA") or Path(__file__).parents[3] / "shared/data") / "samples"
    path = folder / f"rg_llama3b_rl_step{step}_{benchmark}.json.gz"
    if not path.exists():
        pytest.skip("the public samples are not here: set FORKWISE_SHARED_DATA to the folder that holds samples/")
    return json.loads(gzip.decompress(path.read_bytes()))["categories"][0]["datasets"][0]


def public(step: int, benchmark: str) -> Any:
    """Its samples as an arm."""
    results = public_file(step, benchmark)["results"]
    flat = [(r["question"], c) for r in results for c in r["completions"]]
    return make_arm(
        f"step{step}",
        [question for question, _ in flat],
        [c["score"] == 1 for _, c in flat],
        length=[len(c["full_model_response"].split()) for _, c in flat],
        length_unit="words",
        answer=[c["model_answer"] for _, c in flat],
        completion=[c["full_model_response"] for _, c in flat],
    )


@pytest.mark.parametrize("step", [400, 800])
@pytest.mark.parametrize("benchmark", ["amc23_40x50", "aime24_30x50"])
def test_published_means_are_pass_at_1_and_at_n(step: int, benchmark: str) -> None:
    published = public_file(step, benchmark)
    curve = evaluate(public(step, benchmark), ks=[1, 50], caps=(), budgets=(), resamples=100).curves["pass@k"]
    assert curve.interval.mean[0] == pytest.approx(published["average_score"], abs=1e-12)
    best = [result["best_score"] for result in published["results"]]
    assert curve.interval.mean[1] == pytest.approx(np.mean(best), abs=1e-12)


def test_more_arms_than_colours_are_drawn_as_rows() -> None:
    rng = np.random.default_rng(0)
    problem = np.repeat(["p", "q", "r"], 8)
    arms = [make_arm(f"arm {i}", problem, rng.random(24) < 0.5, length=rng.integers(1, 9, 24)) for i in range(9)]
    few, many = (compare(*arms[:n], ks=[1, 2, 4, 8], resamples=50) for n in (3, 9))
    assert len(comparison_figure(few).axes) == 3
    drawn = comparison_figure(many).axes
    assert [axis.get_xlabel() for axis in drawn] == [
        f"Pass@{k} minus arm 0\n({many.arms[0].pass_at_k.mean[i]:.3f})" for i, k in ((0, 1), (2, 4), (3, 8))
    ]
    assert [text.get_text() for text in drawn[0].get_yticklabels()] == [f"arm {i}" for i in range(1, 9)]
    dots = [line.get_xdata()[0] for line in drawn[2].lines if line.get_marker() == "o"]
    assert dots == [float(d.interval.mean[3]) for d in many.differences]


def test_two_checkpoints_of_one_run(tmp_path: Path) -> None:
    before, after = public(400, "amc23_40x50"), public(800, "amc23_40x50")
    result = compare(before, after, resamples=2000)
    d = result.differences[0]
    # The files' own averages: 0.144 and 0.1415
    assert result.arms[0].pass_at_k.mean[0] == pytest.approx(0.144)
    assert result.arms[1].pass_at_k.mean[0] == pytest.approx(0.1415)
    assert d.adjusted_p.min() > 0.5
    assert "no difference that can be told from luck" in conclusion(result.arms, result)
    # The later checkpoint writes shorter: it leads under a cap that the earlier one's answers exceed.
    assert result.arms[1].mean_length < 0.85 * result.arms[0].mean_length  # type: ignore[operator]
    raw, capped = d.interval.mean[0], next(r for r in d.length if r.control == "cap" and r.at == 194 and r.k == 1)
    assert raw < 0 < capped.difference
    less, more = diversity([after, before])
    assert less.values["self-BLEU"].mean() > more.values["self-BLEU"].mean()
    save(comparison_figure(result), tmp_path / "x.png")
