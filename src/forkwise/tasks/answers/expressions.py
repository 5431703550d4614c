r"""Formulas read by a small grammar and compared by their values: exactly where they are rational, else to many digits.

Two formulas are equal where their values are, at several points if they have variables. A value is an exact fraction
if only rational arithmetic is needed; otherwise it is computed with so many digits that numbers of this size cannot
agree by accident (at least 120, more for larger numbers), relative to its size. What the grammar does not know is None:
somebody else must decide.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

Node = tuple[Any, ...]

_LARGEST_BITS = 100_000  # of a number in exact arithmetic
_INTEGERS = 4  # the point whose values are whole numbers
_DEEPEST = 60  # brackets within brackets


class Unreadable(Exception):
    """The grammar does not know this, or it is too large."""


class NoValue(Exception):
    """An expression has no value at this point, or none that can be computed."""


_FUNCTIONS = [
    "arcsin",
    "arccos",
    "arctan",
    "arccot",
    "sinh",
    "cosh",
    "tanh",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "ln",
    "log",
    "lg",
    "exp",
    "floor",
    "ceil",
    "asin",
    "acos",
    "atan",
    "sqrt",
    "gcd",
    "lcm",
    "max",
    "min",
    "abs",
]
_ACCENTS = ("vec", "hat", "bar", "tilde", "dot", "ddot", "overrightarrow", "widehat", "mathcal", "mathbb", "overline")
_GREEK = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "phi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Sigma",
        "Phi",
        "Psi",
        "Omega",
        "hbar",
        "ell",
        "partial",
        "nabla",
        "angle",
        "triangle",
        "vartheta",
        "varrho",
    ]
)
_TOKEN = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,6}(?![0-9.A-Za-z]))?|\.[0-9]+(?:[eE][-+]?[0-9]{1,6}(?![0-9.A-Za-z]))?)"
    r"|\\(?P<command>[A-Za-z]+)|(?P<word>[A-Za-z]+)|(?P<other>\*\*|\\\{|\\\}|\\\\|[^\sA-Za-z0-9])"
)
_REPEATING = re.compile(
    r"([0-9]*)\.([0-9]*)(?:\\overline\s?\{\s?([0-9]+)\s?\}|\\dot\s?\{?([0-9])\}?|\(([0-9]+)\)|\\bar\s?\{?([0-9]+)\}?)(?:\s?\\(?:ldots|dots|cdots))?"
)
_TWO_DOTS = re.compile(r"([0-9]*)\.([0-9]*)\\dot\s?\{?([0-9])\}?([0-9]*)\\dot\s?\{?([0-9])\}?")
_IN_WORDS = re.compile(r"([0-9]*)\.()([0-9])\s?\(?(?:repeating|recurring)\)?")
_ELLIPSIS = re.compile(r"([0-9]*)\.([0-9]*?)(?:([0-9])\3{2,}|([0-9]{2,6}?)\4+)\s?(?:\.\.\.|\\(?:ldots|dots|cdots))")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(,| |')[0-9]{3})(?:\1[0-9]{3})*(?![0-9]|[,'][0-9])")
_POINTS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9.])")


@dataclass(frozen=True)
class Expression:
    """A formula that was read.

    Attributes:
        node: its tree.
        symbols: the names of its variables.
        decimals: digits after the point where it is one plain decimal number, None otherwise; with `exponent`.
        digits: significant digits of that decimal number.
        scientific: whether that decimal has a power of ten.
    """

    node: Node
    symbols: frozenset[str]
    decimals: int | None = None
    digits: int = 0
    scientific: bool = False


def _repeating(match: re.Match[str]) -> str:
    return _fraction(match[1], match[2], next(group for group in match.groups()[2:] if group))


def _fraction(whole: str, fixed: str, period: str) -> str:
    value = Fraction(int((whole or "0") + fixed)) + Fraction(int(period), 10 ** len(period) - 1)
    value /= 10 ** len(fixed)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def plain_numbers(text: str) -> str:
    """`text` with numbers as a parser wants them: no thousands separators, repeating decimals as fractions."""
    if "." in text and ("overline" in text or "dot" in text or "bar" in text or "(" in text):
        text = _TWO_DOTS.sub(lambda m: _fraction(m[1], m[2], m[3] + m[4] + m[5]), text)
        text = _REPEATING.sub(_repeating, text)
    if "r" in text:
        text = _IN_WORDS.sub(_repeating, text)
    if "..." in text or "dots" in text:
        text = _ELLIPSIS.sub(_repeating, text)
    text = _POINTS.sub(lambda m: m[0].replace(".", ""), text)
    return _THOUSANDS.sub(lambda m: re.sub(r"[, ']", "", m[0]), text)


_DECIMAL = re.compile(r"[-+]?\s?(?P<whole>[0-9]*)\.(?P<part>[0-9]*)(?:[eE](?P<e>[-+]?[0-9]{1,6}))?")
_SCIENTIFIC = re.compile(
    r"[-+]?\s?(?P<whole>[0-9]+)(?:\.(?P<part>[0-9]*))?\s?(?:[eE](?P<e>[-+]?[0-9]{1,6})"
    r"|(?:\\times|\\cdot|\*|x)\s?10\s?(?:\^|\*\*)\s?\{?\s?(?P<t>[-+]?\s?[0-9]{1,6})\s?\}?)"
)


@lru_cache(20_000)
def read_expression(text: str) -> Expression | None:
    """The formula that `text` (tidied) is, or None where the grammar does not know it."""
    if len(text) > 600:
        return None
    number = _SCIENTIFIC.fullmatch(text) or _DECIMAL.fullmatch(text)
    try:
        parser = _Parser(plain_numbers(text))
        node = parser.whole()
    except (Unreadable, RecursionError):
        return None
    if number is None:
        return Expression(node, frozenset(parser.symbols))
    power = number.groupdict().get("t") or number["e"] or "0"
    part = number["part"] or ""
    significant = ((number["whole"] or "") + part).lstrip("0")
    exponent = int(power.replace(" ", ""))
    return Expression(node, frozenset(), len(part) - exponent, len(significant), power != "0")


class _Parser:
    """A recursive descent over `text`; every method consumes what it understands or raises `Unreadable`."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, bool]] = []  # kind, text, whether a blank stands before it
        end = 0
        for match in _TOKEN.finditer(text):
            self.tokens.append((match.lastgroup or "", match[match.lastgroup or 0], match.start() > end))
            end = match.end()
        if len(self.tokens) > 300:
            raise Unreadable
        self.place = 0
        self.is_one_word = " " not in text.strip()
        self.depth = 0
        self.symbols: set[str] = set()

    def peek(self, ahead: int = 0) -> tuple[str, str, bool]:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else ("end", "", False)

    def take(self, *texts: str) -> bool:
        if self.peek()[1] in texts and self.peek()[0] != "end":
            self.place += 1
            return True
        return False

    def need(self, text: str) -> None:
        if not self.take(text):
            raise Unreadable

    def whole(self) -> Node:
        node = self.sum()
        if self.peek()[0] != "end":
            raise Unreadable
        return node

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable
        negative = False
        while self.peek()[1] in ("+", "-"):
            negative ^= self.take("-")
            self.take("+")
        node = self.product()
        terms = [("neg", node) if negative else node]
        while self.peek()[1] in ("+", "-"):
            minus = self.take("-")
            if not minus:
                self.take("+")
            negative = minus
            while self.peek()[1] in ("+", "-"):  # 3 - -2
                negative ^= self.take("-")
                self.take("+")
            term = self.product()
            terms.append(("neg", term) if negative else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def product(self) -> Node:
        node = self.power()
        while True:
            kind, text, _ = self.peek()
            if (kind == "command" and text in ("times", "cdot")) or text == "*":
                self.place += 1
                node = ("mul", node, self.signed())
            elif text == "/" or (kind == "command" and text == "div"):
                self.place += 1
                node = ("div", node, self.signed())
            elif self.starts_factor():
                node = self.beside(node)
            else:
                return node

    def signed(self) -> Node:
        negative = False
        while self.peek()[1] in ("+", "-"):
            negative ^= self.take("-")
            self.take("+")
        node = self.power()
        return ("neg", node) if negative else node

    def beside(self, left: Node) -> Node:
        r"""A factor without a sign before it: a product, or a mixed number (`1\frac{3}{4}`, `1 3/4`)."""
        kind, text, blank = self.peek()
        if kind == "number" and left[0] != "num":
            raise Unreadable  # x 2
        right = self.power()
        if left[0] == "num" and left[1].denominator == 1 and left[2] == "int":
            if (
                text == "frac"
                and right[0] == "div"
                and right[1][0] == right[2][0] == "num"
                and right[1][1] < right[2][1]
            ):
                return ("add", left, right)
            if right[0] == "num" and kind == "number":
                if blank and right[2] == "int" and self.take("/"):
                    bottom = self.power()
                    if bottom[0] == "num" and right[1] < bottom[1]:
                        return ("add", left, ("div", right, bottom))
                raise Unreadable  # 1 2 is not 12
        elif right[0] == "num" and kind == "number":
            raise Unreadable
        return ("mul", left, right)

    def starts_factor(self) -> bool:
        kind, text, _ = self.peek()
        if kind in ("number", "word"):
            return True
        if kind == "command":
            return (
                text in ("frac", "sqrt", "pi", "binom", "infty", "text", "lfloor", "lceil", "mathrm")
                or text in _FUNCTIONS
                or text in _GREEK
                or text in _ACCENTS
            )
        return text in ("(", "{", "[")

    def power(self) -> Node:
        node = self.postfix(self.atom())
        if self.take("^", "**"):
            if self.take("{"):
                exponent = self.sum()
                self.need("}")
            elif self.peek()[1] in ("+", "-"):
                exponent = self.signed()
            elif self.peek()[0] == "number" and len(self.peek()[1]) > 1 and self.tokens[self.place - 1][1] == "^":
                exponent = ("num", Fraction(self.peek()[1]), "int")  # 2^10 as people type it, not LaTeX's 2^1 0
                self.place += 1
            else:
                exponent = self.power() if self.tokens[self.place - 1][1] == "**" else self.atom()
            node = self.postfix(("pow", node, exponent))
            if self.peek()[1] == "^":
                raise Unreadable
        return node

    def postfix(self, node: Node) -> Node:
        while True:
            if self.take("!"):
                node = ("fact2" if self.take("!") else "fact", node)
            elif self.take("°"):
                node = ("div", ("mul", node, ("const", "pi")), ("num", Fraction(180), "int"))
            elif self.take("%"):
                node = ("div", node, ("num", Fraction(100), "int"))
            elif self.peek()[1] == "'" and node[0] == "sym":
                self.place += 1
                self.symbols.add(node[1] + "'")
                node = self.named(node[1] + "'")
            else:
                return node

    def group(self) -> Node:
        """What a LaTeX argument holds: `{...}`, or the next digit or letter alone."""
        if self.take("{"):
            node = self.sum()
            self.need("}")
            return node
        kind, text, blank = self.peek()
        if kind == "number" and text.isdigit() and len(text) > 1:
            self.tokens[self.place] = (kind, text[1:], False)
            return ("num", Fraction(text[0]), "int")
        if kind == "word" and len(text) > 1:
            self.tokens[self.place] = (kind, text[1:], False)
            return self.letter(text[0])
        return self.atom()

    def atom(self) -> Node:
        kind, text, _ = self.peek()
        self.place += 1
        if kind == "number":
            if len(text) > 1500:
                raise Unreadable
            value = Fraction(text) if len(text.lower().partition("e")[2]) < 5 else None
            if value is None:
                raise Unreadable
            if self.peek()[1] == "_":
                raise Unreadable  # a number base: no plain number
            return ("num", value, "int" if text.isdigit() else "decimal")
        if kind == "word":
            return self.word(text)
        if kind == "command":
            return self.command(text)
        if text == "(" or text == "[":
            node = self.sum()
            self.need(")" if text == "(" else "]")
            return node
        if text == "{":
            node = self.sum()
            if self.peek()[1] == "choose":
                self.place += 1
                node = ("binom", node, self.sum())
            self.need("}")
            return node
        if text == "|":
            node = self.sum()
            self.need("|")
            return ("fn", "abs", node)
        raise Unreadable

    def word(self, text: str) -> Node:
        """Letters: a function's name as people type it, or variables side by side."""
        lower = text.lower()
        if lower in _FUNCTIONS and (lower != "sqrt" or self.peek()[1] in ("(", "{")):
            return self.function(lower)
        if lower == "pi":
            return ("const", "pi")
        if lower in ("inf", "infinity", "oo"):
            return ("const", "inf")
        if len(text) > 1:
            if len(text) > (6 if self.is_one_word else 3):
                raise Unreadable  # a word of prose
            self.place -= 1
            self.tokens[self.place] = ("word", text[1:], False)
            return self.letter(text[0])
        return self.letter(text)

    def letter(self, name: str) -> Node:
        if name in ("e", "i") and self.peek()[1] != "_":
            return ("const", name)
        return self.named(name + self.subscript())

    def named(self, name: str) -> Node:
        """A variable, or the value of a function that nobody defines: `f(x)`, `u(t)`, `I(0)`."""
        if self.peek()[1] == "(" and not self.peek()[2]:
            argument = self.peek(1)[1]
            alone = (
                self.peek(2)[1] == ")"
                and (argument in ("t", "x", "0") or (argument == "n" and name[:1].isupper()))
                and argument != name
            )
            if name[:1] in "fghFGH" or alone:
                self.place += 1
                arguments = [self.sum()]
                while self.take(","):
                    arguments.append(self.sum())
                self.need(")")
                return ("call", name, *arguments)
        return self.symbol(name)

    def symbol(self, name: str) -> Node:
        self.symbols.add(name)
        return ("sym", name)

    def subscript(self) -> str:
        if not self.take("_"):
            return ""
        if not self.take("{"):
            kind, text, _ = self.peek()
            if kind not in ("number", "word", "command"):
                raise Unreadable
            self.place += 1
            if kind == "word" and len(text) > 1:
                self.place -= 1
                self.tokens[self.place] = (kind, text[1:], False)
            elif kind == "number" and len(text) > 1:
                raise Unreadable
            if kind == "command" and text == "text":
                self.need("{")
                return "_" + self.until_brace()
            return "_" + text[:1] if kind == "word" else "_" + text
        return "_" + self.until_brace()

    def until_brace(self) -> str:
        content, depth = "", 1
        while depth:
            kind, text, _ = self.peek()
            if kind == "end":
                raise Unreadable
            self.place += 1
            depth += (text == "{") - (text == "}")
            if text not in ("{", "}", "text"):
                content += text
        return content

    def command(self, name: str) -> Node:
        if name == "frac":
            top = self.group()
            return ("div", top, self.group())
        if name == "binom":
            top = self.group()
            return ("binom", top, self.group())
        if name == "sqrt":
            index: Node = ("num", Fraction(2), "int")
            if self.take("["):
                index = self.sum()
                self.need("]")
            return ("root", self.atom() if self.peek()[1] == "(" else self.group(), index)
        if name == "pi":
            return ("const", "pi")
        if name == "infty":
            return ("const", "inf")
        if name in ("lfloor", "lceil"):
            node = self.sum()
            self.need("rfloor" if name == "lfloor" else "rceil")
            return ("fn", "floor" if name == "lfloor" else "ceil", node)
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _GREEK:
            return self.named("\\" + name + self.subscript())
        if name in _ACCENTS:
            self.need("{") if self.peek()[1] == "{" else None
            if self.tokens[self.place - 1][1] == "{":
                return self.symbol(f"\\{name} " + self.until_brace() + self.subscript())
            kind, text, _ = self.peek()
            self.place += 1
            if kind not in ("word", "command"):
                raise Unreadable
            return self.symbol(f"\\{name} {text}" + self.subscript())
        if name == "text":
            self.need("{")
            content = self.until_brace()
            if content in ("e", "i"):
                return ("const", content)
            if content.lower() in _FUNCTIONS:
                return self.function(content.lower())
            raise Unreadable  # a unit, or prose
        raise Unreadable

    def function(self, name: str) -> Node:
        base: Node | None = None
        if name == "log" and self.take("_"):
            base = self.group()
        exponent: Node | None = None
        if self.take("^"):
            exponent = self.group()
        arguments = [self.argument()]
        if name in ("gcd", "lcm", "max", "min"):
            raise Unreadable
        if base is not None:
            node: Node = ("div", ("fn", "ln", arguments[0]), ("fn", "ln", base))
        elif name == "sqrt":
            node = ("root", arguments[0], ("num", Fraction(2), "int"))
        else:
            name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "log": "ln"}.get(name, name)
            node = ("fn", name, arguments[0])
        if exponent is None:
            return node
        if exponent == ("neg", ("num", Fraction(1), "int")) and name in ("sin", "cos", "tan"):
            return ("fn", "arc" + name, arguments[0])
        return ("pow", node, exponent)

    def argument(self) -> Node:
        r"""What a function is of: brackets, or the product up to the next sign or function (`\sin 2x \cos x`)."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable
        if self.peek()[1] in ("(", "{", "["):
            node = self.postfix(self.atom())
            self.depth -= 1
            return node
        negative = self.take("-")
        node = self.power()
        while self.starts_factor():
            kind, text, _ = self.peek()
            if text in _FUNCTIONS or text in ("(", "{", "[") or (kind == "word" and text.lower() in _FUNCTIONS):
                break
            node = self.beside(node)
        if self.peek()[1] == "/" and self.peek(1)[0] == "number" and ("pi" in str(node) or "sym" in str(node)):
            self.place += 1
            node = ("div", node, self.power())
        self.depth -= 1
        return ("neg", node) if negative else node


# Values ---------------------------------------------------------------------------------------------------------------


class _Irrational(Exception):
    """Exact arithmetic on fractions does not suffice."""


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > _LARGEST_BITS or value.denominator.bit_length() > _LARGEST_BITS:
        raise NoValue
    return value


def _exact(node: Node, at: Mapping[str, Fraction]) -> Fraction:
    """The value in exact arithmetic; `_Irrational` where it is none, `NoValue` where it is undefined or too large."""
    kind = node[0]
    if kind == "num":
        return _bounded(node[1])
    if kind == "sym":
        return at[node[1]]
    if kind == "neg":
        return -_exact(node[1], at)
    if kind == "add":
        return _bounded(sum((_exact(term, at) for term in node[1:]), Fraction(0)))
    if kind == "mul":
        return _bounded(_exact(node[1], at) * _exact(node[2], at))
    if kind == "div":
        bottom = _exact(node[2], at)
        if bottom == 0:
            raise NoValue
        return _bounded(_exact(node[1], at) / bottom)
    if kind == "pow":
        return _exact_power(_exact(node[1], at), _exact(node[2], at))
    if kind == "root":
        index = _exact(node[2], at)
        if index.denominator != 1 or not 1 <= index <= 60:
            raise _Irrational
        return _exact_root(_exact(node[1], at), int(index))
    if kind == "fact":
        number = _exact(node[1], at)
        if number.denominator != 1:
            raise _Irrational
        if not 0 <= number <= 3000:
            raise NoValue
        return _bounded(Fraction(math.factorial(int(number))))
    if kind == "fact2":
        number = _exact(node[1], at)
        if number.denominator != 1 or not 0 <= number <= 3000:
            raise NoValue
        return _bounded(Fraction(math.prod(range(int(number), 1, -2))))
    if kind == "binom":
        top, bottom = _exact(node[1], at), _exact(node[2], at)
        if top.denominator != 1 or bottom.denominator != 1:
            raise _Irrational
        if not 0 <= bottom <= top <= 20_000 or min(bottom, top - bottom) > 5000:
            raise NoValue
        return _bounded(Fraction(math.comb(int(top), int(bottom))))
    if kind == "fn" and node[1] in ("abs", "floor", "ceil"):
        value = _exact(node[2], at)
        return {"abs": abs, "floor": lambda v: Fraction(math.floor(v)), "ceil": lambda v: Fraction(math.ceil(v))}[
            node[1]
        ](value)
    if kind == "call":
        return _bounded(Fraction(_some_polynomial(node[1], [_exact(child, at) for child in node[2:]], lambda w: w)))
    raise _Irrational


def _some_polynomial(name: str, arguments: Sequence[Any], number: Callable[[Fraction], Any]) -> Any:
    """The value of a function that nobody defines: of a polynomial that its name determines."""
    names = [f"{name} {n}" for n in range(2 + 2 * len(arguments))]
    values = point(frozenset(names), 3)
    weights = [number(values[n]) for n in names]
    total = weights[0] + weights[1] * math.prod(arguments, start=number(Fraction(1)))
    for n, x in enumerate(arguments):
        total = total + weights[2 + 2 * n] * x + weights[3 + 2 * n] * x**2
    return total


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if base < 0 or exponent.denominator > 60:
            raise _Irrational
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
        raise _Irrational
    parts = [_integer_root(abs(value.numerator), index), _integer_root(value.denominator, index)]
    root = Fraction(*parts)
    return -root if negative else root


def _integer_root(number: int, index: int) -> int:
    if number.bit_length() > 4000:
        raise NoValue
    root = math.isqrt(number) if index == 2 else round(number ** (1 / index)) if number < 2**1000 else 0
    if index != 2:
        for guess in (root - 1, root, root + 1):
            if guess >= 0 and guess**index == number:
                return guess
        raise _Irrational
    if root * root != number:
        raise _Irrational
    return root


def _numeric(node: Node, at: Mapping[str, Any], mp: Any, magnitudes: list[float]) -> Any:
    """The value as a real or complex number of `mp`; `NoValue` where it is undefined, infinite or out of bounds.

    `magnitudes[0]` becomes the largest |log10| of a value on the way.
    """
    value = _numeric_node(node, at, mp, magnitudes)
    if value != 0:
        magnitudes[0] = max(magnitudes[0], abs(float(mp.log10(abs(value)))))
    return value


def _numeric_node(node: Node, at: Mapping[str, Any], mp: Any, magnitudes: list[float]) -> Any:
    kind = node[0]
    if kind == "num":
        return mp.mpf(node[1].numerator) / node[1].denominator
    if kind == "sym":
        return at[node[1]]
    if kind == "const":
        if node[1] == "inf":
            raise NoValue
        return {"pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1)}[node[1]] * 1
    if kind == "call":
        values = [_numeric(child, at, mp, magnitudes) for child in node[2:]]
        return _some_polynomial(node[1], values, lambda w: mp.mpf(w.numerator) / w.denominator)
    arguments = [_numeric(child, at, mp, magnitudes) for child in node[1:] if isinstance(child, tuple)]
    if kind == "neg":
        return -arguments[0]
    if kind == "add":
        return sum(arguments[1:], arguments[0])
    if kind == "mul":
        return arguments[0] * arguments[1]
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


def _evaluate(node: Node, at: Mapping[str, Fraction], digits: int, magnitudes: list[float] | None = None) -> Any:
    """The value to `digits` digits, or exactly where it is a fraction."""
    try:
        return _exact(node, at)
    except _Irrational:
        pass
    from mpmath import mp

    with mp.workdps(digits + 20):
        try:
            numbers = {name: mp.mpf(v.numerator) / v.denominator for name, v in at.items()}
            value = _numeric(node, numbers, mp, [0.0] if magnitudes is None else magnitudes)
            if not mp.isfinite(value):
                raise NoValue
            return value
        except (ArithmeticError, ValueError, TypeError, KeyError, AttributeError, mp.NoConvergence) as error:
            raise NoValue from error


def _agree(a: Any, b: Any, digits: int, magnitude: float) -> bool:
    """Whether two values are the same to `digits` digits, or both nothing beside the values that they came from."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    from mpmath import mp

    with mp.workdps(digits + 20):
        x, y = (mp.mpf(v.numerator) / v.denominator if isinstance(v, Fraction) else v for v in (a, b))
        scale = max(abs(x), abs(y))
        return bool(abs(x - y) <= scale * mp.mpf(10) ** (10 - digits)) or bool(
            scale < mp.mpf(10) ** (magnitude + 10 - digits)
        )


