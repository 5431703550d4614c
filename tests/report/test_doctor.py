"""`forkwise doctor run`: curves in words."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from forkwise.errors import InputError
from forkwise.report.doctor import diagnoses, over_time
from forkwise.training.doctor import diagnose, trend
from forkwise.training.folder import mark_complete


def report(where: Path) -> str:
    return diagnoses(diagnose(where))


def folder(where: Path, rows: Sequence[dict[str, Any]], *, finished: bool = True, **settings: Any) -> Path:
    """A run folder with these logged steps."""
    where.mkdir(exist_ok=True)
    (where / "run.yaml").write_text(
        yaml.safe_dump({"alpha": 0.4, "kappa": 2.0, "max_steps": 20, "num_generations": 8, **settings})
    )
    lines = [json.dumps({"step": i + 1, "loss": 0.0, **row}) for i, row in enumerate(rows)]
    (where / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if finished:
        (where / "complete").write_text("step 20\n")
    return where


def line(text: str, topic: str) -> str:
    rows = [row for row in text.splitlines() if row[2:].startswith(topic)]
    assert len(rows) == 1, text
    return rows[0]


def test_few_values_show_no_trend() -> None:
    assert over_time(trend([1.0, 2.0, 3.0])) == "from 1.5 to 2.5 (too few values for a trend)"  # means of two
    assert over_time(trend([0.5] * 20)) == "no trend (from 0.5 to 0.5, tau +0.00, p = 1)"


@pytest.mark.parametrize("lines", ["", '{"step": 5, "train_runtime": 3.0}\n'])
def test_a_run_that_logged_nothing_is_not_called_healthy(tmp_path: Path, lines: str) -> None:
    where = folder(tmp_path / "run", [])
    (where / "metrics.jsonl").write_text(lines)
    first = report(where).splitlines()[0]
    assert first.endswith("0 steps logged; no curve can be judged: nothing was logged (logging_steps)")
    (where / "complete").unlink()  # as if it had been killed
    first = report(where).splitlines()[0]
    assert first.endswith("nothing was logged (logging_steps); 1 thing to look at (!)")


def test_a_healthy_run(tmp_path: Path) -> None:
    rows = [
        {
            "reward": 0.1 + 0.02 * i,
            "entropy": 0.4 - 0.005 * i,
            "completions/mean_length": 50.0 + i % 2,
            "completions/clipped_ratio": 0.01,
            "shaping/capped_frac": 0.3,
            "shaping/psi_over_adv": 0.18,
            "clip_ratio/region_mean": 0.01,
            "frac_reward_zero_std": 0.5,
            "grad_norm": 0.05,
        }
        for i in range(20)
    ]
    text = report(folder(tmp_path / "run", rows))
    assert "GRPO, alpha 0.4, 20 steps logged; nothing alarming" in text.splitlines()[0]
    # First three: 0.10, 0.12, 0.14; last three: 0.44, 0.46, 0.48.
    assert "rose from 0.12 to 0.46 (tau +1.00, p < 0.0001)" in line(text, "reward")
    assert "fell from 0.395 to 0.31" in line(text, "entropy")
    assert "adds 18.0% of |A| on average (at most 50%); 30% of tokens at the cap" in line(text, "shaping")
    assert "finished" in line(text, "state")
    assert "!" not in text.splitlines()[0]


@pytest.mark.parametrize(
    ("topic", "rows", "says"),
    [
        ("reward", [{"reward": 0.5 - 0.02 * i} for i in range(20)], "fell from 0.48 to 0.14"),
        ("reward", [{"reward": 0.0}] * 20, "nothing can be learned"),
        ("entropy", [{"entropy": 2.0 / 2**i} for i in range(20)], "has collapsed"),
        ("entropy", [{"entropy": 0.2 + 0.1 * i} for i in range(20)], "more than doubled"),
        ("length", [{"completions/mean_length": 10.0 + 5 * i} for i in range(20)], "has exploded"),
        ("truncated", [{"completions/clipped_ratio": 0.05 * i} for i in range(20)], "raise max_completion_length"),
        ("shaping", [{"shaping/capped_frac": 0.95, "shaping/psi_over_adv": 0.5}] * 20, "lower alpha"),
        ("clipping", [{"clip_ratio/region_mean": 0.3}] * 20, "lower learning_rate"),
        ("groups", [{"frac_reward_zero_std": 0.9}] * 20, "90% of groups"),
        ("gradient", [{"grad_norm": 5.0}] * 20, "clips 100% of steps"),
        ("gradient", [{"grad_norm": 0.01}] * 19 + [{"grad_norm": 0.5}], "0.5 at most (step 20). A spike"),
        ("critic", [{"critic/explained_variance": -0.5}] * 20, "no better than a constant"),
        ("finite", [{"loss": float("nan")}] * 20, "loss is not finite at step 1"),
    ],
)
def test_what_is_alarming_is_said(tmp_path: Path, topic: str, rows: list[dict[str, Any]], says: str) -> None:
    text = report(folder(tmp_path / "run", rows, max_grad_norm=1.0))
    assert "1 thing to look at" in text.splitlines()[0]
    said = line(text, topic)
    assert said.startswith("!")
    assert says in said


def test_what_is_not_alarming_is_said_too(tmp_path: Path) -> None:
    text = report(folder(tmp_path / "run", [{"kl": 0.25}] * 20, alpha=0))
    assert line(text, "shaping") == "  shaping    off (alpha 0)."
    assert line(text, "kl").endswith("(from 0.25 to 0.25, tau +0.00, p = 1) nats per token to the reference.")


def test_a_killed_run_says_how_to_go_on(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [{"reward": 0.1}] * 3, finished=False)
    assert "starts over" in report(run)
    for step in (1, 2):
        (run / f"checkpoint-{step}").mkdir()
        (run / f"checkpoint-{step}" / "weights").write_bytes(bytes(10))
    mark_complete(run / "checkpoint-1")
    text = report(run)
    assert "checkpoint-2 does not count: it was not written to its end" in text
    assert (
        "stopped at step 3 of 20 without finishing. This continues after checkpoint-1: forkwise grpo --config" in text
    )
    assert f"--output_dir {run} --resume" in text
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "still running" in report(run)


@pytest.mark.parametrize(("steps", "warned"), [(3, True), (4, True), (5, False)])
def test_a_run_of_the_critics_warm_up_has_trained_no_policy(tmp_path: Path, steps: int, warned: bool) -> None:
    settings = {"critic_learning_rate": 1e-6, "critic_warmup_steps": 4}
    text = report(folder(tmp_path / "run", [{"reward": 0.1 * i} for i in range(steps)], **settings))
    assert (f"has not been trained: all {steps} steps were the critic's alone." in text) == warned
    assert "critic's alone" not in report(folder(tmp_path / "grpo", [{"reward": 0.1}] * 3))


def test_a_run_that_was_stopped_names_the_batch(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [{"reward": 0.1}] * 3, finished=False, critic_learning_rate=1e-6)
    (run / "non_finite").mkdir()
    (run / "non_finite" / "step_4_process_0.pt").write_bytes(b"")
    text = report(run)
    assert "step_4_process_0.pt" in line(text, "finite")
    assert "PPO" in text.splitlines()[0]
    assert "forkwise ppo --config" in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no training run"):
        report(tmp_path)


def trainer_state(where: Path, step: int, planned: int) -> Path:
    """A folder of any transformers trainer: what it logged every other step, in its words."""
    where.mkdir(parents=True)
    rows = [{"loss": 0.1, "reward": 0.1 * i, "grad_norm": 0.5, "step": i, "epoch": 0.1} for i in range(2, step + 1, 2)]
    history = [*rows, {"eval_loss": 0.2, "step": step}, {"train_runtime": 9.0, "train_loss": 0.1, "step": step}]
    state = {"global_step": step, "max_steps": planned, "log_history": history}
    (where / "trainer_state.json").write_text(json.dumps(state))
    return where


def test_the_folder_of_another_trainer(tmp_path: Path) -> None:
    trainer_state(tmp_path / "run" / "checkpoint-2", 2, 20)
    trainer_state(tmp_path / "run" / "checkpoint-10", 10, 20)
    text = report(tmp_path / "run")
    assert text.startswith(f"{tmp_path}/run: another trainer's run, 10 steps logged; nothing alarming")
    assert "at step 10 of 20 when" in line(text, "state")
    assert "checkpoint-10/trainer_state.json" in line(text, "state")
    assert "from 0.4 to 0.8" in line(text, "reward")  # means of 0.2, 0.4, 0.6 and of 0.6, 0.8, 1.0
    assert "norm 0.5 (median)" in line(text, "gradient")
    assert "shaping" not in text
    assert "finished at step 20" in report(trainer_state(tmp_path / "done", 20, 20))
    (tmp_path / "done" / "trainer_state.json").write_text('{"log_history": 3}')
    with pytest.raises(InputError, match="is not the state of a trainer"):
        report(tmp_path / "done")
    (tmp_path / "done" / "trainer_state.json").write_text("{")
    with pytest.raises(InputError, match="trainer_state.json' cannot be read"):
        report(tmp_path / "done")


def test_a_folder_with_arms(tmp_path: Path) -> None:
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "grpo-seed0.yaml").write_text("alpha: 0\n")
    for name, alpha in (("grpo-seed0", 0.0), ("shaped-seed0", 0.4)):
        folder(tmp_path / "arms" / name, [{"reward": 0.1}] * 3, alpha=alpha)
    heads = [row for row in report(tmp_path).splitlines() if "steps logged" in row]
    assert [row.partition(": ")[0] for row in heads] == [f"{tmp_path}/arms/{n}-seed0" for n in ("grpo", "shaped")]
    assert ["alpha 0.0" in row for row in heads] == [True, False]


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [{"reward": 0.1 * i} for i in range(9)])
    code = (
        f"import sys; sys.argv = ['forkwise', 'doctor', 'run', {str(run)!r}]\n"
        "from forkwise.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr[-1000:]
    assert "rose from 0.1 to 0.7" in result.stdout
    assert result.stdout.splitlines()[-1] == "False"


def verl_log(where: Path, steps: Sequence[dict[str, float]], name: str = "metrics.jsonl") -> Path:
    """The file of verl's logger `file`: a validation before training, then the steps given."""
    where.mkdir(exist_ok=True)
    rows = [{"step": 0, "data": {"val-core/math/reward/mean@4": 0.1}}]
    rows += [{"step": i + 1, "data": {"training/global_step": i + 1, **step}} for i, step in enumerate(steps)]
    (where / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return where


def test_the_log_of_verl(tmp_path: Path) -> None:
    steps = [
        {
            "actor/pg_loss": 0.01,
            "actor/grad_norm": 0.5,
            "actor/entropy": 0.4 - 0.001 * i,
            "actor/pg_clipfrac": 0.3,
            "critic/score/mean": -0.25 + 0.05 * i,
            "response_length/mean": 100.0,
            "response_length/clip_ratio": 0.02,
            "shaping/capped_frac": 0.95,
            "shaping/psi_over_adv": 0.45,
        }
        for i in range(12)
    ]
    text = report(verl_log(tmp_path / "run", steps))
    assert text.startswith(f"{tmp_path}/run: a run of verl, 12 steps logged; 2 things to look at (!)")
    assert "at step 12 when its log" in line(text, "state")
    assert "rose from -0.2 to 0.25" in line(text, "reward")  # means of the first and of the last three
    assert "30.00% of tokens outside the trust region" in line(text, "clipping")
    assert "from 100 to 100" in line(text, "length")
    assert "95% of tokens at the cap. Entropy hardly matters" in line(text, "shaping")


def test_the_log_of_verl_that_was_started_again(tmp_path: Path) -> None:
    """verl empties its file at each start; the example scripts keep those of earlier ones."""
    step = {"actor/pg_loss": 0.0, "critic/score/mean": 0.5}
    verl_log(tmp_path / "run", [step] * 3, "metrics-before-20261129T010000.jsonl")
    again = {"step": 4, "data": {"training/global_step": 4, **step}}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(again) + "\n")
    text = report(tmp_path / "run")
    assert "0.5 in every rollout" in line(text, "reward")
    assert "verl's own run, or alpha 0" in line(text, "shaping")


def test_a_run_of_verl_that_was_all_warm_up(tmp_path: Path) -> None:
    text = report(verl_log(tmp_path / "run", [{"critic/vf_loss": 0.3}] * 3))
    assert line(text, "policy").startswith("! policy     has not been trained: all 3 steps were the critic's alone.")
