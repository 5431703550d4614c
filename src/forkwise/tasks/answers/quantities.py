r"""Numbers with what stands beside them: units, currency, percent, degrees, number bases, words and prose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from forkwise.tasks.answers.expressions import Expression, read_expression
from forkwise.tasks.answers.notation import MONEY

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


@dataclass(frozen=True)
class Quantity:
    """A value and what stands beside it; `unit` is None where nothing known does, `base` where no number base does."""

    value: Expression
    unit: Unit | None = None
    base: int | None = None


def _table() -> dict[str, Unit]:
    rows = """
    1 m: m meter meters metre metres
    1000 m: km kilometer kilometers kilometre kilometres
    1/100 m: cm centimeter centimeters centimetre centimetres
    1/1000 m: mm millimeter millimeters millimetre millimetres
    1/1000000000 m: nm nanometer nanometers nanometre nanometres
    1/1000000 m: micron microns micrometer micrometers
    127/5000 m: in inch inches
    381/1250 m: ft foot feet
    1143/1250 m: yd yard yards
    201168/125 m: mi mile miles
    1 g: g gram grams gramme grammes
    1000 g: kg kilogram kilograms kilo kilos
    1/1000 g: mg milligram milligrams
    45359237/100000 g: lb lbs pound pounds
    45359237/1600000 g: oz ounce ounces
    1000000 g: tonne tonnes
    1 ton: ton tons
    1 s: s sec secs second seconds
    1/1000 s: ms millisecond milliseconds
    60 s: min mins minute minutes
    3600 s: h hr hrs hour hours
    86400 s: day days
    604800 s: week weeks wk wks
    1 month: month months
    12 month: year years yr yrs
    1/1000 m^3: l L liter liters litre litres
    1/1000000 m^3: ml mL milliliter milliliters millilitre millilitres cc
    1/100000 m^3: cl cL centiliter centiliters
    473176473/125000000000 m^3: gal gallon gallons
    473176473/500000000000 m^3: quart quarts qt
    473176473/1000000000000 m^3: pint pints pt
    1397/3125 m s^-1: mph
    5/18 m s^-1: kph kmh kmph
    1 usd: ¤ dollar dollars usd USD buck bucks
    1/100 usd: cent cents ¢
    1 eur: € euro euros EUR
    1 gbp: £ GBP
    1 yen: ¥ yen JPY
    1 yuan: yuan RMB CNY
    1 inr: ₹ rupee rupees Rs INR
    1 peso: peso pesos
    1 penny: penny pennies
    1 nickel: nickel nickels
    1 dime: dime dimes
    1 quarter: quarter quarters
    1 rad: rad radian radians
    1 celsius: celsius Celsius °C
    1 fahrenheit: fahrenheit Fahrenheit °F
    1 kelvin: K kelvin kelvins Kelvin
    1 N: N newton newtons Newton Newtons
    1 J: J joule joules Joule Joules
    1000 J: kJ kilojoule kilojoules
    1 W: W watt watts Watt Watts
    1000 W: kW kilowatt kilowatts
    3600000 J: kWh
    1 Pa: Pa pascal pascals
    1000 Pa: kPa
    1 atm: atm
    1 Hz: Hz hertz Hertz
    1000 Hz: kHz
    1000000 Hz: MHz
    1 V: V volt volts Volt Volts
    1 A: A amp amps ampere amperes
    1/1000 A: mA
    1 C: coulomb coulombs
    1 ohm: ohm ohms
    1 mol: mol mole moles
    1 eV: eV
    1000 eV: keV
    1000000 eV: MeV
    1 cal: cal calorie calories
    1000 cal: kcal
    1 bit: bit bits
    8 bit: byte bytes B
    """
    units: dict[str, Unit] = {}
    for row in rows.strip().splitlines():
        definition, _, names = row.partition(":")
        factor, *parts = definition.split()
        powers = [part.partition("^") for part in parts]
        dimensions = tuple(sorted((name, int(power or 1)) for name, _, power in powers))
        for name in names.split():
            units[name] = Unit(Fraction(factor), dimensions)
    for name in ("%", "percent", "percents", "percentage", "pct"):
        units[name] = Unit(Fraction(1, 100), (), "percent")
    for name in ("°", "degree", "degrees", "deg", "degs"):
        units[name] = Unit(Fraction(1), (), "degree")
    return units


UNITS = _table()
_MULTIPLES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_WORDS = {word: value for value, word in enumerate(_SMALL.split())}
_WORDS |= {word: 10 * value for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)}
_ORDINAL = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12}  # fmt: skip
_FILLER = re.compile(
    r"(?:\\approx|approximately|approx\.?|about|around|roughly|exactly|only|just|is|are|was|equals?|equal to|a total of|total|the answer is|it is|it's"
    r"|there (?:are|is|were|will be)|she|he|they|we|you|i|it|has|have|had|will|would be|be|need|needs|get|gets|got|paid|pays|spent|earns?|makes?|the|an?"
    r"|answer|final|result|value|=|:|~|\\sim)(?![A-Za-z])[\s,:]*",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"^(?:the|its|his|her|their|this|that|our|your)\b[A-Za-z\s]{0,80}?\b(?:is|are|was|equals?|be)\s+(?=[-+(\\0-9¤])", re.IGNORECASE)
_TEXT_COMMAND = re.compile(r"\\text\s?\{([^{}]*)\}|\\(?:quad|qquad)")
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|abs|floor|ceil|pi|mod|gcd)(?![A-Za-z]))"
    r"[A-Za-z]{2,}(?![A-Za-z]*[({_])|°|%|¢|€|£|¥|₹|¤|[(\[](?=\s*(?:¤|[A-Za-z]{3,}|[A-Za-z]{2,}\s))|[,;:.!?](?=\s|$)|\"|(?<=[0-9}\s])-(?=[a-zA-Z]{2,})"
)
_SINGLE_UNIT = re.compile(r"(?<=[0-9)}])\s+([mgshlLNJWVAKCB])(?=$|[\s/^.,;)·*])|(?<=[0-9])\s?([mgshL])$")
_CAUTION = re.compile(
    r"\b(?:not|no|never|neither|more|less|greater|fewer|smaller|larger|least|most|than|over|under|between|below|above|or|either|from|to|cannot|can't|isn't|plus|minus|times|divided)\b",
    re.IGNORECASE,
)
_BASE = re.compile(r"(-?[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)\s?_\s?(?:\{\s?(?:\\text\{)?\s?([0-9]{1,2}|[a-z]+)\s?\}{1,2}|([0-9]{1,2}))")
_BASE_WORDS = re.compile(r"(-?[0-9A-F]+)\s+(?:\(\s*)?(?:in\s+)?base[\s-]+([0-9]{1,2}|two|eight|ten|sixteen)\)?", re.IGNORECASE)
_BASE_NAMES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16}
_SINGLE_NUMBER = re.compile(r"(?<![\w.,])-?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?(?![0-9])")
_UNIT_POWER = re.compile(r"([A-Za-z])\s+\^\s?(\{?\s?-?[0-9]\s?\}?)")
_UNIT_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z]+\.?|°\s?[CF](?![A-Za-z])|[°%¢€£¥₹¤])|(?P<op>/|\\cdot|\*|·|\\times|-)|\^\s?\{?\s?(?P<power>-?[0-9])\s?\}?)")


def words_of_number(text: str) -> int | None:
    """The number that English words say, up to 99 or as a round multiple; None for anything else."""
    words = re.split(r"[\s-]+", text.strip().lower())
    if not 1 <= len(words) <= 3 or any(word not in _WORDS and word not in _MULTIPLES for word in words):
        return None
    total = 0
    for word in words:
        if word in _MULTIPLES:
            total = max(total, 1) * _MULTIPLES[word]
        elif total and not (total % 10 == 0 and 20 <= total and _WORDS[word] < 10):
            return None
        else:
            total += _WORDS[word]
    return total


def _unit_word(word: str) -> Unit | None:
    word = word.replace(" ", "")
    for spelling in (word, word.rstrip("."), word.rstrip(".").lower()):
        if spelling in UNITS and not (len(spelling) == 1 and spelling != word.rstrip(".")):
            return UNITS[spelling]
    return None


def read_unit(text: str) -> tuple[Unit | None, str]:
    """The unit with which `text` begins, such as `km/h`, `square meters` or `dollars per hour`, and what follows it."""
    factor, powers, name = Fraction(1), dict[str, int](), ""
    position, sign, pending, count = 0, 1, 1, 0
    end = 0
    last: tuple[Unit, int] | None = None
    while (token := _UNIT_TOKEN.match(text, position)) is not None:
        position = token.end()
        if token["power"]:
            if last is None:
                break
            unit, before = last
            extra = int(token["power"]) * (1 if before > 0 else -1) - before
            factor *= unit.factor**extra
            for base, power in unit.dimensions:
                powers[base] = powers.get(base, 0) + power * extra
            end, last = position, None
            continue
        if token["op"]:
            if not count:
                break
            sign = -1 if token["op"] == "/" else sign if token["op"] != "-" else 1
            continue
        word = token["word"]
        lower = word.lower().rstrip(".")
        if lower in ("square", "sq", "squared", "cubic", "cubed"):
            power = 2 if lower.startswith("sq") else 3
            if lower in ("squared", "cubed") and last is not None:
                unit, before = last
                factor *= unit.factor ** (before * (power - 1))
                for base, exponent in unit.dimensions:
                    powers[base] = powers.get(base, 0) + exponent * before * (power - 1)
                end = position
            else:
                pending = power
            continue
        if lower in ("per", "each", "every") or (lower in ("a", "an") and count):
            sign = -1
            continue
        unit_found = _unit_word(word)
        if unit_found is None or (count and sign == 1 and not text[:position].rstrip().endswith(word)):
            break
        power, pending = pending * sign, 1
        if unit_found.name:
            if count:
                break
            name = unit_found.name
        factor *= unit_found.factor**power
        for base, exponent in unit_found.dimensions:
            powers[base] = powers.get(base, 0) + exponent * power
        last, count, end = (unit_found, power), count + 1, position
        if sign == -1 or name:
            sign = 1
            if name:
                break
    if not count:
        return None, text
    dimensions = tuple(sorted((base, power) for base, power in powers.items() if power))
    return Unit(factor, dimensions, name), text[end:]


@lru_cache(20_000)
def read_quantity(text: str, *, letters_are_units: bool = True) -> Quantity | None:
    """The number that `text` (tidied) names, with its unit and whatever prose is around it; None if that is not clear.

    Args:
        text: such as `18 eggs`, `¤64, because ...`, `3 million`, `5 hours 30 minutes`, `12\\text{ cm}^2`.
        letters_are_units: whether `12 m` is 12 meters (and not 12 times m).
    """
    unwrapped = " ".join(_TEXT_COMMAND.sub(lambda m: f" {m[1] or ''} ", text).split())
    based = _BASE.fullmatch(text) or _BASE_WORDS.fullmatch(unwrapped)
    if based:
        name = next(group for group in based.groups()[1:] if group)
        base = int(name) if name.isdigit() else _BASE_NAMES.get(name.lower(), 0)
        digits = based[1]
        if 2 <= base <= 36 and (digits.lstrip("-").isdigit() or base > 10):
            value = read_expression(digits if digits.lstrip("-").isdigit() else f"\\text{{{digits.upper()[:12]}}}")
            return Quantity(value, None, base) if value else None
    plain = _UNIT_POWER.sub(r"\1^\2", " ".join(_TEXT_COMMAND.sub(lambda m: f" {m[1] or ''} ", text).split()))
    if plain.lower() in _ORDINAL:
        plain = str(_ORDINAL[plain.lower()])
    spelled = words_of_number(plain)
    if spelled is not None:
        plain = str(spelled)
    plain = _SUBJECT.sub("", plain, count=1)
    for _ in range(6):
        filler = _FILLER.match(plain)
        if filler is None or filler.end() == len(plain):
            break
        plain = plain[filler.end() :]
    quantity = _head_and_tail(plain, letters_are_units)
    if quantity is None and spelled is None:
        first, _, rest = plain.partition(" ")
        if first.lower() in _WORDS and len(plain) < 60 and words_of_number(" ".join(plain.split()[:2])) is None:
            quantity = _head_and_tail(f"{_WORDS[first.lower()]} {rest}", letters_are_units)
    if quantity is None and not _CAUTION.search(plain) and len(plain) < 200 and not set("=<>\\") & set(plain):
        numbers = _SINGLE_NUMBER.findall(plain)
        if len(numbers) == 1 and re.search(r"[A-Za-z]{2,}", plain):
            place = plain.index(numbers[0])
            money = place > 0 and plain[place - 1] == MONEY
            return _head_and_tail((MONEY if money else "") + plain[place:].rstrip(",."), letters_are_units)
    return quantity


def _head_and_tail(text: str, letters_are_units: bool) -> Quantity | None:
    currency = re.match(r"(-?)\s?([¤€£¥₹]|USD|US¤|Rs\.?)\s?(-?)", text)
    unit: Unit | None = None
    if currency:
        unit = UNITS["¤" if "¤" in currency[2] else currency[2].rstrip(".")]
        text = currency[1] + currency[3] + text[currency.end() :]
    cut = _PROSE.search(text, 1 if text[:1] in "([" else 0)
    single = _SINGLE_UNIT.search(text) if letters_are_units else None
    places = [cut.start()] if cut else []
    if single:
        places.append(single.start(1) if single[1] else single.start(2))
    if not places:
        value = read_expression(text)
        return Quantity(value, unit) if value else None
    place = min(places)
    head, tail = text[:place].strip(" ,;:"), text[place:]
    if head.startswith("(") and head.count("(") > head.count(")"):
        head, tail = head[1:].strip(), tail
    value = read_expression(head) if head else None
    if value is None:
        return None
    tail = tail.strip()
    if tail.startswith("-"):
        tail = tail[1:]
    multiple = re.match(r"([A-Za-z]+)\b\s*", tail)
    if multiple and multiple[1].lower() in _MULTIPLES:
        value = read_expression(f"({head}) \\times {_MULTIPLES[multiple[1].lower()]}") or value
        tail = tail[multiple.end() :].removeprefix("of ")
    found, rest = read_unit(tail)
    if found is not None:
        unit = found if unit is None or found.dimensions != unit.dimensions else unit
        more = _more_of_the_same(rest, found)
        if more is not None:
            summed = read_expression(f"({head}) + {more.numerator}/{more.denominator}")
            return Quantity(summed or value, unit)
    elif re.match(r"(?:[+*/^=<>]|\\(?:times|cdot|frac|sqrt|le|ge))", tail):
        return None
    if re.match(r"(?:or|and)\s+[-¤]?[0-9]", tail):
        return None
    return Quantity(value, unit)


def _more_of_the_same(rest: str, unit: Unit) -> Fraction | None:
    """What `30 minutes` adds, in the unit of the `2 hours` that it follows."""
    match = re.match(r"\s*(?:,|and)?\s*([0-9]+(?:\.[0-9]+)?)\s*(?=[A-Za-z])", rest)
    if match is None or not unit.dimensions:
        return None
    smaller, _ = read_unit(rest[match.end() :])
    if smaller is None or smaller.dimensions != unit.dimensions or smaller.factor >= unit.factor:
        return None
    return Fraction(match[1]) * smaller.factor / unit.factor