def _equal_at(a: Node, b: Node, at: Mapping[str, Fraction]) -> bool | None:
    """Whether two values are equal; `NoValue` where there are none, None where too many digits would be needed."""
    magnitudes = [0.0]
    x, y = (_evaluate(node, at, 30, magnitudes) for node in (a, b))
    if not _agree(x, y, 30, magnitudes[0]):
        return False
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return True
    for exact in (x, y):
        if isinstance(exact, Fraction) and exact:
            magnitudes[0] = max(magnitudes[0], abs(exact.numerator.bit_length() - exact.denominator.bit_length()) / 3.3)
    digits = 120 + 3 * math.ceil(magnitudes[0])
    if digits > 6000:
        return None
    return _agree(*(_evaluate(node, at, digits) for node in (a, b)), digits, magnitudes[0])


def point(symbols: frozenset[str], number: int) -> dict[str, Fraction]:
    """One value per variable, always the same for its name: of no special form; of point 2, negative."""
    values = {}
    for name in symbols:
        seed = int.from_bytes(hashlib.sha256(f"{number} {name}".encode()).digest()[:8], "big")
        if number == _INTEGERS:
            values[name] = Fraction(seed % 40 + 2)
            continue
        value = Fraction(seed % 100_003 + 30_011, 60_013 + seed % 4099)
        values[name] = -value if number == 2 else value
    return values


