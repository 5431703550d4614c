"""The command `forkwise verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import CONTINUES, Split, long_command
from forkwise.terminal import echo


def verify(
    samples: Annotated[Path, typer.Argument(help="Samples table: a Parquet file or a folder of them.")],
    task: Annotated[str | None, typer.Option(help="Task with the gold answers, paired by problem_id.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Instead of a task: file or Hub id.")] = None,
    answers: Annotated[Path | None, typer.Option(help="File with problem_id and answer.")] = None,
    gold_column: Annotated[str | None, typer.Option(help="Column of the table with gold answers.")] = None,
    verifier: Annotated[str | None, typer.Option(help="math, exact, or the name of a task.")] = None,
    last_number: Annotated[
        bool, typer.Option("--last-number", help="Where no answer is stated, the last number is the answer.")
    ] = False,
    split: Annotated[Split | None, typer.Option(help="Of the task (default test).")] = None,
    problems: Annotated[int | None, typer.Option(min=1, help="How many, for generated tasks.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Verify again what has a verdict.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes for LaTeX answers.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds per answer.")] = 5.0,
    memory_mb: Annotated[int, typer.Option(help="MiB of address space per process.")] = 1024,
) -> None:
    """Verify the samples of any table against gold answers; killed anywhere, the same command continues."""
    with long_command(CONTINUES):
        from forkwise.samples import verify as verification

        judge = verification.find_judge(
            samples,
            task=task,
            dataset=dataset,
            answers=answers,
            gold_column=gold_column,
            verifier=verifier,
            last_number=last_number,
            split=split.value if split else None,
            n_problems=problems,
            workers=workers,
            timeout=timeout,
            memory_mb=memory_mb,
        )
        echo(f"{samples}: {verification.verify(samples, judge, force=force)}")
