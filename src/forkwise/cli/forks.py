"""The command `forkwise forks`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forkwise.cli.common import CONTINUES, long_command
from forkwise.cli.options import with_options
from forkwise.errors import InputError
from forkwise.forks.options import ForksOptions
from forkwise.parameters import Brief
from forkwise.sampling.options import JudgeOptions
from forkwise.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forkwise.forks.cost import Cost
    from forkwise.report.table import Block


@with_options
def forks(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Samples table of one run, several of each problem.")],
    options: ForksOptions,
    judging: JudgeOptions,
    brief: Brief = False,
    figure: Annotated[Path | None, typer.Option(help="Write the figure here (.png, .svg or .pdf); of tokens.")] = None,
) -> None:
    """What a token decides: how the chance of a right answer depends on it, by continuing samples with other tokens."""
    with long_command(CONTINUES):
        if options.unit == "sentence":
            from forkwise.forks.sentence_results import FILE
            from forkwise.forks.sentences import run_sentences
            from forkwise.report import forks_sentences

            if figure is not None:
                raise InputError("--figure is of tokens: leave it out with --unit sentence.")
            sentences = run_sentences(table, options, judging, partial(_announce, within=True))
            told = (forks_sentences.conclusion(sentences), forks_sentences.tables(sentences))
            _print(*told, forks_sentences.notes(sentences), options.out / FILE, brief)
            return
        from forkwise.forks import results
        from forkwise.forks.command import run_forks
        from forkwise.report import forks as words

        token_forks = run_forks(table, options, judging, _announce)
        if figure is not None:
            from forkwise.report.forks_figure import forks_figure
            from forkwise.report.passk_figures import save

            save(forks_figure(token_forks), figure)
        _print(
            words.conclusion(token_forks),
            words.tables(token_forks),
            words.notes(token_forks),
            options.out / results.FILE,
            brief,
        )


def _announce(cost: Cost, *, within: bool = False) -> None:
    from forkwise.report.forks import cost_line

    echo(cost_line(cost, within=within), error=True)


def _print(conclusion: str, tables: Iterable[Block], notes: Iterable[str], written: Path, brief: bool) -> None:
    from forkwise.progress import Console
    from forkwise.report.terminal import print_blocks, print_sentences

    console = Console()
    print_sentences([conclusion], console)
    if brief:
        return
    console.print()
    print_blocks(tables, console)
    print_sentences(notes, console, "- ")
    print_sentences([f"\nWritten: {written}"], console)