def equal(a: Expression, b: Expression) -> bool | None:
    """Whether two formulas have the same value wherever both have one; None where that cannot be found out."""
    if a.node == b.node:
        return True
    symbols = a.symbols | b.symbols
    infinite = [_infinite(e.node) for e in (a, b)]
    if any(infinite):
        return infinite[0] == infinite[1] if all(infinite) or not symbols else False
    compared = 0
    steps = any("'floor'" in str(e.node) or "'ceil'" in str(e.node) for e in (a, b))
    for number in (0, 1, 2, 3, *([_INTEGERS] if steps else [])) if symbols else (0,):
        at = point(symbols, number)
        try:
            if number == 2 and not all(_is_real(_evaluate(e.node, at, 30)) for e in (a, b)):
                continue
            verdict = _equal_at(a.node, b.node, at)
        except NoValue:
            continue
        if verdict is False and number == 2 and _has_root(a.node) != _has_root(b.node):
            return None
        if not verdict:
            return verdict
        compared += 1
    return True if compared else None


def _ratio(a: Expression, b: Expression, at: Mapping[str, Fraction]) -> Any:
    x, y = (_evaluate(e.node, at, 60) for e in (a, b))
    if x == 0 or y == 0:
        raise NoValue
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x / y
    from mpmath import mp

    with mp.workdps(80):
        x, y = (mp.mpf(v.numerator) / v.denominator if isinstance(v, Fraction) else v for v in (x, y))
        return x / y


