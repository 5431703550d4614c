"""The `forkwise` command: parses, calls, prints. A mistake of the user's ends in one sentence and exit code 2."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from forkwise.cli import doctor, explore, importing, lab, methods, passk, quickstart, report, sample, train, verify
from forkwise.errors import InputError, RunError
from forkwise.terminal import complain, echo, guard_libraries
from forkwise.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train reasoning models with methods meant to keep them exploring, and measure whether they do.",
)

_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app.command(context_settings=_PASS_THROUGH)(train.grpo)
app.command(context_settings=_PASS_THROUGH)(train.ppo)
app.command()(quickstart.quickstart)
app.add_typer(lab.app, name="lab")
app.command("import")(importing.import_)
app.command()(sample.sample)
app.command()(verify.verify)
app.command()(passk.passk)
app.command()(passk.compare)
app.command()(explore.explore)
app.command()(methods.methods)
app.command()(report.report)
app.add_typer(doctor.app, name="doctor")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        echo(f"forkwise {__version__}")
        raise typer.Exit


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command; exit codes: 0 done, 1 a run cannot go on, 2 the user must change something, 130 interrupted."""
    # TRL's own defaults set a field that transformers has renamed; nothing that a user of forkwise could change.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    # A closed terminal or a batch system's end is handled like Ctrl-C: child processes are ended, and a word is said.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    guard_libraries()
    run()


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Ends with the exit code of the command with the words `argv` (default: those of the process)."""
    try:
        try:
            app(argv)
        finally:
            sys.stdout.flush()
    except InputError as error:
        complain(error)
        sys.exit(2)
    except RunError as error:
        complain(error)
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        # Nothing but the standard output is written to without a sentence of its own.
        complain(f"{error.filename or 'The standard output'} cannot be used: {error.strerror}.")
        sys.exit(2)
    sys.exit(0)
