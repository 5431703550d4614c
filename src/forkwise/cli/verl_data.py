"""The command `forkwise verl-data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.errors import InputError
from forkwise.progress import Meter
from forkwise.tasks.base import Split
from forkwise.terminal import echo


def verl_data(
    source: Annotated[str, typer.Argument(help="Parquet file in verl's format, or a task.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Parquet file to write.", show_default=False)],
    split: Annotated[Split, typer.Option(help="Of a task.")] = "train",
    problems: Annotated[int | None, typer.Option(min=1, help="So many of a task's problems; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order of a task's problems.")] = 0,
) -> None:
    """Write problems for verl: one row for each problem of a file that holds copies, or those of a task."""
    from forkwise.engines.verl.data import deduplicate, write_task

    path = Path(source)
    if path.resolve() == out.resolve():
        raise InputError(f"--out is the file that is read, '{out}': name another one.")
    if path.suffix == ".parquet":
        if not path.is_file():
            raise InputError(f"There is no '{path}'.")
        with Meter(phase="reading rows and writing problems"):
            done = deduplicate(path, out)
        times = done.rows / max(done.kept, 1)
        sentence = f"{out}: {done.kept:,} problems of {done.rows:,} rows (each {times:.3g} times on average)."
        if done.disagreeing:
            sentence += f" {done.disagreeing:,} have copies with another gold answer; the first counts."
        echo(sentence)
        return
    from forkwise.tasks import load_task, problem_range

    with Meter(phase="reading and writing problems"):
        chosen = problem_range(load_task(source), split, problems, seed=seed)
        write_task(source, chosen, out)
    echo(f"{out}: {len(chosen):,} {split} problems of {source}. Judge them with forkwise.engines.verl.reward.")
