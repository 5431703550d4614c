r"""Formulas as trees: a kind, then its parts, such as `("add", ("sym", "x"), ("num", Fraction(1), "int"))`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]


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


def has_kind(node: Node, *kinds: str) -> bool:
    """Tells whether a part of a tree is of one of these kinds, or is one of these functions or constants."""
    return (
        node[0] in kinds
        or (node[0] in ("fn", "const") and node[1] in kinds)
        or any(has_kind(child, *kinds) for child in node[1:] if isinstance(child, tuple))
    )


def symbols_of(node: Node) -> Iterator[str]:
    """Returns the names of the variables in a tree, as often as they occur."""
    if node[0] == "sym":
        yield node[1]
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from symbols_of(child)


def integer(value: int | str) -> Node:
    """Returns the tree of a whole number."""
    return ("num", Fraction(value), "int")


def product_of(left: Node, right: Node) -> Node:
    """Returns the tree of a product; three factors make one product, not two."""
    return (*left, right) if left[0] == "mul" else ("mul", left, right)
