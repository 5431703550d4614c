r"""Numbers with what stands beside them: units, currency, percent, degrees, number bases, words and prose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from forkwise.tasks.answers.expressions import Expression, Node, read_expression
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


# Each row: how many of which base units, then symbols and names; a plural in s is understood. Rows that begin with a
# star take SI prefixes. pint would read these too, but neither money nor percent, and it takes a second to start.
_ROWS = """
* 1 m: m | meter metre
* 1 g: g | gram gramme
* 1 s: s | second
* 1/1000 m^3: L l | liter litre
* 1 N: N | newton Newton
* 1 J: J | joule Joule
* 1 W: W | watt Watt
* 1 Pa: Pa | pascal Pascal
* 1 Hz: Hz | hertz Hertz
* 1 V: V | volt Volt
* 1 A: A | amp ampere
* 1 C: | coulomb
* 1 F: F | farad
* 1 ohm: Ω Ω \\Omega | ohm
* 1 mol: mol | mole
* 1 eV: eV | electronvolt
* 1 cal: cal | calorie
* 1 B: B | byte
1000 B: KB |
* 1 bit: | bit
* 1 T: | tesla Tesla
1/10000 T: | gauss Gauss
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
6283185307179586/1000000000000000 rad: rev | revolution
1 rpm: rpm |
1 celsius: °C | celsius Celsius
1 fahrenheit: °F | fahrenheit Fahrenheit
1 kelvin: K | kelvin Kelvin
1 atm: atm | atmosphere
100000 Pa: bar | bar
1/10000000 J: erg | erg
3600 J: Wh |
3600000 J: kWh | kilowatthour
1000 kcal: Calorie |
1 dB: dB | decibel
1 M: | molar
1/100 one percent: % | percent percentage pct
1 one degree: ° | degree deg
"""
_PREFIXES = {
    "k": 3, "M": 6, "G": 9, "T": 12, "m": -3, "µ": -6, "μ": -6, "u": -6, "n": -9, "p": -12, "c": -2, "d": -1,
    "kilo": 3, "mega": 6, "giga": 9, "tera": 12, "milli": -3, "micro": -6, "nano": -9, "pico": -12, "centi": -2, "deci": -1,
}  # fmt: skip


def _table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for row in _ROWS.strip().splitlines():
        definition, _, names = row.partition(":")
        starred = definition.startswith("*")
        factor, *parts = definition.lstrip("* ").split()
        if parts[0] == "one":
            unit = Unit(Fraction(factor), (), parts[1])
        else:
            powers = [part.partition("^") for part in parts]
            unit = Unit(Fraction(factor), tuple(sorted((base, int(power or 1)) for base, _, power in powers)))
        symbols, _, words = names.partition("|")
        spelled = [word for name in words.split() for word in (name, name + "s")]
        for name in (*symbols.split(), *spelled):
            units[name] = unit
        for prefix, power in _PREFIXES.items() if starred else ():
            for name in spelled if len(prefix) > 1 else symbols.split():
                units.setdefault(prefix + name, Unit(unit.factor * Fraction(10) ** power, unit.dimensions))
    return units


UNITS = _table()
_MULTIPLES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_WORDS = {word: value for value, word in enumerate(_SMALL.split())}
_WORDS |= {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_ORDINALS = {word + "th": value for word, value in _WORDS.items()} | {
    word[:-1] + "ieth": value for word, value in _WORDS.items() if word.endswith("ty")
}
_ORDINAL = _ORDINALS | {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12}  # fmt: skip
_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000}  # fmt: skip
_SPOKEN = [
    (re.compile(r"\b(?:negative|minus)\s+(?=[0-9])", re.IGNORECASE), "-"),
    (re.compile(r"(?<=[0-9])\s+squared\b", re.IGNORECASE), "^2"),
    (re.compile(r"(?<=[0-9])\s+cubed\b", re.IGNORECASE), "^3"),
    (re.compile(r"(?<=[0-9])\s+(?:to the power of|to the power)\s+(?=-?[0-9])", re.IGNORECASE), "^"),
    (re.compile(r"(?<=[0-9])\s+(?:times|multiplied by)\s+(?=-?[0-9])", re.IGNORECASE), r"\\times "),
    (re.compile(r"(?<=[0-9])\s+(?:over|divided by|out of(?: every)?)\s+(?=[0-9])", re.IGNORECASE), "/"),
    (re.compile(r"(?<=[0-9])\s+plus\s+(?=[0-9])", re.IGNORECASE), "+"),
    (re.compile(r"(?<=[0-9])\s+minus\s+(?=[0-9])", re.IGNORECASE), "-"),
    (re.compile(r"\s+factorial\b", re.IGNORECASE), "!"),
]
_NO_VALUE = re.compile(
    r"\b(?:times|squared|cubed|power|powers|over\s+[0-9]|divided|minus|plus|factorial|choose|half|out\s+of|or|to\s+-?[0-9]|root|roots|reciprocal|twice|double|thrice"
    r"|triple|negative|except|multiples?|factors?|divisors?|but|square\s+root|cube|modulo|mod|remainder|in\s+[0-9]|not|no|never|neither|than|at\s+least|at\s+most"
    r"|between|below|above|either|from\s+[0-9]|cannot|thirds?|fourths?|quarters?|fifths?|sixths?|sevenths?|eighths?|ninths?"
    r"|tenths?|halves|hundredths?|thousandths?|nor|digits?|prime|divisible|wrong|incorrect|false|undefined|page|th|without|instead|and\s+(?:a|one|two|three)\s)\b|can't|isn't",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"(?:equal to|\\approx|approximately|approx\.?|about|around|roughly|exactly|only|just|is|are|was|equals?|equal to|a total of|total|the answer is|it is|it's"
    r"|there (?:are|is|were|will be)|she|he|they|we|you|i|it|has|have|had|will|would be|be|need|needs|get|gets|got|paid|pays|spent|earns?|makes?|the|an?"
    r"|answer|final|result|value|=|:|~|\\sim)(?![A-Za-z])[\s,:]*",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"^(?:the|its|his|her|their|this|that|our|your)\b[A-Za-z\s]{0,80}?\b(?:is|are|was|equals?|be)\s+(?=[-+(\\0-9¤])",
    re.IGNORECASE,
)
_LEADS_TO_NUMBER = re.compile(
    r"\b(?:is|are|was|were|be|equals?|equal\s+to|has|have|had|needs?|pays?|paid|makes?|made|costs?|gets?|got|earns?|earned|sold|sells?|spent|spends?|ate|eats?"
    r"|takes?|took|buys?|bought|left|total(?:s|\s+of)?|exactly|about|approximately|only|reaches|becomes|the\s+answer|value)\s*[:=]?\s*¤?\Z",
    re.IGNORECASE,
)
_TEXT_COMMAND = re.compile(r"\\text\s?\{([^{}]*)\}|\\(?:quad|qquad)")
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|abs|floor|ceil|pi|mod|gcd)(?![A-Za-z]))"
    r"[A-Za-z]{2,}(?![A-Za-z]*[({_])|°|%|¢|€|£|¥|₹|¤|[(\[](?=\s*(?:¤|[A-Za-z]{3,}|[A-Za-z]{2,}\s))|[,;:.?](?=\s|$)|\"|(?<=[0-9}\s])-(?=[a-zA-Z]{2,})"
)
_SINGLE_UNIT = re.compile(r"(?<=[0-9)}])\s+([mgshdlLNJWVAKB]|\\Omega)(?=$|[\s/^.,;)·*\\])")
_ADJACENT_UNIT = re.compile(r"(?<=[0-9])([mgshL])$")
_MINUTES = re.compile(r"(-?[0-9]+)\s?°\s?([0-9]+(?:\.[0-9]+)?)\s?'(?:\s?([0-9]+(?:\.[0-9]+)?)\s?(?:''|\"))?")
_FEET = re.compile(r"([0-9]+)\s?'\s?(?:([0-9]+(?:\.[0-9]+)?)\s?(?:''|\"))?")
_BASE = re.compile(
    r"\(?(?:\\overline\s?\{)?(-?[0-9A-Za-z,]+(?:\.[0-9A-Za-z]+)?)\}?\)?\s?_\s?(?:\{\s?(?:\\text\s?\{)?\s?((?:base\s*)?(?:[0-9]{1,2}|[a-z]*))\s?\}?\s?(?(2)([0-9]{1,2})?)\}|([0-9]{1,2}))"
)
_BASE_WORDS = re.compile(
    r"(-?[0-9A-F]+)\s+(?:\(\s*)?(?:in\s+)?base[\s-]+([0-9]{1,2}|two|eight|ten|sixteen)\)?", re.IGNORECASE
)
_BASE_NAMES = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "sixteen": 16,
}
_SINGLE_NUMBER = re.compile(r"(?<![\w.,])-?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?(?![0-9])")
_TWO_WORDS = re.compile(
    r"\b(light|fluid|solar|nautical|astronomical|kilowatt)[ -](?=(?:year|ounce|mass|mile|unit|hour))(\w+)"
)
_UNIT_POWER = re.compile(r"([A-Za-z])\s+\^\s?(\{?\s?-?[0-9]\s?\}?)")
_UNIT_TOKEN = re.compile(
    r"\s*(?:(?P<word>\\(?:Omega|AA)|[A-Za-zµμΩÅ]+\.?|°\s?[CF](?![A-Za-z])|[°%¢€£¥₹¤])|(?P<op>/|\\cdot|\*|·|\\times|-)|\^\s?\{?\s?(?P<power>-?[0-9])\s?\}?)"
)


def words_of_number(text: str) -> int | None:
    """The number that English words say, such as `twenty-one` or `one hundred and five`; None for anything else."""
    if len(text) > 60:
        return None
    words = re.split(r"[\s-]+", text.strip().lower())
    if words[0] in ("negative", "minus"):
        number = words_of_number(" ".join(words[1:])) if words[1:] else None
        return None if number is None else -number
    if words and words[-1] in _ORDINAL:
        number = _ORDINAL[words[-1]]
        words[-1] = next((word for word, value in _WORDS.items() if value == number), words[-1])
    if words[:1] == ["a"]:
        words = words[1:]
    words = [word for word in words if word != "and"]
    if not 1 <= len(words) <= 5 or any(word not in _WORDS and word not in _MULTIPLES for word in words):
        return None
    total = 0
    for word in words:
        if word in _MULTIPLES:
            total = max(total, 1) * _MULTIPLES[word]
        elif total and not (total % 100 == 0 or (total % 10 == 0 and total % 100 >= 20 and _WORDS[word] < 10)):
            return None
        else:
            total += _WORDS[word]
    return total


def _unit_word(word: str) -> Unit | None:
    unit = _known_unit(word)
    if unit is None and re.search(
        r"[a-z](?:met(?:er|re)|gram|lit(?:er|re)|second|watt|volt|joule|newton|byte)s?$", word
    ):
        return Unit(Fraction(1), ((word.removesuffix("s"), 1),))  # a misspelt unit is another one
    return unit


def _known_unit(word: str) -> Unit | None:
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
        if count > 8:
            return None, text
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


def _spoken(text: str) -> str:
    """`text` with arithmetic in words as signs: `5 squared`, `2 thirds`, `one half`, `3 and a half`, `5 out of 8`."""
    words = text.split()
    for place, word in enumerate(words):
        if word.lower() in _WORDS and place + 1 < len(words) and words[place + 1].lower().removesuffix("s") in _PARTS:
            words[place] = str(_WORDS[word.lower()])
    text = " ".join(words)
    text = re.sub(r"(?<=[0-9]) and (?:a|one)(?= (?:half|third|quarter|fourth|fifth))", " 1", text)

    def part(match: re.Match[str]) -> str:
        name = match[2].lower()
        if match[1] is None and not match[0].startswith("a ") and name not in ("half", "quarter"):
            return match[0]  # the third day
        return f"{match[1] or '1'}/{_PARTS[name if name in _PARTS else name.removesuffix('s')]}"

    names = "|".join(_PARTS)
    text = re.sub(rf"\b(?:([0-9]+)[ -]|a )?({names})(?:s)?\b(?! (?:of|the|a)\b)", part, text, flags=re.IGNORECASE)
    for pattern, sign in _SPOKEN:
        text = pattern.sub(sign, text)
    return text


@lru_cache(20_000)
def read_quantity(text: str, *, adjacent_letters: bool = True) -> Quantity | None:
    """The number that `text` (tidied) names, with its unit and whatever prose is around it; None if that is not clear.

    Args:
        text: such as `18 eggs`, `¤64, because ...`, `3 million`, `5 hours 30 minutes`, `12\\text{ cm}^2`.
        adjacent_letters: whether `12m` is 12 meters (`12 m` always is) and not 12 times m.
    """
    plain = " ".join(_TEXT_COMMAND.sub(lambda m: f" {m[1] or ''} ", text).split())
    plain = _UNIT_POWER.sub(r"\1^\2", _TWO_WORDS.sub(r"\1\2", plain))
    special = _in_base(text, plain) or _in_minutes(plain)
    if special is not None:
        return special
    spelled = words_of_number(plain)
    if spelled is not None:
        plain = str(spelled)
    plain = _SUBJECT.sub("", plain, count=1)
    for _ in range(6):
        filler = _FILLER.match(plain)
        if filler is None or filler.end() == len(plain):
            break
        plain = plain[filler.end() :]
    if re.search(r"[A-Za-z]{3}", plain):
        plain = _spoken(plain)
        first, _, rest = plain.partition(" ")
        number = _WORDS.get(first.lower(), _ORDINAL.get(first.lower()))
        if number is not None and rest and len(plain) < 60:
            plain = f"{number} {rest}"
    quantity = _head_and_tail(plain, adjacent_letters)
    if quantity is None and not _NO_VALUE.search(plain) and len(plain) < 200 and not set("=<>\\") & set(plain):
        numbers = _SINGLE_NUMBER.findall(plain)
        place = plain.index(numbers[0]) if len(numbers) == 1 else 0
        if place and _LEADS_TO_NUMBER.search(plain, 0, place):
            money = place > 0 and plain[place - 1] == MONEY
            return _head_and_tail((MONEY if money else "") + plain[place:].rstrip(",."), adjacent_letters)
    return quantity


def _in_base(text: str, plain: str) -> Quantity | None:
    text = text.replace("0x", "0") + "_{16}" if re.fullmatch(r"0x[0-9A-Fa-f]+", text) else text
    match = _BASE.fullmatch(re.sub(r"\\text\s?\{\s*base\s*\}\s?([0-9]+)", r"\1", text)) or _BASE_WORDS.fullmatch(plain)
    if match is None:
        return None
    name = next(group for group in match.groups()[1:] if group).removeprefix("base").strip()
    base = int(name) if name.isdigit() else _BASE_NAMES.get(name.lower(), 0)
    digits = match[1].lstrip("-").replace(",", "")
    if not 2 <= base <= 36 or not (digits.replace(".", "", 1).isdigit() or base > 10):
        return None
    # The digits are compared as they stand: letters as symbols of their own.
    is_number = digits.replace(".", "", 1).isdigit()
    node: Node = ("num", Fraction(digits), "int") if is_number else ("sym", "digits " + digits.upper().lstrip("0"))
    symbols = frozenset() if is_number else frozenset((node[1],))
    return Quantity(Expression(("neg", node) if match[1].startswith("-") else node, symbols), None, base)


def _in_minutes(plain: str) -> Quantity | None:
    """Degrees and minutes of arc, or feet and inches, as one quantity."""
    match, unit, step = _MINUTES.fullmatch(plain), UNITS["°"], 60
    if match is None:
        match, unit, step = _FEET.fullmatch(plain), UNITS["ft"], 12
    if match is None:
        return None
    value = sum((Fraction(group or 0) / step**place for place, group in enumerate(match.groups())), Fraction(0))
    return Quantity(Expression(("num", value, "decimal"), frozenset()), unit)


def _head_and_tail(text: str, adjacent_letters: bool) -> Quantity | None:
    """A number, perhaps with currency before it, and after it a unit, a noun or prose that does not change it."""
    currency = re.match(r"(-?)\s?([¤€£¥₹]|USD|US¤|Rs\.?|\\pounds)\s?(-?)", text)
    unit: Unit | None = None
    if currency:
        unit = UNITS["¤" if "¤" in currency[2] else currency[2].rstrip(".")]
        text = currency[1] + currency[3] + text[currency.end() :]
    cut = _PROSE.search(text, 1 if text[:1] in "([" else 0)
    places = [cut.start()] if cut else []
    single = _SINGLE_UNIT.search(text) or (_ADJACENT_UNIT.search(text) if adjacent_letters else None)
    if single:
        places.append(single.start(1))
    if not places:
        value = read_expression(text)
        return Quantity(value, unit) if value else None
    head, tail = text[: min(places)].strip(" ,;:").rstrip("/"), text[min(places) :].strip()
    if head.startswith("(") and head.count("(") > head.count(")"):
        head = head[1:].strip()
    value = read_expression(head) if head else None
    if value is None:
        return None
    tail = tail.removeprefix("-")
    if re.match(r"in\s+[0-9]", tail):
        return None
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
    elif re.match(r",\s?(?:-?[0-9\\¤]|\.\.\.)", tail):
        return None  # a list
    elif re.match(r"(?:[+*/^=<>]|\\(?:times|cdot|frac|sqrt|le|ge))", tail):
        return None
    if re.search(r"\b(?:but|and) also\b", rest):
        return None
    clause = re.split(r"[,.;:(](?:\s|$)|\b(?:because|since|as|so|which)\b", rest, maxsplit=1)[0]
    if rest[:1] not in (",", ".", ";", ":", "(") and (
        _NO_VALUE.search(clause) or re.match(r"\s*and\s+[-¤0-9]", clause)
    ):
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
