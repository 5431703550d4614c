r"""What an answer may be made of: a value, a list, a set, a tuple, an interval, a matrix, a choice, words and more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """A single value, as tidied text: a number, a formula, a quantity."""

    text: str


@dataclass(frozen=True)
class PlainWords:
    """Plain words: a name, a weekday, yes or no."""

    text: str


@dataclass(frozen=True)
class Choice:
    """A letter of multiple choice, with the value that stands beside it if any."""

    letter: str
    value: str


@dataclass(frozen=True)
class Collection:
    """Several values.

    `kind` is `list` (no brackets, unordered), `or` (inequalities of which one holds), `set`, `tuple` or `interval`
    (square brackets).
    """

    kind: str
    items: tuple[Shape, ...]
    brackets: str = ""


@dataclass(frozen=True)
class Range:
    """Real numbers from `low` to `high`, empty for an infinite end; `variable` is empty where none is named."""

    low: str
    high: str
    closed: tuple[bool, bool]
    variable: str = ""


@dataclass(frozen=True)
class Union:
    """A union of intervals and points."""

    parts: tuple[Shape, ...]


@dataclass(frozen=True)
class Equation:
    """`left = right`; of a chain its last two members, or its first and last where the first is a name."""

    left: str
    right: Shape
    approximate: bool = False


@dataclass(frozen=True)
class Relation:
    """`left < right` or `left <= right` between formulas that are no interval of one variable."""

    left: str
    right: str
    strict: bool


@dataclass(frozen=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple[Shape, ...], ...]


@dataclass(frozen=True)
class Colons:
    """Numbers with colons between them: a ratio or a time of day, with `am` or `pm` where it is said.

    `spoken` ones have "to" in place of the colon: a ratio, or from one number to another.
    """

    parts: tuple[str, ...]
    half: str = ""
    spoken: bool = False


Shape = Value | PlainWords | Choice | Collection | Range | Union | Equation | Relation | Matrix | Colons

Same = Callable[[Shape, Shape], bool | None]
"""Whether two shapes say the same; None where that is not known."""
