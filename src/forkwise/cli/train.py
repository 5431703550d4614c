"""The commands `forkwise grpo` and `forkwise ppo`."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

import typer

from forkwise.cli.common import long_command
from forkwise.cli.layout import setting
from forkwise.engines.settings import ShapingSettings
from forkwise.terminal import echo
from forkwise.training.heartbeat import HEARTBEAT
from forkwise.training.settings import ALIASES, DEFAULTS, CriticSettings, RunArguments

_FOLDER = ("--output_dir <path>", "Where the run is kept.  [required]")
_FILE = ("--config <path>", "YAML file with any of these settings; flags win.")
_ALL = ("--help-all", "Show TRL's settings too.")
_TRL = (
    "Every field of TRL's GRPOConfig and ModelConfig is a flag too. The most used are --max_steps, --learning_rate, "
    "--num_generations, --per_device_train_batch_size, --steps_per_generation, --max_completion_length, --temperature, "
    "--beta, --logging_steps (1 here), --save_steps, --use_peft and --report_to."
)
_HELP = {"--help", "-h", "--help-all"}


def grpo(ctx: typer.Context) -> None:
    """Train with GRPO and entropy-shaped advantages."""
    _train(ctx, "forkwise.training.grpo")


def ppo(ctx: typer.Context) -> None:
    """Train with PPO, a critic and entropy-shaped advantages."""
    _train(ctx, "forkwise.training.ppo")


def _train(ctx: typer.Context, module: str) -> None:
    with long_command():
        if _HELP.intersection(ctx.args):
            _help(ctx)
        else:
            with HEARTBEAT.beating("Loading PyTorch and TRL"):
                import_module(module).main(ctx.args)


def _help(ctx: typer.Context) -> None:
    """Prints forkwise's settings, and TRL's only where they are asked for: to read those takes many seconds."""
    critic = {field.name: field for field in fields(CriticSettings)} if ctx.command.name == "ppo" else {}
    method = {field.name: critic.pop(field.name, field) for field in fields(ShapingSettings)}
    run = {field.name: field for field in fields(RunArguments)}
    rows = {"Run": [_FOLDER, _FILE, *map(setting, run.values())], "Method": [*map(setting, method.values())]}
    rows |= {"Critic": [*map(setting, critic.values())]} if critic else {}
    if "--help-all" in ctx.args:
        own_names = {*run, *method, *ALIASES, "output_dir"}
        rows["TRL"] = [
            setting(field, DEFAULTS.get(field.name)) for field in _fields_of_trl() if field.name not in own_names
        ]
    formatter: Any = ctx.make_formatter()
    formatter.write_usage(ctx.command_path, "--output_dir <path> [SETTINGS]")
    command: Any = ctx.command
    command.format_help_text(ctx, formatter)
    for heading, lines in rows.items():
        with formatter.section(heading):
            formatter.write_dl(lines)
    if "TRL" not in rows:
        with formatter.section("TRL"):
            formatter.write_text(_TRL)
            formatter.write_paragraph()
            formatter.write_dl([_ALL])
    command.format_epilog(ctx, formatter)
    echo(formatter.getvalue(), end="")


def _fields_of_trl() -> list[Any]:
    from trl import GRPOConfig, ModelConfig

    return [*fields(GRPOConfig), *fields(ModelConfig)]
