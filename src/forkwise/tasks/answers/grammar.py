r"""Formulas read by a small grammar: LaTeX, and what people type. What it does not know is None.

The file has more than 400 lines because the rules of one grammar call each other.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from forkwise.tasks.answers.numerals import plain_numbers, precision
from forkwise.tasks.answers.trees import Expression, Node, has_kind, integer, product_of

_DEEPEST = 60  # brackets within brackets
_MOST_POSTFIXES = 8


class Unreadable(Exception):
    """The grammar does not know this, or it is too large."""


_FUNCTIONS = frozenset((
    "arcsin", "sin", "arccos", "cos", "arctan", "tan", "arccot", "cot", "sinh", "cosh", "tanh", "sec", "csc", "ln",
    "log", "lg", "exp", "floor", "ceil", "asin", "acos", "atan", "sqrt", "gcd", "lcm", "max", "min", "abs",
))  # fmt: skip
_ACCENTS = frozenset((
    "vec", "hat", "bar", "tilde", "dot", "ddot", "overrightarrow", "widehat", "mathcal", "mathbb", "overline",
))  # fmt: skip
_LETTERS = frozenset((
    "alpha", "beta", "eta", "gamma", "delta", "epsilon", "psi", "zeta", "theta", "iota", "kappa", "lambda", "mu",
    "nu", "xi", "rho", "sigma", "tau", "phi", "chi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma",
    "Phi", "Psi", "Omega", "hbar", "ell", "partial", "nabla", "angle", "triangle", "vartheta", "varrho",
))  # fmt: skip
_FACTORS = (
    frozenset(("frac", "sqrt", "pi", "binom", "infty", "text", "lfloor", "lceil")) | _FUNCTIONS | _LETTERS | _ACCENTS
)
_EXPONENT = r"(?:[eE][-+]?[0-9]{1,6}(?![0-9.A-Za-z]))?"
_TOKEN = re.compile(
    rf"(?P<number>[0-9]+(?:\.[0-9]*)?{_EXPONENT}|\.[0-9]+{_EXPONENT})"
    r"|\\(?P<command>[A-Za-z]+)|(?P<word>[A-Za-z]+)|(?P<other>\*\*|\\\{|\\\}|\\\\|[^\sA-Za-z0-9])"
)


_GLUED = re.compile(r"\\([A-Za-z]{3,20})")
_KNOWN = _FACTORS | {"times", "cdot", "div", "rfloor", "rceil", "choose", "left", "right"}


def _unglued(match: re.Match[str]) -> str:
    r"""Returns a command and the letters that lost their blank after it, as in `\omegat`."""
    name = match[1]
    if name in _KNOWN:
        return match[0]
    known = next((name[:end] for end in range(len(name) - 1, 1, -1) if name[:end] in _KNOWN - {"text"}), None)
    return match[0] if known is None or len(name) - len(known) > 2 else f"\\{known} {name[len(known) :]}"


@lru_cache(20_000)
def read_expression(text: str) -> Expression | None:
    """Reads `text` (tidied) as a formula, or returns None where the grammar does not know it."""
    if len(text) > 600:
        return None
    try:
        parser = _FormulaParser(plain_numbers(text))
        node = parser.whole()
    except (Unreadable, RecursionError):
        return None
    return Expression(node, frozenset(parser.symbols), *(precision(text) or ()))


class _FormulaParser:
    """A recursive descent over `text`; every method consumes what it understands or raises `Unreadable`."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, bool]] = []  # kind, text, whether a blank stands before it
        end = 0
        for match in _TOKEN.finditer(_GLUED.sub(_unglued, text) if "\\" in text else text):
            self.tokens.append((match.lastgroup or "", match[match.lastgroup or 0], match.start() > end))
            end = match.end()
        if len(self.tokens) > 300:
            raise Unreadable
        self.position = 0
        self.is_one_word = " " not in text.strip()
        self.depth = 0
        self.symbols: set[str] = set()

    def peek(self, ahead: int = 0) -> tuple[str, str, bool]:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else ("end", "", False)

    def take(self, *texts: str) -> bool:
        if self.peek()[1] in texts and self.peek()[0] != "end":
            self.position += 1
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

    def nest(self) -> None:
        """Counts one more level of brackets."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable

    def minus(self) -> bool:
        """Takes the signs that come next and tells whether they make a minus; those of `- -2` do not."""
        negative = False
        while self.peek()[1] in ("+", "-"):
            negative ^= self.take("-")
            self.take("+")
        return negative

    def sum(self) -> Node:
        self.nest()
        terms: list[Node] = []
        while not terms or self.peek()[1] in ("+", "-"):
            negative = self.minus()
            term = self.product()
            terms.append(("neg", term) if negative else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def product(self) -> Node:
        node = self.power()
        while True:
            kind, text, _ = self.peek()
            if (kind == "command" and text in ("times", "cdot")) or text == "*":
                self.position += 1
                node = product_of(node, self.signed())
            elif text == "/" or (kind == "command" and text == "div"):
                self.position += 1
                node = ("div", node, self.signed())
            elif self.starts_factor():
                node = self.beside(node)
            else:
                return node

    def signed(self) -> Node:
        negative = self.minus()
        node = self.power()
        return ("neg", node) if negative else node

    def beside(self, left: Node) -> Node:
        r"""Reads a factor without a sign before it: a product, or a mixed number (`1\frac{3}{4}`, `1 3/4`)."""
        kind, text, blank = self.peek()
        if kind == "number" and left[0] != "num":
            raise Unreadable  # x 2
        right = self.power()
        if left[0] == "num" and left[1].denominator == 1 and left[2] == "int":
            is_fraction = text == "frac" and right[0] == "div" and right[1][0] == right[2][0] == "num"
            if is_fraction and right[1][1] < right[2][1]:
                return ("add", left, right)
            if right[0] == "num" and kind == "number":
                if blank and right[2] == "int" and self.take("/"):
                    bottom = self.power()
                    if bottom[0] == "num" and right[1] < bottom[1]:
                        return ("add", left, ("div", right, bottom))
                raise Unreadable  # 1 2 is not 12
        elif right[0] == "num" and kind == "number":
            raise Unreadable
        return product_of(left, right)

    def starts_factor(self) -> bool:
        kind, text, _ = self.peek()
        if kind in ("number", "word"):
            return True
        if kind == "command":
            return text in _FACTORS
        return text in ("(", "{", "[")

    def power(self) -> Node:
        node = self.postfix(self.atom())
        if self.take("^", "**"):
            if self.take("{"):
                exponent = self.sum()
                self.need("}")
            elif self.peek()[1] in ("+", "-"):
                exponent = self.signed()
            elif self.peek()[0] == "number" and len(self.peek()[1]) > 1 and self.tokens[self.position - 1][1] == "^":
                exponent = self.number()  # 2^10 as people type it, not LaTeX's 2^1 0
            else:
                exponent = self.power() if self.tokens[self.position - 1][1] == "**" else self.atom()
            node = self.postfix(("pow", node, exponent))
            if self.peek()[1] == "^":
                raise Unreadable
        return node

    def postfix(self, node: Node) -> Node:
        """Reads what stands behind a value: factorials, degrees, percent, primes."""
        for _ in range(_MOST_POSTFIXES):
            if self.take("!"):
                node = ("fact2" if self.take("!") else "fact", node)
            elif self.take("°"):
                node = ("div", ("mul", node, ("const", "pi")), integer(180))
            elif self.take("%"):
                node = ("div", node, integer(100))
            elif node[0] == "sym" and self.take("'"):
                node = self.named(node[1] + "'")
            else:
                return node
        raise Unreadable

    def group(self) -> Node:
        """Reads what a LaTeX argument holds: `{...}`, or the next digit or letter alone."""
        if self.take("{"):
            node = self.sum()
            self.need("}")
            return node
        kind, text, _ = self.peek()
        if kind == "number" and text.isdigit() and len(text) > 1:
            return integer(self.first_character())
        if kind == "word" and len(text) > 1:
            return self.letter(self.first_character())
        return self.atom()

    def atom(self) -> Node:
        kind, text, _ = self.peek()
        if kind == "number":
            return self.number()
        self.position += 1
        if kind == "word":
            return self.word(text)
        if kind == "command":
            return self.command(text)
        if text in ("(", "["):
            node = self.sum()
            self.need(")" if text == "(" else "]")
            return node
        if text == "{":
            node = self.sum()
            if self.peek()[1] == "choose":
                self.position += 1
                node = ("binom", node, self.sum())
            self.need("}")
            return node
        if text == "|":
            node = self.sum()
            self.need("|")
            return ("fn", "abs", node)
        raise Unreadable

    def number(self) -> Node:
        text = self.peek()[1]
        self.position += 1
        if len(text.lower().partition("e")[2]) > 4 or self.peek()[1] == "_":
            raise Unreadable  # too large, or in a number base
        return ("num", Fraction(text), "int" if text.isdigit() else "decimal")

    def first_character(self) -> str:
        """Takes the first letter or digit of the next token, as LaTeX does."""
        kind, text, _ = self.peek()
        if len(text) > 1:
            self.tokens[self.position] = (kind, text[1:], False)
        else:
            self.position += 1
        return text[0]

    def word(self, text: str) -> Node:
        """Reads letters: a function's name as people type it, or variables side by side."""
        lower = text.lower()
        if lower in _FUNCTIONS and (lower != "sqrt" or self.peek()[1] in ("(", "{")):
            return self.function(lower)
        if lower == "pi":
            return ("const", "pi")
        if lower in ("inf", "infinity", "oo"):
            return ("const", "inf")
        if len(text) > (6 if self.is_one_word else 3):
            raise Unreadable  # a word of prose
        self.position -= 1
        return self.letter(self.first_character())

    def letter(self, name: str) -> Node:
        if name in ("e", "i") and self.peek()[1] != "_":
            return ("const", name)
        return self.named(name + self.subscript())

    def named(self, name: str) -> Node:
        """Reads a variable, or the value of a function that nobody defines: `f(x)`, `u(t)`, `I(0)`."""
        if self.peek()[1] == "(" and not self.peek()[2]:
            argument = self.peek(1)[1]
            usual = argument in ("t", "x", "0") or (argument == "n" and name[:1].isupper())
            alone = usual and self.peek(2)[1] == ")" and argument != name
            if name[:1] in "fghFGH" or alone:
                self.position += 1
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
        if self.take("{"):
            return "_" + self.until_brace()
        kind, text, _ = self.peek()
        if kind == "word":
            return "_" + self.first_character()
        self.position += 1
        if kind == "command" and text == "text":
            self.need("{")
            return "_" + self.until_brace()
        if kind == "command" or (kind == "number" and len(text) == 1):
            return "_" + text
        raise Unreadable

    def until_brace(self) -> str:
        content, depth = "", 1
        while depth:
            kind, text, _ = self.peek()
            if kind == "end":
                raise Unreadable
            self.position += 1
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
            index: Node = integer(2)
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
        if name in _LETTERS:
            return self.named("\\" + name + self.subscript())
        if name in _ACCENTS:
            if self.take("{"):
                return self.symbol(f"\\{name} " + self.until_brace() + self.subscript())
            kind, text, _ = self.peek()
            self.position += 1
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
        """Reads a function with its base and power, and the argument that follows."""
        if name in ("gcd", "lcm", "max", "min"):
            raise Unreadable
        base = self.group() if name == "log" and self.take("_") else None
        exponent = self.group() if self.take("^") else None
        argument = self.argument()
        if base is not None:
            node: Node = ("div", ("fn", "ln", argument), ("fn", "ln", base))
        elif name == "sqrt":
            node = ("root", argument, integer(2))
        else:
            name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "log": "ln"}.get(name, name)
            node = ("fn", name, argument)
        if exponent is None:
            return node
        if exponent == ("neg", integer(1)) and name in ("sin", "cos", "tan"):
            return ("fn", "arc" + name, argument)
        return ("pow", node, exponent)

    def argument(self) -> Node:
        r"""Reads a function's argument: brackets, or the product up to the next sign or function (`\sin 2x \cos x`)."""
        self.nest()
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
        if self.peek()[1] == "/" and self.peek(1)[0] == "number" and has_kind(node, "sym", "pi"):
            self.position += 1
            node = ("div", node, self.power())
        self.depth -= 1
        return ("neg", node) if negative else node
