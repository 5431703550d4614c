r"""The shape of an answer, read from its text by one reader per shape in a fixed order."""

from __future__ import annotations

import re
from functools import lru_cache

from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.intervals import RELATION, all_but, as_interval, both_hold, inequality, is_variable, joined
from forkwise.tasks.answers.notation import matching_end, split_at_top, tidy
from forkwise.tasks.answers.number_words import words_of_number
from forkwise.tasks.answers.numerals import plain_numbers
from forkwise.tasks.answers.quantities import read_quantity
from forkwise.tasks.answers.shapes import (
    Choice,
    Collection,
    Colons,
    Equation,
    Matrix,
    PlainWords,
    Range,
    Relation,
    Shape,
    Union,
    Value,
)

_CHOICE = re.compile(
    r"(?:(?:option|choice|answer|letter)\s*:?\s*)?[\s{]*(?:\\text\s?\{)?\s*"
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?\s*:?\s*\"?)?"
    r"(?:[(\[]([A-J])[)\]]|([A-J])\)|([A-J])(?=\s*[.:](?:\s|\\|$|\}))|([A-J])(?=\s*\}?\s*$))"  # (B), B), B., B
    r"\s*[.:)]?\s*\}?\s*[.:]?\s*(.*)",  # the value beside it
    re.DOTALL | re.IGNORECASE,
)
_MATRIX = re.compile(r"\\begin\s?\{([pbvBV]?matrix|array|smallmatrix)\}\s?(?:\{[^{}]*\})?(.*)\\end\s?\{\1\}", re.DOTALL)
_COMMA = re.compile(
    r"\s*(?:"
    r"[,;]\s*(?:\\text\s?\{\s*(?:and|or)\s*\}|(?:and|or)\b)?"  # a comma, and perhaps "and" after it
    r"|\\text\s?\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\land|\\lor"
    r")\s*"
)
_INNER_COMMA = re.compile(r"\s*[,;]\s*")
_UNION = re.compile(
    r"\s*(?:\\cup|∪|\\bigcup|(?<![A-Za-z\\])U(?=\s*[(\[])|\\text\s?\{\s*or\s*\}"
    r"|,?\s*(?<![A-Za-z\\])or(?![A-Za-z])|\\lor)\s*"
)
_INTERSECTION = re.compile(r"\s*(?:,?\s*(?<![A-Za-z\\])and(?![A-Za-z])|\\land|\\cap|\\wedge)\s*")
_MEMBER = re.compile(
    r"\s*\(?\s*(?:[A-Za-z](?:_\{?\w+\}?)?(?:\([a-z]\))?|\\[a-z]+)(?:\s*,\s*[A-Za-z])*\s*\)?\s*(?:\\in(?![a-z])"
    r"|\\text\{ in \})\s*(.*)",
    re.DOTALL,
)
_BUILDER = re.compile(
    r"\\\{\s*\(?\s*([A-Za-z])\s*\)?(?:\s*\\in\s*\\mathbb\s?\{?R\}?)?\s*(?:\||:|\\text\{ such that \})\s*(.*)\\\}",
    re.DOTALL,
)
_REALS = re.compile(
    r"(?:\\text\{\s*)?(?:\\mathbb\s?\{?\s?R\s?\}?|\\text\{R\}|all real numbers|all reals"
    r"|\(\s*-\s*\\infty\s*,\s*\+?\s*\\infty\s*\))(?:\s*\})?",
    re.IGNORECASE,
)
_WITHOUT = re.compile(r"(.*?)\s*(?:\\setminus|\\backslash|-)\s*(\\\{.*\\\})", re.DOTALL)
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])")
_MINUS_PLUS = re.compile(r"\\mp(?![a-z])")
_NUMBER_OR_CHOICE = re.compile(r"[0-9:]|^\s*\([A-J]\)")
_HALF_LINE = re.compile(r"\\mathbb\s?\{?R\}?\s?[_^]\s?\{?\s?([+-])\s?\}?")
_HOUR = re.compile(r"([0-9]{1,2})\s*(?:\\text\s?\{)?\s*([apAP])\.?\s?[mM]\.?\s*\}?")
_NO_CHOICE = re.compile(r"\s*(?:,|and\b|or\b|[+*/^=<>_-])")
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?")
_COLONS = re.compile(
    r"(-?[0-9.]+(?:\s*:\s*[0-9.]+)+)\s*(?:\\text\s?\{)?\s*([ap])?\.?\s*(?:m\.?)?(?:\s*\})?", re.IGNORECASE
)
_SPOKEN_RATIO = re.compile(r"[0-9.]+(?: to [0-9.]+)+")
_YES_OR_NO = re.compile(
    r"(?:\\text\s?\{)?\s*(yes|no|true|false)\b(?:\s*[,.;:(-]|\s*\}\s*[,.;:(-]|\s+(?:because|since|it|they|the)\b)",
    re.IGNORECASE,
)
_POINT = re.compile(r"^(?:[A-Z]\s?=?\s?(?=\(\s?[^()]*,)|\\text\s?\{[^{}]* (?:is|are|at)\s*\}\s*(?=[(\[\\]))")
_LETTERS = re.compile(r"\s*[A-Z]+(?:\s*,\s*[A-Z]+)*(?:\s*,?\s*and\s+|\s*,\s*)[A-Z]+\s*")
_WORD_LIST = re.compile(r"\s*[A-Za-z]+(?: [A-Za-z]+)?(?:\s*(?:,\s*and\b|,|\band\b)\s*[A-Za-z]+(?: [A-Za-z]+)?)+\s*")
_NAMED_BY_LETTERS = re.compile(r"(?:\\(?:triangle|angle|square|measuredangle)\s?)?[A-Z]{2,8}")
_DOTS = re.compile(r"\\(?:l|c)?dots|\.\.\.")
_EXCEPT = re.compile(
    r"(?:\\text\s?\{)?\s*(?:all|every)\s+reals?(?:\s+numbers?)?\s*,?\s*(?:except|but"
    r"|other than)(?:\s+for)?\s*\}?\s*(?:[a-z]\s*=\s*)?(.*?)\}?"
)
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_TIME_WORDS = re.compile(r"\\text\s?\{([^{}]*[0-9]:[0-9][^{}]*)\}")
_WORDS = re.compile(r"(?:\\text\s?\{[^{}]*\}|[A-Za-z\s,.'\"()-])+")
_EQUALS = re.compile(r"\s*(?<![<>!:\\])(?:=|\\equiv|\\approx|\\Leftrightarrow|\\Rightarrow|\\implies)(?!=)\s*")
_CAPITALISED = re.compile(r"[A-Z][a-z]{1,2}|yes|no")


