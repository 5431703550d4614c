"""The commands of `forkwise doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.layout import example, make_app
from forkwise.terminal import echo

app = make_app("Check the environment, a run or verl: what is wrong, and what to do.", alone=True)


@app.callback(epilog=example("forkwise doctor"))
def doctor(ctx: typer.Context) -> None:
    """Check the environment: versions, GPUs, missing extras and what to install; or a run, or verl."""
    if ctx.invoked_subcommand is None:
        from forkwise.cli import environment

        echo(environment.report())


@app.command("verl", epilog=example("forkwise doctor verl"))
def doctor_verl() -> None:
    """Say whether verl finds the forkwise plugin, with which verl, and why not; exit code 2 if not."""
    from forkwise.engines.verl import doctor

    echo(doctor.report())


@app.command("run", epilog=example("forkwise doctor run runs/grpo"))
def doctor_run(
    folder: Annotated[
        Path, typer.Argument(help="Run of grpo, ppo or a TRL trainer; quickstart or study.", show_default=False)
    ],
) -> None:
    """Explain a run's curves in words: what they say, what is alarming, what to try, and how to go on."""
    from forkwise.report.doctor import diagnoses
    from forkwise.training.doctor import diagnose

    echo(diagnoses(diagnose(folder)))
