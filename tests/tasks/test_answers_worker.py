"""The short cuts of the math workers: what numbers refute is different, and no verdict of math-verify changes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

sympy = pytest.importorskip("sympy", reason="needs math-verify")
pytest.importorskip("math_verify", reason="math-verify is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Abs, Eq, Float, Function, I, Rational, cos, exp, log, oo, pi, sin, sqrt

from forkwise.tasks.answers import compare_exactly, extract_answer
from forkwise.tasks.answers.worker import differ_somewhere, share_no_solution
from forkwise.tasks.workers import WorkerPool

SHARED = Path(os.environ.get("FORKWISE_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
x, y = sympy.symbols("x y", real=True)
z = sympy.Symbol("z")
f = Function("f")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (sin(x) ** 2 + cos(x) ** 2, sympy.Integer(1)),
        ((x**2 - 1) / (x - 1), x + 1),
        (sqrt(x) * sqrt(y), sqrt(x * y)),  # for positive numbers
        (log(x**2), 2 * log(x)),
        (exp(I * z), cos(z) + I * sin(z)),
        ((x + y) ** 9 - (x + y) ** 9 + x, x),
        (sqrt(2) * sqrt(3), sqrt(6)),
        (Float("0.333333333"), Rational(1, 3)),  # nearly equal: for sympy to say
        (pi, pi + Rational(1, 10**9)),
        (10**20 * x, 10**20 * x + 1),  # the 1 is lost
        (10**400 * x, 10**400 * y),  # beyond what a float holds
        (f(x), f(y)),  # not analytic as far as we know
        (Abs(x), x),
        (sympy.Integral(exp(-(x**2)), (x, 0, 1)), y),  # costly to evaluate
        (1 / (x - x), x),
        (oo, x),
        (sympy.Matrix([1, 2]), sympy.Matrix([1, 3])),
    ],
)
def test_what_may_be_equal_is_left_to_sympy(a, b):
    assert not differ_somewhere(a, b)
    assert not differ_somewhere(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (x, y),
        (x, 2 * x),
        (sqrt(2), sympy.Integer(4)),
        (exp(I * z), exp(-I * z)),
        (x**2 + x, x**2 - x),
        (cos(2 * x), cos(x)),
        (10**200 * x, 10**200 * y),
    ],
)
def test_what_differs_is_refuted_without_sympy(a, b):
    assert differ_somewhere(a, b)
    assert differ_somewhere(b, a)


atoms = st.sampled_from([x, y, z, pi, sympy.Integer(2), sympy.Integer(-3), Rational(2, 7), sqrt(2)])
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a: a**2, inner),
        st.builds(sin, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(expressions, expressions)
def test_a_product_multiplied_out_is_never_refuted(a, b):
    assert not differ_somewhere((a + b) * (a - b), sympy.expand(a**2 - b**2))


@pytest.mark.parametrize(
    ("a", "b", "refuted"),
    [
        (Eq(y, 2 * x + 3), Eq(y, 2 * x + 4), True),
        (Eq(y, 2 * x + 3), Eq(2 * y - 4 * x, sympy.Integer(6)), False),
        (Eq(y, 2 * x + 3), Eq(x, y / 2 - Rational(3, 2)), False),
        (Eq(y, x**2), Eq(x**2 - y, z), True),
        (Eq(x**2 + y**2, sympy.Integer(1)), Eq(x**2 + y**2, sympy.Integer(2)), False),  # neither is solved for a symbol
        (Eq(y, f(x)), Eq(y, x), False),
        (Eq(y, x), x < y, False),
    ],
)
def test_equations_are_refuted_by_a_point_of_one_that_fails_the_other(a, b, refuted):
    assert share_no_solution(a, b) == refuted
    assert share_no_solution(b, a) == refuted


# math-verify as released: none of our short cuts. A limit in wall time would change verdicts on a busy machine.
AS_RELEASED = r"""
import json, logging, sys
from math_verify import LatexExtractionConfig, parse, verify
logging.disable(logging.CRITICAL)
extraction = [LatexExtractionConfig(boxed_match_priority=0)]
def read(answer):
    return parse(f"\\boxed{{{answer}}}", extraction, parsing_timeout=60)
pairs = json.load(sys.stdin)
json.dump([bool(verify(read(gold), read(answer), timeout_seconds=60)) for gold, answer in pairs], sys.stdout)
"""


def as_released(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    done = subprocess.run(
        [sys.executable, "-c", AS_RELEASED],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    return json.loads(done.stdout)


def published(names: Sequence[str]) -> list[tuple[str, str]]:
    """Different pairs of gold and answer in published samples that are not decided without math-verify."""
    pairs = set()
    for name in names:
        path = SHARED / "samples" / f"{name}.jsonl.gz"
        if not path.exists():
            pytest.skip(f"{path.name} is not here; set FORKWISE_SHARED_DATA to the folder that holds samples/")
        for line in gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]:
            row = json.loads(line)
            gold = str(row.get("gt") or row["answer"])
            for text in row["code"] if isinstance(row["code"], list) else [row["code"]]:
                pairs.add((gold, extract_answer(text) or ""))
    return sorted((g, a) for g, a in pairs if a and len(a) < 2000 and compare_exactly(g, a) is None)


def check(names: Sequence[str], at_least: int) -> None:
    pairs = published(names)
    assert len(pairs) >= at_least
    with WorkerPool("math") as pool:
        ours = pool.map([{"gold": gold, "prediction": answer} for gold, answer in pairs])
    theirs = as_released(pairs)
    decided = [(o["correct"], t, p) for o, t, p in zip(ours, theirs, pairs, strict=True) if "correct" in o]
    assert [row for row in decided if row[0] != row[1]] == []
    assert len(decided) >= at_least - 5


def test_a_percentage_and_its_number_are_equal_and_small_numbers_are_not():
    pairs = [("10", r"10\%", True), (r"10\%", "10", True), ("10", r"11\%", False), ("1.6e-19", "9.1e-31", False)]
    with WorkerPool("math") as pool:
        replies = pool.map([{"gold": gold, "prediction": answer} for gold, answer, _ in pairs])
    assert [reply["correct"] for reply in replies] == [right for *_, right in pairs]


def test_verdicts_on_math500_are_those_of_math_verify_as_released():
    check(["sky_qwen25_14b_instruct_math500"], 45)


@pytest.mark.slow
def test_verdicts_on_other_files_are_those_of_math_verify_as_released():
    check(["sky_qwen25_math_7b_math500", "qwen25math_math100x8_scored"], 55)


@pytest.mark.slow
def test_verdicts_on_minerva_are_those_of_math_verify_as_released():
    check([f"rg_{model}_minerva_math_greedy" for model in ("qwen2.5-3b-instruct", "qwen-2.5-3b-rlft")], 150)
