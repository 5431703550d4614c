r"""Whether lists, sets, tuples, matrices, intervals and inequalities say the same.

`same` decides on two parts of any shape; it is passed in, as it needs the functions of this module itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from forkwise.tasks.answers.equality import real_value, same_zeros
from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.intervals import end_of, interval_of
from forkwise.tasks.answers.quantities import read_quantity
from forkwise.tasks.answers.shapes import (
    Collection,
    Equation,
    Matrix,
    PlainWords,
    Range,
    Relation,
    Same,
    Shape,
    Union,
    Value,
)
from forkwise.tasks.answers.single import BESIDE, same_value

_MOST_COMPARISONS = 1000  # of items with items, in one list
_INDEXED = re.compile(r"[a-zA-Z]_\{?[0-9]\}?")
_COUNTED = re.compile(r"[-0-9.,/]+\s+(?:\\text\{\s*)?([A-Za-z]{3,})")


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True


def same_collection(same: Same, gold: Shape, answer: Shape) -> bool | None:
    """Tells whether two collections hold the same: tuples in order, lists and sets in any; or one value is meant."""
    if isinstance(gold, Collection) and isinstance(answer, Collection):
        kinds = {gold.kind, answer.kind}
        if "or" in kinds and len(kinds) == 2:
            return False
        if kinds <= {"list", "set"} or kinds == {"or"}:
            return _same_items(same, gold.items, answer.items)
        if len(gold.items) == len(answer.items) == 2 and "interval" in kinds and kinds <= {"interval", "tuple"}:
            if gold.brackets != answer.brackets:
                return False
        elif "set" in kinds or len(gold.items) != len(answer.items):
            return False
        if len(gold.items) == 2 and kinds == {"list", "interval"}:
            return False  # all numbers from 2 to 5, and two of them
        if "list" in kinds and any(isinstance(item, Equation) for item in (*gold.items, *answer.items)):
            return _same_in_order(same, gold.items, answer.items)
        return _all([same(g, a) for g, a in zip(gold.items, answer.items, strict=True)])
    several, one = (gold, answer) if isinstance(gold, Collection) else (answer, gold)
    assert isinstance(several, Collection)
    if several.kind in ("set", "list", "interval") and len(several.items) == 1:
        return same(several.items[0], one) if several is gold else same(one, several.items[0])
    if several.kind == "list" and len(several.items) > 1 and all(isinstance(item, Value) for item in several.items):
        # A value and the same value again: 0.5, 1/2.
        verdicts = [same(item, one) if several is gold else same(one, item) for item in several.items]
        if several is answer and all(verdict is True for verdict in verdicts):
            return True
        if isinstance(one, Value) and read_quantity(one.text) is None:
            return None
    return False


def _same_in_order(same: Same, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool | None:
    """Compares `x = 1, y = 2` with `(1, 2)`: by position, names sorted."""

    def values(items: Sequence[Shape]) -> list[Shape]:
        if all(isinstance(item, Equation) for item in items):
            items = sorted(items, key=lambda item: item.left.strip() if isinstance(item, Equation) else "")
        return [item.right if isinstance(item, Equation) else item for item in items]

    for items in (gold, answer):
        names = [item.left.strip() for item in items if isinstance(item, Equation)]
        if len(set(names)) < len(names):
            return False  # x = 1, x = 2: two values of one name
    return _all([same(g, a) for g, a in zip(values(gold), values(answer), strict=True)])


def _same_items(same: Same, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool | None:
    """Tells whether each item equals exactly one on the other side; repetitions on one side do not count."""
    numbers, answered = _by_value(gold), _by_value(answer)
    if numbers is not None and answered is not None:
        if len(numbers) != len(answered):
            return False
        return _all([same_value(g, a) for g, a in zip(numbers, answered, strict=True)])
    both = set(gold) & set(answer)
    gold, answer = ([item for item in dict.fromkeys(items) if item not in both] for items in (gold, answer))
    if max(len(gold), len(answer)) * (len(both) + max(len(gold), len(answer))) > _MOST_COMPARISONS:
        return None
    gold, answer = (_distinct(same, items, both) for items in (gold, answer))
    if len(gold) != len(answer):
        return False
    gold, answer = _without_indices(gold), _without_indices(answer)
    if _names_on_one_side(gold, answer):
        return _same_in_order(same, gold, answer)
    return _matched(same, gold, answer)


def _matched(same: Same, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool | None:
    unmatched = list(answer)
    unknown = False
    for item in gold:
        verdicts = [False if _nouns_differ(item, other) else same(item, other) for other in unmatched]
        if True in verdicts:
            unmatched.pop(verdicts.index(True))
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


def _by_value(items: Sequence[Shape]) -> list[str] | None:
    """Returns the texts of different numbers, sorted by value; None where one is no plain number."""
    values: list[tuple[float, str]] = []
    for item in items:
        if not isinstance(item, Value) or BESIDE.search(item.text):
            return None
        expression = read_expression(item.text)
        value = None if expression is None else real_value(expression)
        if value is None:
            return None
        values.append((value, item.text))
    values.sort()
    # Neighbours that look equal are compared exactly.
    return [
        text
        for (v, text), (w, other) in zip(values, [(math.nan, ""), *values], strict=False)
        if v != w or not same_value(text, other)
    ]


def _names_on_one_side(gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
    """Tells whether one side gives values to several names, and the other values without names."""
    for named, unnamed in ((gold, answer), (answer, gold)):
        names = [item.left.strip() for item in named if isinstance(item, Equation)]
        if len(names) == len(named) and not any(isinstance(item, Equation) for item in unnamed):
            return len(set(names)) > 1
    return False


def _without_indices(items: Sequence[Shape]) -> Sequence[Shape]:
    """Turns `x_1 = 2, x_2 = 1` into the list of values that it is."""
    if all(isinstance(item, Equation) and _INDEXED.fullmatch(item.left.strip()) for item in items):
        return [item.right for item in items if isinstance(item, Equation)]
    return items


def _nouns_differ(a: Shape, b: Shape) -> bool:
    """Tells whether two items count different things: 3 apples and 3 pears."""
    nouns = [_COUNTED.match(item.text) if isinstance(item, Value) else None for item in (a, b)]
    names = {noun[1].lower().removesuffix("s") for noun in nouns if noun}
    return len(names) == 2


def _distinct(same: Same, items: Sequence[Shape], listed: Iterable[Shape]) -> list[Shape]:
    """Returns the items without values that equal an earlier one or one of `listed`."""
    kept: list[Shape] = []
    known = [other for other in listed if isinstance(other, Value)]
    for item in items:
        if not isinstance(item, Value):
            kept.append(item)
        elif not any(same(item, other) for other in known):
            kept.append(item)
            known.append(item)
    return kept


def same_matrix(same: Same, gold: Shape, answer: Shape) -> bool | None:
    """Tells whether two matrices, or a matrix and a tuple, hold the same values."""
    rows = []
    for shape in (gold, answer):
        if isinstance(shape, Matrix):
            rows.append(shape.rows)
        elif isinstance(shape, Collection) and shape.kind in ("tuple", "interval"):
            if all(isinstance(item, Collection) for item in shape.items):
                rows.append(tuple(item.items for item in shape.items if isinstance(item, Collection)))
            else:
                rows.append(tuple((item,) for item in shape.items))
        else:
            return None if isinstance(shape, Value) and r"\begin" in shape.text else False
    wanted, answered = rows
    if isinstance(gold, Matrix) != isinstance(answer, Matrix):  # a tuple may be a row as well as a column
        wanted, answered = (tuple((cell,) for cell in r[0]) if len(r) == 1 else r for r in (wanted, answered))
    if [len(row) for row in wanted] != [len(row) for row in answered]:
        return False
    return _all([same(g, a) for r, s in zip(wanted, answered, strict=True) for g, a in zip(r, s, strict=True)])


def _as_intervals(shape: Shape) -> list[Range] | None:
    """Returns the intervals and points of which a shape consists; None where it is no set of real numbers."""
    if isinstance(shape, Range):
        return [shape]
    if isinstance(shape, Value):
        return [Range(shape.text, shape.text, (True, True))]
    if isinstance(shape, Collection) and shape.kind in ("tuple", "interval"):
        interval = interval_of(shape) if len(shape.items) == 2 else None
        return None if interval is None else [interval]
    if not isinstance(shape, Collection | Union):
        return None
    intervals: list[Range] = []
    for part in shape.items if isinstance(shape, Collection) else shape.parts:
        inner = _as_intervals(part)
        if inner is None:
            return None
        intervals += inner
    return intervals


def same_intervals(gold: Shape, answer: Shape) -> bool | None:
    """Tells whether two sets of real numbers are the same, however they are cut into pieces."""
    wanted, answered = _as_intervals(gold), _as_intervals(answer)
    if wanted is None or answered is None or isinstance(gold, Value) or isinstance(answer, Value):
        if isinstance(gold, Value | PlainWords) or isinstance(answer, Value | PlainWords):
            return (
                None if any(isinstance(s, Value) and read_quantity(s.text) is None for s in (gold, answer)) else False
            )
        return None
    if len(wanted) > 1 or len(answered) > 1:
        wanted, answered = _merged(_sorted(wanted)), _merged(_sorted(answered))
    if len(wanted) != len(answered):
        return False
    return _all([_same_interval(g, a) for g, a in zip(wanted, answered, strict=True)])


def _sorted(intervals: list[Range]) -> list[Range]:
    return sorted(intervals, key=lambda interval: end_of(interval.low, -math.inf))


def _merged(intervals: list[Range]) -> list[Range]:
    """Puts together sorted intervals that overlap, or touch in one point."""
    merged = intervals[:1]
    for interval in intervals[1:]:
        last = merged[-1]
        if last.variable and interval.variable and last.variable != interval.variable:
            merged.append(interval)
            continue
        high, low = end_of(last.high, math.inf), end_of(interval.low, -math.inf)
        touch = last.high and interval.low and same_value(last.high, interval.low)
        if (touch and (last.closed[1] or interval.closed[0])) or (low < high and not touch):
            end_of_other = end_of(interval.high, math.inf)
            ends = [(high, last.closed[1], last.high), (end_of_other, interval.closed[1], interval.high)]
            _, closed, end = max(ends)
            merged[-1] = Range(last.low, end, (last.closed[0], closed), last.variable)
        else:
            merged.append(interval)
    return merged


def _same_interval(gold: Range, answer: Range) -> bool | None:
    if gold.variable and answer.variable and gold.variable != answer.variable:
        return False
    verdicts: list[bool | None] = []
    for wanted, answered, closed, also in zip(
        (gold.low, gold.high), (answer.low, answer.high), gold.closed, answer.closed, strict=True
    ):
        if not wanted or not answered:
            verdicts.append(wanted == answered)
        else:
            verdicts.append(same_value(wanted, answered) if closed == also else False)
    return _all(verdicts)


def same_relation(gold: Shape, answer: Shape) -> bool | None:
    """Tells whether two inequalities between formulas say the same."""
    if not isinstance(gold, Relation) or not isinstance(answer, Relation):
        other = answer if isinstance(gold, Relation) else gold
        return None if isinstance(other, Range | Union) else False
    if gold.strict != answer.strict:
        return False
    wanted, answered = (read_expression(f"({r.right}) - ({r.left})") for r in (gold, answer))
    if wanted is None or answered is None:
        return None
    return True if same_zeros(wanted, answered, positive=True) else None
