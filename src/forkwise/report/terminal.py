"""The terminal as a sink: tables and sentences through rich, whose console lets no control character through."""

from __future__ import annotations

from collections.abc import Iterable

from rich import table as rich_table
from rich.text import Text

from forkwise.progress import Console
from forkwise.report.table import Block, Table
from forkwise.terminal import one_line, visible

_WIDEST = 180  # columns
_UNBOUNDED = 1 << 20  # a table cut at the terminal's edge would lose numbers
_LONGEST_CELL = 200  # characters


def wide_console(width: int = _WIDEST) -> Console:
    """Makes a console that is at least `width` columns wide."""
    return Console(width=max(Console().width, width))


def print_blocks(blocks: Iterable[Block], console: Console) -> None:
    """Prints tables and sentences in their order."""
    for block in blocks:
        if isinstance(block, Table):
            print_tables([block], console)
        else:
            print_sentences([block], console)


def print_tables(tables: Iterable[Table], console: Console) -> None:
    """Prints each table under its caption; those without rows are left out."""
    for table in tables:
        if not table.rows:
            continue
        grid = rich_table.Table()
        for i, name in enumerate(table.header):
            grid.add_column(_cell(name), justify="right" if i else "left", no_wrap=True)
        for row in table.rows:
            grid.add_row(*map(_cell, row))
        console.print()
        console.print(Text(table.caption, style="bold"), soft_wrap=True)
        width = console.width
        console.width = max(width, console.measure(grid, options=console.options.update_width(_UNBOUNDED)).maximum)
        console.print(grid)
        console.width = width


def _cell(text: str) -> Text:
    """Makes text whose width is that of the printed text."""
    return Text(one_line(text, _LONGEST_CELL) if len(text) > _LONGEST_CELL else visible(text))


def print_sentences(sentences: Iterable[str], console: Console, bullet: str = "") -> None:
    """Prints each sentence on a line of its own."""
    for sentence in sentences:
        console.print(Text(f"{bullet}{sentence}"), soft_wrap=True)
