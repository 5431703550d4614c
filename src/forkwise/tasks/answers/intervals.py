r"""Sets of real numbers as intervals: from pairs in brackets, from inequalities, from excepted points."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from forkwise.tasks.answers.equality import real_value
from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.notation import split_at_top
from forkwise.tasks.answers.shapes import Collection, Equation, PlainWords, Range, Relation, Shape, Union, Value

RELATION = re.compile(r"\\(?:le|ge|ne)(?![A-Za-z])|<|>")
_SIGNS = {r"\le": "<=", r"\ge": ">=", r"\ne": "!="}
_INFINITY = re.compile(r"[-+]?\s*(?:\\infty|inf|infinity|oo)")
_PLUS_INFINITY = re.compile(r"\s*\+? ?\\infty\s*")
_MINUS_INFINITY = re.compile(r"-\s*\\infty")
_VARIABLE = re.compile(r"(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?(?:\([a-z]\))?")
_ABSOLUTE = re.compile(r"\|\s*([a-zA-Z])\s*\|")


def as_interval(shape: Shape) -> Range | Union | None:
    """Returns a shape as the set of real numbers that it may mean: a pair in brackets, or the points of a set."""
    if isinstance(shape, Range | Union):
        return shape
    if isinstance(shape, Collection) and len(shape.items) == 2 and shape.kind in ("tuple", "interval"):
        return interval_of(shape)
    if isinstance(shape, Equation) and isinstance(shape.right, Value) and is_variable(shape.left):
        return Range(shape.right.text, shape.right.text, (True, True), shape.left.strip())
    if isinstance(shape, Collection) and shape.kind == "set":
        texts = [item.text for item in shape.items if isinstance(item, Value)]
        if len(texts) == len(shape.items):
            return Union(tuple(Range(t, t, (True, True)) for t in texts))
    return None


def interval_of(pair: Collection) -> Range | None:
    """Returns a pair in brackets read as an interval; None where its ends are no plain values."""
    low, high = pair.items
    if not (isinstance(low, Value) and isinstance(high, Value)):
        return None
    if _PLUS_INFINITY.fullmatch(low.text) or _MINUS_INFINITY.fullmatch(high.text):
        return None
    return Range(
        "" if is_infinity(low.text) else low.text,
        "" if is_infinity(high.text) else high.text,
        (pair.brackets[0] == "[", pair.brackets[1] == "]"),
    )


def is_infinity(text: str) -> bool:
    """Tells whether a text is an infinity of either sign."""
    return _INFINITY.fullmatch(text.strip()) is not None


def is_variable(text: str) -> bool:
    """Tells whether a text is the name of one variable, or `f(x)`."""
    text = text.strip()
    return _VARIABLE.fullmatch(text) is not None and not is_infinity(text) and text not in (r"\pi", "e", "i")


def is_constant(text: str) -> bool:
    """Tells whether a text is a number or an infinity."""
    expression = read_expression(text)
    return is_infinity(text) or (expression is not None and not expression.symbols)


def all_but(points: list[str]) -> Union | None:
    """Returns the real numbers without these points; None where one of them is no number."""
    values = []
    for text in points:
        expression = read_expression(text)
        value = None if expression is None else real_value(expression)
        if value is None:
            return None
        values.append((value, text))
    ends = ["", *[text for _, text in sorted(values)], ""]
    return Union(tuple(Range(a, b, (False, False)) for a, b in pairwise(ends)))


def inequality(text: str) -> Range | Union | Relation | None:
    r"""Returns what one inequality says, such as `1 \le x < 2`, `|x| > 3`, `x \ne 1` or `a < b`."""
    parts = split_at_top(text, RELATION)
    signs = [_SIGNS.get(match[0], match[0]) for match in RELATION.finditer(text)]
    if len(parts) != len(signs) + 1 or not all(parts):
        return None
    if signs == ["!="]:
        return all_but([parts[1]]) if is_variable(parts[0]) else None
    if all(sign[0] == ">" for sign in signs):
        parts.reverse()
        signs = [sign.replace(">", "<") for sign in reversed(signs)]
    if not all(sign[0] == "<" for sign in signs):
        return None
    if len(parts) == 3 and is_variable(parts[1]):
        low, high = ("" if is_infinity(part) else part for part in (parts[0], parts[2]))
        return Range(low, high, (signs[0] == "<=" and bool(low), signs[1] == "<=" and bool(high)), parts[1].strip())
    return _of_two_sides(*parts, closed=signs[0] == "<=") if len(parts) == 2 else None


def _of_two_sides(left: str, right: str, *, closed: bool) -> Range | Union | Relation:
    below, above = _ABSOLUTE.fullmatch(left), _ABSOLUTE.fullmatch(right)
    if below and is_constant(right):
        return Range(f"-({right})", right, (closed, closed), below[1])
    if above and is_constant(left):
        low, high = (
            Range("", f"-({left})", (False, closed), above[1]),
            Range(left, "", (closed, False), above[1]),
        )
        return Union((low, high))
    if is_variable(left) and is_constant(right):
        return Range("", right, (False, closed), left.strip())
    if is_variable(right) and is_constant(left):
        return Range(left, "", (closed, False), right.strip())
    return Relation(left, right, not closed)


def joined(shapes: Sequence[Shape]) -> Shape:
    r"""Joins inequalities side by side: `x < 1, x > 3` is a union, `x > 1, x < 3` an interval; others are a list."""
    both = both_hold(shapes)
    if not isinstance(both, PlainWords):
        return both
    return Union(tuple(shapes))


def both_hold(shapes: Sequence[Shape]) -> Shape:
    """Returns the numbers that all of some sets have in common; a list where these are not sets of one variable."""
    pieces = [_intervals_of(as_interval(shape)) for shape in shapes]
    if (
        any(None in piece for piece in pieces)
        or len({i.variable for piece in pieces for i in piece if i and i.variable}) > 1
    ):
        return Collection("list", tuple(shapes))
    common = [interval for interval in pieces[0] if interval]
    for piece in pieces[1:]:
        common = [c for one in common for other in piece if other and (c := _overlap(one, other)) is not None]
    if not common:
        return PlainWords("emptyset")
    return common[0] if len(common) == 1 else Union(tuple(common))


def _intervals_of(shape: Range | Union | None) -> list[Range | None]:
    if not isinstance(shape, Union):
        return [shape]
    return [part if isinstance(part, Range) else None for part in shape.parts]


def end_of(text: str, infinite: float) -> float:
    """Returns the end of an interval as a float; `infinite` where there is none, or it is no number."""
    expression = read_expression(text) if text else None
    value = None if expression is None else real_value(expression)
    return infinite if value is None else value


def _overlap(one: Range, other: Range) -> Range | None:
    """Returns what two intervals have in common, or None."""
    low = max((end_of(i.low, -math.inf), not i.closed[0], i.low) for i in (one, other))
    high = min((end_of(i.high, math.inf), i.closed[1], i.high) for i in (one, other))
    if low[0] > high[0] or (low[0] == high[0] and (low[1] or not high[1])):
        return None
    return Range(low[2], high[2], (not low[1], high[1]), one.variable or other.variable)
