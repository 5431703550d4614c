r"""Numbers with what stands beside them: units, currency, percent, degrees, number bases, words and prose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from forkwise.tasks.answers.equality import equal
from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.notation import MONEY
from forkwise.tasks.answers.number_words import MULTIPLES, WORDS, spoken, words_of_number
from forkwise.tasks.answers.trees import Expression, Node
from forkwise.tasks.answers.units import UNITS, Unit, read_unit


@dataclass(frozen=True)
class Quantity:
    """A value and what stands beside it; `unit` is None where nothing known does, `base` where no number base does.

    With a base, `value` is the digits as they stand; `is_literal` tells whether they are a programmer's, as `0xFF`.
    """

    value: Expression
    unit: Unit | None = None
    base: int | None = None
    is_literal: bool = False


_NO_VALUE = re.compile(
    r"\b(?:times|squared|cubed|power|powers|divided|minus|plus|factorial|choose|half|out\s+of|or"
    r"|root|roots|reciprocal|twice|double|thrice"
    r"|triple|negative|except|multiples?|factors?|divisors?|but|square\s+root|cube|modulo|mod|remainder"
    r"|not|no|never|neither|than|at\s+least|at\s+most"
    r"|between|below|above|either|cannot|thirds?|fourths?|quarters?|fifths?|sixths?|sevenths?"
    r"|eighths?|ninths?"
    r"|tenths?|halves|hundredths?|thousandths?|nor|digits?|prime|divisible|wrong|incorrect|false|undefined|page|ths?"
    r"|[a-z]+illionths?|ppm|ppb|basis|tens"
    r"|without|instead|and\s+a\s)\b|can't|isn't",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"(?:equal to|\\approx|approximately|approx\.?|about|around|roughly|exactly|only|just|is|are|was|equals?"
    r"|equal to|a total of|total|the answer is|it is|it's|then"
    r"|there (?:are|is|were|will be)|she|he|they|we|you|i|it|has|have|had|will|would be|be|need|needs|get|gets|got"
    r"|paid|pays|spent|earns?|makes?|in the year|the|an?"
    r"|answer|final|result|value|=|:|~|\\sim)(?![A-Za-z])[\s,:]*",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"^(?:the|its|his|her|their|this|that|our|your)\b[A-Za-z\s]{0,80}?\b(?:is|are|was|equals?|be)\s+(?=[-+(\\0-9¤])",
    re.IGNORECASE,
)
_LEADS_TO_NUMBER = re.compile(
    r"\b(?:is|are|was|were|be|equals?|equal\s+to|has|have|had|needs?|pays?|paid|makes?|made|costs?|gets?|got"
    r"|earns?|earned|sold|sells?|spent|spends?|ate|eats?"
    r"|takes?|took|buys?|bought|left|total(?:s|\s+of)?|exactly|about|approximately|only|reaches|becomes"
    r"|the\s+answer|value)\s*[:=]?\s*¤?\Z",
    re.IGNORECASE,
)
_TEXT_COMMAND = re.compile(r"\\text\s?\{([^{}]*)\}|\\(?:quad|qquad)")
_PROSE = re.compile(
    # a word that is no function
    r"(?<![\\A-Za-z])(?!(?:arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|abs|floor|ceil"
    r"|pi|mod|gcd)(?![A-Za-z]))[A-Za-z]{2,}(?![A-Za-z]*[({_])"
    # a sign that is a unit, a bracket before words, punctuation, the hyphen of "3-digit"
    r"|[°%¢€£¥₹¤Åµ]|[(\[](?=\s*(?:¤|[A-Za-z]{3,}|[A-Za-z]{2,}\s))|[,;:.?](?=\s|$)|\"|(?<=[0-9}\s])-(?=[a-zA-Z]{2,})"
)
_SINGLE_UNIT = re.compile(r"(?<=[0-9)}])\s+([mgshdlLNJWVAKBMCTF]|\\Omega)(?=$|[\s/^.,;)·*\\])")
_ADJACENT_UNIT = re.compile(r"(?<=[0-9])([mgshL])$")
_MINUTES = re.compile(r"(-?[0-9]+)\s?°\s?([0-9]+(?:\.[0-9]+)?)\s?'(?:\s?([0-9]+(?:\.[0-9]+)?)\s?(?:''|\"))?")
_MICRO = re.compile(r"(?<=[0-9])\s*\\mu\s*(?=[mgsLANVFWJCT](?![A-Za-z]))")
_A_DAY = re.compile(r"(?<=[0-9]) an? (?=(?:second|minute|hour|day|night|week|month|year|piece)\b)")
_INCHES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s?(?:''|\")")
_FEET = re.compile(r"([0-9]+)\s?'\s?(?:([0-9]+(?:\.[0-9]+)?)\s?(?:''|\"))?")
_BASE = re.compile(
    r"\(?(?:\\overline\s?\{)?(-?[0-9A-Za-z,]+(?:\.[0-9A-Za-z]+)?)\}?\)?\s?_\s?"  # the digits
    r"(?:\{\s?(?:\\text\s?\{)?\s?((?:base\s*)?(?:[0-9]{1,2}|[a-z]*))\s?\}?\s?(?(2)([0-9]{1,2})?)\}|([0-9]{1,2}))"
)
_BASE_WORDS = re.compile(
    r"(-?[0-9A-F]+)\s+(?:\(\s*)?(?:in\s+)?base[\s-]+([0-9]{1,2}|two|eight|ten|sixteen)\)?", re.IGNORECASE
)
_PREFIXED = re.compile(r"0(?:x([0-9A-Fa-f]+)|b([01]+)|o([0-7]+))")
_TEXT_BASE = re.compile(r"\\text\s?\{\s*base\s*\}\s?([0-9]+)")
_CURRENCY = re.compile(r"(-?)\s?([¤€£¥₹]|USD|US¤|Rs\.?|\\pounds)\s?(-?)")
_WORD = re.compile(r"[A-Za-z]{3}")
_FIRST_WORD = re.compile(r"([A-Za-z]+)\b\s*")
_GOES_ON = re.compile(  # a list, a formula
    r",\s?(?:-?[0-9\\¤]|\.\.\.)|[+*/^=<>]|\\(?:times|cdot|frac|sqrt|le|ge)|(?![aI]\b)[A-Za-z](?![A-Za-z.'])"
    r"|[A-Za-z]+\s?\^"
)
_FEW_LETTERS = re.compile(r"[A-Za-z]{1,3}(?![A-Za-z])")
_PUNCTUATION = frozenset((",", ".", ";", ":", "("))
_CLAUSE_END = re.compile(r"[,.;:(](?:\s|$)|\b(?:because|since|as|so|which)\b")
_IS_PROSE = re.compile(  # and no further factor: "2 m" is not "2 m g x"
    r"\s*(?:$|[,.;:!?\"')\]]|\((?![^()]*(?<![A-Za-z])[A-Za-z]\s?[-+*/^=])|-?[A-Za-z]{3,}|an?\s+[a-z]{2}"
    r"|(?:in|of|at|to|by|on|is|if|as|or|so|up|we|he|it|no|do|be|my|us)\b)"
)
_ALSO = re.compile(r"\b(?:but|and) also\b|\b(?:wait|actually|oops|mistake|wrong)\b|[.!?]\s+no\b", re.IGNORECASE)
_IN_NUMBER = re.compile(r"in\s+[0-9]")  # 1 in 6: no inches
_ASIDE = re.compile(r"\(([^()]*)\)?")
_THAT_IS = re.compile(r"(?<=\()(?:i\.\s?e\.|that is|namely),?\s*")
_DIFFERENCE = re.compile(r"[-¤0-9.,]+[A-Za-z\s]* (?:more|less|fewer|longer|older|younger) than [A-Za-z\s]*")
_EXPLAINED = re.compile(r"[.!?]\s|\b(?:because|since|which|due to|and (?:she|he|it|they|we|I) had)\b")
_YEAR = re.compile(r"\bin\s+[A-Z][a-z]+\s+(?:19|20)[0-9]{2}\b")
_ANOTHER_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_^])(?<![_^]\{)[0-9]|\\(?:frac|sqrt|pi|sin|cos|tan|ln|log)(?![a-z])|\b(?:to|per|by)\s+[b-z]\b"
    r"|[+<>]\s?[A-Za-z\\]|\s-\s?[A-Za-z](?![A-Za-z])"
    rf"|\b(?:{'|'.join(WORDS)}|hundred|thousand|million|billion)\b(?<!\bone)(?!-[a-z])|\bone\b(?!-|\s+(?:for|of|each|per|in)\b)",
    re.IGNORECASE,
)
_AND_MORE = re.compile(r"\s*(?:,|and)?\s*([0-9]+(?:\.[0-9]+)?)\s*(?=[A-Za-z])")
_SINGLE_NUMBER = re.compile(r"(?<![\w.,])-?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?(?![0-9])")
_TWO_WORDS = re.compile(
    r"\b(light|fluid|solar|nautical|astronomical|kilowatt)[ -](?=(?:year|ounce|mass|mile|unit|hour))(\w+)"
)
_PER_MILLE = re.compile(r"(?<=[0-9])\s*(?:‰|per[ -]?mill?e?\b)")
_KILO = re.compile(r"(?<=[0-9])k\b")
_UNIT_POWER = re.compile(r"([A-Za-z])\s+\^\s?(\{?\s?-?[0-9]\s?\}?)")


@lru_cache(20_000)
def read_quantity(text: str, *, adjacent_letters: bool = True) -> Quantity | None:
    """Reads the number of `text` (tidied), with its unit and whatever prose is around it; None if it is not clear.

    Args:
        text: such as `18 eggs`, `¤64, because ...`, `3 million`, `5 hours 30 minutes`, `12\\text{ cm}^2`.
        adjacent_letters: whether `12m` is 12 meters (`12 m` always is) and not 12 times m.
    """
    plain = _THAT_IS.sub("", " ".join(_TEXT_COMMAND.sub(lambda m: f" {m[1] or ''} ", text).split()))
    plain = _PER_MILLE.sub(r" \\times 0.001", _KILO.sub(r" \\times 1000 ", plain) if adjacent_letters else plain)
    plain = _UNIT_POWER.sub(r"\1^\2", _TWO_WORDS.sub(r"\1\2", plain))
    plain = _A_DAY.sub(" per ", _MICRO.sub(" µ", plain))
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
    if _WORD.search(plain):
        plain = spoken(plain)
        plain = _with_digits(plain)
    quantity = _head_and_tail(plain, adjacent_letters)
    if quantity is None and not _NO_VALUE.search(plain) and len(plain) < 200 and not set("=<>\\") & set(plain):
        numbers = _SINGLE_NUMBER.findall(plain)
        start = plain.index(numbers[0]) if len(numbers) == 1 else 0
        if start and _LEADS_TO_NUMBER.search(plain, 0, start):
            money = start > 0 and plain[start - 1] == MONEY
            return _head_and_tail((MONEY if money else "") + plain[start:].rstrip(",."), adjacent_letters)
    return quantity


def _with_digits(text: str) -> str:
    """Puts digits for the number words with which a short text begins: `sixty-four dollars`."""
    words = text.split()
    for count in range(min(5, len(words)) if len(text) < 60 else 0, 0, -1):
        number = words_of_number(" ".join(words[:count])) if words[count - 1].lower() != "and" else None
        if number is not None:
            again = words[count:] == [f"({number})"]  # forty-two (42)
            return str(number) if again else " ".join((str(number), *words[count:]))
    return text


def _in_base(text: str, plain: str) -> Quantity | None:
    """Reads a number whose base is named, its digits as they stand: `101_2`, `1A_{16}`, `101 in base 2`."""
    prefixed = _PREFIXED.fullmatch(text)
    if prefixed:
        text = f"{prefixed[prefixed.lastindex or 0]}_{{{(16, 2, 8)[(prefixed.lastindex or 1) - 1]}}}"
    match = _BASE.fullmatch(_TEXT_BASE.sub(r"\1", text)) or _BASE_WORDS.fullmatch(plain)
    if match is None:
        return None
    name = next(group for group in match.groups()[1:] if group).removeprefix("base").strip()
    base = int(name) if name.isdigit() else WORDS.get(name.lower(), 0)
    digits = match[1].lstrip("-").replace(",", "")
    if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in digits.replace(".", "", 1)):
        return None
    is_number = digits.replace(".", "", 1).isdigit()
    node: Node = ("num", Fraction(digits), "int") if is_number else ("sym", "digits " + digits.upper().lstrip("0"))
    symbols = frozenset() if is_number else frozenset((node[1],))
    value = Expression(("neg", node) if match[1].startswith("-") else node, symbols)
    return Quantity(value, None, base, is_literal=prefixed is not None)


def _in_minutes(plain: str) -> Quantity | None:
    """Reads degrees and minutes of arc, or feet and inches, as one quantity."""
    match, unit, step = _MINUTES.fullmatch(plain), UNITS["°"], 60
    if match is None:
        match, unit, step = _FEET.fullmatch(plain), UNITS["ft"], 12
    if match is None:
        match, unit = _INCHES.fullmatch(plain), UNITS["in"]
    if match is None:
        return None
    value = sum((Fraction(group or 0) / step**index for index, group in enumerate(match.groups())), Fraction(0))
    return Quantity(Expression(("num", value, "decimal"), frozenset()), unit)


def _head_and_tail(text: str, adjacent_letters: bool) -> Quantity | None:
    """Reads a number, perhaps with currency before it, and a unit, noun or harmless prose after it."""
    currency = _CURRENCY.match(text)
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
    tail = _YEAR.sub("", tail.removeprefix("-"))
    if _IN_NUMBER.match(tail):
        return None
    if tail == "times":
        return Quantity(value, unit)  # how often
    before = text[min(places) - 1]
    multiple = _FIRST_WORD.match(tail)
    if before != "/" and multiple and multiple[1].lower() in MULTIPLES:
        value = read_expression(f"({head}) \\times {MULTIPLES[multiple[1].lower()]}") or value
        tail = tail[multiple.end() :].removeprefix("of ")
    tail_unit, after_unit = read_unit(tail)
    if tail_unit is not None:
        unit = tail_unit if unit is None or tail_unit.dimensions != unit.dimensions else unit
        more = _more_of_the_same(after_unit, tail_unit)
        if more is not None:
            summed = read_expression(f"({head}) + {more.numerator}/{more.denominator}")
            return Quantity(summed or value, unit)
    elif _GOES_ON.match(tail) or (before.isdigit() and _FEW_LETTERS.match(tail)):
        return None
    if not _keeps_value(after_unit, value, unit):
        return None
    return Quantity(value, unit)


def _keeps_value(text: str, value: Expression, unit: Unit | None) -> bool:
    """Tells whether words behind a number leave it as it is: `eggs`, and neither `or more` nor `and 6 pears`."""
    clause = _CLAUSE_END.split(text, maxsplit=1)[0]
    if unit is not None and not _IS_PROSE.match(text) and not _AND_MORE.match(text):
        return False
    if _ALSO.search(text) or (text[:1] not in _PUNCTUATION and _NO_VALUE.search(clause)):
        return False
    text = _ASIDE.sub(lambda aside: " " if _is_harmless(aside[1].strip(), value, unit) else f" {aside[1]} ", text)
    return not _ANOTHER_NUMBER.search(_EXPLAINED.split(text, maxsplit=1)[0])


def _is_harmless(aside: str, value: Expression, unit: Unit | None) -> bool:
    """Tells whether a text says the same quantity again (`eighteen`, `300 minutes`), or how much more it is."""
    again = None if _DIFFERENCE.fullmatch(aside) else read_quantity(aside)
    if again is None:
        return _DIFFERENCE.fullmatch(aside) is not None
    factor = Fraction(1)
    if unit and again.unit and unit.dimensions:
        if unit.dimensions != again.unit.dimensions:
            return False
        factor = again.unit.factor / unit.factor
    other = Expression(("mul", again.value.node, ("num", factor, "decimal")), again.value.symbols)
    return equal(value, other) is True


def _more_of_the_same(after_unit: str, unit: Unit) -> Fraction | None:
    """Returns what `30 minutes` adds, in the unit of the `2 hours` that it follows."""
    match = _AND_MORE.match(after_unit)
    if match is None or not unit.dimensions:
        return None
    smaller, _ = read_unit(after_unit[match.end() :])
    if smaller is None or smaller.dimensions != unit.dimensions or smaller.factor >= unit.factor:
        return None
    return Fraction(match[1]) * smaller.factor / unit.factor