@lru_cache(50_000)
def read(text: str) -> Shape:
    """Returns the shape of an answer as somebody wrote it; what is not understood is a `Value`."""
    return _read(tidy(text), 0)


def read_part(text: str) -> Shape:
    """Returns the shape of a part of an answer, such as the value beside a letter of multiple choice."""
    return _read(tidy(text), 1)


def _read(text: str, depth: int) -> Shape:
    """Returns the shape of tidied text, by the first reader that knows it."""
    if depth > 6 or len(text) > 1500:
        return Value(text)
    if depth == 0:
        number = words_of_number(_TEXT.sub(r" \1 ", text))
        if number is not None:
            return Value(str(number))
        yes_or_no = _YES_OR_NO.match(text)
        if yes_or_no:
            return PlainWords(yes_or_no[1])
        text = _POINT.sub("", text)
    wrapped = _TEXT.fullmatch(text)
    if wrapped and (
        _LETTERS.fullmatch(wrapped[1]) or _WORD_LIST.fullmatch(wrapped[1]) or _NUMBER_OR_CHOICE.search(wrapped[1])
    ):
        text = wrapped[1].strip()
    for reader in (
        _choice,
        _matrix,
        _builder,
        _member,
        _union,
        _relation,
        _plus_minus,
        _colons,
        _list,
        _bracketed,
        _equation,
        _words,
    ):
        shape = reader(text, depth)
        if shape is not None:
            return shape
    return Value(text)


def _choice(text: str, depth: int) -> Shape | None:
    """Reads a letter of multiple choice, alone or with its value beside it; small letters only in brackets or alone."""
    match = _CHOICE.fullmatch(text)
    if match is None or depth:
        return None
    letter = next(group for group in match.groups()[:4] if group)
    value = match[5].strip()
    if _NO_CHOICE.match(value) or (match[1] is None and letter.islower() and not match[2]):
        return None
    if (match[1] and letter.islower() and value) or re.match(r"\(?[A-J]\)", value):
        return None
    return Choice(letter.upper(), value.strip(" ."))


def _matrix(text: str, depth: int) -> Shape | None:
    """Returns a matrix; a determinant is a value."""
    if "{vmatrix" in text:
        return Value(text)  # a determinant
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [row for row in _ROW_END.split(match[2]) if row.strip()]
    cells = tuple(
        tuple(
            _read(cell.strip(), depth + 1)
            for cell in (row.split("&") if "&" in match[2] else split_at_top(row, _INNER_COMMA))
        )
        for row in rows
    )
    return Matrix(cells)


def _builder(text: str, depth: int) -> Shape | None:
    match = _BUILDER.fullmatch(text)
    return _read(match[2].strip(), depth + 1) if match else None


def _member(text: str, depth: int) -> Shape | None:
    match = _MEMBER.fullmatch(text)
    return _read(match[1], depth + 1) if match and match[1] else None


