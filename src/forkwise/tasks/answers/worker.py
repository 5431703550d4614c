"""What the `math` workers do: math-verify without its extractors that evaluate, and compared relative to size.

Three short cuts change no verdict: a grammar that is tried in its fast mode first, and two tests by numbers that spare
sympy the work of proving what one point already refutes. One change does: math-verify takes numbers for equal that
agree to six decimals, however small they are (1.6e-19 and 9.1e-31).
"""

from __future__ import annotations

import cmath
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any


def make_handler() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answers `{"gold", "prediction"}`, both LaTeX without their box, with `{"correct"}`."""
    from math_verify import LatexExtractionConfig, parse, verify

    _parse_in_two_stages()
    _refute_by_numbers()
    _compare_relative_to_size()
    # LaTeX only: the other extractor of math-verify ends in sympy's parse_expr, which evaluates.
    extraction = [LatexExtractionConfig(boxed_match_priority=0)]

    # No timeouts here: math-verify's own raise inside sympy, whose caches must not be used after that.
    @lru_cache(4096)
    def read(answer: str) -> Any:
        return parse(f"\\boxed{{{answer}}}", extraction, parsing_timeout=None)  # type: ignore[arg-type]

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        equal = verify(read(request["gold"]), read(request["prediction"]), timeout_seconds=None)
        return {"correct": bool(equal)}

    return handle


def _parse_in_two_stages() -> None:
    """Lets latex2sympy try ANTLR's fast prediction mode (SLL) first.

    Where SLL parses without an error, the full mode (LL) finds the same tree: this is the two-stage parsing that ANTLR
    recommends. Where it does not, the text is parsed again as before.
    """
    from antlr4 import PredictionMode
    from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy

    create = _Latex2Sympy.create_parser

    def create_parser(self: Any, latex: str) -> Any:
        parser = create(self, latex)
        parse_fast = parser.math

        def math() -> Any:
            parser._interp.predictionMode = PredictionMode.SLL
            try:
                return parse_fast()
            except Exception:
                return create(self, latex).math()

        parser.math = math
        return parser

    _Latex2Sympy.create_parser = create_parser


def _refute_by_numbers() -> None:
    """Lets math-verify neither simplify nor solve where one point shows that the answer is no.

    `simplify(a - b)` is 0 only if a equals b wherever both are defined, and two equations have the same solutions only
    if a point of one's solutions is one of the other's.
    """
    from math_verify import grader

    prove_equal, compare_solutions = grader.sympy_symbolic_eq, grader.sympy_solve_and_compare

    def symbolic_eq(a: Any, b: Any) -> bool:
        return not differ_somewhere(a, b) and bool(prove_equal(a, b))

    def solve_and_compare(gold: Any, pred: Any, *precision: Any) -> bool:
        return not share_no_solution(gold, pred) and bool(compare_solutions(gold, pred, *precision))

    grader.sympy_symbolic_eq = symbolic_eq
    grader.sympy_solve_and_compare = solve_and_compare


def _compare_relative_to_size() -> None:
    """Keeps math-verify from taking two numbers for equal whose difference is more than 1e-15 of their size."""
    from math_verify import grader
    from sympy import Integer

    within_six_decimals = grader.sympy_numeric_eq

    def numeric_eq(a: Any, b: Any, *precision: Any) -> bool:
        exact = all(grader.is_atomic_or_pct_atomic(number, Integer) for number in (a, b))  # 10 and 10 % are equal
        return bool(within_six_decimals(a, b, *precision)) and (exact or not _far_apart(a, b))

    grader.sympy_numeric_eq = numeric_eq


def _far_apart(a: Any, b: Any) -> bool:
    """Tells whether two numbers differ by more than 1e-15 of the larger; False where one is no number."""
    from sympy import Expr, Float

    if not (isinstance(a, Expr) and isinstance(b, Expr)) or a.free_symbols or b.free_symbols:
        return False
    try:
        x, y = a.doit().evalf(30), b.doit().evalf(30)
        return bool(abs(x - y) > (abs(x) + abs(y)) * Float("1e-15", 30))
    except Exception:  # whatever sympy stumbles on: then math-verify's word stands
        return False


def differ_somewhere(a: Any, b: Any) -> bool:
    """Tells whether two sympy expressions clearly differ at a point; False also where that is not found out.

    Only for analytic functions of numbers and symbols. The points are positive, so that roots and logarithms are those
    of real numbers.
    """
    if not (_is_analytic(a) and _is_analytic(b)):
        return False
    return any(_clearly_different(_value(a, point), _value(b, point)) for point in _points(a, b))


def share_no_solution(a: Any, b: Any) -> bool:
    """Tells whether two equations surely have different solutions: a point of one, `symbol = ...`, fails the other.

    That one's solutions are a graph over the other symbols, so a formula for them cannot solve both equations.
    """
    from sympy import Eq

    if not all(isinstance(e, Eq) and _is_analytic(e.lhs) and _is_analytic(e.rhs) for e in (a, b)):
        return False
    for graph, other in ((a, b), (b, a)):
        if not graph.lhs.is_Symbol or graph.lhs in graph.rhs.free_symbols:
            continue
        for point in _points(graph, other):
            height = _value(graph.rhs, point)
            if height is not None:
                on_graph = {**point, graph.lhs: height}
                if _clearly_different(_value(other.lhs, on_graph), _value(other.rhs, on_graph)):
                    return True
    return False


def _is_analytic(expression: Any) -> bool:
    """Tells whether an expression has arithmetic, powers, exponentials, logarithms, (hyperbolic) trigonometry alone."""
    from sympy import Add, Expr, I, Mul, Number, NumberSymbol, Pow, Symbol, exp, log, preorder_traversal
    from sympy.functions.elementary.hyperbolic import HyperbolicFunction
    from sympy.functions.elementary.trigonometric import InverseTrigonometricFunction, TrigonometricFunction

    functions = (exp, log, TrigonometricFunction, InverseTrigonometricFunction, HyperbolicFunction)
    known: tuple[type, ...] = (Add, Mul, Pow, Symbol, NumberSymbol, *functions)
    return isinstance(expression, Expr) and all(
        isinstance(node, known) or node is I or (isinstance(node, Number) and node.is_finite)
        for node in preorder_traversal(expression)
    )


def _points(*expressions: Any) -> Iterator[dict[Any, Any]]:
    """Gives two points to look at: exact positive values, different for every symbol and of no special form."""
    from sympy import Rational

    symbols = sorted(set().union(*(e.free_symbols for e in expressions)), key=str)
    for shift in (0, 5):
        yield {s: Rational(1009 + 173 * i + 31 * shift, 761 + 97 * shift) for i, s in enumerate(symbols)}


def _value(expression: Any, point: dict[Any, Any]) -> Any:
    """Computes the value to 20 digits, all of them right; None where there is no number, or fewer are sure."""
    try:
        return expression.evalf(20, subs=point, strict=True)
    except Exception:  # PrecisionExhausted (an expression that is 0, among others), poles, and what sympy stumbles on
        return None


def _clearly_different(a: Any, b: Any) -> bool:
    try:
        x, y = complex(a), complex(b)
    except (TypeError, ValueError, OverflowError):  # no number
        return False
    return cmath.isfinite(x) and cmath.isfinite(y) and abs(x - y) > 1e-6 * max(1.0, abs(x), abs(y))
