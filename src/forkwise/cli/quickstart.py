"""The command `forkwise quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import cores, long_command
from forkwise.cli.options import with_options
from forkwise.lab.options import QuickstartOptions


@with_options
def quickstart(
    options: QuickstartOptions,
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/quickstart"),
    jobs: Annotated[int, typer.Option(min=0, help="Processes side by side (0: one per core, at most 8).")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or start it.")] = False,
) -> None:
    """Train the embedded model by GRPO or PPO without and with the entropy-shaped advantage, and compare by Pass@K."""
    with long_command():
        from forkwise.lab import experiment
        from forkwise.lab.quickstart import quickstart as two_arms

        experiment.run(out, two_arms(options), jobs=jobs or min(cores(), 8), resume=resume, explore=True)
