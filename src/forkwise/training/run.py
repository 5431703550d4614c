"""The base of `forkwise grpo` and `forkwise ppo`: checks, task, rewards, the run folder; TRL does the training."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import ModelConfig, get_peft_config, get_quantization_config

from forkwise.core import causal_model
from forkwise.engines.trl import EntropyShapedGRPOConfig, check_rollout
from forkwise.errors import InputError, NotFiniteError, RunError
from forkwise.folders.settings import refuse_other
from forkwise.reading import read_yaml
from forkwise.tasks import Problem, Task, load_task, problem_range
from forkwise.tasks.dataset import DatasetTask
from forkwise.terminal import echo
from forkwise.training.folder import (
    COLLAPSED,
    COMPLETE,
    SETTINGS,
    append_metrics,
    check_folder,
    checkpoints,
    create_folder,
    finished,
    mend_metrics,
    newest_complete_checkpoint,
    only_writer,
    set_aside_newer,
    write_text,
    writing,
)
from forkwise.training.health import HealthLimits, HealthWarnings
from forkwise.training.heartbeat import HEARTBEAT
from forkwise.training.lines import StepLines
from forkwise.training.models import check_prompts, check_tokens, resolve_model, try_model
from forkwise.training.rewards import load_reward, training_dataset
from forkwise.training.settings import RunArguments
from forkwise.training.trainer import RunTrainer

GENERATED_PROBLEMS = 20_000
# Settings that may differ when a run is resumed: how long it lasts, and what is logged and kept.
_MAY_CHANGE = (
    "max_steps",
    "num_train_epochs",
    "resume",
    "output_dir",
    "run_name",
    "logging",
    "log_",
    "report_to",
    "project",
    "save_",
    "eval",
    "disable_tqdm",
    "dataloader_",
    "push_to_hub",
    "hub_",
    "trackio",
    "health",
    "behaviour_",
)


def _task(run: RunArguments) -> Task:
    HEARTBEAT.begin("Reading the problems")
    if bool(run.task) == bool(run.dataset):
        raise InputError("Give either --task (e.g. countdown) or --dataset (a hub id or file), not both or neither.")
    if run.task:
        for name in ("dataset_config", "prompt_column", "answer_column"):
            if getattr(run, name) is not None:
                raise InputError(f"--{name} goes with --dataset; a task has its own.")
        return load_task(run.task)
    return DatasetTask(
        str(run.dataset),
        config=run.dataset_config,
        prompt_column=run.prompt_column,
        answer_column=run.answer_column,
    )


def _chat(problems: Sequence[Problem], tokenizer: Any, model: str) -> list[Problem]:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(f"The tokenizer of '{model}' has no chat template; leave out --chat.")
    return [
        dataclasses.replace(p, prompt=[{"role": "user", "content": p.prompt}]) if isinstance(p.prompt, str) else p
        for p in problems
    ]


def _settings(run: RunArguments, config: EntropyShapedGRPOConfig, model: ModelConfig) -> dict[str, Any]:
    """Returns the settings in force, as `--config` reads them."""
    settings = {**dataclasses.asdict(run), **config.to_dict(), **dataclasses.asdict(model)}
    del settings["generation_batch_size"]  # TRL derives it from steps_per_generation, and refuses both
    plain = {k: v for k, v in settings.items() if isinstance(v, str | int | float | bool | list | dict)}
    recorded: dict[str, Any] = yaml.safe_load(yaml.safe_dump(plain))  # noqa: TID251
    return recorded


def _record(settings: dict[str, Any], folder: Path) -> None:
    """Writes `run.yaml`: the settings, and as comments the versions that they ran on."""
    names = ("forkwise", "trl", "transformers", "torch", "accelerate")
    versions = {name: version(name) for name in names} | {"python": platform.python_version()}
    header = "".join(f"# {name} {v}\n" for name, v in versions.items())
    header += f"# processes {PartialState().num_processes}\n"
    write_text(folder / SETTINGS, header + yaml.safe_dump(settings, sort_keys=False))


def _check_same(settings: dict[str, Any], folder: Path) -> None:
    """Refuses to continue a run with settings that would make it another run."""
    before = read_yaml(folder / SETTINGS) or {}
    if not isinstance(before, dict):
        raise InputError(f"'{folder / SETTINGS}' holds no settings: give another --output_dir.")
    before = {"entropy_backend": "trl", "max_draws": 1, **before}  # runs from before there was a choice
    remedy = "resume it with its own, or give another --output_dir"
    refuse_other(folder / SETTINGS, before, settings, content="a run", remedy=remedy, may_change=_MAY_CHANGE)


class MetricsFile(TrainerCallback):
    """Writes each logged step to `metrics.jsonl`."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Adds one line."""
        if state.is_world_process_zero and logs:
            append_metrics(Path(args.output_dir), {"step": state.global_step, **logs})


def _checkpoint_to_resume(folder: Path) -> Path | None:
    """Returns the newest whole checkpoint; the main process looks for it, since it reads all of it."""
    newest = [newest_complete_checkpoint(folder) if PartialState().is_main_process else None]
    broadcast_object_list(newest)
    checkpoint = newest[0]
    if checkpoint is not None and not checkpoint.is_dir():
        raise InputError(f"This process does not see '{checkpoint}': put output_dir on a file system that all share.")
    if checkpoint is None and finished(folder, 1):
        raise InputError(f"The run in '{folder}' is finished and kept no checkpoint to go on from.")
    if checkpoint is None and any((path / COMPLETE).exists() for path in checkpoints(folder)):
        raise InputError(f"Every checkpoint in '{folder}' is damaged: give another --output_dir.")
    return checkpoint


