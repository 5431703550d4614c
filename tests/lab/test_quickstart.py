"""The quickstart end to end at toy size: it runs, resumes without doing anything twice, and says what it found."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl")

from preloaded import Started
from rich.console import Console

from forkwise.errors import InputError
from forkwise.lab.experiment import analyse, run
from forkwise.lab.options import QuickstartOptions
from forkwise.lab.quickstart import quickstart
from forkwise.passk.files import read_results
from forkwise.processes import PARENT_PIPE
from forkwise.samples import read_samples, write_shard
from forkwise.study import work
from forkwise.study.recipes import problems_for
from forkwise.study.registration import read_plan
from forkwise.study.spec import Study
from forkwise.training.folder import only_writer

SMALL = {"num_generations": 4, "per_device_train_batch_size": 8, "steps_per_generation": 2}


def small(**changes: Any) -> Study:
    """A quickstart with small rollouts."""
    study = quickstart(QuickstartOptions(**{"steps": 2, "problems": 3, "samples": 8, **changes}))
    return replace(study, recipe={**study.recipe, **SMALL})


TOY = small()


@pytest.fixture(scope="module", autouse=True)
def _runs_are_loaded() -> Iterator[None]:
    """Runs of a study that this process conducts start with torch loaded."""

    def popen(command: list[str], *, stdout: Any, env: dict[str, str], **_: Any) -> Started:
        alone = {key: value for key, value in env.items() if key != PARENT_PIPE}
        return Started(command[1:], alone, output=stdout.name, errors=stdout.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": popen}))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    run(folder, TOY, jobs=2, resume=False, console=Console(quiet=True), explore=True)
    return folder


def test_everything_promised_is_there(finished: Path) -> None:
    for name in (
        "summary.txt",
        "summary.md",
        "passk.png",
        "training.png",
        "report.html",
        "compare.csv",
        "compare.json",
        "results.json",
    ):
        assert (finished / name).stat().st_size > 0, name
    samples = read_samples(finished / "samples" / "grpo-seed0")
    assert samples.num_rows == 3 * 8
    assert None not in samples["correct"].to_pylist()
    conclusion = json.loads((finished / "results.json").read_text())["conclusion"]
    assert conclusion in (finished / "summary.txt").read_text()
    page = (finished / "report.html").read_text()
    assert "Pass@8" in page
    assert f"{finished}/compare.json" in page  # the numbers are read, not computed again
    assert "No exploration" not in page  # the sections of behaviours and of fork tokens are filled
    explored = json.loads((finished / "explore" / "explore.json").read_text())
    assert [run["run"] for run in explored["runs"]] == ["base", "grpo-seed0", "grpo-entropy-advantage-seed0"]
    assert all(run["entropy"]["source"] == "stored" for run in explored["runs"])
    assert all(run["behaviours"][0]["count"] > 0 for run in explored["runs"])
    stored = read_results(finished / "compare.json")
    assert [e.arm for e in stored.evaluations] == ["base", "GRPO", "GRPO + entropy advantage"]
    assert len(stored.inputs) == 3 * 3  # a shard per run and problem
    assert conclusion == stored.sentence
    with (finished / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["arm"] for row in rows} == {"base", "GRPO", "GRPO + entropy advantage"}
    assert {row["reference"] for row in rows} == {"", "GRPO"}


def test_the_tables_say_what_was_sampled_and_logged(finished: Path) -> None:
    rows: dict[str, list[list[str]]] = {}
    for line in (finished / "summary.md").read_text().splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows.setdefault(name, []).append(cells)
    samples = read_samples(finished / "samples" / "grpo-entropy-advantage-seed0").to_pylist()
    name = "GRPO + entropy advantage"
    passed, *_, beside = rows[name]
    assert passed[0].startswith(f"{np.mean([row['correct'] for row in samples]):.3f} [")
    right = {(row["problem_id"], *row["completion"].split()) for row in samples if row["correct"]}
    log = [json.loads(line) for line in (finished / "arms" / f"{samples[0]['run']}" / "metrics.jsonl").open()]
    receipt = json.loads((finished / "receipts" / f"{samples[0]['run']}.json").read_text())
    shift = "method/entropy_advantage/shift"
    expected = {
        "entropy (nats)": np.mean([row["entropy"] for row in log if "entropy" in row]),
        "at the cap": np.mean([row["shaping/capped_frac"] for row in log if "shaping/capped_frac" in row]),
        "dA/abs(A)": np.mean([row[shift] for row in log if shift in row]),
        "minutes": sum(receipt["seconds"].values()) / 60,
        "tokens per sample": np.mean([row["n_tokens"] for row in samples]),
        "distinct correct texts": len(right) / 3,
    }
    header, one_digit = rows["arm"][-1], ("tokens per sample", "minutes")
    for column, value in expected.items():
        digits = 1 if column in one_digit else 3
        assert beside[header.index(column)] == f"{value:.{digits}f}", column
    assert rows["base"][-1][header.index("at the cap")] == ""


def test_the_arms_differ_in_alpha_alone(finished: Path) -> None:
    plain, shaped = (
        dict(line.split(": ", 1) for line in path.read_text().splitlines() if ": " in line)
        for path in sorted((finished / "arms").glob("*.yaml"))
    )
    different = {key for key in plain if plain[key] != shaped[key]}
    assert different == {"alpha", "output_dir"}


def test_both_arms_see_the_same_problems_before_they_part(finished: Path) -> None:
    first = [
        json.loads((finished / "arms" / arm / "metrics.jsonl").read_text().splitlines()[0])
        for arm in ("grpo-seed0", "grpo-entropy-advantage-seed0")
    ]
    assert first[0]["reward"] == first[1]["reward"]  # same weights, seed and prompts: the same first rollout
    assert "shaping/capped_frac" not in first[0]  # alpha = 0 is stock TRL
    assert "shaping/capped_frac" in first[1]


def test_resume_does_nothing_twice_and_fills_what_is_missing(finished: Path) -> None:
    shard = finished / "samples" / "base" / "00001-000000.parquet"
    before = read_samples(shard).to_pylist()
    kept = (finished / "samples" / "base" / "00000-000000.parquet").stat().st_mtime_ns
    shard.unlink()
    run(finished, TOY, jobs=1, resume=True, console=Console(quiet=True))
    assert read_samples(shard).to_pylist() == before  # same seed, same samples
    assert (finished / "samples" / "base" / "00000-000000.parquet").stat().st_mtime_ns == kept


def test_an_interrupt_ends_the_arms_and_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    flags = ["--steps", "500", "--problems", "2", "--samples", "2", "--out", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "forkwise", "quickstart", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A suite that runs in the background hands an ignored SIGINT down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    arms = [folder / "arms" / f"{name}-seed0" for name in ("grpo", "grpo-entropy-advantage")]
    deadline = time.monotonic() + 150
    while not all((arm / "run.yaml").exists() for arm in arms):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "--resume continues" in said
    for arm in arms:  # nobody writes there any more, and nothing counts as finished
        with only_writer(arm):
            assert not (arm / "complete").exists()
    # The same settings go on; others, or no --resume, are refused.
    with pytest.raises(InputError, match="--resume"):
        run(folder, quickstart(QuickstartOptions(steps=500, problems=2, samples=2)), jobs=2, resume=False)
    assert read_plan(folder / "study.yaml")[0].steps == 500


def test_refusals(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--resume"):
        run(finished, TOY, jobs=1, resume=False)
    with pytest.raises(InputError, match="other settings .problems = 32, not 64|recipe.max_steps = 2, not 3"):
        run(finished, small(steps=3), jobs=1, resume=True)
    (tmp_path / "precious").write_text("")
    with pytest.raises(InputError, match="holds no run to resume"):
        run(tmp_path, TOY, jobs=1, resume=True)


def test_analysis_of_samples_made_by_hand(tmp_path: Path) -> None:
    settings = quickstart(QuickstartOptions(steps=1, problems=2, samples=2))
    # Two problems, two samples each. base: 0 and 1 correct; plain: 1 and 1; shaped: 2 and 1.
    correct = {"base": (0, 1), "grpo-seed0": (1, 1), "grpo-entropy-advantage-seed0": (2, 1)}
    for name, per_problem in correct.items():
        rows = [
            {
                "run": name,
                "model": "m",
                "problem_id": f"p{q}",
                "sample_id": i,
                "correct": i < c,
                "n_tokens": 10 * (q + 1),
            }
            for q, c in enumerate(per_problem)
            for i in range(2)
        ]
        write_shard(tmp_path / "samples" / name, "0000", rows)
    results = analyse(tmp_path, settings)
    assert results.base.ks == [1, 2]
    # Pass@1: c / 2; Pass@2 with n = 2: 1 if c > 0.
    plain, _ = results.comparison.arms
    (difference,) = results.comparison.differences
    np.testing.assert_allclose(results.base.pass_at_k.mean, [0.25, 0.5])
    np.testing.assert_allclose(plain.pass_at_k.mean, [0.5, 1.0])
    np.testing.assert_allclose(difference.interval.mean, [0.25, 0.0])
    assert plain.mean_length == 15
    # What is there is read, unless it is about other samples.
    file = tmp_path / "compare.json"
    file.write_text(file.read_text().replace('"margin": 0.05', '"margin": 0.0625'))
    assert analyse(tmp_path, settings).comparison.differences[0].margin == 0.0625
    write_shard(tmp_path / "samples" / "grpo-seed0", "0000", [{**row, "run": "grpo-seed0"} for row in rows])
    again = analyse(tmp_path, settings).comparison.differences[0]
    assert (again.margin, again.interval.mean.tolist()) == (0.05, [0.0, 0.0])
    assert "other seeds may say otherwise" in results.conclusion()


def test_ppo_that_would_only_warm_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="With 10 steps the policy of 'PPO' would not learn: the first 10"):
        run(
            tmp_path / "out",
            quickstart(QuickstartOptions("ppo", steps=10, problems=2, samples=2)),
            jobs=1,
            resume=False,
        )
    assert not (tmp_path / "out").exists()


def test_ppo_end_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    study = small(algorithm="ppo", problems=2, samples=2)
    study = replace(study, recipe={**study.recipe, "critic_warmup_steps": 1})
    results = run(folder, study, jobs=2, resume=False, console=Console(quiet=True))
    assert [e.arm for e in results.evaluations()] == ["base", "PPO", "PPO + entropy advantage"]
    rows = [json.loads(line) for line in (folder / "arms" / "ppo-seed0" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] == 0
    assert "critic/value_loss" in rows[0]


def test_several_seeds_are_compared_as_runs(tmp_path: Path) -> None:
    settings = quickstart(QuickstartOptions(steps=1, seeds=2, problems=2, samples=1))
    correct = {"base": (0, 0), "grpo-seed0": (0, 0), "grpo-seed1": (1, 0)}
    correct |= {"grpo-entropy-advantage-seed0": (1, 1), "grpo-entropy-advantage-seed1": (1, 0)}
    for name, per_problem in correct.items():
        rows = [
            {"run": name, "model": "m", "problem_id": f"p{q}", "sample_id": 0, "correct": bool(c), "n_tokens": 1}
            for q, c in enumerate(per_problem)
        ]
        write_shard(tmp_path / "samples" / name, "0000", rows)
    results = analyse(tmp_path, settings)
    (difference,) = results.comparison.differences
    np.testing.assert_allclose(difference.interval.mean, [0.75 - 0.25])
    assert difference.runs == (2, 2)
    assert difference.trained == (False, False)  # two runs are too few to speak of others
    assert "other seeds may say otherwise" not in results.conclusion()


def test_there_are_problems_for_every_step_and_no_half_rollout() -> None:
    # 256 completions per rollout, 16 of each problem: 16 problems per rollout, which are two updates of 128.
    assert [problems_for("quickstart", steps) for steps in (1, 2, 3, 70)] == [16, 16, 32, 560]
    for steps in range(1, 30):
        rollouts = problems_for("quickstart-ppo", steps) // 16
        assert 2 * rollouts >= steps > 2 * rollouts - 2
    assert quickstart(QuickstartOptions(steps=3)).problems == 32


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"algorithm": "sac"}, "no algorithm"),
        ({"alpha": 0.0}, "alpha of the shaped arm .* greater than 0"),
        ({"kappa": 1.0}, "greater than 1"),
    ],
)
def test_a_quickstart_that_would_compare_nothing(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        quickstart(QuickstartOptions(**wrong))
