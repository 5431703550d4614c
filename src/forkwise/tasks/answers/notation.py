r"""One spelling for what is written in several: Unicode, LaTeX's spacing and synonyms, thousands, currency, degrees."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

MONEY = "¤"
"""This sign stands for a dollar sign that is money."""

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙₓₐₘ", "0123456789+-nxam", strict=True))
_FRACTIONS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
_GREEK = "αβγδεθλμπρσφωΔΣΩ"
_SYMBOLS = {
    "-": "−–—‐‑﹣－",
    "/": "∕⁄",
    "'": "′’‘",
    '"': "“”",
    ",": "，",
    ";": "；",
    ":": "：",
    "(": "（",
    ")": "）",
    "[": "【",
    "]": "】",
    ".": "。",
    "%": "％",
    "$": "＄",
    " ": "\xa0\u2009\u202f\u2002\u2003",
    "": "\u200b\ufeff",
    r"\{": "｛",
    r"\}": "｝",
    r"\times ": "×✕",
    r"\cdot ": "·⋅∙•",
    r"\div ": "÷",
    r"\pm ": "±",
    r"\mp ": "∓",
    r"\sqrt ": "√",
    r"\sqrt[3]": "∛",
    r"\sqrt[4]": "∜",
    r"\infty ": "∞",
    r"\le ": "≤⩽",
    r"\ge ": "≥⩾",
    r"\ne ": "≠",
    r"\approx ": "≈",
    r"\sim ": "∼",
    r"\cup ": "∪",
    r"\cap ": "∩",
    r"\in ": "∈",
    r"\emptyset ": "∅",
    r"\setminus ": "∖",
    r"\langle ": "⟨",
    r"\rangle ": "⟩",
    r"\mathbb{R}": "ℝ",
    r"\mathbb{Z}": "ℤ",
    r"\mathbb{N}": "ℕ",
    r"\land ": "∧",
    r"\lor ": "∨",
    r"\neg ": "¬",
    r"\dots ": "…⋯",
    r"\degree ": "°º˚",
    r"\angle ": "∠",
    r"\ell ": "ℓ",
    r"\hbar ": "ℏ",
    r"\mu ": "µ",  # the micro sign
    r"\Delta ": "∆",  # the increment
}
_UNICODE = {character: spelling for spelling, characters in _SYMBOLS.items() for character in characters}
for _letter in _GREEK:
    _name = unicodedata.name(_letter).split()[-1]
    _UNICODE[_letter] = f"\\{_name.lower() if _letter.islower() else _name.capitalize()} ".replace("lamda", "lambda")
for _character in _FRACTIONS:
    _top, _bottom = Fraction(unicodedata.numeric(_character)).limit_denominator(10).as_integer_ratio()
    _UNICODE[_character] = rf"\frac{{{_top}}}{{{_bottom}}}"
_UNICODE_TABLE = str.maketrans(_UNICODE)
_MIXED_NUMBER = re.compile(f"(?<=[0-9])(?=[{_FRACTIONS}])")
_OVERLINED = re.compile("((?:[0-9]\u0305)+)")
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_ROOT_OF_WORD = re.compile(r"\\sqrt(\[\d\])? ?(\d+(?:\.\d+)?)")
_SMALL_FRACTION = re.compile(r"\^\{([0-9]+)\}/_\{([0-9]+)\}")


def _commands(*names: str) -> str:
    """Returns a pattern for these commands of LaTeX, and for none of which they are the beginning."""
    return rf"\\(?:{'|'.join(names)})(?![a-zA-Z])"


_SIZES = "left right bigl bigr Bigl Bigr biggl biggr big Big bigg Bigg"
_LAYOUT = "displaystyle textstyle limits mathstrut nolimits"
_STYLES = "bf rm it large Large LARGE huge Huge small normalsize tiny"
_FONTS = (
    "mathbf boldsymbol bm mathit textit emph textbf mathsf mathtt texttt mathop operatorname operatorname\\* mbox"
    " textrm textnormal rm mathrm text"
)
_BLANK = _commands("quad", "qquad", "enspace", "thinspace", r"hspace\s?\{[^{}]*\}")
_ORDINAL_SUFFIX = r"(?:st|nd|rd|th)"
_UNIT_OR_LETTERS = r"(?:\\text\s?\{[^{}]*\}|[A-Za-z]{1,4})(?:\^\{?[0-9]\}?)?"
_UNIT = r"\\text\s?\{[^{}]*\}(?:\^\{?[0-9]\}?)?"
_SPELLINGS = [
    # synonyms
    (r"\\(?:boxed|fbox)\s?\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1"),
    (_commands("dfrac", "tfrac", "cfrac"), r"\\frac"),
    (_commands("dbinom", "tbinom"), r"\\binom"),
    (_commands(*_SIZES.split(), *_LAYOUT.split()) + r"\.?", ""),
    (_commands("leq", "leqslant") + "|<=|=<|&lt;=", r"\\le "),
    (_commands("geq", "geqslant") + "|>=|=>|&gt;=", r"\\ge "),
    (r"\\(?:neq|not\s?=)|!=", r"\\ne "),
    (_commands("lt") + "|&lt;", "<"),
    (_commands("gt") + "|&gt;", ">"),
    (_commands("varnothing"), r"\\emptyset "),
    (_commands("lbrace"), r"\\{"),
    (_commands("rbrace"), r"\\}"),
    (_commands("lbrack"), "["),
    (_commands("rbrack"), "]"),
    (_commands("lvert", "rvert", "vert", "mid"), "|"),
    (_commands("lVert", "rVert", "Vert") + r"|\\\|", "‖"),
    (_commands("varphi"), r"\\phi "),
    (_commands("varepsilon"), r"\\epsilon "),
    # degrees and primes
    (rf"\^\s?\{{\s?\\(?:circ|degree)\s?\}}|\^\s?{_commands('circ', 'degree')}|{_commands('degree')}|\\textdegree", "°"),
    (rf"\^\s?\{{\s?\\prime\s?\}}|\^\s?{_commands('prime')}|{_commands('prime')}", "'"),
    # commas within numbers, blanks
    (r"(?<=[0-9])(?:\{,\}|,?\\[,!]\s?|\{\\,\})(?=[0-9]{3}(?![0-9]))", ","),
    (r"\{,\}", ","),
    (rf"(?<!\\)(?:\\[,!;: ]|{_BLANK})|~|&nbsp;", " "),
    # fonts, and units as fractions
    (rf"\\(?:{'|'.join(_FONTS.split())})(?=\s?\{{)", r"\\text"),
    (rf"(?<=[0-9\s~])\\frac\s?\{{({_UNIT_OR_LETTERS})\}}\s?\{{({_UNIT})\}}", r" \1/\2"),
    (r"\^\s?\{?\s?\\text\s?\{\s?o\s?\}\s?\}?", "°"),
    (r"(?<=[0-9])\\text\s?\{\s?,\s?\}(?=[0-9]{3})", ","),
    (r"\\(?:mathbf|mathrm|textbf|bf)\s+(?=[0-9A-Za-z])", ""),
    (r"_\s?(\\text\s?\{[^{}]*\})", r"_{\1}"),
    (r"(?:\\text\{\s?k\s?\}|(?<=[0-9\s}])k)\s?(?:\\Omega|ohms?)", r" \\text{kiloohm}"),
    (r"(?:\\text\{\s?M\s?\}|(?<=[0-9\s}])M)\s?(?:\\Omega|ohms?)", r" \\text{megaohm}"),
    (r"\\text\{\s?\\AA\s?\}|\\AA(?![A-Za-z])", "Å"),
    (r"\\hat\s?\{?\s?\\?([ijk])(?:math)?(?![A-Za-z])\s?\}?", r"\1"),
    (_commands("slash"), "/"),
    (_commands("colon"), ":"),
    (r"(?<=[0-9])\s?元", r" \\text{yuan}"),
    (r"(?<=[0-9])\s?[个人只本种次名颗页张棵条辆件箱岁]\Z", ""),
    # what shows nothing
    (_commands("therefore") + "|∴", ""),
    (r"(?:\\{1,2}|\{\})\s*$|^\{\}(?=[^_^])|\\ensuremath(?=\{)", ""),
    (r"(?<=[0-9])_(?=[0-9]{3}(?![0-9]))", ""),
    (_commands(*_STYLES.split(), r"(?:text)?color\s?\{[a-z]+\}"), ""),
    (r"(?<![A-Za-z])(?:np|numpy|math|sympy|sp)\.(?=[a-z])", ""),
    # ordinals
    (rf"(?<=[0-9])\s?\^\s?\{{\s?(?:\\text\s?\{{\s?{_ORDINAL_SUFFIX}\s?\}}|{_ORDINAL_SUFFIX})\s?\}}", ""),
    (rf"(?<=[0-9])\s?\^?\s?\\text\s?\{{\s?{_ORDINAL_SUFFIX}\s?\}}", ""),
    (rf"(?<=[0-9]){_ORDINAL_SUFFIX}(?![A-Za-z])", ""),
    # emphasis, marks
    (r"\*\*([^*]+)\*\*", r"\1"),
    (r"\\(?:underline|overset\s?\{[^{}]*\})(?=\s?\{)", ""),
    (_commands("checkmark") + "|[✓✔✅]", ""),
    (r"\\text\{\s?([,:])\s?\}", r"\1"),
    # what people type
    (r"(?<=[0-9])\s?\^\s?\{?\s?o\s?\}?(?![a-zA-Z])", "°"),
    (r"\bper cent\b", "percent"),
    (r"(?<=[0-9])\s?[xX]\s?(?=10\s?(?:\^|\*\*))", r"\\times "),
    (r"(?<![A-Za-z\\])sqrt\s?([0-9]+)", r"\\sqrt{\1}"),
    (r"(?<![A-Za-z\\_])C\(\s?([0-9n]+)\s?,\s?([0-9k]+)\s?\)", r"\\binom{\1}{\2}"),
    (r"\\pmod\s?([0-9a-z])(?![0-9a-z])", r"\\pmod{\1}"),
    (r"\\%", "%"),
]
_REPLACED = [(re.compile(pattern), spelling) for pattern, spelling in _SPELLINGS]
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_DELIMITERS = ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$"))
_ALIGNED = re.compile(
    r"\\begin\{(?:aligned|align\*?|gathered|split|cases)\}(.*)\\end\{(?:aligned|align\*?|gathered|split|cases)\}",
    re.DOTALL,
)
_MONEY = re.compile(r"\\\$|\$(?=\s?-?[0-9.])|(?<=[0-9])\s?\$(?![A-Za-z0-9\\])")


@lru_cache(10_000)
def tidy(text: str) -> str:
    r"""Puts `text` in one spelling; `\text{...}` is kept around words and taken off single letters and numbers."""
    text = text.strip()
    if not text.isascii():
        text = _OVERLINED.sub(lambda m: rf"\overline{{{m[1].replace(chr(0x305), '')}}}", text)
        text = r"\emptyset" if text in ("Ø", "ø") else text
        text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)
        text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
        text = _MIXED_NUMBER.sub(" ", text)
        text = unicodedata.normalize("NFKC", text.translate(_UNICODE_TABLE))
        text = _ROOT_OF_WORD.sub(lambda m: rf"\sqrt{m[1] or ''}{{{m[2]}}}", text)
        text = _SMALL_FRACTION.sub(r"\\frac{\1}{\2}", text)
    for opening, closing in _DELIMITERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            if opening not in inner and not inner.endswith("\\"):
                text = inner.strip()
    for pattern, spelling in _REPLACED:
        text = pattern.sub(spelling, text)
    aligned = _ALIGNED.fullmatch(text)
    if aligned and (r"\\" not in aligned[1] or ("cases" in text and "&" not in text)):
        text = aligned[1].replace(r"\\", ", ").replace("&", "").strip()
    text = _MONEY.sub(MONEY, text).replace("$", " ")
    text = _TEXT.sub(_bare_text, text)
    text = " ".join(text.split())
    while text and text[-1] in ".,;:" and not text.endswith((r"\,", "..")):
        text = text[:-1].rstrip()
    return text


def _bare_text(match: re.Match[str]) -> str:
    content = match[1].strip()
    if re.fullmatch(r"[A-Za-z]|[-+0-9.,/ ]*|[A-Za-z]?[0-9]+", content):
        return f" {content} " if match[1] != content else content
    if content.lower().strip(" ,") in ("and", "or"):
        return f" {content.lower()} "
    return rf"\text{{{match[1]}}}"


def split_at_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Returns the pieces of `text` between the separators that no bracket holds, stripped."""
    pieces: list[str] = []
    depth = start = position = 0
    while position < len(text):
        char = text[position]
        if char == "\\" and position + 1 < len(text) and text[position + 1] in "{}":
            depth += 1 if text[position + 1] == "{" else -1
            position += 2
            continue
        if char in "([{" or text.startswith((r"\langle", r"\begin"), position):
            depth += 1
        elif char in ")]}" or text.startswith((r"\rangle", r"\end"), position):
            depth -= 1
        elif depth <= 0:
            match = separator.match(text, position)
            if match and match.end() > position:
                pieces.append(text[start:position].strip())
                position = start = match.end()
                continue
        position += 1
    pieces.append(text[start:].strip())
    return pieces


def matching_end(text: str, start: int = 0) -> int:
    """Finds where the bracket that opens at `start` is closed, by one of any kind (half-open intervals), or -1."""
    depth, position = 0, start
    while position < len(text):
        char = text[position]
        if char == "\\" and position + 1 < len(text) and text[position + 1] in "{}":
            depth += 1 if text[position + 1] == "{" else -1
            position += 1
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        if depth == 0 and position > start:
            return position
        position += 1
    return -1