def _check_sizes(run: RunArguments, config: EntropyShapedGRPOConfig) -> None:
    if config.save_total_limit == 1:
        raise InputError(
            "save_total_limit=1 deletes the last whole checkpoint before the next one is known to be whole; use 2."
        )
    for name in ("train_problems", "eval_problems"):
        if (count := getattr(run, name)) is not None and count < 1:
            raise InputError(f"{name} is {count}; it must be at least 1.")
    if config.max_steps == 0 or (config.max_steps < 0 and not 0 < config.num_train_epochs < math.inf):
        raise InputError(
            f"With max_steps={config.max_steps} and num_train_epochs={config.num_train_epochs} nothing would be "
            "trained: give a positive number of one of them."
        )


def train(
    run: RunArguments,
    config: EntropyShapedGRPOConfig,
    model_config: ModelConfig,
    trainer_class: type[RunTrainer],
) -> RunTrainer:
    """Trains, saves the model in `config.output_dir`, and returns the trainer.

    It has more than 60 lines because the order of its steps is what matters: nothing is written before all is checked.

    Raises:
        InputError: anything that the user should change, before anything is written.
        RunError: training ended before its last step; the run folder does not count as complete.
    """
    _check_sizes(run, config)
    limits = HealthLimits(run.health_window, run.health_min_entropy, run.health_max_length, run.health_max_truncated)
    state = PartialState()
    folder = Path(config.output_dir)
    resumed = check_folder(folder, resume=run.resume)
    checkpoint = _checkpoint_to_resume(folder) if resumed else None
    trust = {"trust_remote_code": getattr(config, "trust_remote_code", False)}
    HEARTBEAT.begin("Looking for the model and its tokenizer")
    model, tokenizer = resolve_model(run.model, revision=model_config.model_revision, **trust)
    task = _task(run)
    rewards = [load_reward(spec, task) for spec in run.reward]
    endless = GENERATED_PROBLEMS if (run.task or "").startswith("reasoning-gym") else None
    number = endless if run.train_problems is None else run.train_problems
    problems = problem_range(task, "train", number, first=run.first_problem, seed=config.seed)
    check_rollout(config, len(problems))
    validation = task.problems("validation", run.eval_problems) if config.eval_strategy != "no" else []
    if isinstance(task, DatasetTask) and state.is_main_process:
        echo(task.summary())
    if run.chat:
        problems, validation = _chat(problems, tokenizer, model), _chat(validation, tokenizer, model)
    template_options = getattr(config, "chat_template_kwargs", None) or {}
    check_prompts([*problems, *validation], tokenizer, model, **template_options)
    config.model_init_kwargs = {
        "revision": model_config.model_revision,
        "attn_implementation": model_config.attn_implementation,
        "dtype": model_config.dtype,
        **trust,
        **(config.model_init_kwargs or {}),
    }
    state.wait_for_everyone()  # nobody writes before everybody has checked

    HEARTBEAT.begin("Loading the model")
    try:
        trainer = trainer_class(
            model=model,
            reward_funcs=rewards,
            args=config,
            train_dataset=training_dataset(problems),
            eval_dataset=training_dataset(validation) if validation else None,
            processing_class=tokenizer,
            quantization_config=get_quantization_config(model_config),
            peft_config=get_peft_config(model_config),
            callbacks=[MetricsFile(), *([HealthWarnings(limits)] if run.health else [])],
        )
    except (ImportError, OSError, RuntimeError, SafetensorError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # What only the trainer can find out: damaged weights, a tracker that is not there, settings that do not fit.
        raise InputError(f"The run cannot start: {str(error).strip().splitlines()[0]}") from error
    StepLines.take_over(trainer)
    check_tokens([*problems, *validation], tokenizer, causal_model(trainer.model))
    HEARTBEAT.begin("Trying the model on a prompt")
    try_model(problems, tokenizer, causal_model(trainer.model), generates=not config.use_vllm)
    trainer.check_finite = run.health
    trainer.log_behaviours = run.log_behaviours
    trainer.behaviour_breaks = [word.strip() for word in run.behaviour_breaks.split(",") if word.strip()]
    settings = _settings(run, config, model_config)
    if resumed:
        _check_same(settings, folder)
    create_folder(folder)
    state.wait_for_everyone()
    with only_writer(folder) if state.is_main_process else nullcontext():
        if state.is_main_process:
            with writing(folder, "The settings of the run"):
                _record(settings, folder)
                for mark in (COMPLETE, COLLAPSED):
                    (folder / mark).unlink(missing_ok=True)
                mend_metrics(folder)
                set_aside_newer(folder, checkpoint)
        state.wait_for_everyone()
        HEARTBEAT.begin("Preparing the first step")
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except NotFiniteError as error:
            if state.is_main_process:
                write_text(folder / COLLAPSED, f"{error}\n")
            raise
        _finish(trainer, folder)
    return trainer


def _finish(trainer: RunTrainer, folder: Path) -> None:
    """Saves the model of a run that has reached its last step, marks the run as complete, and may upload it."""
    reached, planned = trainer.state.global_step, max(trainer.state.max_steps, 1)
    if reached < planned:
        raise RunError(
            f"The run in '{folder}' ended at step {reached} of {planned}, so it is not complete; the same command "
            "with --resume goes on from its newest checkpoint."
        )
    HEARTBEAT.begin("Saving the model")
    with writing(folder, "The trained model"):
        if trainer.is_fsdp_enabled:  # a folder of shards is no model that from_pretrained reads
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(folder))
        trainer.accelerator.wait_for_everyone()
        if trainer.accelerator.is_main_process:
            write_text(folder / COMPLETE, f"step {trainer.state.global_step}\n")
    if trainer.args.push_to_hub:
        HEARTBEAT.begin("Uploading the model")
        trainer.push_to_hub()
