"""Markdown as a sink: tables and sentences whose text cannot act as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from forkwise.report.table import Block, Table
from forkwise.terminal import one_line, visible

# A bracket acts before another one ("[0.1, 0.2]" stays), an underscore at the edge of a word ("top_p" stays), and an
# ampersand before an entity.
_ACTING = re.compile(r"[\\`*<|~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)|&(?=#?\w+;)")
_BEGINNING = re.compile(r"^(\d*)(?=(?:[+.)-]|#+)(?: |$)|>|[-=]+$)")  # of a list, a heading, a quotation, a rule
_LONGEST_CELL = 2000  # characters


def markdown_table(table: Table) -> str:
    """Writes the table under its caption in bold."""
    rules = ["---", *("---:" for _ in table.header[1:])]
    lines = [_cells(table.header), rules, *map(_cells, table.rows)]
    return f"**{plain(table.caption)}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_blocks(blocks: Iterable[Block]) -> str:
    """Writes tables and sentences in their order."""
    return "\n\n".join(markdown_table(b) if isinstance(b, Table) else paragraph(b) for b in blocks) + "\n"


def paragraph(text: str) -> str:
    """Escapes text of any length, so that Markdown shows it as it is, on a line of its own."""
    return _BEGINNING.sub(r"\1\\", _escaped(text))


def plain(text: str) -> str:
    """Escapes text within a line, cut for a cell, so that Markdown shows it as it is."""
    return _escaped(one_line(text, _LONGEST_CELL))


def _escaped(text: str) -> str:
    return _ACTING.sub(r"\\\g<0>", " ".join(visible(text).split()))


def _cells(row: Sequence[str]) -> list[str]:
    return [plain(cell) for cell in row]
