"""Tables of text cells and sentences, which every sink shows: terminal, Markdown, plain text, page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells of text under a caption; the first columns name the row.

    Attributes:
        caption: what the numbers are.
        header: one cell per column.
        rows: as many cells as the header has.
        folded: whether readers of a page see it on demand only, because it is long.
        labels: how many columns name the row. They are repeated where a table goes on below itself.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False
    labels: int = 1


Block = Table | str
"""A part of a report that every sink can show: a table, or a sentence."""


def filled(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, folded: bool = False, labels: int = 1
) -> list[Table]:
    """Makes a table without the columns that are empty in every row; no table where there is no row."""
    if not rows:
        return []
    columns = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    kept = [[row[i] for i in columns] for row in rows]
    return [Table(caption, [header[i] for i in columns], kept, folded, sum(i < labels for i in columns))]