def _divisors(node: Node) -> Iterator[str]:
    """The variables that something is divided by."""
    if node[0] == "sym":
        return
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from _divisors(child)
    if node[0] == "div" or (node[0] == "pow" and node[2][0] == "neg"):
        yield from _symbols(node[2] if node[0] == "div" else node[1])


def _symbols(node: Node) -> Iterator[str]:
    if node[0] == "sym":
        yield node[1]
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from _symbols(child)


def same_zeros(a: Expression, b: Expression, *, positive: bool = False) -> bool:
    """Whether `a / b` is a number times powers of variables: then `a = 0` and `b = 0` say the same.

    With `positive`, whether it is a positive number: then `a > 0` and `b > 0` say the same.
    """
    symbols = sorted(a.symbols | b.symbols)
    divisors = set(_divisors(a.node)) | set(_divisors(b.node))  # never 0: an equation may be multiplied by them
    first, second = (point(frozenset(symbols), number) for number in (0, 1))
    try:
        start, end = _ratio(a, b, first), _ratio(a, b, second)
        expected = Fraction(1)
        for name in symbols:
            doubled = _ratio(a, b, {**first, name: 2 * first[name]}) / start
            power = next((k for k in range(-4, 5) if _agree(doubled, Fraction(2) ** k, 50, 0.0)), None)
            if power is None or (power and (positive or name not in divisors)):
                return False
            expected *= (second[name] / first[name]) ** power
        if not _agree(end / start, expected, 50, 0.0):
            return False
    except NoValue:
        return False
    return not positive or (_is_real(start) and (start if isinstance(start, Fraction) else start.real) > 0)


