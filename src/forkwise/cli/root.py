"""The `forkwise` command: parses, calls, prints. A mistake of the user's ends in one sentence and exit code 2."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer

from forkwise.cli import (
    credit,
    doctor,
    explore,
    forks,
    importing,
    lab,
    methods,
    passk,
    plan,
    quickstart,
    report,
    sample,
    select,
    study,
    train,
    verify,
    verl_data,
)
from forkwise.cli.layout import example, make_app
from forkwise.errors import InputError, RunError
from forkwise.terminal import complain, echo, guard_libraries
from forkwise.version import __version__

_CLAIM = "Train reasoning language models with methods meant to keep them exploring, and measure whether they do."
app = make_app(_CLAIM)

_MOMENT = 0.05  # seconds

_UsageError: Any = typer.BadParameter.__base__  # typer exports no more of its family of exceptions
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_FIRST = "--model embedded --task countdown --max_steps 5"
_COMMANDS: dict[str, list[tuple[str, Callable[..., None], str]]] = {
    "Train": [
        ("grpo", train.grpo, f"forkwise grpo {_FIRST} \\\n  --output_dir runs/grpo"),
        ("ppo", train.ppo, f"forkwise ppo {_FIRST} \\\n  --output_dir runs/ppo"),
        (
            "quickstart",
            quickstart.quickstart,
            "forkwise quickstart --steps 5 --problems 8 --samples 16 --out runs/q",
        ),
    ],
    "Sample": [
        (
            "sample",
            sample.sample,
            "forkwise sample --model embedded --task countdown --problems 9 \\\n    --max-tokens 104 --out base",
        ),
        ("import", importing.import_, "forkwise import samples.jsonl --out imported"),
        (
            "verl-data",
            verl_data.verl_data,
            "forkwise verl-data countdown:3 --split validation --out c.parquet",
        ),
        ("verify", verify.verify, "forkwise verify imported --answers gold.jsonl"),
        ("select", select.select, "forkwise select base --by drop --keep 2 --out chosen"),
    ],
    "Measure": [
        ("passk", passk.passk, "forkwise passk base --k 1,4,16"),
        ("compare", passk.compare, "forkwise compare base=base trained=trained"),
        ("plan", plan.plan, "forkwise plan seed0,seed1,seed2 --detect .02 --runs 5"),
        ("explore", explore.explore, "forkwise explore base --model embedded --out explored"),
        ("forks", forks.forks, "forkwise forks base --model embedded --out forked"),
        ("credit", credit.credit, "forkwise credit --brief"),
    ],
    "Look": [
        ("report", report.report, "forkwise report runs/grpo base --out report.html"),
        ("methods", methods.methods, "forkwise methods clip_cov"),
    ],
}
for _heading, _commands in _COMMANDS.items():
    for _name, _command, _example in _commands:
        app.command(
            _name,
            rich_help_panel=_heading,
            epilog=example(_example),
            context_settings=_PASS_THROUGH if _heading == "Train" and _name != "quickstart" else None,
        )(_command)
app.add_typer(lab.app, name="lab", hidden=True)
app.add_typer(study.app, name="study", rich_help_panel="Train")
app.add_typer(doctor.app, name="doctor", rich_help_panel="Look")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        echo(f"forkwise {__version__}")
        raise typer.Exit


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Interrupts a moment later where Python drops an exception, as in a destructor, and it was an interrupt."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        again = threading.Timer(_MOMENT, _thread.interrupt_main, [signal.SIGTERM])  # Ctrl-C may be ignored here
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def main() -> None:
    """Runs the command; exit codes: 0 done, 1 a run cannot go on, 2 the user must change something, 130 interrupted."""
    # TRL's own defaults set a field that transformers has renamed; nothing that a user of forkwise could change.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    # The end of a terminal or batch job is handled like Ctrl-C: its child processes end, and a sentence says so.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    sys.unraisablehook = _interrupt_again
    guard_libraries()
    run()


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with the arguments `argv` (default: the process's), and exits with its code."""
    code: object = 0
    try:
        try:
            code = app(argv, prog_name="forkwise", standalone_mode=False)
        finally:
            sys.stdout.flush()
    except _UsageError as error:
        if str(error.format_message()).startswith("Usage:"):  # there was no word at all: the message is the help
            error.show()
        else:
            complain(_usage(error))
        sys.exit(2)
    except InputError as error:
        complain(error)
        sys.exit(2)
    except RunError as error:
        complain(error)
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        # Only writing to the standard output can fail without a sentence of its own.
        complain(f"{error.filename or 'The standard output'} cannot be used: {error.strerror}.")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: Any) -> str:
    """Says on one line what was typed wrong, and where to look."""
    message = " ".join(error.format_message().replace("Value error, ", "").split()).removesuffix(".")
    see = " See" if message.endswith("?") else "; see"
    return f"{message}{see} {error.ctx.command_path if error.ctx else 'forkwise'} --help."
