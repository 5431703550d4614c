"""`python -m forkwise.cli.precision [LEXICON REFLECTIVE]` prints how often matches of the lists are right."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from forkwise.explore.lexicon import load_lexicon, load_reflective
from forkwise.explore.precision import precision, read_labels
from forkwise.progress import Console
from forkwise.report.formats import count, interval
from forkwise.report.table import filled
from forkwise.report.terminal import print_tables


def main(paths: Sequence[str]) -> None:
    """Prints the table; lists of one's own come as two paths, lexicon and patterns."""
    lexicon = load_lexicon(Path(paths[0]) if paths else None)
    reflective = load_reflective(Path(paths[1]) if len(paths) > 1 else None)
    shares = precision(read_labels(), lexicon, reflective)
    rows = [[s.what, count(s.hits), count(s.total), interval(s.hits / s.total, *s.interval)] for s in shares]
    print_tables(filled("Labelled sentences", ["", "right", "of", "share [95 %]"], rows), Console())


if __name__ == "__main__":
    main(sys.argv[1:])
