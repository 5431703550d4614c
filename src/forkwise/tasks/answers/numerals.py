r"""Numbers as people write them, respelled for the parser: thousands separators, repeating decimals, precision."""

from __future__ import annotations

import re
from fractions import Fraction

_REPEATING = re.compile(
    r"([0-9]*)\.([0-9]*)(?:\\overline\s?\{\s?([0-9]+)\s?\}|\\dot\s?\{?([0-9])\}?|\(([0-9]+)\)"
    r"|\\bar\s?\{?([0-9]+)\}?)(?:\s?\\(?:ldots|dots|cdots))?"
)
_TWO_DOTS = re.compile(r"([0-9]*)\.([0-9]*)\\dot\s?\{?([0-9])\}?([0-9]*)\\dot\s?\{?([0-9])\}?")
_IN_WORDS = re.compile(r"([0-9]*)\.()([0-9])\s?\(?(?:repeating|recurring)\)?")
_ELLIPSIS = re.compile(r"([0-9]*)\.([0-9]*?)(?:([0-9])\3{2,}|([0-9]{2,6}?)\4+)\s?(?:\.\.\.|\\(?:ldots|dots|cdots))")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(,| |')[0-9]{3})(?:\1[0-9]{3})*(?![0-9]|[,'][0-9])")
_POINTS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9.])")
_DECIMAL = re.compile(r"[-+]?\s?(?P<whole>[0-9]*)\.(?P<part>[0-9]*)(?:[eE](?P<e>[-+]?[0-9]{1,6}))?")
_SCIENTIFIC = re.compile(
    r"[-+]?\s?(?P<whole>[0-9]+)(?:\.(?P<part>[0-9]*))?\s?(?:[eE](?P<e>[-+]?[0-9]{1,6})"
    r"|(?:\\times|\\cdot|\*|x)\s?10\s?(?:\^|\*\*)\s?\{?\s?(?P<t>[-+]?\s?[0-9]{1,6})\s?\}?)"
)


def _repeating(match: re.Match[str]) -> str:
    return _fraction(match[1], match[2], next(group for group in match.groups()[2:] if group))


def _fraction(whole: str, fixed: str, period: str) -> str:
    value = Fraction(int((whole or "0") + fixed)) + Fraction(int(period), 10 ** len(period) - 1)
    value /= 10 ** len(fixed)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def plain_numbers(text: str) -> str:
    """Respells numbers as a parser wants them: no thousands separators, repeating decimals as fractions."""
    if "." in text and ("overline" in text or "dot" in text or "bar" in text or "(" in text):
        text = _TWO_DOTS.sub(lambda m: _fraction(m[1], m[2], m[3] + m[4] + m[5]), text)
        text = _REPEATING.sub(_repeating, text)
    if "r" in text:
        text = _IN_WORDS.sub(_repeating, text)
    if "..." in text or "dots" in text:
        text = _ELLIPSIS.sub(_repeating, text)
    text = _POINTS.sub(lambda m: m[0].replace(".", ""), text)
    return _THOUSANDS.sub(lambda m: re.sub(r"[, ']", "", m[0]), text)


def precision(text: str) -> tuple[int, int, bool] | None:
    """Counts digits after the point and significant digits, and sees a power of ten; None for no plain decimal."""
    number = _SCIENTIFIC.fullmatch(text) or _DECIMAL.fullmatch(text)
    if number is None:
        return None
    power = number.groupdict().get("t") or number["e"] or "0"
    part = number["part"] or ""
    significant = ((number["whole"] or "") + part).lstrip("0")
    return len(part) - int(power.replace(" ", "")), len(significant), power != "0"
