"""What training prints: a sentence per logged step, and nothing of transformers."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")

from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState
from trl import GRPOConfig

from forkwise.cli.root import run
from forkwise.training.heartbeat import Heartbeat
from forkwise.training.lines import StepLines, step_line

LOGS = {
    "loss": 0.1,
    "reward": 0.12345,
    "entropy": 0.4,
    "shaping/psi_over_adv": 0.18,
    "shaping/capped_frac": 0.354,
    "step_time": 3.0,
}


def test_a_line() -> None:
    shaped = "reward 0.123, entropy 0.400 nats, psi/|A| 0.180, 35% at the cap"
    assert step_line(3, 70, LOGS) == f"step 3 of 70: {shaped}"
    assert step_line(3, 70, LOGS, "2 min left") == f"step 3 of 70: {shaped}, 2 min left"
    assert step_line(3, 70, {"reward": float("nan"), "loss": 1.0}) == "step 3 of 70: reward nan"
    assert step_line(3, 70, {}) == "step 3 of 70"
    assert step_line(9, 9, {"eval_reward": 0.5, "eval_loss": 0}) == "step 9 of 9 on validation problems: reward 0.500"


def test_the_lines_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    clock = [100.0]
    monkeypatch.setattr("forkwise.training.lines.time", SimpleNamespace(monotonic=lambda: clock[0]))
    args, control = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False), TrainerControl()
    state = TrainerState(global_step=4, max_steps=10, is_world_process_zero=True)
    lines = StepLines()
    lines.on_train_begin(args, state, control)

    def step(seconds: float, **logs: Any) -> str:
        clock[0] += seconds
        state.global_step += 1
        if logs:
            lines.on_log(args, state, control, logs=logs)
        return capsys.readouterr().out

    assert step(8.0) == ""
    assert step(8.0) == ""
    assert step(2.0, reward=1.0) == "step 7 of 10: reward 1.000, 18 s left\n"  # 18 s for 3, 3 to go
    state.global_step = 10
    lines.on_log(args, state, control, logs={"train_runtime": 42.0, "train_loss": 1.0})
    assert capsys.readouterr().out == "Trained to step 10 in 42 s.\n"
    state.is_world_process_zero = False
    assert step(60.0, reward=1.0) == ""


def slow_reward(completions: list[str], **_: Any) -> list[float]:
    """Takes long; what it returns must not be the same for all."""
    time.sleep(0.6)
    return [float(len(text)) for text in completions]


def test_a_long_step_is_not_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forkwise.training.heartbeat.SILENCE", 0.2)
    flags = "--model embedded --task countdown:3 --train_problems 4 --num_generations 2 --max_steps 2 "
    flags += "--per_device_train_batch_size 2 --max_completion_length 4 --save_strategy no --report_to none"
    reward = f"{__name__}:slow_reward"
    with pytest.raises(SystemExit) as ended:
        run(["grpo", *flags.split(), "--reward", reward, "--output_dir", str(tmp_path / "run")])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0, lines
    scoring = [i for i, line in enumerate(lines) if line.startswith("Step 1 of 2, scoring completions: ")]
    logged = [i for i, line in enumerate(lines) if line.startswith("step ")]
    # 0.6 s of a reward are two or three silences of 0.2 s; one is enough where the machine is busy.
    assert scoring, lines
    assert scoring[-1] < logged[0], lines
    assert re.fullmatch(r"Step 1 of 2, scoring completions: \d s so far\.", lines[scoring[0]])
    # One line per step, though TRL's default is every tenth.
    assert [lines[i].partition(":")[0] for i in logged] == ["step 1 of 2", "step 2 of 2"]
    capsys.readouterr()
    time.sleep(0.5)
    assert capsys.readouterr().out == ""  # the end of the run ends the heartbeat


def test_what_comes_before_the_first_step_is_not_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forkwise.training.heartbeat.SILENCE", 0.1)

    def until(sentence: str) -> None:
        seen = ""
        for _ in range(100):
            seen += capsys.readouterr().out
            if sentence in seen:
                return
            time.sleep(0.05)
        raise AssertionError(seen)

    heartbeat = Heartbeat()
    with heartbeat.beating("Loading PyTorch and TRL"):
        until("Loading PyTorch and TRL: 0 s so far.\n")
        heartbeat.begin("Step 3 of 9", "2 min left")
        with heartbeat.part("updating the model"), heartbeat.part("drawing completions"):
            until("Step 3 of 9, drawing completions: 0 s so far, 2 min left.\n")
        until("Step 3 of 9: 0 s so far, 2 min left.\n")
    monkeypatch.setenv("RANK", "1")
    with heartbeat.beating("Loading PyTorch and TRL"):
        capsys.readouterr()
        time.sleep(0.3)
        assert capsys.readouterr().out == ""  # one process of several speaks


def test_they_take_the_place_of_what_transformers_prints() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.callbacks: list[Any] = [PrinterCallback, ProgressCallback]

        def remove_callback(self, callback: Any) -> None:
            self.callbacks.remove(callback)

        def add_callback(self, callback: Any) -> None:
            self.callbacks.append(type(callback))

    trainer: Any = Trainer()
    StepLines.take_over(trainer)
    assert trainer.callbacks == [StepLines]
