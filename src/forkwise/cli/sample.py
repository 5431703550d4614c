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
        from forkwise.report.sampling import drawn
        from forkwise.sampling.engine import SamplingEngine
        from forkwise.sampling.engines import make_engine
        from forkwise.sampling.recipe import open_task, plan
        from forkwise.sampling.run import sample as draw
        from forkwise.tasks import problem_range

        job = plan(options)
        task = open_task(options.task, options.dataset)
        problems = problem_range(task, options.split, options.problems, first=options.first_problem)

        def load() -> SamplingEngine:
            with Meter(phase="loading the model"):
                return make_engine(job, options)

        echo(f"{out}: {drawn(draw(job, task, problems, load, out))}")