def refuted(a: Expression, b: Expression) -> bool:
    """Whether some point solves `a = 0` and not `b = 0`, found where `a` is linear in a variable."""
    symbols = a.symbols | b.symbols
    for name in sorted(a.symbols):
        for number in (0, 1):
            at = point(symbols, number)
            try:
                y = [_exact(a.node, {**at, name: Fraction(x)}) for x in (1, 2, 3)]
                slope = y[1] - y[0]
                if not slope or y[2] - y[1] != slope:
                    break
                if _exact(b.node, {**at, name: 1 - y[0] / slope}) != 0:
                    return True
            except (_Irrational, NoValue, KeyError):
                break
    return False


def _is_real(value: Any) -> bool:
    return isinstance(value, Fraction) or abs(value.imag) <= abs(value.real) * 1e-25


def _infinite(node: Node) -> str:
    """`"+"` or `"-"` for an infinity, else nothing."""
    if node == ("const", "inf"):
        return "+"
    if node[0] == "neg" and node[1] == ("const", "inf"):
        return "-"
    return ""


def _has_root(node: Node) -> bool:
    return node[0] in ("root", "pow") or any(_has_root(child) for child in node[1:] if isinstance(child, tuple))


def rational_value(expression: Expression) -> Fraction | None:
    """The value where it is a rational number without variables, else None."""
    if expression.symbols:
        return None
    try:
        return _exact(expression.node, {})
    except (_Irrational, NoValue, KeyError):
        return None


def real_value(expression: Expression) -> float | None:
    """The value as a float, to sort by; None where it is no real number."""
    infinity = _infinite(expression.node)
    if infinity:
        return math.inf if infinity == "+" else -math.inf
    if expression.symbols:
        return None
    try:
        value = _evaluate(expression.node, {}, 30)
        return (
            float(value)
            if (_is_real(value) and not hasattr(value, "imag")) or isinstance(value, Fraction)
            else float(value.real)
        )
    except (NoValue, OverflowError, TypeError, ValueError):
        return None