def _union(text: str, depth: int) -> Shape | None:
    """Returns the real numbers, all but some of them, or a union of sets of them."""
    if _REALS.fullmatch(text):
        return Range("", "", (False, False))
    half = _HALF_LINE.fullmatch(text)
    if half:
        return Range("0", "", (False, False)) if half[1] == "+" else Range("", "0", (False, False))
    excepted = _EXCEPT.fullmatch(text)
    if excepted:
        return all_but([p for p in split_at_top(excepted[1].strip(), _COMMA) if p])
    without = _WITHOUT.fullmatch(text)
    if without and _REALS.fullmatch(without[1]):
        return all_but([p for p in split_at_top(without[2][2:-2], _INNER_COMMA) if p])
    if "cup" not in text and "U" not in text and not RELATION.search(text):
        return None
    parts = split_at_top(text, _UNION)
    if len(parts) < 2 or not all(parts):
        return None
    shapes = [_read(part, depth + 1) for part in parts]
    sets = [as_interval(shape) for shape in shapes]
    pieces = [p for shape in sets if shape for p in (shape.parts if isinstance(shape, Union) else (shape,))]
    if None not in sets and len({p.variable for p in pieces if isinstance(p, Range) and p.variable}) < 2:
        return Union(tuple(pieces))
    return Collection("or", tuple(shapes)) if all(isinstance(s, Range | Union | Relation) for s in shapes) else None


def _relation(text: str, depth: int) -> Shape | None:
    if not RELATION.search(text):
        return None
    parts = split_at_top(text, _INTERSECTION)
    if len(parts) > 1 and all(parts):
        return both_hold([_read(part, depth + 1) for part in parts])
    parts = [part for part in split_at_top(text, _COMMA) if part]
    if len(parts) > 1:
        return joined([_read(part, depth + 1) for part in parts])
    return inequality(text)


def _plus_minus(text: str, depth: int) -> Shape | None:
    r"""Returns the list of the values that `\pm` stands for; with `\mp`, opposite signs go together."""
    text = text.replace("+/-", r"\pm ")
    count, opposite = len(_PLUS_MINUS.findall(text)), len(_MINUS_PLUS.findall(text))
    if not 1 <= count + opposite <= 4 or len(text) > 200 or split_at_top(text, _COMMA)[1:]:
        return None
    if count > 1 and not opposite:
        signs = [_plus_minus(_PLUS_MINUS.sub(sign, text, count=1), depth + 1) for sign in "+-"]
        return Collection("list", tuple(item for c in signs if isinstance(c, Collection) for item in c.items))
    plus, minus = (
        _read(_PLUS_MINUS.sub(sign, _MINUS_PLUS.sub(other, text)).strip(), depth + 1) for sign, other in ("+-", "-+")
    )
    if isinstance(plus, Collection) and isinstance(minus, Collection) and plus.kind in ("set", "list"):
        return Collection(plus.kind, plus.items + minus.items)
    return Collection("list", (plus, minus))


def _colons(text: str, depth: int) -> Shape | None:
    text = _TIME_WORDS.sub(r"\1", text)
    hour = _HOUR.fullmatch(text)
    if hour:
        return Colons((hour[1], "00"), hour[2].lower())
    plain = " ".join(_TEXT.sub(r" \1 ", text).split()) if "to" in text else text
    words = [words_of_number(part) for part in plain.split(" to ")] if " to " in plain else []
    if len(words) > 1 and None not in words:
        plain = " to ".join(map(str, words))
    if _SPOKEN_RATIO.fullmatch(plain):
        return Colons(tuple(plain.split(" to ")), spoken=True)
    match = _COLONS.fullmatch(text)
    if match is None:
        return None
    return Colons(tuple(part.strip() for part in match[1].split(":")), (match[2] or "").lower())


def _list(text: str, depth: int) -> Shape | None:
    """Reads values side by side, without brackets around them; a list in the list is part of it."""
    text = plain_numbers(text)
    parts = [part for part in split_at_top(text, _COMMA) if part]
    if len(parts) < 2 or _is_prose(parts):
        return None
    shapes = [_read(part, depth + 1) for part in parts]
    if (
        isinstance(shapes[0], Equation)
        and not any(isinstance(shape, Equation) for shape in shapes[1:])
        and _NAME.fullmatch(shapes[0].left)
    ):
        shapes[0] = shapes[0].right  # n = 2, 3, 4
    shapes = [
        s
        for shape in shapes
        for s in (shape.items if isinstance(shape, Collection) and shape.kind == "list" else (shape,))
    ]
    return Collection("list", tuple(shapes))


