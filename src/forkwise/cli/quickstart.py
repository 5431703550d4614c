"""The command `forkwise quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import cores, long_command


def quickstart(
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/quickstart"),
    algorithm: Annotated[str, typer.Option(help="grpo, or ppo with a critic.")] = "grpo",
    steps: Annotated[int, typer.Option(min=1, help="Training steps per arm.")] = 70,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds per arm (0, 1, ...).")] = 1,
    alpha: Annotated[
        float | None,
        typer.Option(help="Entropy coefficient of the shaped arm (default: the paper's 0.4; ppo: 0.1)."),
    ] = None,
    kappa: Annotated[float, typer.Option(help="Cap: the bonus is at most |advantage| / kappa (> 1).")] = 2.0,
    problems: Annotated[int, typer.Option(min=2, help="Held-out problems for Pass@K.")] = 64,
    samples: Annotated[int, typer.Option(min=1, help="Samples per held-out problem: the largest K.")] = 256,
    jobs: Annotated[int, typer.Option(min=0, help="Processes side by side (0: one per core, at most 8).")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or start it.")] = False,
) -> None:
    """Train the embedded model by GRPO or PPO without and with the entropy-shaped advantage, and compare by Pass@K."""
    with long_command():
        from forkwise.lab import experiment
        from forkwise.lab.quickstart import quickstart as arms

        spec = arms(algorithm, alpha=alpha, kappa=kappa, seeds=seeds, steps=steps, problems=problems, samples=samples)
        experiment.run(out, spec, jobs=jobs or min(cores(), 8), resume=resume, explore=True)
