"""The command `forkwise forks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import CONTINUES, long_command
from forkwise.cli.options import with_options
from forkwise.forks.options import ForksOptions
from forkwise.sampling.options import JudgeOptions


@with_options
def forks(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Samples table of one run, several of each problem.")],
    options: ForksOptions,
    judging: JudgeOptions,
    brief: Annotated[bool, typer.Option("--brief", help="Print the conclusion alone.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Write the figure here (.png or .svg).")] = None,
) -> None:
    """What a token decides: how the chance of a right answer depends on it, by continuing samples with other tokens."""
    with long_command(CONTINUES):
        from forkwise.forks.command import run_forks
        from forkwise.forks.results import FILE
        from forkwise.progress import Console
        from forkwise.report import forks as said
        from forkwise.report.terminal import print_blocks, print_sentences
        from forkwise.terminal import echo

        found = run_forks(table, options, judging, lambda cost: echo(said.cost_line(cost), error=True))
        console = Console()
        print_sentences([said.conclusion(found)], console)
        if figure is not None:
            from forkwise.report.forks_figure import forks_figure
            from forkwise.report.passk_figures import save

            save(forks_figure(found), figure)
        if brief:
            return
        console.print()
        print_blocks(said.tables(found), console)
        print_sentences(said.notes(found), console, "- ")
        print_sentences([f"\nWritten: {options.out / FILE}"], console)
