"""How often a match of the lexicon, or of the reflective patterns, is what it is taken for.

    python benchmarks/lexicon_precision.py [LEXICON REFLECTIVE]     # lists of one's own

`data/lexicon_labels.jsonl` holds 300 sentences from public traces, labelled by one reader: 120 drawn among those that
the reflective patterns matched and 60 among those that they did not, both labelled without knowing which, and 120
matches of the lexicon. The lists were settled on other sentences of the same files before.

Reflective is a sentence that verifies, checks, doubts or corrects what was written before, or goes back on the
approach; a check that is itself a step of the solution ("we check which of these are prime") or a new idea after "wait"
is not. A match of the lexicon is right where the word does what its group says: gives a reason, contrasts, orders
steps, or names an act of reasoning. Whether reasoning could have gone another way there cannot be told by reading.

Sources (texts as there; none quotes six words of its problem): NovaSky-AI/SkyThought (Apache-2.0),
open-thought/reasoning-gym-eval (Apache-2.0), QwenLM/Qwen2.5-Math (MIT).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from forkwise.explore.lexicon import Lexicon, ReflectivePatterns, load_lexicon, load_reflective
from forkwise.progress import Console
from forkwise.report.formats import count, interval
from forkwise.report.table import filled
from forkwise.report.terminal import print_tables

LABELS = Path(__file__).parent / "data" / "lexicon_labels.jsonl"


@dataclass(frozen=True)
class Label:
    """One labelled sentence; `at` and `entry` say which word of it was labelled, for the lexicon."""

    kind: str
    drawn: str
    label: bool
    text: str
    source: str
    at: int | None = None
    entry: str | None = None


@dataclass(frozen=True)
class Share:
    """`hits` of `total`, with Wilson's 95 % interval (Wilson 1927, JASA 22:209)."""

    what: str
    hits: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the interval; (0, 1) where `total` is 0."""
        if self.total == 0:
            return 0.0, 1.0
        wilson = stats.binomtest(self.hits, self.total).proportion_ci(method="wilson")
        return float(wilson.low), float(wilson.high)


def read_labels(path: Path = LABELS) -> list[Label]:
    """Reads the labelled sentences."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Label(**{name: row.get(name) for name in Label.__dataclass_fields__}) for row in rows]


def precision(
    labels: Sequence[Label], lexicon: Lexicon | None = None, reflective: ReflectivePatterns | None = None
) -> list[Share]:
    """Counts how many of the labelled matches are right, in all and per pattern, and what the patterns leave out.

    Lists that were edited are measured on the labelled sentences that they still match.
    """
    lexicon, reflective = lexicon or load_lexicon(), reflective or load_reflective()
    sentences = [label for label in labels if label.kind == "reflective"]
    named = {id(label): reflective.names(label.text) for label in sentences}
    matched = [label for label in sentences if named[id(label)]]
    missed = [label for label in sentences if not named[id(label)]]
    words = [
        label for label in labels if label.kind == "pivotal" and (label.at, label.entry) in _places(label, lexicon)
    ]
    shares = [
        _share("pivotal matches that are right", words),
        _share("reflective matches that are right", matched),
        *(
            _share(f"  of them {name}", [label for label in matched if name in named[id(label)]])
            for name in reflective.patterns
        ),
        _share("sentences without a match that are reflective", missed),
    ]
    return [share for share in shares if share.total]


def _places(label: Label, lexicon: Lexicon) -> set[tuple[int | None, str | None]]:
    return {(match.start, match.entry) for match in lexicon.matches(label.text)}


def _share(what: str, labels: Sequence[Label]) -> Share:
    return Share(what, sum(label.label for label in labels), len(labels))


def main(paths: Sequence[str]) -> None:
    """Prints the table; lists of one's own come as two paths, lexicon and patterns."""
    lexicon = load_lexicon(Path(paths[0]) if paths else None)
    reflective = load_reflective(Path(paths[1]) if len(paths) > 1 else None)
    shares = precision(read_labels(), lexicon, reflective)
    rows = [[s.what, count(s.hits), count(s.total), interval(s.hits / s.total, *s.interval)] for s in shares]
    print_tables(filled("Labelled sentences", ["", "right", "of", "share [95 %]"], rows), Console())


if __name__ == "__main__":
    main(sys.argv[1:])
