"""No configuration or study ends `grpo`, `ppo` or `study` otherwise than in one sentence; nothing is trained."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
import yaml
from mutations import HOSTILE, Draw, command, damaged_yaml

import forkwise.training.grpo
import forkwise.training.ppo

CONFIG = {
    **{"model": "embedded", "task": "countdown", "alpha": 0.4, "kappa": 2.0, "max_steps": 9, "learning_rate": 1e-6},
    **{"num_generations": 8, "beta": 0.0, "max_completion_length": 64, "reward": ["correct"]},
    **{"per_device_train_batch_size": 8, "model_init_kwargs": {"dtype": "float32"}, "log_completions": False},
}
STUDY = {
    **{"title": "t", "model": "embedded", "task": "countdown:4", "algorithm": "grpo"},
    **{"seeds": [1, 2, 3, 4, 5], "looks": []},
    **{"problems": 16, "recipe": {"like": "quickstart", "max_steps": 4}, "processes": 1, "engine": "trl"},
    "evaluation": {"problems": 2, "n": 2, "split": "test", "temperature": 1.0, "first_problem": 0},
    "primary": {"arm": "other", "endpoint": "curve", "margin": 0.1, "secondary": [1, 2], "gate": "m"},
    "stopping": {"equivalence": True, "futility": {"effect": 0.1, "power": 0.1}},
    "arms": {
        "GRPO": {"alpha": 0.0},
        "other": {"alpha": 0.4, "kappa": 2.0},
        "m": {"alpha": 0, "method": ["erc"], "model_init_kwargs": {"a": 1}},
    },
}
FLAGS = [*("alpha", "kappa", "method", "max_steps", "reward", "beta", "num_generations", "chat", "behaviour_breaks")]


def on_config(folder: Path, draw: Draw) -> None:
    bad = folder / "bad.yaml"
    name = draw.choice(["grpo", "ppo"])
    if draw.random() < 0.7:
        bad.write_bytes(damaged_yaml(CONFIG, draw))
        words = ["--config", bad]
    else:
        words = [
            "--model",
            "embedded",
            f"--{draw.choice(FLAGS)}",
            draw.choice(["", "x", "-1", "1e999", "nan", HOSTILE]),
        ]
    command(name, *words, "--output_dir", folder / "out")


def on_study(folder: Path, draw: Draw) -> None:
    """A damaged study, or one with a method that is none, is planned and registered; or its registration is damaged."""
    bad = folder / "bad.yaml"
    frozen = bad.with_name("bad.registered.yaml")
    frozen.unlink(missing_ok=True)
    methods = ["erc", "erc:a=", "erc:=1", "", HOSTILE, "erc+", "kl_cov:fraction=nan", "clip_cov:x=1"]
    if draw.random() < 0.7:
        bad.write_bytes(damaged_yaml(STUDY, draw))
    else:
        bad.write_text(yaml.safe_dump({**STUDY, "arms": {**STUDY["arms"], "x": draw.choice(methods)}}))
    if draw.random() < 0.3:
        bad.write_text(yaml.safe_dump(STUDY))
        frozen.write_bytes(damaged_yaml({"sha256": "0", "plan": STUDY}, draw))
    command("study", draw.choice(["plan", "register"]), bad)


KINDS: dict[str, Callable[[Path, Draw], None]] = {"config": on_config, "study": on_study}


def fuzz(kind: str, folder: Path, seeds: range, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> None:
        return None

    for module in (forkwise.training.grpo, forkwise.training.ppo):
        monkeypatch.setattr(module, "train", nothing)
    until = time.monotonic() + seconds
    for seed in seeds:
        if time.monotonic() > until:
            break
        try:
            KINDS[kind](folder, random.Random(f"{kind}{seed}"))
        except AssertionError as error:
            raise AssertionError(f"{kind}, seed {seed}: {error}") from None


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_settings_end_in_a_traceback(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(kind, tmp_path, range(60), 5, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_no_settings_end_in_a_traceback_for_longer(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(kind, tmp_path, range(1000, 10_000), 120, monkeypatch)
