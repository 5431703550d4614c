"""The report as plain text, for the logs of continuous integration and for terminals without a browser."""

from __future__ import annotations

import textwrap

from forkwise.report.content import Content
from forkwise.report.tables import (
    Table,
    behaviour_tables,
    entropy_tables,
    fork_tables,
    summary_tables,
    training_table,
)
from forkwise.terminal import visible

_WIDTH = 120
_FORKS = 10


def summary(content: Content) -> str:
    """Verdict, tables and notes; no line depends on the terminal, and no control character gets through."""
    tables = [*summary_tables(content), *training_table(content), *entropy_tables(content), *behaviour_tables(content)]
    tables += [Table(t.caption, t.header, t.rows[:_FORKS]) for t in fork_tables(content)]
    parts = [content.title, *(_wrap(sentence) for sentence in content.verdict)]
    parts += [_table(table) for table in tables if not table.folded]
    parts += [_wrap(note, "- ") for note in content.notes]
    if content.traces is not None:
        t = content.traces
        parts.append(f"{t.shown} of {t.available} traces on {t.problems} of {t.all_problems} problems are in the page.")
    return visible("\n\n".join(parts)) + "\n"


def _wrap(text: str, bullet: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_on_hyphens=False
    )


def _table(table: Table) -> str:
    cells = [[visible(cell).replace("\n", " ") for cell in row] for row in (table.header, *table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([_wrap(table.caption), *(line.rstrip() for line in lines)])
