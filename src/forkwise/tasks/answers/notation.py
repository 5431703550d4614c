r"""One spelling for what is written in several: Unicode, LaTeX's spacing and synonyms, thousands, currency, degrees."""

from __future__ import annotations

import re
import unicodedata

MONEY = "¤"
"""Stands for a dollar sign that is money."""

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙₓₐₘ", "0123456789+-nxam", strict=True))
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "×": r"\times ", "✕": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "•": r"\cdot ", "÷": r"\div ", "∕": "/", "⁄": "/", "√": r"\sqrt ", "∛": r"\sqrt[3]", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ",
    "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "≈": r"\approx ", "∼": r"\sim ", "°": r"\degree ", "º": r"\degree ",
    "˚": r"\degree ", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "，": ",", "；": ";", "：": ":", "（": "(", "）": ")", "【": "[",
    "】": "]", "。": ".", "∖": r"\setminus ", "∧": r"\land ", "∨": r"\lor ", "¬": r"\neg ", "…": r"\dots ", "⋯": r"\dots ", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "λ": r"\lambda ", "μ": r"\mu ", "µ": r"\mu ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "ρ": r"\rho ",
    "ε": r"\epsilon ", "Δ": r"\Delta ", "Σ": r"\Sigma ", "Ω": r"\Omega ", "ℓ": r"\ell ", "ℏ": r"\hbar ", "∠": r"\angle ", "∆": r"\Delta ",
    "｛": r"\{", "｝": r"\}", "∜": r"\sqrt[4]", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}",
    "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅐": r"\frac{1}{7}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "⅑": r"\frac{1}{9}", "⅒": r"\frac{1}{10}",
    "\xa0": " ", "\u2009": " ", "\u202f": " ", "\u2002": " ", "\u2003": " ", "\u200b": "", "\ufeff": "", "％": "%", "＄": "$",
}  # fmt: skip
_UNICODE_TABLE = str.maketrans(_UNICODE)
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_ROOT_OF_WORD = re.compile(r"\\sqrt(\[\d\])? ?(\d+(?:\.\d+)?)")
_SMALL_FRACTION = re.compile(r"\^\{([0-9]+)\}/_\{([0-9]+)\}")

