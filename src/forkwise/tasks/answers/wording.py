r"""Whether letters of multiple choice, words, ratios and times of day say the same."""

from __future__ import annotations

import re
from fractions import Fraction

from forkwise.tasks.answers.equality import rational_value
from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.quantities import read_quantity
from forkwise.tasks.answers.reading import read_part
from forkwise.tasks.answers.shapes import Choice, Collection, Colons, Equation, PlainWords, Same, Shape, Value
from forkwise.tasks.answers.single import same_quantity, same_value

_SYNONYMS = [
    {
        "emptyset", "empty set", "the empty set", "no solution", "no solutions", "no real solution",
        "no real solutions", "none", "null set", "no such value exists",
    },
    {"dne", "does not exist", "doesnt exist", "undefined"},
    {"infinitely many", "infinitely many solutions", "infinite"},
]  # fmt: skip
_OPENING_WORDS = frozenset((
    "the", "he", "a", "an", "it", "is", "its", "on", "in", "at", "by", "to", "they", "are", "she", "was", "this",
    "that", "there",
))  # fmt: skip
_YES_NO = frozenset(("yes", "no", "true", "false"))
_LETTER = re.compile(
    r"\s*(?:option|choice)?\s*(?:\(([A-J])\)|([A-J])\)?)\s*(?:$|[.:]|(?:because|since|is correct)\b)", re.IGNORECASE
)
_WITHIN_WORD = re.compile(r"'(?=[a-z])|(?<=[a-z])-(?=[a-z])")
_PUNCTUATION = re.compile(r"[.,;:!?\"()*]+|(?<![a-z])'")
_EXPLAINS = re.compile(r"[,.;(:](?!\s*(?:or|and)\b)|\bbecause\b|\bsince\b")
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")


def same_choice(same: Same, gold: Shape, answer: Shape) -> bool | None:
    """Tells whether a letter of multiple choice, or the value beside it, is the other answer."""
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        if gold.letter != answer.letter:
            return False
        if gold.value and answer.value:
            return same(read_part(gold.value), read_part(answer.value)) is not False
        return True
    if isinstance(gold, Choice):
        if isinstance(answer, Equation):
            return same(gold, answer.right)
        text = answer.text if isinstance(answer, Value | PlainWords) else ""
        if re.fullmatch(r"[a-j]", text.strip()):
            return text.strip().upper() == gold.letter
        words = _LETTER.match(text)
        if words:
            return (words[1] or words[2]).upper() == gold.letter
        return same(read_part(gold.value), answer) if gold.value else False
    assert isinstance(answer, Choice)
    if isinstance(gold, Collection):
        return False
    if isinstance(gold, Value | PlainWords) and not answer.value:
        return (
            same_value(gold.text, answer.letter)
            if isinstance(gold, Value)
            else gold.text.strip().upper() == answer.letter
        )
    return same(gold, read_part(answer.value)) if answer.value else False


def _canonical(text: str) -> str:
    words = _PUNCTUATION.sub(" ", _WITHIN_WORD.sub("", text.casefold())).split()
    while len(words) > 1 and words[0] in _OPENING_WORDS:
        words = words[1:]
    return " ".join(words)


def _first_clause(text: str) -> str:
    return _canonical(_EXPLAINS.split(text, maxsplit=1)[0])


def same_words(gold: Shape, answer: Shape) -> bool | None:
    """Tells whether words say the same as other words, or name the number that is the other answer."""
    if isinstance(gold, PlainWords) and isinstance(answer, PlainWords):
        return _same_wording(gold, answer)
    if not isinstance(gold, Value | PlainWords) or not isinstance(answer, Value | PlainWords):
        return False
    wanted, answered = read_quantity(gold.text), read_quantity(answer.text)
    words, value = (wanted, answered) if isinstance(gold, PlainWords) else (answered, wanted)
    if words is not None:
        return None if wanted is None or answered is None else same_quantity(wanted, answered)
    if isinstance(gold, Value):
        return False if value is not None or read_expression(gold.text) is not None else None
    wording = _canonical(gold.text)
    if _first_clause(_TEXT.sub(r"\1", answer.text)) == wording:
        return True
    return False if wording in _YES_NO or read_expression(answer.text) is not None else None


def _same_wording(gold: PlainWords, answer: PlainWords) -> bool | None:
    wanted, answered = _canonical(gold.text), _canonical(answer.text)
    if (
        wanted == answered
        or any({wanted, answered} <= words for words in _SYNONYMS)
        or _first_clause(answer.text) == wanted
    ):
        return True
    if wanted in _YES_NO and answered.startswith(wanted + " "):
        return not {"and", "or", "no", "not"} & set(answered.split()[1:])
    if " " not in wanted and " " not in answered:
        quantity, other = read_quantity(wanted), read_quantity(answered)
        if quantity is not None and other is not None:
            return same_quantity(quantity, other)
    return False


def same_colons(gold: Shape, answer: Shape) -> bool | None:
    """Tells whether two times of day or two ratios are the same, or a ratio and a fraction."""
    if isinstance(gold, Colons) and isinstance(answer, Colons):
        return _same_times_or_ratios(gold, answer)
    colons, other = (gold, answer) if isinstance(gold, Colons) else (answer, gold)
    assert isinstance(colons, Colons)
    if not isinstance(other, Value):
        return False
    if colons.spoken:
        return False
    if len(colons.parts) != 2 or colons.half:
        return None
    expression = read_expression(other.text)
    if expression is None:
        return None
    top, bottom = map(Fraction, colons.parts)
    return not colons.parts[1].startswith("0") and bottom != 0 and rational_value(expression) == top / bottom


def _same_times_or_ratios(gold: Colons, answer: Colons) -> bool:
    if len(gold.parts) != len(answer.parts) or (gold.half and answer.half and gold.half != answer.half):
        return False
    wanted, answered = ([Fraction(part) for part in shape.parts] for shape in (gold, answer))
    if wanted == answered:
        return [part[:1] == "0" for part in gold.parts[1:]] == [part[:1] == "0" for part in answer.parts[1:]]
    if len(wanted) == 2 and bool(gold.half) != bool(answer.half):  # 5:30 p.m. and 17:30
        half = gold.half or answer.half
        (hour, minute), (other, other_minute) = (wanted, answered) if gold.half else (answered, wanted)
        return minute == other_minute and other == hour % 12 + (12 if half == "p" else 0)
    if _is_time(gold) or _is_time(answer) or 0 in wanted or 0 in answered or (gold.spoken and answer.spoken):
        return False
    return all(o * answered[0] == t * wanted[0] for o, t in zip(wanted, answered, strict=True))


def _is_time(shape: Colons) -> bool:
    return bool(shape.half) or any(part.startswith("0") and part != "0" for part in shape.parts[1:])
