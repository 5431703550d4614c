"""What training prints: a sentence per logged step, and nothing of transformers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")

from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState
from trl import GRPOConfig

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
        control.should_log = bool(logs)
        lines.on_step_end(args, state, control)
        if logs:
            lines.on_log(args, state, control, logs=logs)
        return capsys.readouterr().out

    assert step(8.0) == ""  # nothing is logged, and the last line is not 10 s old
    assert step(8.0) == "step 6 of 10: 32 s left\n"  # 16 s for 2 steps, 4 to go
    assert step(2.0, reward=1.0) == "step 7 of 10: reward 1.000, 18 s left\n"  # 18 s for 3, 3 to go
    state.global_step = 10
    lines.on_log(args, state, control, logs={"train_runtime": 42.0, "train_loss": 1.0})
    assert capsys.readouterr().out == "Trained to step 10 in 42 s.\n"
    state.is_world_process_zero = False
    assert step(60.0, reward=1.0) == ""


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
