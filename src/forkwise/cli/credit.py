"""The command `forkwise credit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forkwise.cli.common import long_command
from forkwise.cli.options import with_options
from forkwise.credit.options import CreditOptions
from forkwise.parameters import Brief


@with_options
def credit(
    options: CreditOptions,
    banks: Annotated[
        list[Path] | None,
        typer.Argument(metavar="BANK", help="Banks, or folders of forkwise forks; without any, the package's own."),
    ] = None,
    brief: Brief = False,
    figure: Annotated[Path | None, typer.Option(help="Write the figure here (.png, .svg or .pdf).")] = None,
) -> None:
    """What a method sees of a token's worth: its advantages beside true ones, for every method and its placebo."""
    with long_command("run it again"):
        from forkwise.credit.command import run_credit
        from forkwise.credit.results import FILE
        from forkwise.progress import Console
        from forkwise.report import credit as words
        from forkwise.report.terminal import print_blocks, print_sentences

        scored = run_credit(banks or (), options)
        if figure is not None:
            from forkwise.report.credit_figure import credit_figure
            from forkwise.report.passk_figures import save

            save(credit_figure(scored), figure)
        console = Console()
        print_sentences(words.conclusions(scored), console)
        if brief:
            return
        console.print()
        print_blocks(words.tables(scored), console)
        print_sentences(words.notes(scored), console, "- ")
        if options.out is not None:
            print_sentences([f"\nWritten: {options.out / FILE}"], console)
