r"""Answers in boxes: `\boxed{...}` and its relatives, several of them in one list, and echoes of the instruction."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from forkwise.tasks.answers.limits import LONGEST_ANSWER, LONGEST_TEXT

_BOX = r"(?:\\|\x08|(?<![A-Za-z]))(?:b?oxed|fbox|framebox)"
_BRACE = re.compile(_BOX + r"\s{0,8}\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(
    r"\\(?:boxed|fbox)\s{0,8}(-?[0-9][0-9.,]{0,30}[0-9]|-?[0-9]|\\d?frac\s?\{[^{}]{1,40}\}\{[^{}]{1,40}\}|[A-Za-z]\b)"
)
_ECHO = re.compile(
    r"(?:[\s.…?_*$,:;<>\[\]{}()\\]|\\(?:ldots|dots|cdots|text|quad)|\\phantom\{[^{}]*\}"
    r"|\b(?:your|the|final|answer|answers|here|insert|result|number|solution|goes|put|as|latex|is|correct"
    r"|expression|choice|option|letter|numerical|value|only)\b)*",
    re.IGNORECASE,
)
_NAME_BEFORE = re.compile(r"([A-Za-z](?:_\{?[0-9a-z]\}?)?\s{0,3}=)\W{0,20}\Z")
_LIST = r"[\s$,;.&\\()\[\]]|\b(?:and|or)\b|\\(?:text|quad|qquad|mathrm|,|;)|\{|\}|[A-Za-z](?:_\{?[0-9a-z]\}?)?\s{0,3}="
_BETWEEN = re.compile(rf"(?:{_LIST}){{0,60}}")
_NEXT_PART = re.compile(r"[\W_]{0,12}(?:part\s?)?\(?[b-h]\)[\W_]{0,12}", re.IGNORECASE)
_REJECTED = re.compile(
    r"\b(?:not|instead of|rather than|mistake (?:is|would be)|wrong answer(?: is)?|would write"
    r"|(?:wrong|incorrect|mistake) to \w+)\s*[$*]{0,3}\Z",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(  # "put your final answer in a box, e.g. \\boxed{5}"
    r"\b(?:put|write|give|box|enclose|present|place|return|express|provide|format|state)\b[^.\n]{0,80}\banswers?\b"
    r"[^.\n]{0,60}(?:\be\.\s?g\.|\bfor (?:example|instance)\b|\bsuch as\b|\blike\b|\bas in\b)[\s$:,;(\"'`]{0,6}\Z",
    re.IGNORECASE,
)
REFUTED = re.compile(  # "5? No.", "5 is wrong."
    r"[\s$).*]{0,6}(?:\?\W{0,6}(?:no|nope|not|wrong)\b"
    r"|(?:,?\s{0,3}which\s)?\s{0,3}(?:is|was)\s+(?:wrong|incorrect|false|not\s+(?:the\s+(?:answer|solution)|correct|right))\b)",
    re.IGNORECASE,
)
_ASKED = re.compile(r"[\s$).*]{0,6}\?")
_AND = re.compile(r"\b(?:and|or)\b")
_REVISION = re.compile(
    r"\b(?:so|then|thus|hence|therefore|total|gives?|giving|makes?|but|not|no|wait|actually|instead|rather|which"
    r"|if|because|since|get|check|i\.e|or\s+simply)\b|=",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"\.\s|\n\s*\n")


def is_echo(content: str) -> bool:
    """Tells whether a box or tag holds nothing, or repeats the instruction ("your answer", "...")."""
    return len(content) < 120 and content.strip() not in (r"\{\}", "{}") and _ECHO.fullmatch(content) is not None


def boxes(text: str) -> Iterator[tuple[int, int, str]]:
    r"""Finds `(start, end, content)` of every closed outermost `\boxed{...}` and `\fbox{...}`, and of `\boxed 25`.

    An escaped brace (`\{`) is no brace.
    """
    open_braces: list[tuple[int, int] | None] = []  # where a box and its content start, None for any other brace
    level = 0  # boxes that are open
    closed: list[tuple[int, int, str]] = []
    for token in _BRACE.finditer(text):
        if token[0] == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None:
                level -= 1
                while closed and closed[-1][0] > opened[0]:
                    closed.pop()
                closed.append((opened[0], token.end(), text[opened[1] : token.start()].strip()))
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0].endswith("{") and len(token[0]) > 2:
            open_braces.append((token.start(), token.end()))
            level += 1
    bare = [(match.start(), match.end(), match[1]) for match in _BARE_BOX.finditer(text)]
    yield from sorted(closed + bare) if bare else closed


@lru_cache(maxsize=4)  # several rules ask for the boxes of one text
def full_boxes(text: str) -> Sequence[tuple[int, int, str]]:
    """Returns the boxes that hold an answer: no echo, and none that the words beside it reject or ask about."""
    if "oxed" not in text and "fbox" not in text and "framebox" not in text:
        return ()
    full = [
        b
        for b in boxes(text)
        if not is_echo(unboxed(b[2]))
        and not _REJECTED.search(text, max(0, b[0] - 40), b[0])
        and not _EXAMPLE.search(text, max(0, b[0] - 240), b[0])
        and not REFUTED.match(text, b[1])
    ]
    return [b for b in full if not _ASKED.match(text, b[1])] or full


def unboxed(content: str) -> str:
    """Returns `content` without boxes around parts of it."""
    for _ in range(4):
        inner = next(boxes(content), None) if "oxed" in content or "fbox" in content else None
        if inner is None:
            break
        content = content[: inner[0]] + inner[2] + content[inner[1] :]
    return content.strip()


def extract_boxed(text: str) -> str | None:
    r"""Returns what the last closed `\boxed{...}` that is no echo holds, stripped and its braces balanced, or None."""
    full = full_boxes(text[-LONGEST_TEXT:])
    return unboxed(full[-1][2]) if full else None


def clean(answer: str) -> str | None:
    """Returns `answer` as it is stored: stripped and cut; None where nothing is left."""
    # A lone surrogate cannot be stored as UTF-8.
    return answer.strip()[: 2 * LONGEST_ANSWER].encode("utf-8", "replace").decode() or None


def boxed(text: str) -> str | None:
    """Returns what the last full box holds, or the list that the last boxes make."""
    full = full_boxes(text)
    if not full:
        return None
    return clean(listed([(s, e, unboxed(c)) for s, e, c in full[-40:]], text))


def listed(places: list[tuple[int, int, str]], text: str) -> str:
    """Returns the last of these contents or, where only commas and "and" stand between them, the list that it ends."""
    contents = [places[-1][2]]
    for (_, end, content), (start, _, _) in zip(reversed(places[:-1]), reversed(places[1:]), strict=True):
        between = text[end:start]
        named = _NAME_BEFORE.search(between)
        is_list = _NEXT_PART.fullmatch(between) or (
            between.strip()
            and len(between) < 100
            and not _SENTENCE.search(between)
            and (_BETWEEN.fullmatch(between) or (_AND.search(between) and not _REVISION.search(between)))
        )
        if not is_list:
            break
        if named:
            contents[0] = named[1] + contents[0]
        contents.insert(0, content)
    if len(contents) > 1 and "=" in contents[1]:
        start = places[-len(contents)][0]
        name = _NAME_BEFORE.search(text, max(0, start - 40), start)
        if name and "=" not in contents[0]:
            contents[0] = name[1] + contents[0]
    return ", ".join(dict.fromkeys(contents))
