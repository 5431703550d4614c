r"""Numbers that are too large to compute, compared by their prime factors: `2^{1000000}` is `4^{500000}`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from forkwise.tasks.answers.trees import Node
from forkwise.tasks.answers.values import Irrational, NoValue, exact_value

_MOST_TRIALS = 2000  # divisors that are tried; a number below its square is factored for certain


def same_powers(a: Node, b: Node) -> bool:
    """Tells whether two products of powers have the same sign and prime factors; False where one is no such product."""
    wanted, answered = _factors(a), _factors(b)
    return wanted is not None and wanted == answered


def _factors(node: Node) -> Mapping[int, Fraction] | None:
    """Returns the exponents of the prime factors of a product of powers, -1 for its sign; None for anything else."""
    kind = node[0]
    if kind in ("mul", "div", "neg"):
        product = {-1: Fraction(kind == "neg")}
        for index, part in enumerate(node[1:]):
            factors = _factors(part)
            if factors is None:
                return None
            for prime, exponent in factors.items():
                product[prime] = product.get(prime, Fraction(0)) + (-exponent if kind == "div" and index else exponent)
        return _reduced(product)
    if kind == "pow":
        base = _factors(node[1])
        try:
            exponent = exact_value(node[2], {})
        except (Irrational, NoValue, KeyError):
            return None
        if base is None or (-1 in base and exponent.denominator != 1):
            return None
        return _reduced({prime: power * exponent for prime, power in base.items()})
    if kind == "num" and node[1]:
        bottom = _of_integer(node[1].denominator)
        top = _of_integer(node[1].numerator)
        return None if top is None or bottom is None else _reduced(top | {p: -n for p, n in bottom.items()})
    return None


def _reduced(powers: Mapping[int, Fraction]) -> dict[int, Fraction]:
    """Leaves out factors to the power of 0; of the sign, whether it is minus."""
    powers = {prime: power % 2 if prime == -1 else power for prime, power in powers.items()}
    return {prime: power for prime, power in powers.items() if power}


def _of_integer(number: int) -> dict[int, Fraction] | None:
    powers: Counter[int] = Counter({-1: 1} if number < 0 else {})
    number = abs(number)
    for divisor in range(2, _MOST_TRIALS):
        while number % divisor == 0:
            number //= divisor
            powers[divisor] += 1
    if number >= _MOST_TRIALS**2:
        return None
    if number > 1:
        powers[number] += 1
    return {prime: Fraction(power) for prime, power in powers.items()}
