"""What a training run prints: one short sentence for each logged step, in a terminal and in a pipe alike.

Within long steps, and before the first one, `forkwise.training.heartbeat` says what is going on.

These are progress notes of a process that trains, which does not load `report`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import trl.trainer.grpo_trainer as trl_trainer
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from forkwise.progress import duration
from forkwise.terminal import visible
from forkwise.training.heartbeat import HEARTBEAT

_SHOWN = {
    "reward": "reward {:.3f}",
    "entropy": "entropy {:.3f} nats",
    "shaping/psi_over_adv": "psi/|A| {:.3f}",
    "shaping/capped_frac": "{:.0%} at the cap",
    "critic/explained_variance": "critic explains {:.0%}",
}


def step_line(step: int, planned: int, logs: Mapping[str, Any], remaining: str = "") -> str:
    """Returns the sentence for one step, from what TRL logs of it; what is not logged is left out."""
    prefix = "eval_" if any(key.startswith("eval_") for key in logs) else ""
    numbers = {key: logs.get(prefix + key) for key in _SHOWN}
    parts = [_SHOWN[key].format(value) for key, value in numbers.items() if isinstance(value, int | float)]
    where = " on validation problems" if prefix else ""
    sentence = ", ".join([*parts, *([remaining] if remaining else [])])
    return f"step {step} of {planned}{where}{': ' if sentence else ''}{sentence}"


class StepLines(TrainerCallback):
    """Prints the lines of the main process, in the place of the dictionaries and the bar of transformers."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first = 0

    @classmethod
    def take_over(cls, trainer: Trainer) -> None:
        """Makes these lines all that the trainer prints, but TRL's table of completions, which is made visible."""
        for printer in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printer)
        trainer.add_callback(cls())
        trl_trainer.print_prompt_completions_sample = _print_visibly

    def on_train_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Starts the clock; a resumed run starts at a later step."""
        self._began = time.monotonic()
        self._first = state.global_step

    def on_log(
        self, args: Arguments, state: State, control: Control, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Prints the line of a logged step, or the last one of the run."""
        if logs and "train_runtime" in logs:
            self._print(state, f"Trained to step {state.global_step} in {duration(logs['train_runtime'])}.")
        elif logs:
            self._print(state, step_line(state.global_step, state.max_steps, logs, self._left(state)))

    def on_step_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Names the step that will be spoken of if it takes long."""
        HEARTBEAT.begin(f"Step {state.global_step + 1} of {state.max_steps}", self._left(state))

    def _left(self, state: State) -> str:
        done, todo = state.global_step - self._first, state.max_steps - state.global_step
        return f"{duration((time.monotonic() - self._began) / done * todo)} left" if done > 0 and todo > 0 else ""

    def _print(self, state: State, line: str) -> None:
        if state.is_world_process_zero:
            HEARTBEAT.say(line)


_print_completions = trl_trainer.print_prompt_completions_sample


def _print_visibly(*args: Any, **kwargs: Any) -> None:
    """Prints the table of `log_completions` without what would act on the terminal."""
    _print_completions(*map(_shown, args), **_shown(kwargs))


def _shown(value: Any) -> Any:
    """Makes texts visible, in lists (TRL keeps deques) and as keys and values of dictionaries too."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {_shown(key): _shown(entry) for key, entry in value.items()}
    if isinstance(value, Iterable):
        return [_shown(entry) for entry in value]
    return value