_REPLACED = [
    (re.compile(r"\\(?:boxed|fbox)\s?\{((?:[^{}]|\{[^{}]*\})*)\}"), r"\1"),
    (re.compile(r"\\(?:d|t|c)frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:d|t)binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|displaystyle|textstyle|limits|mathstrut|nolimits)(?![a-zA-Z])\.?"), ""),
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])|<=|=<|&lt;="), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])|>=|=>|&gt;="), r"\\ge "),
    (re.compile(r"\\(?:neq|not\s?=)|!=|\\not="), r"\\ne "),
    (re.compile(r"\\lt(?![a-zA-Z])|&lt;"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])|&gt;"), ">"),
    (re.compile(r"\\(?:varnothing)(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![a-zA-Z])"), "["),
    (re.compile(r"\\rbrack(?![a-zA-Z])"), "]"),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(?:lVert|rVert|Vert)(?![a-zA-Z])|\\\|"), "‖"),
    (re.compile(r"\\(?:varphi)(?![a-zA-Z])"), r"\\phi "),
    (re.compile(r"\\(?:varepsilon)(?![a-zA-Z])"), r"\\epsilon "),
    (re.compile(r"\^\s?\{\s?\\(?:circ|degree)\s?\}|\^\s?\\(?:circ|degree)(?![a-zA-Z])|\\degree(?![a-zA-Z])|\\textdegree"), "°"),
    (re.compile(r"\^\s?\{\s?\\(?:prime)\s?\}|\^\s?\\prime(?![a-zA-Z])|\\prime(?![a-zA-Z])"), "'"),
    (re.compile(r"(?<=[0-9])(?:\{,\}|,?\\[,!]\s?|\{\\,\})(?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<!\\)\\[,!;: ]|(?<!\\)\\(?:quad|qquad|enspace|thinspace|hspace\s?\{[^{}]*\})(?![a-zA-Z])|~|&nbsp;"), " "),
    (re.compile(r"\\(?:mathbf|boldsymbol|bm|mathit|textit|emph|textbf|mathsf|mathtt|texttt|mathop|operatorname\*?|mbox|textrm|textnormal|rm|mathrm|text)(?=\s?\{)"), r"\\text"),
    (re.compile(r"(?<=[0-9\s~])\\frac\s?\{((?:\\text\s?\{[^{}]*\}|[A-Za-z]{1,4})(?:\^\{?[0-9]\}?)?)\}\s?\{(\\text\s?\{[^{}]*\}(?:\^\{?[0-9]\}?)?)\}"), r" \1/\2"),
    (re.compile(r"\^\s?\{?\s?\\text\s?\{\s?o\s?\}\s?\}?"), "°"),
    (re.compile(r"(?<=[0-9])\\text\s?\{\s?,\s?\}(?=[0-9]{3})"), ","),
    (re.compile(r"\\(?:mathbf|mathrm|textbf|bf)\s+(?=[0-9A-Za-z])"), ""),
    (re.compile(r"(?:\\\\|\{\}|\\\s)\s*$|^\{\}(?=[^_^])|\\ensuremath(?=\{)"), ""),
    (re.compile(r"(?<=[0-9])_(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"\\(?:bf|rm|it|large|Large|LARGE|huge|Huge|small|normalsize|tiny|color\s?\{[a-z]+\}|textcolor\s?\{[a-z]+\})(?![a-zA-Z])"), ""),
    (re.compile(r"(?<![A-Za-z])(?:np|numpy|math|sympy|sp)\.(?=[a-z])"), ""),
    (re.compile(r"(?<=[0-9])\s?\^\s?\{\s?(?:\\text\s?\{\s?(?:st|nd|rd|th)\s?\}|(?:st|nd|rd|th))\s?\}"), ""),
    (re.compile(r"(?<=[0-9])\s?\^?\s?\\text\s?\{\s?(?:st|nd|rd|th)\s?\}"), ""),
    (re.compile(r"(?<=[0-9])(?:st|nd|rd|th)(?![A-Za-z])"), ""),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"\\(?:underline|overset\s?\{[^{}]*\})(?=\s?\{)"), ""),
    (re.compile(r"\\checkmark(?![a-zA-Z])|[✓✔✅]"), ""),
    (re.compile(r"\\text\{\s?([,:])\s?\}"), r"\1"),
    (re.compile(r"(?<=[0-9])\s?\^\s?\{?\s?o\s?\}?(?![a-zA-Z])"), "°"),
    (re.compile(r"\bper cent\b"), "percent"),
    (re.compile(r"(?<=[0-9])\s?[xX]\s?(?=10\s?(?:\^|\*\*))"), r"\\times "),
    (re.compile(r"(?<![A-Za-z\\])sqrt\s?(?=[0-9])([0-9]+)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![A-Za-z\\_])C\(\s?([0-9n]+)\s?,\s?([0-9k]+)\s?\)"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\pmod\s?([0-9a-z])(?![0-9a-z])"), r"\\pmod{\1}"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:exp|e)xp(?![a-zA-Z])"), r"\\exp"),
]  # fmt: skip
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_DELIMITERS = ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$"))
_ALIGNED = re.compile(
    r"\\begin\{(?:aligned|align\*?|gathered|split|cases)\}(.*)\\end\{(?:aligned|align\*?|gathered|split|cases)\}",
    re.DOTALL,
)
_MONEY = re.compile(r"\\\$|\$(?=\s?-?[0-9.])|(?<=[0-9])\s?\$(?![A-Za-z0-9\\])")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def tidy(text: str) -> str:
    r"""`text` in one spelling; `\text{...}` is kept around words and taken off single letters and numbers."""
    text = text.strip()
    if not text.isascii():
        text = re.sub("((?:[0-9]\u0305)+)", lambda m: rf"\overline{{{m[1].replace(chr(0x305), '')}}}", text)
        text = r"\emptyset" if text in ("Ø", "ø") else text
        text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)
        text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
        text = re.sub(r"(?<=[0-9])(?=[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒])", " ", text)
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
    if content.lower() in ("and", "or"):
        return f" {content} "
    return rf"\text{{{match[1]}}}"


def split_at_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """The pieces of `text` between the separators that no bracket holds, stripped."""
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
    """Where the bracket that opens at `start` is closed by one of any kind (half-open intervals); -1 if nowhere."""
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
