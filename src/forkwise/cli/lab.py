"""The commands of `forkwise lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import cores, long_command
from forkwise.cli.layout import example, make_app
from forkwise.cli.options import with_options
from forkwise.lab.options import StudyOptions

app = make_app("Experiments on the embedded model.")


@app.command(
    "compare",
    epilog=example("forkwise lab compare --methods steer --steps 5 --problems 8 \\\n  --samples 16 --out runs/steer"),
)
@with_options
def lab_compare(
    out: Annotated[Path, typer.Option(help="Folder of the experiment to write.")],
    options: StudyOptions,
    reuse: Annotated[
        list[Path] | None, typer.Option(help="Folder of another experiment whose equal runs are taken; repeatable.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes side by side (0: one per core).")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the experiment in --out, or start it.")] = False,
) -> None:
    """Train arms x seeds on the embedded model with equal rollouts, and compare them by Pass@K."""
    with long_command():
        from forkwise.lab import experiment
        from forkwise.lab.study import choose

        experiment.run(out, choose(options), jobs=jobs or cores(), resume=resume, reuse=reuse or [])
