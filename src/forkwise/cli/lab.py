"""The commands of `forkwise lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import Split, cores, long_command
from forkwise.cli.layout import example, make_app

app = make_app("Experiments on the embedded model.")


@app.command(
    "compare",
    epilog=example("forkwise lab compare --methods steer --steps 5 --problems 8 \\\n  --samples 16 --out runs/steer"),
)
def lab_compare(
    out: Annotated[Path, typer.Option(help="Folder of the experiment to write.")],
    study: Annotated[str | None, typer.Option(help="A YAML file, or the name of a study of ours.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option(help="Instead: NAME[:key=value,...][+NAME...] of one arm; repeatable.")
    ] = None,
    algorithm: Annotated[str, typer.Option(help="Of --methods: grpo or ppo.")] = "grpo",
    only: Annotated[list[str] | None, typer.Option(help="Only this arm, against the reference; repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Training seeds per arm.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps per arm.")] = None,
    problems: Annotated[int | None, typer.Option(min=2, help="Held-out problems.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples per problem: the largest K.")] = None,
    split: Annotated[Split | None, typer.Option(help="Of the task (default test).")] = None,
    reuse: Annotated[
        list[Path] | None, typer.Option(help="Folder of another experiment whose equal runs are taken; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: the GPUs if there are any.")] = "auto",
    jobs: Annotated[int, typer.Option(min=0, help="Processes side by side (0: one per core).")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the experiment in --out, or start it.")] = False,
) -> None:
    """Train arms x seeds on the embedded model with equal rollouts, and compare them by Pass@K."""
    with long_command():
        from forkwise.lab import arms, experiment
        from forkwise.lab.study import choose

        if device == "auto":
            device = "cuda" if arms.gpus() else "cpu"
        sizes = {"seeds": seeds, "steps": steps, "problems": problems, "samples": samples}
        spec = choose(
            study, methods or [], algorithm, only or [], **sizes, device=device, split=split.value if split else None
        )
        experiment.run(out, spec, jobs=jobs or cores(), resume=resume, reuse=reuse or [])
