"""The commands of `forkwise doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.terminal import echo

app = typer.Typer(no_args_is_help=True, help="Says what is wrong, and what to do.")


@app.command("verl")
def doctor_verl() -> None:
    """Say whether verl finds the forkwise plugin, with which verl, and why not; exit code 2 if not."""
    from forkwise.engines.verl import doctor

    echo(doctor.report())


@app.command("run")
def doctor_run(
    folder: Annotated[Path, typer.Argument(help="Run folder of forkwise grpo or ppo.", show_default=False)],
) -> None:
    """Explain a run's curves in words: what they say, what is alarming, what to try, and how to go on."""
    from forkwise.training import doctor

    echo(doctor.report(folder))
