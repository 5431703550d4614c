r"""Values of formulas: exact fractions where only rational arithmetic is needed, else to many digits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from forkwise.tasks.answers.trees import Expression, Node

_LARGEST_BITS = 100_000  # of a number in exact arithmetic
SAMPLE_DIGITS = 30
NEGATIVE, INTEGERS = 2, 4  # the points whose values are negative, or whole numbers


class NoValue(Exception):
    """An expression has no value at this point, or none that can be computed."""


class Irrational(Exception):
    """Exact arithmetic on fractions does not suffice."""


def point(symbols: frozenset[str], number: int) -> dict[str, Fraction]:
    """Gives each variable a value, always the same for its name and of no special form."""
    values = {}
    for name in symbols:
        seed = int.from_bytes(hashlib.sha256(f"{number} {name}".encode()).digest()[:8], "big")
        if number == INTEGERS:
            values[name] = Fraction(seed % 40 + 2)
            continue
        value = Fraction(seed % 100_003 + 30_011, 60_013 + seed % 4099)
        values[name] = -value if number == NEGATIVE else value
    return values


def _bounded(value: Fraction, most_bits: int = _LARGEST_BITS) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > most_bits:
        raise NoValue
    return value


def exact_value(node: Node, at: Mapping[str, Fraction]) -> Fraction:
    """Computes the exact value; `Irrational` where it is none, `NoValue` where it is undefined or too large."""
    kind = node[0]
    if kind == "num":
        return _bounded(node[1])
    if kind == "sym":
        return at[node[1]]
    if kind == "neg":
        return -exact_value(node[1], at)
    if kind == "add":
        return _bounded(sum((exact_value(term, at) for term in node[1:]), Fraction(0)))
    if kind == "mul":
        product = Fraction(1)
        for factor in node[1:]:
            product = _bounded(product * exact_value(factor, at))
        return product
    if kind == "div":
        bottom = exact_value(node[2], at)
        if bottom == 0:
            raise NoValue
        return _bounded(exact_value(node[1], at) / bottom)
    if kind == "pow":
        return _exact_power(exact_value(node[1], at), exact_value(node[2], at))
    if kind == "root":
        index = exact_value(node[2], at)
        if index.denominator != 1 or not 1 <= index <= 60:
            raise Irrational
        return _exact_root(exact_value(node[1], at), int(index))
    if kind == "fact":
        number = exact_value(node[1], at)
        if number.denominator != 1:
            raise Irrational
        if not 0 <= number <= 3000:
            raise NoValue
        return _bounded(Fraction(math.factorial(int(number))))
    if kind == "fact2":
        number = exact_value(node[1], at)
        if number.denominator != 1 or not 0 <= number <= 3000:
            raise NoValue
        return _bounded(Fraction(math.prod(range(int(number), 1, -2))))
    if kind == "binom":
        top, bottom = exact_value(node[1], at), exact_value(node[2], at)
        if top.denominator != 1 or bottom.denominator != 1:
            raise Irrational
        if not 0 <= bottom <= top <= 20_000 or min(bottom, top - bottom) > 5000:
            raise NoValue
        return _bounded(Fraction(math.comb(int(top), int(bottom))))
    if kind == "fn" and node[1] in ("abs", "floor", "ceil"):
        value = exact_value(node[2], at)
        if node[1] == "abs":
            return abs(value)
        return Fraction(math.floor(value) if node[1] == "floor" else math.ceil(value))
    if kind == "call":
        value = Fraction(_some_polynomial(node[1], [exact_value(child, at) for child in node[2:]], lambda w: w))
        return _bounded(value, _LARGEST_BITS // 10)  # f(f(f(x))) grows fast
    raise Irrational


def _some_polynomial(name: str, arguments: Sequence[Any], number: Callable[[Fraction], Any]) -> Any:
    """Returns the value of a function that nobody defines: of a polynomial that its name determines."""
    names = [f"{name} {n}" for n in range(2 + 2 * len(arguments))]
    values = point(frozenset(names), 3)
    weights = [number(values[n]) for n in names]
    total = weights[0] + weights[1] * math.prod(arguments, start=number(Fraction(1)))
    for n, x in enumerate(arguments):
        total = total + weights[2 + 2 * n] * x + weights[3 + 2 * n] * x**2
    return total


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction:
    """Computes a power where it is a fraction, of roots too (`4^{3/2}`)."""
    if exponent.denominator != 1:
        if base < 0 or exponent.denominator > 60:
            raise Irrational
        return _exact_power(_exact_root(base, exponent.denominator), Fraction(exponent.numerator))
    power = int(exponent)
    if base == 0 and power < 0:
        raise NoValue
    if base not in (0, 1, -1):
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size * abs(power) > _LARGEST_BITS:
            raise NoValue
    elif abs(power) > 10**6:
        power = power % 2 + 2
    return base**power


def _exact_root(value: Fraction, index: int) -> Fraction:
    if index == 1:
        return value
    negative = value < 0
    if negative and index % 2 == 0:
        raise Irrational
    parts = [_integer_root(abs(value.numerator), index), _integer_root(value.denominator, index)]
    root = Fraction(*parts)
    return -root if negative else root


def _integer_root(number: int, index: int) -> int:
    if number.bit_length() > 4000:
        raise NoValue
    if index == 2:
        guesses = [math.isqrt(number)]
    else:
        guess = round(number ** (1 / index)) if number < 2**1000 else 0
        guesses = list(range(max(guess - 1, 0), guess + 2))
    for root in guesses:
        if root**index == number:
            return root
    raise Irrational


def rounded(value: Any, mp: Any) -> Any:
    """Returns a value as a number of `mp`, to the digits that it works with now."""
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _numeric(node: Node, at: Mapping[str, Any], mp: Any, magnitudes: list[float]) -> Any:
    """Computes the value as a number of `mp`, real or complex; `NoValue` where it is undefined or out of bounds.

    `magnitudes[0]` becomes the largest |log10| of a value on the way.
    """
    value = _numeric_node(node, at, mp, magnitudes)
    if value != 0:
        magnitudes[0] = max(magnitudes[0], abs(mp.mag(value)) * math.log10(2))
    return value


def _numeric_node(node: Node, at: Mapping[str, Any], mp: Any, magnitudes: list[float]) -> Any:
    """Returns the value of a node from the values of its parts."""
    kind = node[0]
    if kind == "num":
        return rounded(node[1], mp)
    if kind == "sym":
        return at[node[1]]
    if kind == "const":
        if node[1] == "inf":
            raise NoValue
        return {"pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1)}[node[1]] * 1  # of constants, numbers
    if kind == "call":
        values = [_numeric(child, at, mp, magnitudes) for child in node[2:]]
        return _some_polynomial(node[1], values, lambda w: rounded(w, mp))
    arguments = [_numeric(child, at, mp, magnitudes) for child in node[1:] if isinstance(child, tuple)]
    if kind == "neg":
        return -arguments[0]
    if kind == "add":
        return sum(arguments[1:], arguments[0])
    if kind == "mul":
        return math.prod(arguments[1:], start=arguments[0])
    if kind == "div":
        if arguments[1] == 0:
            raise NoValue
        return arguments[0] / arguments[1]
    if kind in ("pow", "root"):
        base, exponent = arguments
        if kind == "root":
            if exponent == 0:
                raise NoValue
            if mp.im(base) == 0 and mp.re(base) < 0 and exponent == int(mp.re(exponent)) and int(mp.re(exponent)) % 2:
                return -mp.root(-base, int(mp.re(exponent)))
            exponent = 1 / exponent
        if base == 0:
            if mp.re(exponent) <= 0:
                raise NoValue
            return mp.mpf(0)
        if abs(exponent) > 1e7 or abs(exponent) * max(abs(mp.log(abs(base), 2)), 1) > 1e7:
            raise NoValue
        return mp.power(base, exponent)
    if kind == "fact":
        if mp.im(arguments[0]) != 0 or not 0 <= mp.re(arguments[0]) <= 3000:
            raise NoValue
        return mp.factorial(arguments[0])
    if kind == "fact2":
        raise NoValue
    if kind == "binom":
        if any(mp.im(a) != 0 or not -3000 <= mp.re(a) <= 3000 for a in arguments):
            raise NoValue
        return mp.binomial(*arguments)
    return _function(node[1], arguments[0], mp, magnitudes)


def _function(name: str, x: Any, mp: Any, magnitudes: list[float]) -> Any:
    if mp.im(x) == 0:
        x = mp.re(x)
    if name in ("ln", "lg"):
        if x == 0:
            raise NoValue
        return mp.log(x) if name == "ln" else mp.log(x) / mp.log(10)
    if abs(x) > 1e6:
        raise NoValue
    if name == "tanh" and abs(x) > 30:
        magnitudes[0] = max(magnitudes[0], float(abs(x)))  # 1 - 2 exp(-2 x)
    if name in ("floor", "ceil", "abs"):
        return {"floor": mp.floor, "ceil": mp.ceil, "abs": abs}[name](x)
    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot"}
    return getattr(mp, names.get(name, name))(x)


def evaluate(node: Node, at: Mapping[str, Fraction], digits: int, magnitudes: list[float] | None = None) -> Any:
    """Returns the value to `digits` digits, or exactly where it is a fraction."""
    try:
        return exact_value(node, at)
    except Irrational:
        pass
    from mpmath import mp

    with mp.workdps(digits + 20):
        try:
            numbers = {name: rounded(value, mp) for name, value in at.items()}
            value = _numeric(node, numbers, mp, [0.0] if magnitudes is None else magnitudes)
            if not mp.isfinite(value):
                raise NoValue
            return value
        except (ArithmeticError, ValueError, TypeError, KeyError, AttributeError, mp.NoConvergence) as error:
            raise NoValue from error


@dataclass(frozen=True)
class ValueAtPoint:
    """The value of a formula at one point, and the largest |log10| of a value on the way to it."""

    value: Any
    magnitude: float


@lru_cache(1000)
def sample(expression: Expression, number: int) -> ValueAtPoint | None:
    """Returns the value at point `number` to `SAMPLE_DIGITS` digits; None where there is none."""
    magnitudes = [0.0]
    try:
        value = evaluate(expression.node, point(expression.symbols, number), SAMPLE_DIGITS, magnitudes)
    except NoValue:
        return None
    return ValueAtPoint(value, magnitudes[0])


def is_real(value: Any) -> bool:
    """Tells whether a value has no imaginary part beyond the error of computing it."""
    return isinstance(value, Fraction) or abs(value.imag) <= abs(value.real) * 1e-25
