r"""Whether two equations say the same, and which value an equation gives."""

from __future__ import annotations

import re
from collections.abc import Iterator

from forkwise.tasks.answers.equality import equal, rational_value, refuted, same_zeros
from forkwise.tasks.answers.grammar import Node, read_expression
from forkwise.tasks.answers.shapes import Equation, Same, Shape, Value

_NAME = re.compile(
    r"\s*(?:[A-Za-z]{1,3}(?:\^\{?-1\}?)?|\\[A-Za-z]+(?:\s?\{?[A-Za-z]+\}?)?|\|[A-Z]+\||\\text\{[^{}]*\})(?:_\{?[^{}=]*\}?)?'?(?:\([^()=]*\))?\s*"
)
_FUNCTION_NAME = re.compile(r"\s*(?:y|z|[fghFGPQpq](?:_\{?\w+\}?)?\s?\([a-zA-Z](?:\s?,\s?[a-zA-Z])*\))\s*")
_CALL = re.compile(r"\s*([A-Za-z](?:_\{?\w+\}?)?)'*\s?\(([^()]*)\)\s*")


def same_equation(same: Same, gold: Shape, answer: Shape) -> bool | None:
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        left, other = gold.left.strip(), answer.left.strip()
        if (
            left.count("'") != other.count("'")
            and re.match(r"[A-Za-z]'*(?:\(|$)", left)
            and re.match(r"[A-Za-z]'*(?:\(|$)", other)
        ):
            return False  # f and its derivative
        calls = _CALL.fullmatch(left), _CALL.fullmatch(other)
        if calls[0] and calls[1] and "_" in left + other and calls[0][1] != calls[1][1]:
            return False  # f_1 and f_2
        if calls[0] and calls[1] and calls[0][1] == calls[1][1] and calls[0][2] != calls[1][2]:
            names = calls[0][2].strip(), calls[1][2].strip()
            if (
                names[0] in getattr(answer.right, "text", "")
                or not all(len(name) == 1 and name.isalpha() for name in names)
                or not isinstance(answer.right, Value)
            ):
                return False  # f(x + 1) and f(x)
            renamed = re.sub(rf"(?<![A-Za-z\\]){names[1]}(?![A-Za-z])", names[0], answer.right.text)
            return same(gold.right, Value(renamed))
        if left == other or (_FUNCTION_NAME.fullmatch(left) and _FUNCTION_NAME.fullmatch(other)):
            verdict = same(gold.right, answer.right)
            if verdict is not False or _NAME.fullmatch(left):
                return verdict
        texts = [f"({e.left}) - ({e.right.text})" if isinstance(e.right, Value) else "" for e in (gold, answer)]
        ours, theirs = (read_expression(text) if text else None for text in texts)
        if ours is not None and theirs is not None:
            if same_zeros(ours, theirs):
                return True
            return False if refuted(ours, theirs) or refuted(theirs, ours) else _unlike(gold, answer)
        return None
    if isinstance(answer, Equation):
        return _same_as_right_side(same, gold, answer)
    assert isinstance(gold, Equation)
    if not _NAME.fullmatch(gold.left):
        return False if isinstance(answer, Value) and read_expression(answer.text) is not None else None
    return same(gold.right, answer)


def _same_as_right_side(same: Same, gold: Shape, answer: Equation) -> bool | None:
    """What an equation gives: `x = 5`, `6 + 12 = 18`; of `exact \\approx rounded` the exact side counts."""
    left = read_expression(answer.left)
    if answer.approximate and left is not None and not left.symbols:
        exact = same(gold, Value(answer.left))
        return exact or same(gold, answer.right)
    if left is not None and left.symbols and left.node[0] not in ("sym", "call") and isinstance(answer.right, Value):
        right = read_expression(answer.right.text)
        if right is not None and right.symbols and not equal(left, right):
            return None
        asked_for = len(left.symbols) > 1 and not {"pow", "div", "root", "neg", "fn"} & set(
            _kinds(left.node)
        )  # m + n = 25
        if right is not None and not right.symbols and (not asked_for or rational_value(right) == 0):
            return False if isinstance(gold, Value) and read_expression(gold.text) is not None else None  # x^2 = 36
    return same(gold, answer.right)


def _kinds(node: Node) -> Iterator[str]:
    yield node[0]
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from _kinds(child)


def _unlike(gold: Equation, answer: Equation) -> bool | None:
    """False where both equations give a number to a name, and not the same; None where algebra must say."""
    if all(_NAME.fullmatch(e.left) for e in (gold, answer)) and gold.left.strip() != answer.left.strip():
        values = [read_expression(e.right.text) if isinstance(e.right, Value) else None for e in (gold, answer)]
        if all(v is not None and not v.symbols for v in values):
            return False
    return None
