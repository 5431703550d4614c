r"""Sets of real numbers as intervals: from pairs in brackets, from inequalities, from excepted points."""

from __future__ import annotations

import re

from forkwise.tasks.answers.equality import real_value
from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.shapes import Collection, Interval, Shape, Union, Value

RELATION = re.compile(r"\\(?:le|ge|ne)(?![A-Za-z])|<|>")


def as_interval(shape: Shape) -> Shape | None:
    if isinstance(shape, Interval | Union):
        return shape
    if isinstance(shape, Collection) and len(shape.items) == 2 and shape.kind in ("tuple", "interval"):
        return interval_of(shape)
    if isinstance(shape, Collection) and shape.kind == "set":
        texts = [item.text for item in shape.items if isinstance(item, Value)]
        if len(texts) == len(shape.items):
            return Union(tuple(Interval(t, t, (True, True)) for t in texts))
    return None


def interval_of(pair: Collection) -> Interval | None:
    """A pair in brackets read as an interval; None where its ends are no plain values."""
    low, high = pair.items
    if not (isinstance(low, Value) and isinstance(high, Value)):
        return None
    if low.text.strip() in _PLUS_INFINITY or re.fullmatch(r"-\s*\\infty", high.text):
        return None
    return Interval(
        "" if is_infinity(low.text) else low.text,
        "" if is_infinity(high.text) else high.text,
        (pair.brackets[0] == "[", pair.brackets[1] == "]"),
    )


_PLUS_INFINITY = frozenset((r"\infty", r"+\infty", r"+ \infty"))


def is_infinity(text: str) -> bool:
    return re.fullmatch(r"[-+]?\s*(?:\\infty|inf|infinity|oo)", text.strip()) is not None


def all_but(points: list[str]) -> Shape | None:
    values = []
    for text in points:
        expression = read_expression(text)
        if expression is None:
            return None
        value = real_value(expression)
        if value is None:
            return None
        values.append((value, text))
    ends = ["", *[text for _, text in sorted(values)], ""]
    return Union(tuple(Interval(a, b, (False, False)) for a, b in zip(ends[:-1], ends[1:], strict=True)))


def is_variable(text: str) -> bool:
    return (
        re.fullmatch(r"(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?(?:\([a-z]\))?", text.strip()) is not None
        and not is_infinity(text)
        and text.strip() not in (r"\pi", "e", "i")
    )


def is_constant(text: str) -> bool:
    expression = read_expression(text)
    return is_infinity(text) or (expression is not None and not expression.symbols)
