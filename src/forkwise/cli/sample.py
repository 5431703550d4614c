"""The command `forkwise sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import CONTINUES, long_command
from forkwise.cli.options import with_options
from forkwise.progress import Meter
from forkwise.sampling.options import SamplingOptions
from forkwise.terminal import echo


@with_options
def sample(
    out: Annotated[Path, typer.Option(help="Folder of the samples table; the same command continues in it.")],
    options: SamplingOptions,
) -> None:
    """Draw completions of a task's problems into a samples table; killed anywhere, the same command continues."""
    with long_command(CONTINUES):
        from forkwise.sampling import run as sampling

        job = sampling.plan(options)
        task = sampling.open_task(options.task, options.dataset)
        problems = task.problems(options.split, options.problems)

        def load() -> sampling.Engine:
            with Meter(what="loading the model"):
                return sampling.make_engine(job, options)

        summary = sampling.sample(job, task, problems, load, out)
        echo(f"{out}: {summary}")
