r"""Whether two single values are the same: as formulas, or as quantities with units."""

from __future__ import annotations

import re
from fractions import Fraction

from forkwise.tasks.answers.equality import equal, rational_value
from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.powers import same_powers
from forkwise.tasks.answers.quantities import Quantity, read_quantity
from forkwise.tasks.answers.trees import Expression, Node, integer
from forkwise.tasks.answers.units import UNITS, Unit

BESIDE = re.compile(r"[%°]|\\text")  # may be a unit beside the number
_HAS_WORD = re.compile(r"[A-Za-z]{2}|°")
_WORD = re.compile(r"[a-z]{2,}|(?<=[°} ])[nsew]\b")
_OPPOSED = [
    frozenset(words.split())
    for words in (
        "north south east west northeast northwest southeast southwest n s e w",
        "profit loss gain",
        "increase decrease",
        "above below",
        "left right",
        "up down",
        "clockwise counterclockwise anticlockwise",
        "ago later now",
        "bc ad bce ce",
        "win lose wins losses",
        "am pm",
        "forward backward",
        "january february march april may june july august september october november december",
        "monday tuesday wednesday thursday friday saturday sunday",
    )
]
_TEMPERATURES = {((name, 1),) for name in ("celsius", "fahrenheit", "kelvin")}
_CURRENCIES = {((name, 1),) for name in ("usd", "eur", "gbp", "yen", "yuan", "inr", "peso")}


def same_value(gold: str, answer: str) -> bool | None:
    """Tells whether two single values are the same: as formulas, or as quantities."""
    if gold == answer:
        return True
    if _are_opposed(gold, answer):
        return False
    wanted, answered = read_expression(gold), read_expression(answer)
    verdict: bool | None = None
    if wanted is not None and answered is not None:
        if wanted.symbols ^ answered.symbols == {"c", "C"} and len(wanted.symbols) == len(answered.symbols):
            wanted, answered = _in_capitals(wanted), _in_capitals(answered)  # a constant of integration
        verdict = _same_formula(wanted, answered)
        beside = BESIDE.search(gold) or BESIDE.search(answer)
        if verdict is None and not (wanted.symbols or answered.symbols):
            return same_powers(wanted.node, answered.node)  # numbers without a value, or too large to compute
        if verdict or not (wanted.symbols or answered.symbols or beside):
            return verdict
        if wanted.symbols & answered.symbols and not beside and not (_has_unit(gold) and _has_unit(answer)):
            return verdict
    gold_quantity, quantity = read_quantity(gold, adjacent_letters=False), read_quantity(answer)
    if gold_quantity is None or quantity is None:
        return verdict
    has_same_letters = answered is not None and quantity.value.symbols == answered.symbols  # 5k may be 5000
    if gold_quantity.unit is None and quantity.unit is None and verdict is not None and has_same_letters:
        return verdict
    return same_quantity(gold_quantity, quantity)


def _in_capitals(formula: Expression) -> Expression:
    """Puts `C` for `c`."""

    def renamed(node: Node) -> Node:
        if node == ("sym", "c"):
            return ("sym", "C")
        return tuple(renamed(part) if isinstance(part, tuple) else part for part in node)

    return Expression(renamed(formula.node), frozenset("C" if name == "c" else name for name in formula.symbols))


def _has_unit(text: str) -> bool:
    """Tells whether a number without variables and a unit of measure are read, as in `3000 g`."""
    quantity = read_quantity(text, adjacent_letters=False)
    return quantity is not None and bool(quantity.unit and quantity.unit.dimensions) and not quantity.value.symbols


def _are_opposed(gold: str, answer: str) -> bool:
    """Tells whether words beside two numbers contradict each other: east and west, profit and loss, May and June."""
    if not _HAS_WORD.search(gold) or not _HAS_WORD.search(answer):
        return False
    wanted, answered = (set(_WORD.findall(text.lower().replace("text", " "))) for text in (gold, answer))
    return any(wanted & group and answered & group and wanted & group != answered & group for group in _OPPOSED)


def same_quantity(gold: Quantity, answer: Quantity) -> bool | None:
    """Tells whether two quantities are the same; a unit counts where both sides name one."""
    if gold.base is not None and answer.base is not None and gold.base != answer.base:
        return False
    if gold.unit is not None and answer.unit is not None:
        return _same_in_units(gold.value, gold.unit, answer.value, answer.unit)
    verdict = _same_formula(gold.value, answer.value)
    if answer.base is not None and answer.is_literal and gold.base is None:
        verdict = rational_value(gold.value) == _value_in_base(answer.value.node, answer.base)
    unit = gold.unit or answer.unit
    if unit == UNITS["M"]:
        return False  # 5 M may be 5 million
    if verdict or unit is None:
        return verdict
    with_unit, without = (gold.value, answer.value) if gold.unit else (answer.value, gold.value)
    if unit.name == "percent":
        return _same_multiple(without, with_unit, Fraction(1, 100))
    return _same_angle(with_unit, without) if unit.name == "degree" else verdict


