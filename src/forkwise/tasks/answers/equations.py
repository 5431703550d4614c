r"""Whether two equations say the same, and which value an equation gives."""

from __future__ import annotations

import re

from forkwise.tasks.answers.equality import equal, rational_value, refuted, same_zeros
from forkwise.tasks.answers.grammar import read_expression
from forkwise.tasks.answers.shapes import Collection, Equation, Same, Shape, Value
from forkwise.tasks.answers.trees import Expression, has_kind

_NAME = re.compile(
    r"\s*(?:[A-Za-z]{1,3}(?:\^\{?-1\}?)?|\\[A-Za-z]+(?:\s?\{?[A-Za-z]+\}?)?|\|[A-Z]+\|"
    r"|\\text\{[^{}]*\})(?:_\{?[^{}=]*\}?)?'?(?:\([^()=]*\))?\s*"
)
_FUNCTION_NAME = re.compile(r"\s*(?:y|z|[fghFGPQpq](?:_\{?\w+\}?)?\s?\([a-zA-Z](?:\s?,\s?[a-zA-Z])*\))\s*")
_NAMES = re.compile(r"\s*\((\s*\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*(?:,\s*\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*)+)\)\s*")
_DIFFERENTIATED = re.compile(r"[A-Za-z]'*(?:\(|$)")
_CALL = re.compile(r"\s*([A-Za-z](?:_\{?\w+\}?)?)'*\s?\(([^()]*)\)\s*")


def same_equation(same: Same, gold: Shape, answer: Shape) -> bool | None:
    """Tells whether two equations say the same, or an equation and what is no equation."""
    wanted, answered = _by_name(gold), _by_name(answer)
    if wanted is not None and answered is not None:
        if wanted.keys() != answered.keys():
            return False
        verdicts = [same(wanted[name], answered[name]) for name in wanted]
        return False if False in verdicts else None if None in verdicts else True
    for named, shape in ((wanted, gold), (answered, answer)):
        if named is not None and isinstance(shape, Equation):
            return same(shape.right, answer) if shape is gold else same(gold, shape.right)
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        return _same_equations(same, gold, answer)
    if isinstance(answer, Equation):
        return _same_as_right_side(same, gold, answer)
    assert isinstance(gold, Equation)
    if not _NAME.fullmatch(gold.left):
        return False if isinstance(answer, Value) and read_expression(answer.text) is not None else None
    return same(gold.right, answer)


def _by_name(shape: Shape) -> dict[str, Shape] | None:
    """Returns the values of `(x, y) = (1, 2)` or `x = 1, y = 2` by their names; None for anything else."""
    if isinstance(shape, Collection):
        items = {item.left.strip(): item.right for item in shape.items if isinstance(item, Equation)}
        return items if len(items) == len(shape.items) else None
    names = _NAMES.fullmatch(shape.left) if isinstance(shape, Equation) else None
    if names is None or not isinstance(shape, Equation) or not isinstance(shape.right, Collection):
        return None
    if shape.right.kind not in ("tuple", "interval"):
        return None
    lefts = [name.strip() for name in names[1].split(",")]
    return dict(zip(lefts, shape.right.items, strict=True)) if len(lefts) == len(shape.right.items) else None


def _same_equations(same: Same, gold: Equation, answer: Equation) -> bool | None:
    left, other = gold.left.strip(), answer.left.strip()
    if left.count("'") != other.count("'") and _DIFFERENTIATED.match(left) and _DIFFERENTIATED.match(other):
        return False  # f and its derivative
    call, other_call = _CALL.fullmatch(left), _CALL.fullmatch(other)
    if call and other_call:
        if call[1] != other_call[1]:
            return False  # f and g, f_1 and f_2
        if call[1] == other_call[1] and call[2] != other_call[2]:
            renamed = _renamed(answer.right, other_call[2].strip(), call[2].strip())
            return same(gold.right, renamed) if renamed is not None else False  # f(x + 1) and f(x)
    names = _FUNCTION_NAME.fullmatch(left) and _FUNCTION_NAME.fullmatch(other) and len(left + other) > 2  # y is no z
    if left == other or names:
        verdict = same(gold.right, answer.right)
        if verdict is not False or left == other or _NAME.fullmatch(left):
            return verdict
    wanted, answered = _difference(gold), _difference(answer)
    if wanted is None or answered is None:
        return None
    unlike = _give_numbers(gold, answer) and left != other
    if unlike and not wanted.symbols & answered.symbols:
        return False
    if same_zeros(wanted, answered):
        return True
    return False if refuted(wanted, answered) or refuted(answered, wanted) or unlike else None


def _renamed(shape: Shape, name: str, new: str) -> Shape | None:
    """Puts one letter for another in `shape`; None where these are no letters, or the new one is taken."""
    if not isinstance(shape, Value) or new in shape.text or not all(len(n) == 1 and n.islower() for n in (name, new)):
        return None
    return Value(re.sub(rf"(?<![A-Za-z\\]){name}(?![A-Za-z])", new, shape.text))


def _difference(equation: Equation) -> Expression | None:
    if not isinstance(equation.right, Value):
        return None
    return read_expression(f"({equation.left}) - ({equation.right.text})")


def _give_numbers(*equations: Equation) -> bool:
    """Tells whether each equation gives a number to a name."""
    values = [read_expression(e.right.text) if isinstance(e.right, Value) else None for e in equations]
    return all(_NAME.fullmatch(e.left) for e in equations) and all(v is not None and not v.symbols for v in values)


_OF_VARIABLE = re.compile(r"\s*[A-Za-z]\w*\s?\([a-zA-Z]\)\s*")  # v(r)


def _same_as_right_side(same: Same, gold: Shape, answer: Equation) -> bool | None:
    """Returns what an equation gives: `x = 5`, `6 + 12 = 18`; of `exact \\approx rounded` the exact side counts."""
    left = read_expression(answer.left)
    if answer.approximate and left is not None and not left.symbols:
        exact = same(gold, Value(answer.left))
        return exact or same(gold, answer.right)
    named = left is not None and (left.node[0] in ("sym", "call") or _OF_VARIABLE.fullmatch(answer.left))
    if left is not None and left.symbols and not named and isinstance(answer.right, Value):
        right = read_expression(answer.right.text)
        if right is not None and right.symbols and not equal(left, right):
            return None
        asked_for = len(left.symbols) > 1 and (  # m + n = 25, AB/CD = 2
            not has_kind(left.node, "pow", "div", "root", "neg", "fn")
            or (left.node[0] == "div" and not has_kind(left.node, "num", "pow", "root", "neg", "fn"))
        )
        if right is not None and not right.symbols and (not asked_for or rational_value(right) == 0):
            return False if isinstance(gold, Value) and read_expression(gold.text) is not None else None  # x^2 = 36
    return same(gold, answer.right)
