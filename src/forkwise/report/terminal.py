"""The terminal as a sink: tables and sentences through rich, whose console lets no control character through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from rich import table as rich_table
from rich.text import Text

from forkwise.progress import Console
from forkwise.report.table import Block, Table
from forkwise.terminal import one_line, visible

_UNBOUNDED = 1 << 20  # a table cut at the edge of a file or pipe would lose numbers
_LONGEST_CELL = 200  # characters
_BESIDE = 3  # columns of a cell's border and blanks
_NARROWEST_LABEL = 12  # columns


def print_blocks(blocks: Iterable[Block], console: Console) -> None:
    """Prints tables and sentences in their order."""
    for block in blocks:
        if isinstance(block, Table):
            print_tables([block], console)
        else:
            print_sentences([block], console)


def print_tables(tables: Iterable[Table], console: Console) -> None:
    """Prints each table under its caption; those without rows are left out.

    On a terminal none is wider than that: a wide table goes on below itself, and labels that several rows share stand
    once. Elsewhere every table is as wide as it is, and its rows are whole.
    """
    for table in tables:
        if not table.rows:
            continue
        console.print()
        _print_words(Text(table.caption, style="bold"), console)
        if console.is_terminal:
            widths = _widths(table, console.width)
            for part in _parts(replace(table, rows=_without_repeats(table)), widths, console.width):
                console.print(_grid(part, widths))
            continue
        width, grid = console.width, _grid(table, no_wrap=True)
        console.width = max(width, console.measure(grid, options=console.options.update_width(_UNBOUNDED)).maximum)
        console.print(grid)
        console.width = width


def _grid(table: Table, widths: Sequence[int] = (), *, no_wrap: bool = False) -> rich_table.Table:
    grid = rich_table.Table()
    for i, name in enumerate(table.header):
        justify: Literal["left", "right"] = "right" if i else "left"
        widest = widths[i] - _BESIDE if widths and i < table.labels else None
        grid.add_column(_cell(name), justify=justify, no_wrap=no_wrap, overflow="fold", max_width=widest)
    for row in table.rows:
        grid.add_row(*map(_cell, row))
    return grid


def _without_repeats(table: Table) -> list[list[str]]:
    """Leaves a label out where it and those before it are those of the row above; the last label stays."""
    rows = [list(row) for row in table.rows]
    for row, above in zip(rows[1:], table.rows, strict=False):
        for i in range(table.labels - 1):
            if row[i] != above[i]:
                break
            row[i] = ""
    return rows


def _widths(table: Table, width: int) -> list[int]:
    """Measures the columns; where they do not fit, the widest label is broken over lines to leave the others room."""
    lines = [table.header, *table.rows]
    widths = [max(_cell(line[i]).cell_len for line in lines) + _BESIDE for i in range(len(table.header))]
    if 1 + sum(widths) > width and len(widths) > table.labels:
        widest = max(range(table.labels), key=widths.__getitem__)
        excess = max(1 + sum(widths[: table.labels]) - width // 2, 0)
        widths[widest] = max(widths[widest] - excess, min(widths[widest], _NARROWEST_LABEL + _BESIDE))
    return widths


def _parts(table: Table, widths: Sequence[int], width: int) -> list[Table]:
    """Splits a table's columns into tables that fit into `width`, each of which begins with the labels of the rows.

    One column beside labels that leave it no room is a part all the same; its cells are then broken over lines.
    """
    labels = list(range(table.labels))
    parts: list[list[int]] = [[]]
    for i in range(table.labels, len(widths)):
        if parts[-1] and 1 + sum(widths[j] for j in (*labels, *parts[-1], i)) > width:
            parts.append([])
        parts[-1].append(i)
    return [
        replace(table, header=[table.header[i] for i in shown], rows=[[row[i] for i in shown] for row in table.rows])
        for shown in (labels + part for part in parts)
    ]


def _cell(text: str) -> Text:
    """Makes text whose width is that of the printed text."""
    return Text(one_line(text, _LONGEST_CELL) if len(text) > _LONGEST_CELL else visible(text))


def print_sentences(sentences: Iterable[str], console: Console, bullet: str = "") -> None:
    """Prints each sentence on a line of its own."""
    for sentence in sentences:
        _print_words(Text(f"{bullet}{sentence}"), console)


def _print_words(text: Text, console: Console) -> None:
    """Breaks lines between words, and only on a terminal; a path that is longer than a line stays whole."""
    unbroken = not console.is_terminal or max(map(len, text.plain.split()), default=0) > console.width
    console.print(text, soft_wrap=unbroken)
