"""The command `forkwise explore`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import CONTINUES, long_command
from forkwise.cli.options import with_options
from forkwise.explore.options import ExploreOptions
from forkwise.parameters import Brief


@with_options
def explore(
    options: ExploreOptions,
    tables: Annotated[
        list[Path] | None,
        typer.Argument(metavar="TABLE", help="Samples tables, or files that forkwise import reads."),
    ] = None,
    brief: Brief = False,
) -> None:
    """Where a model forks, whether it reflects, whether anything is new: each against its null and matched controls."""
    with long_command(CONTINUES):
        from forkwise.explore.command import run_explore
        from forkwise.explore.results import FILE
        from forkwise.progress import Console, Meter
        from forkwise.report import explore as words
        from forkwise.report.explore_notes import notes
        from forkwise.report.terminal import print_blocks, print_sentences

        with Meter(phase="exploring"):
            explored = run_explore(replace(options, samples=[*(tables or ()), *options.samples]))
        console = Console()
        print_sentences(map(words.conclusion, explored.runs), console)
        if brief:
            return
        console.print()
        print_blocks(words.exploration(explored), console)
        print_sentences(notes(explored), console, "- ")
        if options.out is not None:
            print_sentences([f"\nWritten: {options.out / FILE}"], console)
