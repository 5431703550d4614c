"""`forkwise ppo` end to end on the embedded model: settings, two processes, and kills at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl")

import torch
from preloaded import Started
from quiet import QUIET
from safetensors.torch import load_file

from forkwise.errors import InputError
from forkwise.training.arguments import parse_run
from forkwise.training.folder import newest_complete_checkpoint, read_metrics
from forkwise.training.ppo import EntropyShapedPPOConfig, main

EXAMPLES = Path(__file__).parents[2] / "examples"
# 4 updates a rollout (2 slices x 2 passes), a checkpoint after every update: kills fall within rollouts and savings.
COMMON: dict[str, Any] = {
    "model": "embedded",
    "task": "countdown:3",
    "train_problems": 24,
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_completion_length": 32,
    "learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "critic_warmup_steps": 3,
    "max_steps": 10,
    "logging_steps": 1,
    "save_steps": 1,
    "save_total_limit": 2,
    **QUIET,
    "seed": 3,
}
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def config_file(path: Path, **settings: object) -> str:
    path.write_text(yaml.safe_dump({**COMMON, **settings}))
    return str(path)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each step, without the clock."""
    clock = (
        "step_time",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "train_loss",
        "total_flos",
    )
    return [{k: v for k, v in row.items() if k not in clock} for row in read_metrics(folder)]


def start(path: str, out: Path) -> Started:
    return Started(["-m", "forkwise", "ppo", "--config", path, "--output_dir", str(out), "--resume"], ENVIRONMENT)


def kill_after_step(path: str, out: Path, step: int, delay: float) -> None:
    """Runs until `step` is logged, and sends SIGKILL `delay` seconds later: while it is saved, or in the next step."""
    process = start(path, out)
    while process.poll() is None and (not rows(out) or rows(out)[-1]["step"] < step):
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors[-2000:]


def check_killed_run(tmp_path: Path, kills: list[tuple[int, float]]) -> None:
    path = config_file(tmp_path / "c.yaml")
    main(["--config", path, "--output_dir", str(tmp_path / "whole")])
    killed = tmp_path / "killed"
    for step, delay in kills:
        kill_after_step(path, killed, step, delay)
    process = start(path, killed)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    ours, theirs = rows(killed), rows(tmp_path / "whole")
    assert [row["step"] for row in ours] == list(range(1, 11))
    learned = [(row["grad_norm"] > 0, row["critic/grad_norm"] > 0) for row in ours[1:]]  # values and some returns are 0
    assert learned == [(step > COMMON["critic_warmup_steps"], True) for step in range(2, 11)]
    # Tolerance: none. The same operations run on the same numbers in the same order.
    assert ours == theirs
    for name in ("model.safetensors", "critic/model.safetensors"):
        a, b = load_file(killed / name), load_file(tmp_path / "whole" / name)
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    check_killed_run(tmp_path, [(6, 0.03)])


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.05, 0.1, 0.2])
def test_a_run_killed_again_and_again(tmp_path: Path, delay: float) -> None:
    check_killed_run(tmp_path, [(1, delay), (2, delay), (5, delay), (9, delay)])


def test_a_run_leaves_policy_critic_metrics_and_settings(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = {"max_steps": 3, "critic_warmup_steps": 1, "reward": ["signed", "correct"], "train_problems": None}
    path = config_file(tmp_path / "c.yaml", **settings)
    main(["--config", path, "--output_dir", str(folder), "--reward_weights", "1.0", "0.5"])
    logged = rows(folder)
    assert logged[0]["loss"] == 0
    assert "shaping/capped_frac" not in logged[0]
    assert {"shaping/capped_frac", "critic/value_loss", "entropy"} <= logged[1].keys()
    assert (folder / "model.safetensors").exists()
    assert (folder / "critic" / "config.json").exists()
    recorded = yaml.safe_load((folder / "run.yaml").read_text())
    assert (recorded["alpha"], recorded["critic_warmup_steps"], recorded["lam"]) == (0.1, 1, 1.0)
    # The settings that it wrote run again, from the critic that it saved.
    recorded |= {"output_dir": str(tmp_path / "again"), "value_model": str(folder / "critic"), "max_steps": 1}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recorded))
    main(["--config", str(tmp_path / "again.yaml")])
    assert len(rows(tmp_path / "again")) == 1


def test_two_processes(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    path = config_file(tmp_path / "c.yaml", max_steps=5, num_generations=1)
    # `accelerate launch --cpu --num_processes 2` starts one process where there is no MPI; torch's launcher starts two.
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    launcher += ["--rdzv-endpoint", "localhost:0", "-m"]
    command = [sys.executable, *launcher, "forkwise", "ppo", "--config", path, "--output_dir", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=240, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [row["step"] for row in rows(folder)] == [1, 2, 3, 4, 5]
    newest = newest_complete_checkpoint(folder)
    assert newest == folder / "checkpoint-5"
    assert {"rollout_0.pt", "rollout_1.pt", "critic_state.pt"} <= {file.name for file in newest.iterdir()}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lam", "1.5"], r"lam must lie in \[0, 1\]"),
        (["--critic_learning_rat", "1"], "Did you mean 'critic_learning_rate'"),
        (["--value-model", "no/such/model"], "model 'no/such/model' cannot be loaded"),
        (["--critic_shares_base", "true"], "needs a LoRA policy"),
        (["--reward", "test_ppo_command:too_few"], "returned 1 values for"),
        (["--reward", "test_ppo_command:not_a_number"], "returned nan for completion 0"),
        (["--save_total_limit", "1"], "save_total_limit=1"),
        (["--num_generations", "3"], "num_generations"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, flags: list[str], message: str) -> None:
    path = config_file(tmp_path / "c.yaml", save_steps=100)
    with pytest.raises(InputError, match=message) as caught:
        main(["--config", path, "--output_dir", str(tmp_path / "out"), *flags])
    assert "\n" not in str(caught.value).strip()


def too_few(**_: Any) -> list[float]:
    return [1.0]


def not_a_number(completions: list[str], **_: Any) -> list[float]:
    return [float("nan")] * len(completions)


def test_paper_ppo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    overrides = [] if torch.accelerator.is_available() else ["--bf16", "false", "--use_cpu", "true"]
    argv = ["--config", str(EXAMPLES / "paper_ppo.yaml"), "--gradient_accumulation_steps", "64", *overrides]
    run, config, _ = parse_run(argv, EntropyShapedPPOConfig, "ppo")
    assert (run.task, run.reward, config.alpha, config.kappa) == ("math:dapo", ["signed"], 0.1, 2.0)
    assert (config.gamma, config.lam, config.critic_learning_rate, config.critic_warmup_steps) == (1.0, 1.0, 2e-6, 10)
    assert (config.epsilon, config.epsilon_high, config.beta, config.loss_type) == (0.2, 0.28, 0.0, "dapo")
    assert (config.learning_rate, config.max_completion_length, config.max_steps) == (1e-6, 8192, 2000)
    completions_per_update = config.per_device_train_batch_size * config.gradient_accumulation_steps
    assert completions_per_update == 32 * 8
    assert config.generation_batch_size / completions_per_update == 16  # updates per rollout
