"""Plain text as a sink, and the summary of a report in it: for the logs of continuous integration."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from forkwise.report.content import Content
from forkwise.report.credit import tables as credit
from forkwise.report.explore import behaviours, dependence, entropy, forks, rarity, series, sizes
from forkwise.report.forks import tables as decided
from forkwise.report.forks_sentences import tables as decided_by_sentences
from forkwise.report.passk import overview
from forkwise.report.table import Block, Table
from forkwise.report.training import training_table
from forkwise.terminal import visible

_WIDTH = 120


def summary(content: Content) -> str:
    """Writes conclusion, tables and notes; no line depends on the terminal, and no control character gets through."""
    runs = content.explored()
    blocks: list[Block] = [content.title, *content.conclusion]
    blocks += [*overview(content.evaluations, content.comparison), *training_table(content.training), *sizes(runs)]
    blocks += [*entropy(content.distributions, runs), *behaviours(runs), *rarity(runs), *dependence(runs)]
    blocks += [*series(content.explorations), *forks(runs)]
    blocks += [block for one in content.forks for block in decided(one)]
    blocks += [block for one in content.sentences for block in decided_by_sentences(one)]
    blocks += [block for one in content.credit for block in credit(one)]
    texts = [text(blocks), *(_wrap(note, "- ") for note in content.notes)]
    if content.traces is not None:
        t = content.traces
        texts.append(f"{t.shown} of {t.available} traces on {t.problems} of {t.all_problems} problems are in the page.")
    return visible("\n\n".join(texts)) + "\n"


def text(blocks: Iterable[Block]) -> str:
    """Lays tables and sentences out as text, which is not made visible yet; long tables are left out."""
    shown = (block for block in blocks if isinstance(block, str) or not block.folded)
    return "\n\n".join(_wrap(block) if isinstance(block, str) else _table(block) for block in shown)


def _wrap(sentence: str, bullet: str = "") -> str:
    return textwrap.fill(
        sentence, _WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_on_hyphens=False
    )


def _table(table: Table) -> str:
    # A column is as wide as what will be shown of its cells.
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