def _is_prose(parts: list[str]) -> bool:
    """Tells whether a comma or "and" belongs to a sentence, not to values: a piece has neither number nor formula."""
    if all(_WORDS.fullmatch(part) and len(part.split()) <= 3 for part in parts):
        return False  # red, green and blue
    for part in parts:
        if re.match(r"[A-Za-z]{3,}\s|(?:she|he|it|we|is)\s", part) and not re.match(r"(?:sin|cos|tan|log|exp)\b", part):
            return True
        if re.match(r"[-+¤(\\.]*\s?[0-9]", part) and len(re.sub(r"\\[A-Za-z]+", "", part).split()) <= 5:
            continue
        if _DOTS.fullmatch(part):
            continue
        if (
            read_expression(part) is None
            and not re.match(r"\\begin|\\\{|[(\[]", part)
            and "=" not in part
            and r"\pm" not in part
            and not re.match(r"\\text\{[^{}]*\}$", part)
        ):
            return True
    first = read_quantity(parts[0])
    if first is not None and first.unit is not None and first.unit.dimensions and len(parts) == 2:
        second = read_quantity(parts[1])
        if (
            second is not None
            and second.unit is not None
            and second.unit.dimensions == first.unit.dimensions
            and second.unit.factor < first.unit.factor
        ):
            return True  # 2 hours and 30 minutes
    return False


def _bracketed(text: str, depth: int) -> Shape | None:
    """Returns a set, a tuple, or a pair that may be an interval; of brackets around one value, the value."""
    if text.startswith(r"\langle") and text.endswith(r"\rangle"):
        items = split_at_top(text[7:-7].strip(), _INNER_COMMA)
        return Collection("tuple", tuple(_read(item, depth + 1) for item in items), "()")
    if text.startswith(r"\{") and text.endswith(r"\}"):
        inside = text[2:-2].strip()
        if not inside:
            return PlainWords("emptyset")
        plus_minus = _plus_minus(inside, depth)
        if isinstance(plus_minus, Collection):
            return Collection("set", plus_minus.items)
        items = [item for item in split_at_top(inside, _INNER_COMMA) if item]
        shapes: list[Shape] = []
        for item in items:
            shape = _read(item, depth + 1)
            shapes += shape.items if isinstance(shape, Collection) and shape.kind == "list" else (shape,)
        return Collection("set", tuple(shapes))
    if text[:1] == "{" and "," in text and matching_end(text) == len(text) - 1:
        return _bracketed(rf"\{text[:-1]}\}}", depth)
    if len(text) > 2 and text[0] in "[](" and text[-1] in "[])" and (text[0] == "]" or text[-1] == "["):
        text = text[0].replace("]", "(") + text[1:-1] + text[-1].replace("[", ")")  # the French open interval
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and matching_end(text) == len(text) - 1:
        items = split_at_top(text[1:-1].strip(), _INNER_COMMA)
        if len(items) > 1 and all(items):
            kind = "tuple" if text[0] == "(" and text[-1] == ")" else "interval"
            return Collection(kind, tuple(_read(item, depth + 1) for item in items), text[0] + text[-1])
        if len(items) == 1 and text[0] + text[-1] == "()":
            return _read(items[0], depth + 1)
    return None


def _equation(text: str, depth: int) -> Shape | None:
    """Returns an equation, or an arrow to a value."""
    if "=" not in text and r"\approx" not in text and r"\equiv" not in text and "rrow" not in text:
        return None
    parts = split_at_top(text, _EQUALS)
    if len(parts) < 2 or not parts[-1]:
        return None
    right = _read(parts[-1], depth + 1)
    left = parts[0] if len(parts) == 2 or is_variable(parts[0]) else parts[-2]
    return Equation(left, right, bool(re.search(r"\\approx[^=]*$", text))) if left else right


def _words(text: str, depth: int) -> Shape | None:
    """Reads words, told from products of letters."""
    if _DOTS.fullmatch(text):
        return PlainWords("dots")
    if _NAMED_BY_LETTERS.fullmatch(text):
        return PlainWords(text.replace("\\", " "))  # ABC is not BCA
    if text in (r"\emptyset", r"\{\}", "{}"):
        return PlainWords("emptyset")
    if not _WORDS.fullmatch(text):
        return None
    plain = _TEXT.sub(r" \1 ", text)
    words = plain.split()
    pieces = re.split(r"[\s-]+", plain)
    if not words or (len(max(words, key=len)) < 2 and len(words) == 1):
        return None
    if (
        r"\text" not in text
        and " " not in text
        and re.search(r"[-()]|'(?![a-z])|^[a-z]'", text)
        and min(map(len, pieces)) < 6
    ):
        return None  # a product of letters
    if (
        r"\text" not in text
        and all(len(word) < 4 for word in pieces)
        and not _CAPITALISED.fullmatch(text)
        and read_expression(text) is not None
    ):
        return None
    return PlainWords(" ".join(words))
