"""What `forkwise grpo` and `forkwise ppo` share: checks, task, rewards, the run folder; TRL does the training."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from trl import ModelConfig, get_peft_config, get_quantization_config

from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer
from forkwise.errors import InputError
from forkwise.tasks import Problem, Task, load_task
from forkwise.tasks.dataset import DatasetTask
from forkwise.training.arguments import RunArguments
from forkwise.training.folder import RunFolder, check_folder
from forkwise.training.models import resolve_model
from forkwise.training.rewards import load_reward, training_dataset

GENERATED_PROBLEMS = 20_000


def _task(run: RunArguments) -> Task:
    if bool(run.task) == bool(run.dataset):
        raise InputError("Give either --task (e.g. countdown) or --dataset (a hub id or file), not both or neither.")
    if run.task:
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


def _record(run: RunArguments, config: EntropyShapedGRPOConfig, model: ModelConfig, folder: Path) -> None:
    """The settings in force, in the format that `--config` reads, with the versions that they ran on."""
    settings = {**dataclasses.asdict(run), **config.to_dict(), **dataclasses.asdict(model)}
    del settings["generation_batch_size"]  # TRL derives it from steps_per_generation, and refuses both
    names = ("forkwise", "trl", "transformers", "torch", "accelerate")
    versions = {name: version(name) for name in names} | {"python": platform.python_version()}
    header = "".join(f"# {name} {v}\n" for name, v in versions.items())
    header += f"# processes {PartialState().num_processes}\n"
    plain = {k: v for k, v in settings.items() if isinstance(v, str | int | float | bool | list | dict)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(header + yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def train(
    run: RunArguments,
    config: EntropyShapedGRPOConfig,
    model_config: ModelConfig,
    trainer_class: type[EntropyShapedGRPOTrainer],
) -> EntropyShapedGRPOTrainer:
    """Trains, saves the model in `config.output_dir`, and returns the trainer.

    Raises:
        InputError: anything that the user should change, before anything is written.
    """
    if config.save_total_limit == 1:
        raise InputError(
            "save_total_limit=1 deletes the last whole checkpoint before the next one is known to be whole; use 2."
        )
    state = PartialState()
    folder = Path(config.output_dir)
    checkpoint = check_folder(folder, resume=run.resume)
    trust = {"trust_remote_code": getattr(config, "trust_remote_code", False)}
    model, tokenizer = resolve_model(run.model, revision=model_config.model_revision, **trust)
    task = _task(run)
    rewards = [load_reward(spec, task) for spec in run.reward]
    endless = GENERATED_PROBLEMS if (run.task or "").startswith("reasoning-gym") else None
    problems = task.problems("train", run.train_problems or endless, seed=config.seed)
    validation = task.problems("validation", run.eval_problems) if config.eval_strategy != "no" else []
    if run.chat:
        problems, validation = _chat(problems, tokenizer, model), _chat(validation, tokenizer, model)
    config.model_init_kwargs = {
        "revision": model_config.model_revision,
        "attn_implementation": model_config.attn_implementation,
        "dtype": model_config.dtype,
        **trust,
        **(config.model_init_kwargs or {}),
    }
    state.wait_for_everyone()  # nobody writes before everybody has checked

    trainer = trainer_class(
        model=model,
        reward_funcs=rewards,
        args=config,
        train_dataset=training_dataset(problems),
        eval_dataset=training_dataset(validation) if validation else None,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_config),
        peft_config=get_peft_config(model_config),
        callbacks=[RunFolder()],
    )
    if state.is_main_process:
        _record(run, config, model_config, folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(folder))
    if config.push_to_hub:
        trainer.push_to_hub()
    return trainer