def _value_in_base(node: Node, base: int) -> Fraction:
    """Returns the value of `0xFF`, of which `Quantity` keeps the digits."""
    return Fraction(int(str(node[1]).removeprefix("digits "), base))


def _kelvins(value: Expression, unit: Unit) -> Expression:
    """Returns a temperature in kelvins; of other units the value as it is."""
    if unit == UNITS["°C"]:
        node: Node = ("add", value.node, ("num", Fraction("273.15"), "decimal"))
    elif unit == UNITS["°F"]:
        shifted = ("add", value.node, ("num", Fraction("459.67"), "decimal"))
        node = ("mul", shifted, ("num", Fraction(5, 9), "decimal"))
    else:
        return value
    return Expression(node, value.symbols)


def _temperature(unit: Unit, other: Unit) -> Unit:
    """Returns degrees Celsius for a `C` that is compared with a temperature, and Fahrenheit for an `F`."""
    named = {UNITS["C"]: UNITS["°C"], UNITS["F"]: UNITS["°F"]}.get(unit)
    return named if named and (other.name == "degree" or other.dimensions in _TEMPERATURES) else unit


def _same_in_units(gold: Expression, gold_unit: Unit, answer: Expression, answer_unit: Unit) -> bool | None:
    gold_unit, answer_unit = _temperature(gold_unit, answer_unit), _temperature(answer_unit, gold_unit)
    if any(base == "unit" for unit in (gold_unit, answer_unit) for base, _ in unit.dimensions):
        # "square units" names no unit, only its power
        powers = [sum(power for _, power in unit.dimensions) for unit in (gold_unit, answer_unit)]
        return _same_formula(gold, answer) if powers[0] == powers[1] else False
    if gold_unit.name == answer_unit.name and gold_unit.dimensions == answer_unit.dimensions:
        if gold_unit.factor == answer_unit.factor:
            return _same_formula(gold, answer)
        return _same_multiple(gold, answer, answer_unit.factor / gold_unit.factor)
    if {gold_unit.dimensions, answer_unit.dimensions} <= _TEMPERATURES:
        return equal(_kelvins(gold, gold_unit), _kelvins(answer, answer_unit))
    if "degree" in (gold_unit.name, answer_unit.name):
        other = (answer_unit if gold_unit.name else gold_unit).dimensions
        if other in ((("celsius", 1),), (("fahrenheit", 1),)):
            return _same_formula(gold, answer)
        if other == (("rad", 1),):
            return _same_angle(gold, answer) if gold_unit.name else _same_angle(answer, gold)
    if _is_rate_of_money(gold_unit, answer_unit) or {gold_unit, answer_unit} == {UNITS["£"], UNITS["pounds"]}:
        return _same_formula(gold, answer)
    return False


def _is_rate_of_money(a: Unit, b: Unit) -> bool:
    """Tells whether one says dollars and the other dollars per something."""
    money, other = (tuple((base, power) for base, power in unit.dimensions if power > 0) for unit in (a, b))
    return money == other and money in _CURRENCIES and money in (a.dimensions, b.dimensions)


def _same_multiple(gold: Expression, answer: Expression, factor: Fraction) -> bool | None:
    scaled = Expression(("mul", answer.node, ("num", factor, "decimal")), answer.symbols)
    return equal(gold, scaled)


def _same_angle(degrees: Expression, radians: Expression) -> bool | None:
    half_turn = ("div", ("const", "pi"), integer(180))
    return equal(Expression(("mul", degrees.node, half_turn), degrees.symbols), radians)


def _same_formula(gold: Expression, answer: Expression) -> bool | None:
    verdict = equal(gold, answer)
    if verdict is False and gold.decimals is not None and _rounds_to(gold, answer):
        return True
    return verdict


def _rounds_to(gold: Expression, answer: Expression) -> bool:
    """Tells whether a number rounds to a gold answer that is a decimal number, at the last of its digits.

    Asked for are two significant digits of the gold answer, and an answer that is longer, or a fraction without a
    finite decimal.
    """
    exact, value = rational_value(gold), rational_value(answer)
    if exact is None or value is None or gold.decimals is None or gold.digits < 2:
        return False
    if exact.denominator == 1 and not gold.scientific:
        return False  # 27.0 is how a table stores 27
    if answer.decimals is None:
        has_finite_decimal = pow(10, value.denominator.bit_length(), value.denominator) == 0
        if has_finite_decimal:
            return False
    elif answer.digits <= gold.digits:
        return False
    return abs(value - exact) * 2 <= Fraction(10) ** -gold.decimals
