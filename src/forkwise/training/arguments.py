"""Reading a run's settings: a YAML file, flags, or both, for TRL's config class and ours at once."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments
from trl import ModelConfig

from forkwise.errors import InputError, nearest
from forkwise.reading import read_yaml

# Names that TRL users know, for the same thing here.
ALIASES = {"model_name_or_path": "model", "dataset_name": "dataset", "reward_funcs": "reward"}


@dataclass
class RunArguments:
    """What to train, on what, with which reward. Everything else is TRL's or the method's."""

    model: str | None = field(
        default=None,
        metadata={"help": "Model to train: a hub id, a folder, or 'embedded' for the small model in this package."},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Task: 'countdown', 'countdown:3', 'countdown:4', 'math', 'math:dapo' or 'reasoning-gym:NAME'."
        },
    )
    dataset: str | None = field(
        default=None,
        metadata={"help": "Instead of a task: a hub id, or a JSONL/Parquet file with columns 'prompt' and 'answer'."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a hub dataset, e.g. 'main' of openai/gsm8k."}
    )
    prompt_column: str | None = field(
        default=None,
        metadata={"help": "Column of --dataset with the prompt (default: 'prompt', 'problem', 'question')."},
    )
    answer_column: str | None = field(
        default=None, metadata={"help": "Column of --dataset with the gold answer (default: 'answer', 'ground_truth')."}
    )
    reward: list[str] = field(
        default_factory=lambda: ["correct"],
        metadata={
            "help": "Rewards: 'correct' (1 or 0), 'signed' (+1 or -1, the paper's), or 'package.module:function'; "
            "several are weighted by TRL's --reward_weights.",
            "nargs": "+",
        },
    )
    train_problems: int | None = field(
        default=None,
        metadata={"help": "Use only so many training problems (default: all; 20,000 for generated tasks)."},
    )
    eval_problems: int = field(
        default=64, metadata={"help": "Validation problems, used only if --eval_strategy is not 'no'."}
    )
    chat: bool = field(
        default=False, metadata={"help": "Send each prompt as a user message through the chat template."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Continue the run in --output_dir from its newest complete checkpoint."}
    )
    log_behaviours: bool = field(
        default=False,
        metadata={"help": "Log pivotal tokens and reflective sentences of the completions, with their entropies."},
    )
    behaviour_breaks: str = field(
        default="", metadata={"help": "For --log_behaviours: words that begin a sentence, with commas."}
    )
    health: bool = field(
        default=True,
        metadata={"help": "Stop at numbers that are not finite; warn of collapsed entropy and exploding lengths."},
    )
    health_window: int = field(
        default=10, metadata={"help": "Logged lines over which the start of the run and its present are averaged."}
    )
    health_min_entropy: float = field(
        default=0.1, metadata={"help": "Warn when the entropy falls below this fraction of that at the start."}
    )
    health_max_length: float = field(
        default=3.0, metadata={"help": "Warn when completions grow beyond this multiple of the length at the start."}
    )
    health_max_truncated: float = field(
        default=0.5, metadata={"help": "Warn when the share of truncated completions has risen by more than this."}
    )


class _Parser(HfArgumentParser):
    """HfArgumentParser that answers with one sentence instead of two hundred lines of usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}.")


def _read_config(path: str) -> dict[str, Any]:
    config = read_yaml(Path(path))
    if not isinstance(config, dict):
        raise InputError(f"The config file '{path}' must hold 'key: value' lines.")
    return config


def _default(value: Any, key: str, path: str, nargs: str | int | None, annotation: str) -> Any:
    """A value of the file as argparse's default. It converts text as it does flags: 1e-6 (text in YAML 1.1), too."""
    if value is None:
        return None
    if isinstance(value, dict | list):
        if ("dict" if isinstance(value, dict) else "list") not in annotation:
            raise InputError(f"'{path}': '{key}' takes one value, not {value}.")
        return value
    text = "no" if value is False and "bool" not in annotation else str(value)  # YAML 1.1 reads no as false
    return [text] if nargs == "+" else text


def make_parser(config_class: type[TrainingArguments], command: str) -> HfArgumentParser:
    """The parser of `forkwise grpo` and its like: our run arguments, the trainer's config, TRL's model config."""
    parser = _Parser(
        [RunArguments, config_class, ModelConfig],
        prog=f"forkwise {command}",
        description="Settings come from --config FILE (YAML), from flags, or both; flags win.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the settings below.")
    return parser


def _together(argv: Sequence[str], flag: str) -> list[str]:
    """The words with all values of a flag that may be repeated behind its last occurrence, where argparse looks."""
    rest: list[str] = []
    values: list[str] = []
    inside = False
    for word in argv:
        if word.startswith("-"):
            inside = word == flag or word.startswith(f"{flag}=")
            values += [word.partition("=")[2]] if word.startswith(f"{flag}=") else []
            rest += [] if inside else [word]
        else:
            (values if inside else rest).append(word)
    return [*rest, flag, *values] if values or flag in argv else rest


def parse_run(
    argv: Sequence[str], config_class: type[TrainingArguments], command: str
) -> tuple[RunArguments, Any, ModelConfig]:
    """The three groups of settings of one run.

    Raises:
        InputError: unknown keys or flags (naming the nearest), values of the wrong type, or settings that the config
            class refuses.
    """
    parser = make_parser(config_class, command)
    actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    names = [*actions, *ALIASES]
    # Not from dataclasses.fields: the parser narrows their types in place.
    classes = [base for c in (ModelConfig, config_class, RunArguments) for base in reversed(c.__mro__)]
    annotations = {name: str(kind) for c in classes for name, kind in inspect.get_annotations(c).items()}

    argv = list(argv)
    for i, word in enumerate(argv):
        if not word.startswith("--"):
            continue
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name in ALIASES:
            argv[i] = f"--{ALIASES[name]}{equals}{value}"
        elif flag not in parser._option_string_actions:
            hint = nearest(name, names)
            raise InputError(f"There is no flag '{flag}'.{hint} 'forkwise {command} --help' lists them.")

    argv = _together(argv, "--method")
    if not torch.accelerator.is_available():
        # TRL's defaults ask for bfloat16 on an accelerator and refuse a machine without one.
        actions["use_cpu"].default = True
        actions["bf16"].default = False

    only_config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_config.add_argument("--config")
    only_config.add_argument("--alpha")
    known = only_config.parse_known_args(argv)[0]
    path, alpha = known.config, known.alpha
    if path is not None:
        config = _read_config(path)
        for key, value in config.items():
            name = ALIASES.get(key, key)
            if name not in actions:
                raise InputError(f"'{path}' has an unknown key '{key}'.{nearest(str(key), names)}")
            actions[name].default = _default(value, key, path, actions[name].nargs, annotations[name])
            actions[name].required = False
        alpha = config.get("alpha") if alpha is None else alpha

    try:
        *groups, _ = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(str(error)) from error
    run, trainer_config, model_config = groups[:3]
    if getattr(trainer_config, "method", None) and trainer_config.alpha == 0 and float(alpha or 0) != 0:
        raise InputError(
            f"alpha={alpha} belongs to the method 'entropy_advantage', which is not among those named: name it too "
            f"(--method entropy_advantage:alpha={alpha}), or leave alpha out."
        )
    return run, trainer_config, model_config
