"""The shipped recipes parse on the installed TRL and say what the paper says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from preloaded import Started

pytest.importorskip("trl")

from forkwise.engines.trl import EntropyShapedGRPOConfig
from forkwise.training.arguments import parse_run

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_trl_grpo_trains(tmp_path: Path) -> None:
    script = (EXAMPLES / "trl_grpo.py").read_text()
    short = script.replace("max_steps=20", "max_steps=1").replace(
        "per_device_train_batch_size=64", "per_device_train_batch_size=8"
    )
    assert short.count("max_steps=1,") == 1
    (tmp_path / "short.py").write_text(short)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    printed = tmp_path / "printed.txt"
    process = Started(["short.py"], environment, output=str(printed), folder=tmp_path)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-2000:]
    assert "shaping/psi_over_adv" in printed.read_text()
    assert (tmp_path / "runs" / "trl_grpo" / "checkpoint-1" / "model.safetensors").exists()


def test_paper_grpo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    # bf16 cannot be asked for without an accelerator, and one process makes up the batch with accumulation.
    overrides = [] if torch.accelerator.is_available() else ["--bf16", "false", "--use_cpu", "true"]
    argv = ["--config", str(EXAMPLES / "paper_grpo.yaml"), "--gradient_accumulation_steps", "64", *overrides]
    run, config, _ = parse_run(argv, EntropyShapedGRPOConfig, "grpo")
    assert (run.task, run.reward, config.alpha, config.kappa) == ("math:dapo", ["signed"], 0.4, 2.0)
    assert (config.epsilon, config.epsilon_high, config.beta, config.loss_type) == (0.2, 0.28, 0.0, "dapo")
    assert (config.learning_rate, config.max_completion_length, config.max_steps) == (1e-6, 8192, 2000)
    completions_per_update = config.per_device_train_batch_size * config.gradient_accumulation_steps
    assert completions_per_update == 32 * 8
    assert config.generation_batch_size == 512 * 8
    assert config.generation_batch_size / completions_per_update == 16  # updates per rollout
