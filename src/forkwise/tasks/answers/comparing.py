r"""Whether an answer is the gold answer: exactly where both are numbers, by value where both are formulas, part by part.

Numbers are compared exactly. Rounding counts only where the gold answer is itself a decimal number, and only at its own
precision. Units, currency and number bases count where both sides name them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from forkwise.tasks.answers.expressions import (
    Expression,
    Node,
    equal,
    rational_value,
    read_expression,
    real_value,
    refuted,
    same_zeros,
)
from forkwise.tasks.answers.notation import tidy
from forkwise.tasks.answers.quantities import UNITS, Quantity, Unit, read_quantity
from forkwise.tasks.answers.shapes import (
    Choice,
    Collection,
    Colons,
    Equation,
    Interval,
    Matrix,
    Relation,
    Shape,
    Union,
    Value,
    Words,
    interval_of,
    read,
    read_part,
)

_NAME = re.compile(
    r"\s*(?:[A-Za-z]{1,3}(?:\^\{?-1\}?)?|\\[A-Za-z]+(?:\s?\{?[A-Za-z]+\}?)?|\|[A-Z]+\||\\text\{[^{}]*\})(?:_\{?[^{}=]*\}?)?'?(?:\([^()=]*\))?\s*"
)
_FUNCTION_NAME = re.compile(r"\s*(?:y|z|[fghFGPQpq](?:_\{?\w+\}?)?\s?\([a-zA-Z](?:\s?,\s?[a-zA-Z])*\))\s*")
_CALL = re.compile(r"\s*([A-Za-z](?:_\{?\w+\}?)?)'*\s?\(([^()]*)\)\s*")
_BESIDE = re.compile(r"[%°]|\\text")  # may be a unit beside the number
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
_OF_TIME = re.compile(r"(?<=[A-Za-z}])\(([tx])\)")
_DERIVATIVE = re.compile(r"d\s?\{?[tx](?![a-z])|'|prime|dot")
_MODULUS = re.compile(r"\s*\(?\s*\\?(?:pmod|bmod|mod)\s?\{?\s?[0-9]+\s?\}?\s?\)?")
_IN_BASE = re.compile(r"\(?([0-9A-Fa-f]*[0-9][0-9A-Fa-f]*|[A-F]{2,})\)?_\{?([0-9]{1,2}|[a-z](?:\s?[-+]\s?[0-9])?)\}?")
_OPPOSED = [
    frozenset(words.split())
    for words in (
        "north south east west northeast northwest southeast southwest n s e w",
        "profit loss gain", "increase decrease", "above below", "left right", "up down", "clockwise counterclockwise anticlockwise",
        "ago later now", "bc ad bce ce", "win lose wins losses", "am pm", "forward backward",
        "january february march april may june july august september october november december",
        "monday tuesday wednesday thursday friday saturday sunday",
    )
]  # fmt: skip
_CURRENCIES = {"usd", "eur", "gbp", "yen", "yuan", "inr", "peso"}
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


def compare(gold: str, answer: str) -> bool | None:
    """Whether `answer` says what `gold` says; None where the grammar of this package cannot tell.

    Irrational numbers need mpmath, which math-verify brings; without it they are not told apart or equal (None).
    """
    if "mod" in answer and "mod" not in gold:
        answer = _MODULUS.sub("", answer)
    digits = _same_digits(tidy(gold), tidy(answer))
    if digits is not None:
        return digits
    if gold.count(",") > 1 and re.sub(r"\s", "", gold) == re.sub(r"\s", "", answer):
        return True  # 100, 200, 300 with and without blanks
    for name in _OF_TIME.findall(gold) + _OF_TIME.findall(answer):
        argument = f"({name})"
        if (argument in gold) != (argument in answer):  # x(t) is the x of an equation without it
            gold, answer = (_dropped(text, argument) for text in (gold, answer))
    try:
        return same(read(gold), read(answer))
    except ModuleNotFoundError:  # mpmath
        return None


def _same_digits(gold: str, answer: str) -> bool | None:
    """The verdict on numbers in a base above ten or in a base with a letter, which are no plain numbers."""
    ours, theirs = _IN_BASE.fullmatch(gold), _IN_BASE.fullmatch(answer)
    if ours is None:
        return None
    base = ours[2]
    if theirs is None:
        if not base.isdigit() or int(base) <= 10 or not re.fullmatch(r"(?:0x)?[0-9A-Za-z]+", answer):
            return None
        return answer.lower().removeprefix("0x").upper() == ours[1].upper()
    if base.isdigit() and int(base) <= 10 and theirs[2].isdigit():
        return None
    return ours[1].upper() == theirs[1].upper() and base.replace(" ", "") == theirs[2].replace(" ", "")


def _dropped(text: str, argument: str) -> str:
    return re.sub(r"(?<=[A-Za-z}])\s?" + re.escape(argument), "", text) if _DERIVATIVE.search(text) else text


def same(gold: Shape, answer: Shape) -> bool | None:
    """Whether two shapes say the same; None where that is not known."""
    if isinstance(gold, Choice) or isinstance(answer, Choice):
        return _same_choice(gold, answer)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _same_equation(gold, answer)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _same_words(gold, answer)
    if isinstance(gold, Colons) or isinstance(answer, Colons):
        return _same_colons(gold, answer)
    if isinstance(gold, Interval | Union) or isinstance(answer, Interval | Union):
        return _same_intervals(gold, answer)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _same_relation(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _same_matrix(gold, answer)
    if isinstance(gold, Collection) or isinstance(answer, Collection):
        return _same_collection(gold, answer)
    return same_value(gold.text, answer.text)


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True


# One value ------------------------------------------------------------------------------------------------------------


def same_value(gold: str, answer: str) -> bool | None:
    """Whether two single values are the same: as formulas, or as quantities."""
    if gold == answer:
        return True
    if _are_opposed(gold, answer):
        return False
    ours, theirs = read_expression(gold), read_expression(answer)
    verdict: bool | None = None
    if ours is not None and theirs is not None:
        verdict = _same_formula(ours, theirs)
        beside = _BESIDE.search(gold) or _BESIDE.search(answer)
        if verdict is None and not (ours.symbols or theirs.symbols):
            return False  # numbers without a value, or beyond all bounds
        if verdict or not (ours.symbols or theirs.symbols or beside) or (ours.symbols & theirs.symbols and not beside):
            return verdict
    gold_quantity, quantity = read_quantity(gold, adjacent_letters=False), read_quantity(answer)
    if gold_quantity is None or quantity is None:
        return verdict
    if gold_quantity.unit is None and quantity.unit is None and verdict is not None:
        return verdict
    return _same_quantity(gold_quantity, quantity)


def _are_opposed(gold: str, answer: str) -> bool:
    """Whether the words beside two numbers contradict each other: east and west, profit and loss, June and July."""
    if not re.search(r"[A-Za-z]{2}|°", gold) or not re.search(r"[A-Za-z]{2}|°", answer):
        return False
    ours, theirs = (
        set(re.findall(r"[a-z]{2,}|(?<=[°} ])[nsew]\b", text.lower().replace("text", " "))) for text in (gold, answer)
    )
    return any(ours & group and theirs & group and ours & group != theirs & group for group in _OPPOSED)


def _same_quantity(gold: Quantity, answer: Quantity) -> bool | None:
    if gold.base is not None and answer.base is not None and gold.base != answer.base:
        return False
    ours, theirs = gold.unit, answer.unit
    if ours is not None and theirs is not None:
        generic = [[power for base, power in unit.dimensions if base == "unit"] for unit in (ours, theirs)]
        if any(generic):  # "square units" names no unit, only its power
            powers = [sum(power for _, power in unit.dimensions) for unit in (ours, theirs)]
            return _same_formula(gold.value, answer.value) if powers[0] == powers[1] else False
        if ours.name == theirs.name and ours.dimensions == theirs.dimensions:
            if ours.factor == theirs.factor:
                return _same_formula(gold.value, answer.value)
            return _same_multiple(gold.value, answer.value, theirs.factor / ours.factor)
        if "degree" in (ours.name, theirs.name):
            other = (theirs if ours.name else ours).dimensions
            if other in ((("celsius", 1),), (("fahrenheit", 1),)):
                return _same_formula(gold.value, answer.value)
            if other == (("rad", 1),):
                return _same_angle(*((gold.value, answer.value) if ours.name else (answer.value, gold.value)))
        if _is_rate_of_money(ours, theirs) or {ours, theirs} == {UNITS["£"], UNITS["pounds"]}:
            return _same_formula(gold.value, answer.value)
        return False
    verdict = _same_formula(gold.value, answer.value)
    if verdict or (ours is None and theirs is None):
        return verdict
    named = ours or theirs
    assert named is not None
    with_unit, without = (gold.value, answer.value) if ours else (answer.value, gold.value)
    if named.name == "percent":
        return _same_multiple(without, with_unit, Fraction(1, 100))
    if named.name == "degree":
        return _same_angle(with_unit, without)
    if named.dimensions == (("rad", 1),):
        return verdict
    return verdict


def _is_rate_of_money(a: Unit, b: Unit) -> bool:
    """Whether one says dollars and the other dollars per something."""
    return (
        a.dimensions != b.dimensions
        and all(
            [power for _, power in unit.dimensions if power > 0] == [1]
            and {n for n, p in unit.dimensions if p > 0} <= _CURRENCIES
            for unit in (a, b)
        )
        and {n for n, p in a.dimensions if p > 0} == {n for n, p in b.dimensions if p > 0}
        and () in [tuple(n for n, p in unit.dimensions if p < 0) for unit in (a, b)]
    )


def _same_multiple(gold: Expression, answer: Expression, factor: Fraction) -> bool | None:
    scaled = Expression(("mul", answer.node, ("num", factor, "decimal")), answer.symbols)
    return equal(gold, scaled)


def _same_angle(degrees: Expression, radians: Expression) -> bool | None:
    half_turn = ("div", ("const", "pi"), ("num", Fraction(180), "int"))
    return equal(Expression(("mul", degrees.node, half_turn), degrees.symbols), radians)


def _same_formula(gold: Expression, answer: Expression) -> bool | None:
    verdict = equal(gold, answer)
    if verdict is False and gold.decimals is not None and _rounds_to(gold, answer):
        return True
    return verdict


def _rounds_to(gold: Expression, answer: Expression) -> bool:
    """Whether a number rounds to a gold answer that is a decimal number, at the last of its digits.

    Asked for are two significant digits of the gold answer, and an answer that is longer, or a fraction without a finite
    decimal.
    """
    exact, value = rational_value(gold), rational_value(answer)
    if exact is None or value is None or gold.decimals is None or (exact.denominator == 1 and not gold.scientific):
        return False  # 27.0 is how a table stores 27
    if answer.decimals is None:
        denominator = value.denominator
        for prime in (2, 5):
            while denominator % prime == 0:
                denominator //= prime
        if denominator == 1 or gold.digits < 2:
            return False
    elif gold.digits < 2 or answer.digits <= gold.digits:
        return False
    return abs(value - exact) * 2 <= Fraction(10) ** -gold.decimals


# Several values -------------------------------------------------------------------------------------------------------


def _same_collection(gold: Shape, answer: Shape) -> bool | None:
    if isinstance(gold, Collection) and isinstance(answer, Collection):
        kinds = {gold.kind, answer.kind}
        if kinds <= {"list", "set"}:
            return _same_items(gold.items, answer.items)
        if len(gold.items) == len(answer.items) == 2 and "interval" in kinds and kinds <= {"interval", "tuple"}:
            if gold.brackets != answer.brackets:
                return False
        elif "set" in kinds or len(gold.items) != len(answer.items):
            return False
        if "list" in kinds and any(isinstance(item, Equation) for item in (*gold.items, *answer.items)):
            return _same_in_order(gold.items, answer.items)
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


def _same_in_order(gold: Sequence[Shape], answer: Sequence[Shape]) -> bool | None:
    """`x = 1, y = 2` against `(1, 2)`: by position, names sorted."""

    def values(items: Sequence[Shape]) -> list[Shape]:
        if all(isinstance(item, Equation) for item in items):
            items = sorted(items, key=lambda item: item.left.strip() if isinstance(item, Equation) else "")
        return [item.right if isinstance(item, Equation) else item for item in items]

    return _all([same(g, a) for g, a in zip(values(gold), values(answer), strict=True)])


def _same_items(gold: Sequence[Shape], answer: Sequence[Shape]) -> bool | None:
    """Whether each item has exactly one that equals it on the other side; repetitions on one side do not count."""
    ordered = [_by_value(items) for items in (gold, answer)]
    if ordered[0] is not None and ordered[1] is not None:
        if len(ordered[0]) != len(ordered[1]):
            return False
        return _all([same_value(g, a) for g, a in zip(ordered[0], ordered[1], strict=True)])
    if max(len(gold), len(answer)) > 40:
        return None
    gold, answer = _distinct(gold), _distinct(answer)
    if len(gold) != len(answer):
        return False
    gold, answer = (_without_indices(items) for items in (gold, answer))
    named = [[isinstance(item, Equation) for item in items] for items in (gold, answer)]
    if any(map(any, named)) and not all(map(all, named)):
        if any(map(all, named)) and not any(map(any, [n for n in named if not all(n)])):
            names = {item.left.strip() for item in (gold if all(named[0]) else answer) if isinstance(item, Equation)}
            if len(names) > 1:
                return _same_in_order(gold, answer)
    left = list(answer)
    unknown = False
    for item in gold:
        verdicts = [
            same(item, other) and not (_noun(item) and _noun(other) and _noun(item) != _noun(other)) for other in left
        ]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


def _by_value(items: Sequence[Shape]) -> list[str] | None:
    """The texts of different numbers, sorted by value; None where one is no plain number."""
    values: list[tuple[float, str]] = []
    for item in items:
        expression = read_expression(item.text) if isinstance(item, Value) else None
        value = None if expression is None or _BESIDE.search(item.text) else real_value(expression)  # type: ignore[union-attr]
        if value is None:
            return None
        values.append((value, item.text))  # type: ignore[union-attr]
    values.sort()
    # Neighbours that look equal are compared exactly.
    return [
        text
        for (v, text), (w, other) in zip(values, [(float("nan"), ""), *values], strict=False)
        if v != w or not same_value(text, other)
    ]


def _without_indices(items: Sequence[Shape]) -> Sequence[Shape]:
    """`x_1 = 2, x_2 = 1` as the list of values that it is."""
    if all(isinstance(item, Equation) and re.fullmatch(r"([a-zA-Z])_\{?[0-9]\}?", item.left.strip()) for item in items):
        return [item.right for item in items if isinstance(item, Equation)]
    return items


def _noun(item: Shape) -> str:
    match = re.match(r"[-0-9.,/]+\s+(?:\\text\{\s*)?([A-Za-z]{3,})", item.text) if isinstance(item, Value) else None
    return match[1].lower().removesuffix("s") if match else ""


def _distinct(items: Sequence[Shape]) -> list[Shape]:
    kept: list[Shape] = []
    for item in items:
        if not any(
            item == other or (isinstance(item, Value) and isinstance(other, Value) and same(item, other))
            for other in kept
        ):
            kept.append(item)
    return kept


def _same_matrix(gold: Shape, answer: Shape) -> bool | None:
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
    ours, theirs = rows
    if isinstance(gold, Matrix) != isinstance(answer, Matrix):  # a tuple may be a row as well as a column
        ours, theirs = (tuple((cell,) for cell in r[0]) if len(r) == 1 else r for r in (ours, theirs))
    if [len(row) for row in ours] != [len(row) for row in theirs]:
        return False
    return _all([same(g, a) for r, s in zip(ours, theirs, strict=True) for g, a in zip(r, s, strict=True)])


# Intervals and relations ----------------------------------------------------------------------------------------------


def _as_intervals(shape: Shape) -> list[Interval] | None:
    if isinstance(shape, Interval):
        return [shape]
    if isinstance(shape, Collection) and shape.kind in ("tuple", "interval") and len(shape.items) == 2:
        interval = interval_of(shape)
        return None if interval is None else [interval]
    if isinstance(shape, Collection) and shape.kind in ("list", "set"):
        if all(isinstance(item, Value) for item in shape.items):
            return [Interval(item.text, item.text, (True, True)) for item in shape.items if isinstance(item, Value)]
        parts = [_as_intervals(item) for item in shape.items]
        return None if None in parts else [interval for part in parts for interval in part or []]
    if isinstance(shape, Union):
        parts = [_as_intervals(part) for part in shape.parts]
        return None if None in parts else [interval for part in parts for interval in part or []]
    return None


def _same_intervals(gold: Shape, answer: Shape) -> bool | None:
    ours, theirs = _as_intervals(gold), _as_intervals(answer)
    if ours is None or theirs is None:
        if isinstance(gold, Value | Words) or isinstance(answer, Value | Words):
            return (
                None if any(isinstance(s, Value) and read_quantity(s.text) is None for s in (gold, answer)) else False
            )
        return None
    if len(ours) > 1 or len(theirs) > 1:
        ours, theirs = _merged(_sorted(ours)), _merged(_sorted(theirs))
    if len(ours) != len(theirs):
        return False
    return _all([_same_interval(g, a) for g, a in zip(ours, theirs, strict=True)])


def _sorted(intervals: list[Interval]) -> list[Interval]:
    def low(interval: Interval) -> float:
        expression = read_expression(interval.low) if interval.low else None
        value = real_value(expression) if expression else None
        return float("-inf") if value is None else value

    return sorted(intervals, key=low)


def _merged(intervals: list[Interval]) -> list[Interval]:
    """Sorted intervals, those that touch in one point put together."""
    merged = intervals[:1]
    for interval in intervals[1:]:
        last = merged[-1]
        if (
            last.high
            and interval.low
            and same_value(last.high, interval.low)
            and (last.closed[1] or interval.closed[0])
        ):
            merged[-1] = Interval(last.low, interval.high, (last.closed[0], interval.closed[1]), last.variable)
        else:
            merged.append(interval)
    return merged


def _same_interval(gold: Interval, answer: Interval) -> bool | None:
    if gold.variable and answer.variable and gold.variable != answer.variable:
        return False
    verdicts: list[bool | None] = []
    for ours, theirs, closed, also in zip(
        (gold.low, gold.high), (answer.low, answer.high), gold.closed, answer.closed, strict=True
    ):
        if not ours or not theirs:
            verdicts.append(ours == theirs)
        else:
            verdicts.append(same_value(ours, theirs) if closed == also else False)
    return _all(verdicts)


def _same_relation(gold: Shape, answer: Shape) -> bool | None:
    if not isinstance(gold, Relation) or not isinstance(answer, Relation):
        other = answer if isinstance(gold, Relation) else gold
        return None if isinstance(other, Interval | Union) else False
    if gold.strict != answer.strict:
        return False
    ours, theirs = (read_expression(f"({r.right}) - ({r.left})") for r in (gold, answer))
    if ours is None or theirs is None:
        return None
    return True if same_zeros(ours, theirs, positive=True) else None


# Equations ------------------------------------------------------------------------------------------------------------


def _same_equation(gold: Shape, answer: Shape) -> bool | None:
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        left, other = gold.left.strip(), answer.left.strip()
        if (
            left.count("'") != other.count("'")
            and re.match(r"[A-Za-z]'*(?:\(|$)", left)
            and re.match(r"[A-Za-z]'*(?:\(|$)", other)
        ):
            return False  # f and its derivative
        calls = _CALL.fullmatch(left), _CALL.fullmatch(other)
        if calls[0] and calls[1] and "_" in left + other and calls[0][1] != calls[1][1]:
            return False  # f_1 and f_2
        if calls[0] and calls[1] and calls[0][1] == calls[1][1] and calls[0][2] != calls[1][2]:
            names = calls[0][2].strip(), calls[1][2].strip()
            if (
                names[0] in getattr(answer.right, "text", "")
                or not all(len(name) == 1 and name.isalpha() for name in names)
                or not isinstance(answer.right, Value)
            ):
                return False  # f(x + 1) and f(x)
            renamed = re.sub(rf"(?<![A-Za-z\\]){names[1]}(?![A-Za-z])", names[0], answer.right.text)
            return same(gold.right, Value(renamed))
        if left == other or (_FUNCTION_NAME.fullmatch(left) and _FUNCTION_NAME.fullmatch(other)):
            verdict = same(gold.right, answer.right)
            if verdict is not False or _NAME.fullmatch(left):
                return verdict
        texts = [f"({e.left}) - ({e.right.text})" if isinstance(e.right, Value) else "" for e in (gold, answer)]
        ours, theirs = (read_expression(text) if text else None for text in texts)
        if ours is not None and theirs is not None:
            if same_zeros(ours, theirs):
                return True
            return False if refuted(ours, theirs) or refuted(theirs, ours) else _unlike(gold, answer)
        return None
    if isinstance(answer, Equation):
        return _same_as_right_side(gold, answer)
    assert isinstance(gold, Equation)
    if not _NAME.fullmatch(gold.left):
        return False if isinstance(answer, Value) and read_expression(answer.text) is not None else None
    return same(gold.right, answer)


def _same_as_right_side(gold: Shape, answer: Equation) -> bool | None:
    """What an equation gives: `x = 5`, `6 + 12 = 18`; of `exact \\approx rounded` the exact side counts."""
    left = read_expression(answer.left)
    if answer.approximate and left is not None and not left.symbols:
        exact = same(gold, Value(answer.left))
        return exact or same(gold, answer.right)
    if left is not None and left.symbols and left.node[0] not in ("sym", "call") and isinstance(answer.right, Value):
        right = read_expression(answer.right.text)
        if right is not None and right.symbols and not equal(left, right):
            return None
        asked_for = len(left.symbols) > 1 and not {"pow", "div", "root", "neg", "fn"} & set(
            _kinds(left.node)
        )  # m + n = 25
        if right is not None and not right.symbols and (not asked_for or rational_value(right) == 0):
            return False if isinstance(gold, Value) and read_expression(gold.text) is not None else None  # x^2 = 36
    return same(gold, answer.right)


def _kinds(node: Node) -> Iterator[str]:
    yield node[0]
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from _kinds(child)


def _unlike(gold: Equation, answer: Equation) -> bool | None:
    """False where both equations give a number to a name, and not the same; None where algebra must say."""
    if all(_NAME.fullmatch(e.left) for e in (gold, answer)) and gold.left.strip() != answer.left.strip():
        values = [read_expression(e.right.text) if isinstance(e.right, Value) else None for e in (gold, answer)]
        if all(v is not None and not v.symbols for v in values):
            return False
    return None


# Choices, words, colons -----------------------------------------------------------------------------------------------


def _same_choice(gold: Shape, answer: Shape) -> bool | None:
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


def _same_words(gold: Shape, answer: Shape) -> bool | None:
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
                    return _same_quantity(number, also)
            return False
        quantity = read_quantity(gold.text)
        if quantity is not None and isinstance(answer, Value):
            other = read_quantity(answer.text)
            return None if other is None else _same_quantity(quantity, other)
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
            return None if other is None else _same_quantity(other, quantity)
        return False if read_expression(gold.text) is not None or read_quantity(gold.text) is not None else None
    return False


def _same_colons(gold: Shape, answer: Shape) -> bool | None:
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
    colons, other = (gold, answer) if isinstance(gold, Colons) else (answer, gold)
    assert isinstance(colons, Colons)
    if isinstance(other, Equation):
        return same(gold, other.right) if other is answer else same(other.right, answer)
    if len(colons.parts) == 2 and isinstance(other, Value) and not colons.half:
        top, bottom = map(Fraction, colons.parts)
        expression = read_expression(re.sub(r"\\text\s?\{\s*to\s*\}|\bto\b", "/", other.text))
        if expression is None:
            return None
        return rational_value(expression) == top / bottom if bottom and not colons.parts[1].startswith("0") else False
    return None if isinstance(other, Value | Words) else False


def _is_time(shape: Colons) -> bool:
    return bool(shape.half) or any(part.startswith("0") and part != "0" for part in shape.parts[1:])
