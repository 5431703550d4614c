"""A run that trained nothing, or less than it was asked to, never counts as complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from transformers import TrainerCallback

from forkwise.engines.trl import EntropyShapedGRPOConfig
from forkwise.errors import InputError, RunError
from forkwise.training import grpo, ppo
from forkwise.training.arguments import parse_run
from forkwise.training.doctor import diagnose
from forkwise.training.folder import finished, read_metrics
from forkwise.training.run import train
from forkwise.training.trainer import RunTrainer

Main = Callable[[Sequence[str]], None]


def flags(where: Path, **settings: Any) -> list[str]:
    """A small run: 8 completions per rollout, 4 of each of 2 problems, 2 updates."""
    wanted = {
        "model": "embedded",
        "task": "countdown:3",
        "train_problems": 4,
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 2,
        "max_completion_length": 8,
        "max_steps": 3,
        "report_to": "none",
        "save_steps": 1,
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "output_dir": where / "run",
        **settings,
    }
    return [word for name, value in wanted.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize("main", [grpo.main, ppo.main], ids=["grpo", "ppo"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_problems": 1}, "A rollout takes 2 prompts .8 completions, 4 of each., and there are 1"),
        ({"max_steps": 0}, "max_steps=0 .* nothing would be trained"),
        ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs=0.0 nothing would be trained"),
        ({"max_steps": -1, "num_train_epochs": -1}, "nothing would be trained"),
        ({"num_generations": 3}, "divisible by"),
    ],
)
def test_what_would_train_nothing_is_refused_before_anything_is_written(
    tmp_path: Path, main: Main, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        main(flags(tmp_path, **settings))
    assert not (tmp_path / "run").exists()


def test_ppo_counts_prompts_by_its_own_groups(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="A rollout takes 8 prompts .8 completions, 1 of each., and there are 7"):
        ppo.main(flags(tmp_path, num_generations=1, train_problems=7))


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_steps": 5}, 5),  # more than an epoch has, which is 4
        ({"train_problems": 3, "dataloader_drop_last": True}, 3),  # the third problem fills no rollout
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 3, "num_generations": 2, "train_problems": 6}, 3),
        ({"max_steps": -1, "num_train_epochs": 0.1}, 1),  # 0.4 of a step is one
    ],
    ids=["longer than an epoch", "drop last", "updates across rollouts", "part of an epoch"],
)
def test_a_run_reaches_its_last_step(tmp_path: Path, settings: dict[str, Any], steps: int) -> None:
    grpo.main(flags(tmp_path, **settings))
    assert (tmp_path / "run" / "complete").read_text() == f"step {steps}\n"
    assert [row["step"] for row in read_metrics(tmp_path / "run") if "loss" in row] == list(range(1, steps + 1))


class _Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == 2


class _Stopped(RunTrainer):
    """Ends after two steps, as transformers does when a batch system says that time is up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_Stop())


def test_a_run_that_ends_early_is_not_complete_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RunError, match=r"ended at step 2 of 3, .*--resume"):
        train(*parse_run(flags(tmp_path), EntropyShapedGRPOConfig, "grpo"), _Stopped)
    assert not (folder / "complete").exists()
    state = diagnose(folder)[0].findings[0]
    assert (state.topic, state.facts["step"], state.facts["planned"]) == ("state: stopped", 2, 3)
    grpo.main([*flags(tmp_path), "--resume"])
    assert (folder / "complete").read_text() == "step 3\n"
    assert diagnose(folder)[0].findings[0].topic == "state: finished"


@pytest.mark.parametrize(
    ("text", "steps", "done"),
    [("step 3\n", 3, True), ("step 3\n", 4, False), ("step 0\n", 1, False), ("", 1, False), ("step x", 1, False)],
)
def test_a_marker_counts_from_the_step_that_it_names(tmp_path: Path, text: str, steps: int, done: bool) -> None:
    assert not finished(tmp_path, steps)
    (tmp_path / "complete").write_text(text)
    assert finished(tmp_path, steps) is done
