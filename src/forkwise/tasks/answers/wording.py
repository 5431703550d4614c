r"""Whether letters of multiple choice, words, ratios and times of day say the same."""

from __future__ import annotations

import re
from fractions import Fraction

from forkwise.tasks.answers.equality import rational_value
from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.quantities import read_quantity
from forkwise.tasks.answers.reading import read_part
from forkwise.tasks.answers.shapes import Choice, Collection, Colons, Equation, Same, Shape, Value, Words
from forkwise.tasks.answers.single import same_quantity, same_value

_EMPTY = frozenset(
    (
        "emptyset",
        "empty set",
        "the empty set",
        "no solution",
        "no solutions",
        "no real solution",
        "no real solutions",
        "none",
        "null set",
        "no such value exists",
    )
)
_OPENING_WORDS = frozenset(
    [
        "the",
        "a",
        "an",
        "it",
        "is",
        "its",
        "on",
        "in",
        "at",
        "by",
        "to",
        "they",
        "are",
        "he",
        "she",
        "was",
        "this",
        "that",
        "there",
    ]
)
_YES_NO = {"yes", "no", "true", "false"}


def same_choice(same: Same, gold: Shape, answer: Shape) -> bool | None:
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        if gold.letter != answer.letter:
            return False
        if gold.value and answer.value:
            return same(read_part(gold.value), read_part(answer.value)) is not False
        return True
    if isinstance(gold, Choice):
        if isinstance(answer, Equation):
            return same(gold, answer.right)
        text = answer.text if isinstance(answer, Value | Words) else ""
        if re.fullmatch(r"[a-j]", text.strip()):
            return text.strip().upper() == gold.letter
        words = re.match(
            r"\s*(?:option|choice)?\s*(?:\(([A-J])\)|([A-J])\)?)\s*(?:$|[.:]|(?:because|since|is correct)\b)",
            text,
            re.IGNORECASE,
        )
        if words:
            return (words[1] or words[2]).upper() == gold.letter
        return same(read_part(gold.value), answer) if gold.value else False
    assert isinstance(answer, Choice)
    if isinstance(gold, Collection):
        return False
    if isinstance(gold, Value | Words) and not answer.value:
        return (
            same_value(gold.text, answer.letter)
            if isinstance(gold, Value)
            else gold.text.strip().upper() == answer.letter
        )
    return same(gold, read_part(answer.value)) if answer.value else False


def _canonical(text: str) -> str:
    words = re.sub(
        r"[.,;:!?\"()*]+|(?<![a-z])'",
        " ",
        re.sub(r"(?<=[a-z])-(?=[a-z])", "", re.sub(r"'(?=[a-z])", "", text.casefold())),
    ).split()
    while len(words) > 1 and words[0] in _OPENING_WORDS:
        words = words[1:]
    return " ".join(words)


def same_words(same: Same, gold: Shape, answer: Shape) -> bool | None:
    if isinstance(gold, Words):
        ours = _canonical(gold.text)
        if isinstance(answer, Words):
            theirs = _canonical(answer.text)
            if ours == theirs or (ours in _EMPTY and theirs in _EMPTY):
                return True
            first = _canonical(re.split(r"[,.;(]|\bbecause\b|\bsince\b", answer.text)[0])
            if first == ours:
                return True
            if (
                ours in _YES_NO
                and theirs.split()[:1] == [ours]
                and not {"and", "or", "no", "not"} & set(theirs.split()[1:])
            ):
                return True
            if len(ours.split()) == 1 and len(theirs.split()) == 1:
                number, also = (read_quantity(w) for w in (ours, theirs))
                if number is not None and also is not None:
                    return same_quantity(number, also)
            return False
        quantity = read_quantity(gold.text)
        if quantity is not None and isinstance(answer, Value):
            other = read_quantity(answer.text)
            return None if other is None else same_quantity(quantity, other)
        if isinstance(answer, Value):
            if (
                _canonical(
                    re.split(r"[,.;(:]|\bbecause\b|\bsince\b", re.sub(r"\\text\s?\{([^{}]*)\}", r"\1", answer.text))[0]
                )
                == ours
            ):
                return True
            return False if read_expression(answer.text) is not None or ours in _YES_NO else None
        return same(gold, answer.right) if isinstance(answer, Equation) else False
    assert isinstance(answer, Words)
    if isinstance(gold, Value):
        quantity = read_quantity(answer.text)
        if quantity is not None:
            other = read_quantity(gold.text)
            return None if other is None else same_quantity(other, quantity)
        return False if read_expression(gold.text) is not None or read_quantity(gold.text) is not None else None
    return False


def same_colons(same: Same, gold: Shape, answer: Shape) -> bool | None:
    if isinstance(gold, Colons) and isinstance(answer, Colons):
        if len(gold.parts) != len(answer.parts) or (gold.half and answer.half and gold.half != answer.half):
            return False
        ours, theirs = ([Fraction(part) for part in shape.parts] for shape in (gold, answer))
        if ours == theirs:
            return True
        if len(ours) == 2 and bool(gold.half) != bool(answer.half):  # 5:30 p.m. and 17:30
            (hour, minute), (other, other_minute), half = (
                (ours, theirs, gold.half) if gold.half else (theirs, ours, answer.half)
            )
            return minute == other_minute and other == hour % 12 + (12 if half == "p" else 0)
        if _is_time(gold) or _is_time(answer) or 0 in ours or 0 in theirs:
            return False
        return all(o * theirs[0] == t * ours[0] for o, t in zip(ours, theirs, strict=True))
    colons, beside = (gold, answer) if isinstance(gold, Colons) else (answer, gold)
    assert isinstance(colons, Colons)
    if isinstance(beside, Equation):
        return same(gold, beside.right) if beside is answer else same(beside.right, answer)
    if len(colons.parts) == 2 and isinstance(beside, Value) and not colons.half:
        top, bottom = map(Fraction, colons.parts)
        expression = read_expression(re.sub(r"\\text\s?\{\s*to\s*\}|\bto\b", "/", beside.text))
        if expression is None:
            return None
        return rational_value(expression) == top / bottom if bottom and not colons.parts[1].startswith("0") else False
    return None if isinstance(beside, Value | Words) else False


def _is_time(shape: Colons) -> bool:
    return bool(shape.half) or any(part.startswith("0") and part != "0" for part in shape.parts[1:])
