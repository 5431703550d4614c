"""PPO learns the embedded task: Pass@1 on held-out problems rises clearly, and the critic foresees the reward.

    python -m pytest -m slow tests/training/test_ppo_learning.py -s

trains three seeds by the quickstart's recipe (about 5 CPU minutes each), samples base and policies on the same held-out
problems, and prints what it finds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("trl")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.lab import quickstart
from forkwise.passk import bootstrap_interval
from forkwise.samples.generate import Sampling, sample_problem
from forkwise.tasks import load_task
from forkwise.training.folder import read_metrics

SEEDS = 3
RECIPE: dict[str, Any] = {**quickstart.RECIPE, **quickstart.PPO_RECIPE, "max_steps": 70, "save_strategy": "no"}
WARM_UP = RECIPE["critic_warmup_steps"]
TASK = RECIPE["task"]


def train(folder: Path, seed: int) -> list[dict[str, Any]]:
    """The metrics of each step of a run in `folder`."""
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({**RECIPE, "seed": seed, "output_dir": str(folder)}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "forkwise", "ppo", "--config", str(config)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return read_metrics(folder)


def correct(model: Path, problems: int = 60, samples: int = 16) -> np.ndarray:
    """The share of correct samples of each held-out problem."""
    task = load_task(TASK)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    sampling = Sampling(max_tokens=RECIPE["max_completion_length"], batch_size=samples)
    shares = []
    for problem in task.problems("test", problems):
        rows = sample_problem(policy, tokenizer, problem, task, samples, run="", seed=0, sampling=sampling)
        shares.append(np.mean([bool(row["correct"]) for row in rows]))
    return np.array(shares)


@pytest.mark.slow
def test_pass_at_1_and_explained_variance_rise(tmp_path: Path) -> None:
    base = correct(EMBEDDED_MODEL)
    print(f"\nbase: Pass@1 {base.mean():.3f}")
    gains = []
    for seed in range(SEEDS):
        rows = train(tmp_path / f"seed{seed}", seed)
        assert all(row["loss"] == 0 for row in rows[:WARM_UP])
        explained = [row["critic/explained_variance"] for row in rows if "critic/explained_variance" in row]
        trained = correct(tmp_path / f"seed{seed}")
        gains.append(trained - base)
        print(f"seed {seed}: Pass@1 {trained.mean():.3f}, explained variance {np.mean(explained[-5:]):.2f} (last 5)")
        assert np.mean(explained[-5:]) > 0.5
    interval = bootstrap_interval(np.mean(gains, axis=0)[:, None])
    print(f"gain: {interval.mean[0]:+.3f} [{interval.low[0]:+.3f}, {interval.high[0]:+.3f}] (95 %, over problems)")
    print(f"per seed: {[round(float(gain.mean()), 3) for gain in gains]}")
    assert interval.low[0] > 0.02
    assert all(gain.mean() > 0.02 for gain in gains)
