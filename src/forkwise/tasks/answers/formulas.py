r"""Formulas in prose: between dollar signs or LaTeX's brackets, told from sums of money."""

from __future__ import annotations

import re
from collections.abc import Iterator

FORMULA = re.compile(
    r"\$\$(?P<a>.{1,4000}?)\$\$"
    r"|\\\[(?P<b>(?:(?!\\\[).){1,4000}?)\\\]"  # another opening within would cost time in the square of the length
    r"|\\\((?P<c>(?:(?!\\\().){1,4000}?)\\\)"
    r"|(?<![\\$])\$(?P<d>(?![\s])[^$\n]{1,2000}?(?<![\s\\]))\$(?![0-9])",
    re.DOTALL,
)
_EMPHASIS = re.compile(r"\*\*|__|`")
_PROSE_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_IN_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname|begin|end)\s?\{[^{}]*\}|\\[A-Za-z]+")
_NAMES_IN_FORMULAS = frozenset((
    "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "lim", "max", "min", "gcd", "lcm", "mod", "det", "and",
    "for", "all", "deg", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
))  # fmt: skip


def is_formula(content: str) -> bool:
    """Tells whether what stands between two dollar signs is a formula and not prose between two sums of money."""
    content = content.strip()
    if not content or content[-1] in "+=-*,(" or content[0] in "*,;)":
        return False
    words = [word.lower() for word in _PROSE_WORD.findall(_IN_TEXT.sub(" ", content))]
    return _NAMES_IN_FORMULAS.issuperset(words) or (len(words) == 1 and "=" in content)


def formulas(text: str) -> Iterator[tuple[int, int, str]]:
    """Finds `(start, end, content)` of every formula between dollar signs or LaTeX's brackets."""
    start = 0
    while (match := FORMULA.search(text, start)) is not None:
        content = match["a"] or match["b"] or match["c"] or match["d"]
        if match["d"] is None or is_formula(content):
            yield match.start(), match.end(), content.strip().rstrip(".,;")
            start = match.end()
        else:
            start = match.start() + 1


def without_markup(text: str) -> str:
    """Returns `text` without emphasis and the delimiters of its formulas; a dollar sign that is money stays."""
    pieces, start = [], 0
    for begin, end, content in formulas(text):
        pieces += [text[start:begin], content]
        start = end
    text = "".join((*pieces, text[start:]))
    return _EMPHASIS.sub("", text).strip(' \t\r\n*"“”')
