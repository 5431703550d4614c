r"""Whether an answer is the gold answer: numbers exactly, formulas by their values, everything else part by part.

Numbers are compared exactly. Rounding counts only where the gold answer is itself a decimal number, and only at its own
precision. Units, currency and number bases count where both sides name them.
"""

from __future__ import annotations

import re

from forkwise.tasks.answers.equations import same_equation
from forkwise.tasks.answers.notation import tidy
from forkwise.tasks.answers.reading import read
from forkwise.tasks.answers.several import same_collection, same_intervals, same_matrix, same_relation
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
)
from forkwise.tasks.answers.single import same_value
from forkwise.tasks.answers.wording import same_choice, same_colons, same_words

_OF_TIME = re.compile(r"(?<=[A-Za-z}])\(([tx])\)")
_DERIVATIVE = re.compile(r"d\s?\{?[tx](?![a-z])|'|prime|dot")
_MODULUS = re.compile(r"\s*\(?\s*\\?(?:pmod|bmod|mod)\s?\{?\s?[0-9]+\s?\}?\s?\)?")
_NO_NUMBER = re.compile(  # several, one that goes on, one with an index
    r"[0-9]+\.[0-9]+(?:[eE][-+]?[0-9]+)?(?: [0-9]+\.[0-9]+(?:[eE][-+]?[0-9]+)?)+|-?[0-9]+\s*\\[lc]?dots"
    r"|-?[0-9]+_\{?[a-zA-Z]\}?"
)
_CONSTANT = re.compile(r"\+\s*[CcKk]\s*\Z")
_IN_BASE = re.compile(r"\(?((?=[A-Fa-f]*[0-9])[0-9A-Fa-f]+|[A-F]{2,})\)?_\{?([0-9]{1,2}|[a-z](?:\s?[-+]\s?[0-9])?)\}?")


def compare(gold: str, answer: str) -> bool | None:
    """Tells whether `answer` says what `gold` says; None where the grammar of this package cannot tell.

    Irrational numbers need mpmath, which math-verify brings; without it they are not told apart or equal (None).
    """
    if "mod" in answer and "mod" not in gold:
        answer = _MODULUS.sub("", answer)
    digits = _same_digits(tidy(gold), tidy(answer))
    if digits is not None:
        return digits
    if gold.count(",") > 1 and re.sub(r"\s", "", gold) == re.sub(r"\s", "", answer):
        return True  # 100, 200, 300 with and without blanks
    if _NO_NUMBER.fullmatch(tidy(answer)) and tidy(gold) != tidy(answer) and " " not in tidy(gold):
        return False
    if gold.rstrip().endswith("C") and gold.count("C") == 1 and _CONSTANT.search(gold):
        answer = _CONSTANT.sub("+ C", answer)  # a constant of integration, whose name is free
    for name in _OF_TIME.findall(gold) + _OF_TIME.findall(answer):
        argument = f"({name})"
        if (argument in gold) != (argument in answer):  # x(t) is the x of an equation without it
            gold, answer = (_dropped(text, argument) for text in (gold, answer))
    try:
        return same(read(gold), read(answer))
    except (ModuleNotFoundError, RecursionError):  # no mpmath, or a formula that is nested too deeply
        return None


def _same_digits(gold: str, answer: str) -> bool | None:
    """Returns the verdict on numbers in a base above ten or in a base with a letter, which are no plain numbers."""
    wanted, answered = _IN_BASE.fullmatch(gold), _IN_BASE.fullmatch(answer)
    if (
        answered is not None
        and answered[1].isdigit()
        and answered[2].isdigit()
        and max(map(int, answered[1])) >= int(answered[2])
    ):
        return gold == answer  # 5_3 is no number
    if wanted is None:
        return None
    base = wanted[2]
    if answered is None:
        if not base.isdigit() or int(base) <= 10 or not re.fullmatch(r"(?:0x)?[0-9A-Za-z]+", answer):
            return None
        return answer.lower().removeprefix("0x").upper() == wanted[1].upper()
    if base.isdigit() and int(base) <= 10 and answered[2].isdigit():
        return None
    return wanted[1].upper() == answered[1].upper() and base.replace(" ", "") == answered[2].replace(" ", "")


def _dropped(text: str, argument: str) -> str:
    return re.sub(r"(?<=[A-Za-z}])\s?" + re.escape(argument), "", text) if _DERIVATIVE.search(text) else text


def same(gold: Shape, answer: Shape) -> bool | None:
    """Tells whether two shapes say the same; None where that is not known."""
    if isinstance(gold, Choice) or isinstance(answer, Choice):
        return same_choice(same, gold, answer)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return same_equation(same, gold, answer)
    if isinstance(gold, PlainWords) or isinstance(answer, PlainWords):
        return same_words(gold, answer)
    if isinstance(gold, Colons) or isinstance(answer, Colons):
        return same_colons(gold, answer)
    if isinstance(gold, Range | Union) or isinstance(answer, Range | Union):
        return same_intervals(gold, answer)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return same_relation(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return same_matrix(same, gold, answer)
    if isinstance(gold, Collection) or isinstance(answer, Collection):
        return same_collection(same, gold, answer)
    return same_value(gold.text, answer.text)
