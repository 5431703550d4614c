r"""Two formulas are equal where their values are, at several points if they have variables.

Exact fractions are compared as they are. Other values are computed with so many digits that numbers of this size cannot
agree by accident (at least 120, more for larger numbers), relative to their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from forkwise.tasks.answers.trees import Expression, Node, has_kind, symbols_of
from forkwise.tasks.answers.values import (
    INTEGERS,
    NEGATIVE,
    SAMPLE_DIGITS,
    Irrational,
    NoValue,
    evaluate,
    exact_value,
    is_real,
    point,
    rounded,
    sample,
)

_MOST_DIGITS = 6000  # what would need more is left open
_ROOTS = ("root", "pow")  # of a negative number they have several values


def _agree(a: Any, b: Any, digits: int, magnitude: float) -> bool:
    """Tells whether two values agree to `digits` digits, or are both nothing beside the values that they came from."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    from mpmath import mp

    with mp.workdps(digits + 20):
        x, y = rounded(a, mp), rounded(b, mp)
        scale = max(abs(x), abs(y))
        return bool(abs(x - y) <= scale * mp.mpf(10) ** (10 - digits)) or bool(
            scale < mp.mpf(10) ** (magnitude + 10 - digits)
        )


def _equal_at(a: Expression, b: Expression, number: int) -> bool | None:
    """Tells whether two values are equal; `NoValue` where there are none, None if that took too many digits."""
    first, second = sample(a, number), sample(b, number)
    if first is None or second is None:
        raise NoValue
    if number == NEGATIVE and not (is_real(first.value) and is_real(second.value)):
        raise NoValue
    magnitude = max(first.magnitude, second.magnitude)
    if not _agree(first.value, second.value, SAMPLE_DIGITS, magnitude):
        return False
    if isinstance(first.value, Fraction) and isinstance(second.value, Fraction):
        return True
    for value in (first.value, second.value):
        if isinstance(value, Fraction) and value:
            magnitude = max(magnitude, abs(value.numerator.bit_length() - value.denominator.bit_length()) / 3.3)
    digits = 120 + 3 * math.ceil(magnitude)
    if digits > _MOST_DIGITS:
        return None
    at = point(a.symbols | b.symbols, number)
    return _agree(evaluate(a.node, at, digits), evaluate(b.node, at, digits), digits, magnitude)


def equal(a: Expression, b: Expression) -> bool | None:
    """Tells whether two formulas have the same value wherever both have one; None where that cannot be found out."""
    if a.node == b.node:
        return True
    symbols = a.symbols | b.symbols
    infinite = [_infinite(e.node) for e in (a, b)]
    if any(infinite):
        return infinite[0] == infinite[1] if all(infinite) or not symbols else False
    compared = 0
    steps = bool(symbols) and any(has_kind(e.node, "floor", "ceil") for e in (a, b))
    for number in (0, 1, NEGATIVE, 3, *([INTEGERS] if steps else [])) if symbols else (0,):
        try:
            verdict = _equal_at(a, b, number)
        except NoValue:
            continue
        if verdict is False and number == NEGATIVE and has_kind(a.node, *_ROOTS) != has_kind(b.node, *_ROOTS):
            return None
        if not verdict:
            return verdict
        compared += 1
    return True if compared else None


def _ratio(a: Expression, b: Expression, at: Mapping[str, Fraction]) -> Any:
    """Returns the quotient of two values; `NoValue` where one of them is 0."""
    x, y = (evaluate(e.node, at, 60) for e in (a, b))
    if x == 0 or y == 0:
        raise NoValue
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x / y
    from mpmath import mp

    with mp.workdps(80):
        return rounded(x, mp) / rounded(y, mp)


def _divisors(node: Node) -> Iterator[str]:
    """Collects the variables that something is divided by."""
    if node[0] == "sym":
        return
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from _divisors(child)
    if node[0] == "div" or (node[0] == "pow" and node[2][0] == "neg"):
        yield from symbols_of(node[2] if node[0] == "div" else node[1])


def same_zeros(a: Expression, b: Expression, *, positive: bool = False) -> bool:
    """Tells whether `a / b` is a number times powers of variables: then `a = 0` and `b = 0` say the same.

    With `positive`, whether it is a positive number: then `a > 0` and `b > 0` say the same.
    """
    symbols = sorted(a.symbols | b.symbols)
    divisors = set(_divisors(a.node)) | set(_divisors(b.node))  # never 0: an equation may be multiplied by them
    first, second = (point(frozenset(symbols), number) for number in (0, 1))
    try:
        start, end = _ratio(a, b, first), _ratio(a, b, second)
        expected = Fraction(1)
        for name in symbols:
            doubled = _ratio(a, b, {**first, name: 2 * first[name]}) / start
            power = next((k for k in range(-4, 5) if _agree(doubled, Fraction(2) ** k, 50, 0.0)), None)
            if power is None or (power and (positive or name not in divisors)):
                return False
            expected *= (second[name] / first[name]) ** power
        if not _agree(end / start, expected, 50, 0.0):
            return False
    except NoValue:
        return False
    return not positive or (is_real(start) and start.real > 0)


def refuted(a: Expression, b: Expression) -> bool:
    """Tells whether some point solves `a = 0` and not `b = 0`, found where `a` is linear in a variable."""
    symbols = a.symbols | b.symbols
    for name in sorted(a.symbols):
        for number in (0, 1):
            at = point(symbols, number)
            try:
                y = [exact_value(a.node, {**at, name: Fraction(x)}) for x in (1, 2, 3)]
                slope = y[1] - y[0]
                if not slope or y[2] - y[1] != slope:
                    break
                if exact_value(b.node, {**at, name: 1 - y[0] / slope}) != 0:
                    return True
            except (Irrational, NoValue, KeyError):
                break
    return False


def _infinite(node: Node) -> str:
    """Returns `"+"` or `"-"` for an infinity, else nothing."""
    if node == ("const", "inf"):
        return "+"
    if node[0] == "neg" and node[1] == ("const", "inf"):
        return "-"
    return ""


def rational_value(expression: Expression) -> Fraction | None:
    """Returns the value where it is a rational number without variables, else None."""
    if expression.symbols:
        return None
    try:
        return exact_value(expression.node, {})
    except (Irrational, NoValue, KeyError):
        return None


def real_value(expression: Expression) -> float | None:
    """Returns the real part of the value as a float, to sort by; None where there is no value without variables."""
    infinity = _infinite(expression.node)
    if infinity:
        return math.inf if infinity == "+" else -math.inf
    if expression.symbols:
        return None
    try:
        return float(evaluate(expression.node, {}, SAMPLE_DIGITS).real)
    except (NoValue, OverflowError, TypeError, ValueError):
        return None
