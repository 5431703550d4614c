"""Splitting the text of a trace into sentences, sound for mathematics.

A sentence ends at a line break, or at `.`, `!` or `?` before white space and something that can begin a sentence.
Nothing ends inside `$...$`, `$$...$$`, `\\(...\\)`, `\\[...\\]` or a fenced code block; a decimal point, a factorial,
an abbreviation and the number of a list item end nothing. `<think>` and `</think>` are borders, not text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Span(NamedTuple):
    """A piece of a text: its characters `[start, end)`."""

    start: int
    end: int


_PROTECTED = re.compile(
    r"```.*?(?:```|\Z)"
    r"|\\begin\{(?P<environment>\w+\*?)\}.*?\\end\{(?P=environment)\}"
    r"|\$\$.+?\$\$"
    r"|\\\[.+?\\\]"
    r"|\\\(.+?\\\)"
    # As in Pandoc: no blank inside the dollars, no digit behind them, so "$5 now and $10 later" is money.
    r"|(?<![\\$])\$(?![\s$])[^$\n]*?(?<![\s\\])\$(?![\d$])",
    re.DOTALL,
)
_TAG = re.compile(r"</?(?:think|thinking|answer|reasoning)>", re.IGNORECASE)
_LINE = re.compile(r"[ \t]*\r?\n\s*")
_END = re.compile(r"(?P<mark>[.!?]+|…)(?P<close>[\"'”’)\]*_]*)(?P<gap>\s+)(?P<next>\S)")
_WIDE_END = re.compile(r"[。！？]+[”’」』）]*\s*(?=\S)")  # no blank follows these
_WHOLE = re.compile(r"(?:[.!?…。！？][\"'”’)\]*_」』）]*|\$\$|\\\]|\n)\s*\Z|</\w+>\s*\Z")
_ABBREVIATION = re.compile(
    r"(?<!\w)(?:e\.?g|i\.?e|etc|vs|cf|approx|resp|w\.r\.t|w\.l\.o\.g|s\.t|viz|ca|dr|mr|mrs|ms|prof|st|jr|a\.m|p\.m)$",
    re.IGNORECASE,
)
_MAY_END = re.compile(r"(?<!\w)(?:etc|a\.m|p\.m)$", re.IGNORECASE)  # abbreviations that a sentence often ends with
_NUMBERED = re.compile(r"(?<!\w)(?:eq|eqs|eqn|fig|figs|no|nos|sec|ch|thm|prop|def|p|pp)$", re.IGNORECASE)
_ITEM = re.compile(r"(?:^|\n)[ \t>*_#-]*(?:\(?\d{1,3}|\(?[a-zA-Z]|[ivxIVX]{1,4})$")
_OPENS = frozenset("\"'“‘([$\\*_#-<")


def split_sentences(text: str, breaks: Sequence[str] = ()) -> list[Span]:
    """Splits `text` into its sentences, in order, without the white space around them. One without a letter or digit is
    left out.

    Args:
        breaks: words that begin a sentence whatever stands before them, for texts without punctuation.
    """
    borders: set[int] = set()
    protected = [match.span() for match in _PROTECTED.finditer(text)]
    starts = [start for start, _ in protected]

    def inside(position: int) -> bool:
        at = bisect_right(starts, position) - 1
        return at >= 0 and protected[at][0] < position < protected[at][1]

    for match in _LINE.finditer(text):
        if not inside(match.start()) and not inside(match.end()):
            borders.add(match.end())
    for match in _END.finditer(text):
        if not inside(match.start()) and _ends(text, match):
            borders.add(match.start("next"))
    borders |= {match.end() for match in _WIDE_END.finditer(text) if not inside(match.start())}
    tags = [match.span() for match in _TAG.finditer(text)]
    for start, end in tags:
        borders |= {start, end}
    if breaks:
        words = "|".join(re.escape(word) for word in sorted(breaks, key=len, reverse=True))
        borders |= {match.start() for match in re.finditer(rf"(?<!\w)(?:{words})(?!\w)", text, re.IGNORECASE)}
    cuts = sorted({0, *borders, len(text)})
    return [span for pair in pairwise(cuts) if (span := _trim(text, *pair, tags))]


def ends_whole(text: str) -> bool:
    """Whether a text ends where a sentence can: behind a full stop or the like, a formula, a line or a tag."""
    return _WHOLE.search(text) is not None


def _trim(text: str, start: int, end: int, tags: Sequence[tuple[int, int]]) -> Span | None:
    piece = text[start:end]
    if (start, end) in tags or not any(c.isalnum() for c in piece):
        return None
    return Span(start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip()))


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether the punctuation of `match` ends a sentence."""
    mark, after = match["mark"], match["next"]
    before = text[max(0, match.start() - 24) : match.start()]
    starts = after.isupper() or after in _OPENS or after.isdigit() or (after.isalpha() and not after.islower())
    if mark in ("...", "…") or (len(set(mark)) == 1 and len(mark) > 1 and mark[0] == "."):
        return starts and not after.isdigit()
    if "?" in mark:
        return starts or after.isalpha()
    if "!" in mark:
        if before[-1:].isdigit() or before[-1:] in ")}" or re.search(r"(?<![a-zA-Z])[a-zA-Z]$", before):
            return after.isupper() and len(mark) == 1  # a factorial, unless a sentence begins behind it
        return starts or after.isalpha()
    if not starts:
        return False
    if match["close"] == "" and _ITEM.search(before) and _at_line_start(text, match.start(), before):
        return False
    if _NUMBERED.search(before) and match["close"] == "" and (after.isdigit() or after in "($\\"):
        return False
    if after.isupper() and _MAY_END.search(before):
        return True
    return match["close"] != "" or _ABBREVIATION.search(before) is None


def _at_line_start(text: str, position: int, before: str) -> bool:
    """Whether only the number of a list item stands between the line's start and `position`."""
    line = text.rfind("\n", 0, position) + 1
    return re.fullmatch(r"[\s>*_#-]*\(?\w{1,4}", text[line:position]) is not None


def words_of(breaks: str) -> list[str]:
    """Returns the words of `--breaks`, which commas separate."""
    return [word.strip() for word in breaks.split(",") if word.strip()]
