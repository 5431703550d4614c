"""The `forkwise` command: parses, calls, prints. A mistake of the user's ends in one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from forkwise import __version__
from forkwise.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Entropy-shaped advantages for reasoning models, and the proof of what they do.",
)
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@contextmanager
def _long_command() -> Iterator[None]:
    """Turns a missing extra into a sentence, and Ctrl-C into exit code 130 with a word on how to go on."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("forkwise"):
            raise
        raise InputError(
            f'This command needs packages that are not installed ({error}): pip install "forkwise[train,math]".'
        ) from error
    except KeyboardInterrupt:
        print("\nforkwise: interrupted; the same command with --resume continues.", file=sys.stderr)
        raise typer.Exit(130) from None


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        print(f"forkwise {__version__}")
        raise typer.Exit


@app.command(context_settings=_PASS_THROUGH)
def grpo(ctx: typer.Context) -> None:
    """Train with GRPO and entropy-shaped advantages (every TRL GRPOConfig field is a flag; see grpo --help)."""
    with _long_command():
        from forkwise.training import grpo as training

        training.main(ctx.args)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/quickstart"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps per arm.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds per arm (0, 1, ...).")] = 1,
    alpha: Annotated[float, typer.Option(help="Entropy coefficient of the shaped arm.")] = 0.4,
    kappa: Annotated[float, typer.Option(help="Cap: the bonus is at most |advantage| / kappa (> 1).")] = 2.0,
    problems: Annotated[int, typer.Option(min=2, help="Held-out problems for Pass@K.")] = 40,
    samples: Annotated[int, typer.Option(min=1, help="Samples per held-out problem: the largest K.")] = 256,
    jobs: Annotated[int, typer.Option(min=0, help="Processes side by side (0: one per core).")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or start it.")] = False,
) -> None:
    """Train the embedded model by GRPO without and with the entropy-shaped advantage, and compare by Pass@K."""
    with _long_command():
        from forkwise.lab import quickstart as lab

        settings = lab.Settings(steps, seeds, alpha, kappa, problems, samples)
        lab.run(out, settings, jobs=jobs or os.cpu_count() or 1, resume=resume)


def main() -> None:
    """Runs the command; exit codes: 0 done, 2 the user must change something, 130 interrupted."""
    # TRL's own defaults set a field that transformers has renamed; nothing that a user of forkwise could change.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    try:
        app()
    except InputError as error:
        print(f"forkwise: {error}", file=sys.stderr)
        sys.exit(2)
