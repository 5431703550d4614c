"""Reading a run's settings: a YAML file, flags, or both, for TRL's config class and ours at once.

TRL's own `TrlParser.parse_args_and_config` does not serve: it reads the file without bounds, lets an `env:` key in it
change the process's environment, takes 12.5 for a whole number, and does not know the `--config=FILE` form.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments
from trl import ModelConfig

from forkwise.errors import InputError, nearest
from forkwise.reading import read_yaml
from forkwise.training.settings import ALIASES, DEFAULTS, RunArguments

_COUNT = re.compile(r"^num_|_(size|steps|generation)$")  # what the engines divide by


class _SettingsParser(HfArgumentParser):
    """HfArgumentParser that returns what was given and no defaults, and answers a mistake with one sentence."""

    def __init__(self, config_class: type[TrainingArguments]) -> None:
        self.settings: dict[str, argparse.Action] = {}
        super().__init__([RunArguments, config_class, ModelConfig], add_help=False, allow_abbrev=False)
        super().add_argument("--config", default=argparse.SUPPRESS)

    def add_argument(self, *flags: str, **how: Any) -> argparse.Action:
        """Adds a flag; a list may be given in several parts."""
        if how.get("nargs") == "+":
            how["action"] = "extend"
        action = super().add_argument(*flags, **{**how, "default": argparse.SUPPRESS})
        return self.settings.setdefault(action.dest, action)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}.")


def _from_file(path: str, parser: _SettingsParser, annotations: dict[str, str]) -> dict[str, Any]:
    """Reads the settings in the file. Text becomes a number as it does in a flag: 1e-6, text in YAML 1.1, too."""
    config = read_yaml(Path(path))
    if not isinstance(config, dict):
        raise InputError(f"The config file '{path}' must hold 'key: value' lines.")
    words: list[str] = []
    values: dict[str, Any] = {}
    for key, value in config.items():
        name = ALIASES.get(key, key)
        if name not in parser.settings:
            raise InputError(f"'{path}' has an unknown key '{key}'.{nearest(str(key), [*parser.settings, *ALIASES])}")
        kind = annotations[name]
        if isinstance(value, dict | list) and ("dict" if isinstance(value, dict) else "list") not in kind:
            raise InputError(f"'{path}': '{key}' takes one value, not {value}.")
        if isinstance(value, list) and value and parser.settings[name].nargs == "+":
            words += [f"--{name}={one}" for one in value]
        elif value is None or isinstance(value, dict | list):
            values[name] = value
        else:
            text = "no" if value is False and "bool" not in kind else value  # YAML 1.1 reads no as false
            words.append(f"--{name}={text}")
    return {**values, **vars(parser.parse_args(words))}


def _from_flags(argv: Sequence[str], parser: _SettingsParser, command: str) -> dict[str, Any]:
    """Returns the settings among the flags."""
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        alias = ALIASES.get(flag[2:].replace("-", "_")) if flag.startswith("--") else None
        words.append(f"--{alias}{equals}{value}" if alias else word)
    flags, unknown = parser.parse_known_args(words)
    if unknown:
        flag = next((word for word in unknown if word.startswith("-")), "").partition("=")[0]
        if not flag:
            raise InputError(f"'{unknown[0]}' belongs to no flag. 'forkwise {command} --help' lists them.")
        hint = nearest(flag.lstrip("-").replace("-", "_"), [*parser.settings, *ALIASES])
        raise InputError(f"There is no flag '{flag}'.{hint} 'forkwise {command} --help' lists them.")
    return dict(vars(flags))


def parse_run(
    argv: Sequence[str], config_class: type[TrainingArguments], command: str
) -> tuple[RunArguments, Any, ModelConfig]:
    """Returns the three groups of settings of one run: from `--config FILE`, from flags, or both; flags win.

    Raises:
        InputError: unknown keys or flags (naming the nearest), values of the wrong type, no folder for the run, or
            settings that the config class refuses.
    """
    classes = [base for c in (ModelConfig, config_class, RunArguments) for base in reversed(c.__mro__)]
    # Not from dataclasses.fields: the parser narrows their types in place.
    annotations = {name: str(kind) for c in classes for name, kind in inspect.get_annotations(c).items()}
    parser = _SettingsParser(config_class)
    values = _from_flags(argv, parser, command)
    file = values.pop("config", None)
    if file is not None:
        values = {**_from_file(file, parser, annotations), **values}
    if not values.get("output_dir"):
        raise InputError("Say where the run is to be kept: --output_dir FOLDER, or output_dir in the --config file.")
    alpha = values.get("alpha")
    values = {**DEFAULTS, **values}
    if not torch.accelerator.is_available():
        # TRL's defaults ask for bfloat16 on an accelerator and refuse a machine without one.
        values = {"use_cpu": True, "bf16": False, **values}
    try:
        run, trainer_config, model_config = parser.parse_dict(values)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(str(error)) from error
    except ArithmeticError as error:  # the engines divide counts before they check them
        zeros = [name for name, value in values.items() if value == 0 and _COUNT.search(name)]
        raise InputError(f"{' and '.join(zeros) or 'A batch size'} cannot be 0 ({error}).") from error
    if getattr(trainer_config, "method", None) and trainer_config.alpha == 0 and float(alpha or 0) != 0:
        raise InputError(
            f"alpha={alpha} belongs to the method 'entropy_advantage', which is not among those named: name it too "
            f"(--method entropy_advantage:alpha={alpha}), or leave alpha out."
        )
    return run, trainer_config, model_config
