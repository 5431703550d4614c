"""A table of text cells, which every sink shows: terminal, Markdown, plain text, page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells of text under a caption; the first column names the row.

    Attributes:
        caption: what the numbers are.
        header: one cell per column.
        rows: as many cells as the header has.
        folded: whether readers of a page see it on demand only, because it is long.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False
