r"""Answers that are announced: in tags, after `####`, by "the answer is" or under a heading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from forkwise.tasks.answers.boxes import REFUTED, boxed, clean, full_boxes, is_echo, unboxed
from forkwise.tasks.answers.conclusions import chosen, concluded, last_formula
from forkwise.tasks.answers.formulas import formulas, without_markup
from forkwise.tasks.answers.limits import LONGEST_ANSWER

_ANSWER_TAG = re.compile(
    r"<\s{0,3}/?\s{0,3}(?:final_|final)?(?:answer|ans|solution|result)\s{0,3}>|<\|/?answer\|>|\[/?answer\]"
    r"|(?<![</\w])answer>",
    re.IGNORECASE,
)


def tagged(text: str) -> str | None:
    """Returns what the last pair of answer tags holds; inside it a box or a statement counts before the whole."""
    opened: int | None = None
    content = ""
    for tag in _ANSWER_TAG.finditer(text):
        if "/" not in tag[0]:
            opened = tag.end()
        elif opened is not None:
            if not is_echo(text[opened : tag.start()]):
                content = text[opened : tag.start()]
            opened = None
    if opened is not None and not is_echo(text[opened:]) and "\n\n" not in text[opened:].strip():
        content = text[opened:]  # the closing tag was a stop sequence
    if not content:
        return None
    inner = boxed(content) or hashed(content) or stated(content)
    if inner is None and len(content) > 200:
        inner = chosen(content) or last_formula(content)
    return clean(inner or without_markup(content.strip()[: 4 * LONGEST_ANSWER]))


_HASH = re.compile(
    r"^[ \t]{0,4}####[ \t]{0,8}(?=[-+−$£€¥₹\\.(*_]{0,6}[0-9]|[$\\*]|[A-Ja-z(]|[A-Z]{2,3}\$?\s?[0-9])", re.MULTILINE
)
_STATES = re.compile(
    r"(?<![a-z])(?<![a-z]_)(?:"
    # "the answer (in cm) to this problem is", "answer choice is"
    r"answers?(?:[\s*_]{0,4}\((?:[^()\n]{0,40})\))?"
    r"(?:\s{1,3}(?:to|of|for)\s{1,3}(?:the|this|your|our)\s{1,3}(?:\w{1,20}\s{1,3}){0,3}?"
    r"(?:problem|question|exercise|puzzle|equation))?"
    r"(?:\s{1,3}(?:choice|option))?"
    r"[\s*_\"”]{0,8}(?:is|are|would\s{1,3}be|should\s{1,3}be|must\s{1,3}be|will\s{1,3}be|becomes|:|：|=|->|→|⇒)"
    # "the correct option is", "answer - ", "ans."
    r"|(?:final|correct)\s{1,3}(?:result|value|choice|option|solution|statement)s?[\s*_]{0,8}(?:is|are|:|=)"
    r"|answer\s{1,3}[-—–]{1,2}(?=\s)|ans\s?[.:]"
    # other languages
    r"|答案(?:是|为)|(?:答案|答え|故选|选择|정답|답)\s?[:：]|(?:正解|答え)は|故选|정답은"
    r"|(?:respuesta|resposta|risposta|réponse|antwort|ответ)(?:\s{1,3}fin\w{1,6})?[\s*_]{0,4}(?:(?:es|é|è|est|ist|lautet)(?=\s)|[:：—-])"
    # "Result:" at the beginning of a line
    r"|(?:(?<=\n)|\A)\W{0,4}(?:result|total|final)\W{0,3}[:=]"
    r")(?:(?<![a-z])|(?![a-z]))[\s*_:：]{0,8}",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[#*_ \t]{0,8}(?:the\s{1,3})?(?:final[ \t]{1,3})?answer[*_: \t]{0,8}$\s{0,8}|(?<=\n)A:[ \t]{1,4}",
    re.IGNORECASE | re.MULTILINE,
)
_ANNOUNCES = re.compile(f"{_HEADING.pattern}|{_STATES.pattern}", re.IGNORECASE | re.MULTILINE)
_LINE_STATES = re.compile(
    r"^[#*_> \t]{0,8}(?:the[ \t]{1,3})?(?:(?:final|correct)[ \t]{1,3})?answer[ \t*_]{0,8}(?:is\b|:|：|=)[\s*_:：]{0,8}",
    re.IGNORECASE | re.MULTILINE,
)
_CORRECTS = re.compile(r"\b(?:wait|actually|mistake|wrong|incorrect|correction|oops)\b", re.IGNORECASE)
_CORRECTION = re.compile(
    r"(?:[.!?;\n(\u2014\u2013]|(?<=[}$>]))\W{0,6}(?:(?:oh|hmm+|but|no|um|ah|ok|okay|well)\b\W{0,3}){0,2}(?:(?:wait|actually|sorry|apologies|hold\s+on"
    r"|on\s+second\s+thoughts?|no(?=\s?[,.:;]))\b"
    r"|(?P<withdraws>(?:correction|oops|(?:edit|update|errat(?:um|a))(?=\s?:)|scratch\s+that|i\s+(?:misread|miscounted|miscalculated)|i\s+take\s+(?:that|it)\s+back|that(?:'s|\s+is|\s+was)\s+(?:wrong|incorrect|not\s+right))\b))"
    r"(?:\W{0,3}no(?=\s?,))?(?P<refutes>\W{0,3}(?:that|this|it)(?:'s|\s+is|\s+was)\s+(?:wrong|incorrect|not\s+right)(?!-))?"
    r"(?:\W{0,3}i\s+(?:meant?|made\s+an?\s+(?:\w+\s+)?(?:mistake|error))\b)?",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    r"(?<!not )\b(?:yes|correct|right|confirm(?:s|ed)?|indeed|holds|checks? out|verified|consistent|match(?:es)?|works"
    r"|stands)\b[^.!?\n]{0,60}[.!]?\s*\Z|[✓✔✅]\W*\Z",
    re.IGNORECASE,
)
_BARE = r"[-*•]?[ \t]{0,4}\$?(?:-?[0-9][0-9.,/]{0,40}|\(?[A-J]\)?)\$?\.?[ \t]{0,4}"
_BARE_LINES = re.compile(rf"{_BARE}(?:\n{_BARE}){{1,20}}(?=\n|\Z)")
_DOUBTED = re.compile(
    r"(?:\b(?:if|whether|unless|suppose|assume|assuming|that an?|claims?|wrong|incorrect|false|(?<!\bI )think|thinks"
    r"|thought|say|said|guess|(?<!no )doubt|not\s(?:true|certain|the\scase|be\sthe\scase)"
    r"|cannot\sbe(?:\sthe\scase)?)\s+(?:\w+\s+){0,2}"
    r"|\b(?:previous|earlier|initial|naive|(?:student|user|friend)['’]s)\s+)\Z",
    re.IGNORECASE,
)
_NO_VALUE = re.compile(
    r"(?:not\b(?!\s+(?:possible|defined|unique|enough|real))|in\s+the\s+(?:form|format)|correct\b|incorrect\b"
    r"|wrong\b|right\b|that\b|as\s+follows|given\s+(?:by|below|above)"
    r"|unknown\b|unclear\b|below\b|above\b|obtained\b|therefore\b|clear\b|found\b|your\b|indeed\s+correct"
    r"|supposed\b|expected\b|(?:about\s+)?to\s+be\b|<)",
    re.IGNORECASE,
)
_WITHDRAWN = re.compile(r"\b(?:was|is) (?:wrong|incorrect|not right|a mistake)\b", re.IGNORECASE)
_CHEERFUL = re.compile(r"[^$\\]*[0-9]!")
_NOT_BUT = re.compile(r"not\s[^,.;\n]{1,30},?\sbut\s(?:rather\s|instead\s)?", re.IGNORECASE)
_AND_NOT = re.compile(  # what follows a value is no part of it
    r",?\s+\(?(?:and\s+)?(?:(?<!\bis )(?<!\bdoes )not|rather\s+than|instead\s+of|since|because|(?:up|down)\s+from)\s"
    # "4 (the other candidate, 16, does not fit)"
    r"|\s+\(the\s+other\s(?=[^()\n]{1,80}\b(?:not|extraneous|rejected|discarded|invalid)\b)"
)
_LEADING = re.compile(r"(?:[\s*_:：\"“”'…>]|```(?:[a-z]{0,12}(?=\n))?|`)*")
_NUMBERED = re.compile(r"1[.)][ \t]+\S[^\n]{0,200}(?:\n{1,2}[2-9][.)][ \t]+\S[^\n]{0,200}){0,8}")
_NUMBER_OF_LINE = re.compile(r"(?:\A|\n+)[1-9][.)][ \t]+")
_OR_RATHER = re.compile(
    r"[\s,(—–-]{1,8}(?:or\s+rather|i\s+mean|no,?\s+wait|no(?=,)|sorry|make\s+that)\b[\s,:]{0,4}", re.IGNORECASE
)
_GOES_ON = re.compile(r"\.[0-9]{1,100}\.\.\.$")
_SENTENCE_END = re.compile(
    r"\?(?=\s|\Z)|(?<![0-9)\]}])!(?=\s|\Z)|(?<!\.\.)(?<!\bRs)(?<!\bi\.e)(?<!\bapprox)[.。](?=\s|\Z|\*|\"|<)|[.](?=[A-Z][a-z])|\n"
)


def _value(text: str) -> str:
    """Returns the value with which `text` begins: its first sentence, or its first formula where that stands alone."""
    text = text[: 2 * LONGEST_ANSWER]
    text = text[_LEADING.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing at all, too
    text = _NOT_BUT.sub("", text[3:].lstrip() if text.startswith("... ") else text, count=1)
    first = next(formulas(text), None)
    if first is not None and first[0] == 0 and text.startswith(("$$", r"\[")):
        return first[2]
    lines = _BARE_LINES.match(text)
    if lines:
        return ", ".join(dict.fromkeys(line.strip(" \t*•$.") for line in lines[0].split("\n")))
    masked = list(text)
    for begin, end, _ in formulas(text):
        masked[begin:end] = "0" * (end - begin)
    end_of_sentence = _SENTENCE_END.search("".join(masked))
    sentence = text[: end_of_sentence.start() if end_of_sentence else None]
    if REFUTED.match(text, len(sentence)):
        return ""
    full = full_boxes(sentence)
    if full:
        return unboxed(full[-1][2])
    if _CHEERFUL.fullmatch(sentence.strip(" *")):
        sentence = sentence.replace("!", "")  # a cheerful writer, no factorial
    *revised, sentence = _OR_RATHER.split(without_markup(sentence))
    if revised and ")" in sentence and "(" not in sentence:
        sentence = sentence.replace(")", "")  # "10 (sorry, 12)"
    sentence = _AND_NOT.split(sentence.strip(" \t*_`,;:"), maxsplit=1)[0]
    if "\\boxed" in sentence:
        return ""  # the box holds nothing
    return sentence if _GOES_ON.search(sentence) else sentence.rstrip(".")


def hashed(text: str) -> str | None:
    """Returns what follows the last `####`."""
    return _last_value(text, list(_HASH.finditer(text)))


def stated(text: str) -> str | None:
    """Returns what follows the last "the answer is", or the last heading "Answer" if that comes later."""
    return _last_value(text, _announcements(text), unless=_DOUBTED)


@lru_cache(maxsize=4)  # several rules ask for those of one text
def _announcements(text: str) -> Sequence[re.Match[str]]:
    return tuple(_ANNOUNCES.finditer(text))


def corrected(text: str) -> str | None:
    """Returns what corrects the last announced answer ("Wait, it is 6."), "" where it is only withdrawn.

    A correction begins a sentence. One that ends in "that is correct" corrects nothing.
    """
    ends = [box[1] for box in full_boxes(text)]
    ends += [match.end() for pattern in (_HASH, _ANSWER_TAG) for match in pattern.finditer(text)]
    ends += [match.end() for match in _announcements(text)]
    if not ends:
        return None
    marks = list(_CORRECTION.finditer(text, max(ends)))[-20:]
    if not marks or _CONFIRMED.search(text[-200:]):
        return None
    correction = text[marks[-1].end() :].lstrip(" \t\n,.:;!*—")
    value = concluded(correction) or last_formula(correction) or chosen(correction)
    return "" if value is None and any(mark["withdraws"] or mark["refutes"] for mark in marks) else value


def stated_below_box(text: str) -> str | None:
    """Finds an "Answer: ..." on its own line below the last box (then a step), or a statement that corrects the box."""
    ends = [box[1] for box in full_boxes(text)] + [match.end() for match in _HASH.finditer(text)]
    if not ends:
        return None
    below = text[max(ends) :]
    if _CORRECTS.search(below):
        return stated(below)
    matches = list(_LINE_STATES.finditer(below))
    if not matches:
        return None
    value = _value(below[matches[-1].end() :])
    if not value or _NO_VALUE.match(value) or len(value) > 60 or is_echo(value) or "\\boxed" in value:
        return None
    return clean(value)


def _last_value(text: str, matches: Sequence[re.Match[str]], unless: re.Pattern[str] | None = None) -> str | None:
    """Returns the value that follows the last of the matches with one, unless the words before it match `unless`."""
    for match in reversed(matches[-200:]):
        if unless is not None and unless.search(text, max(0, match.start() - 40), match.start()):
            continue
        after = text[match.end() : match.end() + 2 * LONGEST_ANSWER]
        numbered = _NUMBERED.match(after) if "\n" in match[0] else None
        if numbered:
            value = ", ".join(_value(line) for line in _NUMBER_OF_LINE.split(numbered[0])[1:])
        else:
            value = _value(after)
        if value and not is_echo(value) and not _NO_VALUE.match(value) and not _WITHDRAWN.search(value):
            return clean(value)
    return None
