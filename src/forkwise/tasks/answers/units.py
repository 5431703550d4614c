r"""Units of measure: a table of them, and products and powers of units as people write them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

Dimensions = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """A unit of measure as a multiple of base units.

    Attributes:
        factor: how many base units it is.
        dimensions: base units and their powers, sorted; empty for percent and degrees, which have a `name`.
        name: `"percent"`, `"degree"`, or nothing.
    """

    factor: Fraction
    dimensions: Dimensions
    name: str = ""


# Each row: how many of which base units, then symbols and names; a plural in s is understood. Rows that begin with a
# star take SI prefixes. pint would read these too, but neither money nor percent, and it takes a second to start.
_ROWS = """
* 1 m: m | meter metre
* 1 g: g | gram gramme
* 1 s: s | second
* 1/1000 m^3: L l | liter litre
* 1 A: A | amp ampere
* 1000 g m s^-2: N | newton Newton
* 1000 g m^2 s^-2: J | joule Joule
* 1000 g m^2 s^-3: W | watt Watt
* 1000 g m^-1 s^-2: Pa | pascal Pascal
* 1 s^-1: Hz | hertz Hertz
* 1000 g m^2 s^-3 A^-1: V | volt Volt
* 1000 g m^2 s^-3 A^-2: Ω Ω \\Omega | ohm
* 1 A s: C | coulomb Coulomb
* 1 F: F | farad
* 1 mol: mol | mole
* 1 eV: eV | electronvolt
* 1 cal: cal | calorie
* 8 bit: B | byte
8000 bit: KB |
* 1 bit: | bit
1000 bit: kb Kb |
1000000 bit: Mb |
1000000000 bit: Gb |
* 1000 g s^-2 A^-1: T | tesla Tesla
1/10 g s^-2 A^-1: | gauss Gauss
1 unit: | unit
* 1 pc: pc | parsec
1000 g: | kilo
1/1000000 m: µm μm | micron
127/5000 m: in | inch inches
381/1250 m: ft | foot feet
1143/1250 m: yd | yard
201168/125 m: mi | mile
201168/1000 m: | furlong
1852 m: nmi | nauticalmile
1/10000000000 m: Å Å \\AA | angstrom Angstrom
149597870700 m: AU au | astronomicalunit
9460730472580800 m: ly | lightyear
45359237/100000 g: lb lbs | pound
45359237/1600000 g: oz | ounce
635029318/100000 g: | stone
1000000 g: | tonne
1 ton: | ton
1 M_sun: | solarmass solarmasses
1 s: sec secs |
60 s: min mins | minute
3600 s: h hr hrs | hour
86400 s: d | day
604800 s: wk wks | week
1209600 s: | fortnight
1 month: | month
12 month: yr yrs | year
120 month: | decade
1200 month: | century centuries
1/1000000 m^3: cc |
473176473/125000000000 m^3: gal | gallon
473176473/500000000000 m^3: qt | quart
473176473/1000000000000 m^3: pt | pint
473176473/2000000000000 m^3: | cup
473176473/16000000000000 m^3: | fluidounce
473176473/32000000000000 m^3: tbsp | tablespoon
473176473/96000000000000 m^3: tsp | teaspoon
100 m^2: | are
10000 m^2: ha | hectare
316160658/78125 m^2: | acre
1397/3125 m s^-1: mph |
5/18 m s^-1: kph kmh kmph |
463/900 m s^-1: | knot
1 usd: ¤ | dollar usd USD buck
1/100 usd: ¢ | cent
1 eur: € | euro EUR
1 gbp: £ \\pounds | GBP
1 yen: ¥ | yen JPY
1 yuan: RMB CNY | yuan
1 inr: ₹ Rs INR | rupee
1 peso: | peso
1 penny: | penny pennies
1 nickel: | nickel
1 dime: | dime
1 rad: rad | radian
6283185307179586/1000000000000000 rad: rev | revolution turn
1 rpm: rpm |
1 celsius: °C | celsius Celsius
1 fahrenheit: °F | fahrenheit Fahrenheit
1 kelvin: K | kelvin Kelvin
101325 Pa: atm | atmosphere
100000 Pa: bar | bar
1/10000000 J: erg | erg
3600 J: Wh |
3600000 J: kWh | kilowatthour
1 kcal: Calorie |
1 dB: dB | decibel
* 1000 mol m^-3: M | molar
1/100 one percent: % | percent percentage pct
1 one degree: ° | degree deg
"""
_PREFIXES = {
    "k": 3, "M": 6, "G": 9, "T": 12, "m": -3, "µ": -6, "μ": -6, "u": -6, "n": -9, "p": -12, "c": -2, "d": -1,
    "kilo": 3, "mega": 6, "giga": 9, "tera": 12,
    "milli": -3, "micro": -6, "nano": -9, "pico": -12, "centi": -2, "deci": -1,
}  # fmt: skip


@dataclass
class _Product:
    """A product of powers of units that grows."""

    factor: Fraction = Fraction(1)
    powers: Counter[str] = field(default_factory=Counter)

    def multiply(self, unit: Unit, power: int) -> None:
        """Multiplies by a power of a unit."""
        self.factor *= unit.factor**power
        for base, exponent in unit.dimensions:
            self.powers[base] += exponent * power

    def unit(self, name: str) -> Unit:
        """Returns the product as a unit."""
        return Unit(self.factor, tuple(sorted((base, power) for base, power in self.powers.items() if power)), name)


def _table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for row in _ROWS.strip().splitlines():
        definition, _, names = row.partition(":")
        starred = definition.startswith("*")
        factor, *parts = definition.lstrip("* ").split()
        if parts[0] == "one":
            unit = Unit(Fraction(factor), (), parts[1])
        else:
            product = _Product(Fraction(factor))
            for base, _, power in (part.partition("^") for part in parts):
                product.multiply(units.get(base, Unit(Fraction(1), ((base, 1),))), int(power or 1))
            unit = product.unit("")
        symbols, _, words = names.partition("|")
        spelled = [word for name in words.split() for word in (name, name + "s")]
        for name in (*symbols.split(), *spelled):
            units[name] = unit
        for prefix, exponent in _PREFIXES.items() if starred else ():
            for name in spelled if len(prefix) > 1 else symbols.split():
                units.setdefault(prefix + name, Unit(unit.factor * Fraction(10) ** exponent, unit.dimensions))
    return units


UNITS = _table()
_UNIT_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<word>\\(?:Omega|AA)|[A-Za-zµμΩÅ]+\.?|°\s?[CF](?![A-Za-z])|[°%¢€£¥₹¤])"
    r"|(?P<sign>/|\\cdot|\*|·|\\times|-)"
    r"|\^\s?\{?\s?(?P<power>-?[0-9])\s?\}?"
    r")"
)
_LIKE_A_UNIT = re.compile(r"[a-z](?:met(?:er|re)|gram|lit(?:er|re)|second|watt|volt|joule|newton|byte)s?$")
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3}
_MOST_FACTORS = 9
_TWO_VARIABLES = re.compile(r"(?<![A-Za-z])(?![NAVWJC] [mhs]|[NVJ]\s)[A-Za-z]\s+[A-Za-z]\Z")
_NEGATIVE_POWER = re.compile(r"\s*\^\s?\{?\s?-")


def _unit_word(word: str) -> Unit | None:
    for spelling in (word.replace(" ", ""), word.rstrip("."), word.rstrip(".").lower()):
        if spelling in UNITS and not (len(spelling) == 1 and spelling != word.rstrip(".")):
            return UNITS[spelling]
    if _LIKE_A_UNIT.search(word):
        return Unit(Fraction(1), ((word.removesuffix("s"), 1),))  # a misspelt unit is another one
    return None


def read_unit(text: str) -> tuple[Unit | None, str]:
    """Reads the first unit of `text`, such as `km/h`, `square meters` or `dollars per hour`, and the text after it."""
    product, name = _Product(), ""
    position = end = count = 0
    sign = pending = 1  # of the power of the next unit
    last: tuple[Unit, int] | None = None
    while not name and (token := _UNIT_TOKEN.match(text, position)) is not None:
        position = token.end()
        word = (token["word"] or "").lower().rstrip(".")
        if token["power"]:
            if last is None:
                break
            unit, power = last
            product.multiply(unit, int(token["power"]) * (1 if power > 0 else -1) - power)
            end, last = position, None
        elif token["sign"]:
            if not count:
                break
            sign = {"/": -1, "-": 1}.get(token["sign"], sign)
        elif word in ("squared", "cubed") and last is not None:
            product.multiply(last[0], last[1] * (_POWERS[word] - 1))
            end = position
        elif word in _POWERS:
            pending = _POWERS[word]
        elif word in ("per", "each", "every") or (word in ("a", "an") and count):
            sign = -1
        else:
            known = _unit_word(token["word"])
            if known is None or (known.name and count):
                break
            letters = token["word"] if sign == 1 and last and len(token["word"]) == 1 else ""
            if letters and _TWO_VARIABLES.search(text, 0, position) and not _NEGATIVE_POWER.match(text, position):
                return None, text  # 2 m g
            if count == _MOST_FACTORS:
                return None, text
            product.multiply(known, pending * sign)
            last, name, count, end = (known, pending * sign), known.name, count + 1, position
            sign = pending = 1
    return (product.unit(name), text[end:]) if count else (None, text)
