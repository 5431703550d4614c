"""Countdown: reach a target from three or four numbers, each used exactly once.

The rules, the same for the solver and for the verifier:

* operations are `+ - * /`; every number of the problem is used exactly once, and nothing else is used;
* every result, intermediate ones included, is a whole number from 0 to 99: nothing negative, and only exact division.

A completion answers with its *last* `answer:` statement, up to the end of that line. Two notations are understood and
may be mixed: an infix expression (`answer: (3 + 5) * 8`, with or without `= 64` behind it), and a list of steps, each
of which takes numbers away and puts its result in their place (`answer : 5 + 3 = 8 , 8 * 8 = 64`).
`<answer>...</answer>` works.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations, combinations_with_replacement

from forkwise.errors import InputError
from forkwise.tasks.base import Problem, Split, Verdict, check_paired, deal

LARGEST_NUMBER = 10
TARGETS = range(10, 41)
LIMIT = 100
"""Every result is below this limit."""

PROMPT = "use {numbers} to make {target} :"
"""The prompt that the embedded lab model continues: one word or number per token."""
INSTRUCTION_PROMPT = (
    "Use each of the numbers {numbers} exactly once, with + - * / and parentheses, to make {target}. "
    "Every intermediate result must be a whole number from 0 to 99. "
    "Think step by step, then finish with one line 'answer: ' and the expression."
)
"""The prompt of the same problem for an ordinary instruction-tuned model."""

_ANSWER = re.compile(r"(?<![/\w])answer(?:\s*[:=>]|\s+is\b(?=\s*[\d(]))", re.IGNORECASE)
_LONGEST_ANSWER = 200  # characters; four numbers need fewer than 60
_DEEPEST_NESTING = 16
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()=,])")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", ";": ","})

Step = tuple[int, str, int, int]
"""A step: `(8, "-", 5, 3)` reads 8 - 5 = 3."""


def apply(left: int, operator: str, right: int) -> int | None:
    """Computes `left operator right`, or None where the rules forbid it (negative, inexact, 100 or more)."""
    if operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator == "*":
        result = left * right
    elif right == 0 or left % right:
        return None
    else:
        result = left // right
    return result if 0 <= result < LIMIT else None


def steps_of(a: int, b: int) -> list[Step]:
    """Lists the permitted steps that join two numbers, the larger one first (the other order gives nothing new)."""
    left, right = (a, b) if a >= b else (b, a)
    steps = [(left, operator, right, apply(left, operator, right)) for operator in "+-*/"]
    return [(x, operator, y, result) for x, operator, y, result in steps if result is not None]


def solve(numbers: Sequence[int], target: int) -> list[list[Step]]:
    """Finds every solution as a list of steps, by brute force; empty if there is none.

    The same expression counts several times when its independent steps can be taken in several orders.
    """
    pool = sorted(numbers)
    if len(pool) == 1:
        return [[]] if pool[0] == target else []
    solutions = []
    pairs = {(pool[i], pool[j]): (i, j) for i, j in combinations(range(len(pool)), 2)}
    for i, j in pairs.values():
        unused = [number for k, number in enumerate(pool) if k not in (i, j)]
        for step in steps_of(pool[i], pool[j]):
            solutions += [[step, *tail] for tail in solve([*unused, step[3]], target)]
    return solutions


@cache
def reachable(numbers: tuple[int, ...]) -> frozenset[int]:
    """Returns all results that the sorted `numbers` can be joined into; much faster than `solve` for every target."""
    if len(numbers) == 1:
        return frozenset(numbers)
    values: set[int] = set()
    # Each way to cut the numbers in two parts is seen once: the first number always stays in the left part.
    further = range(1, len(numbers))
    for size in range(len(numbers) - 1):
        for chosen in combinations(further, size):
            left = (numbers[0], *(numbers[i] for i in chosen))
            right = tuple(numbers[i] for i in further if i not in chosen)
            for a in reachable(left):
                for b in reachable(right):
                    values.update(step[3] for step in steps_of(a, b))
    return frozenset(values)


@cache
def _solvable(size: int) -> tuple[tuple[str, tuple[int, ...], int], ...]:
    """Lists `(id, sorted numbers, target)` of all solvable problems with `size` numbers."""
    return tuple(
        (f"countdown-{'-'.join(map(str, numbers))}={target}", numbers, target)
        for numbers in combinations_with_replacement(range(1, LARGEST_NUMBER + 1), size)
        for target in sorted(reachable(numbers))
        if target in TARGETS
    )


class Countdown:
    """Solvable Countdown problems with numbers 1 to 10 and targets 10 to 40, and their verifier.

    A problem belongs to one split for ever, whatever the seed: a hash of its sorted numbers and target decides. Its id
    spells them out (`countdown-3-5-8-13=24`), and its prompt lists the numbers in ascending order, so reordered numbers
    are the same problem. There are 1,255 problems with three numbers and 14,542 with four.

    Args:
        sizes: how many numbers; `(3, 4)` alternates between both, `(4,)` gives the harder half only.
        prompt: template with the fields `{numbers}` and `{target}`. `PROMPT` is what the embedded model reads;
            use `INSTRUCTION_PROMPT` for an instruction-tuned model.
    """

    name = "countdown"

    def __init__(self, sizes: Sequence[int] = (3, 4), prompt: str = PROMPT) -> None:
        if not sizes or not set(sizes) <= {3, 4}:
            raise InputError(
                f"countdown problems have 3 or 4 numbers, not {tuple(sizes)}; set sizes to (3,), (4,) or (3, 4)."
            )
        if "{numbers}" not in prompt or "{target}" not in prompt:
            raise InputError("The countdown prompt must contain the fields {numbers} and {target}.")
        self.sizes = tuple(sorted(set(sizes)))
        self.prompt = prompt

    def problems(self, split: Split, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        """Returns the first `n` problems of a split in the order that `seed` gives (None: all).

        A larger `n` only appends. With several sizes, they alternate for as long as there are problems of each.

        Raises:
            InputError: unknown split, or fewer than `n` problems in it.
        """
        pools = {size: _solvable(size) for size in self.sizes}
        return [self._problem(*entry) for entry in deal(pools, split, n, seed, "Countdown")]

    def _problem(self, problem_id: str, numbers: tuple[int, ...], target: int) -> Problem:
        listed = " ".join(map(str, numbers))
        # not str.format: a template may hold other braces, such as those of LaTeX
        prompt = self.prompt.replace("{numbers}", listed).replace("{target}", str(target))
        return Problem(problem_id, prompt, None, {"numbers": list(numbers), "target": target})

    def verify(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Returns one verdict per completion. Time is linear in the length of the text, whatever it holds."""
        check_paired(completions, problems)
        return [
            _verify(text, p.meta["numbers"], p.meta["target"]) for text, p in zip(completions, problems, strict=True)
        ]


def _verify(text: str, numbers: Sequence[int], target: int) -> Verdict:
    start = -1
    for match in _ANSWER.finditer(text):
        start = match.end()
    if start < 0:
        return Verdict(False, None, "countdown")
    answer = re.split(r"[\r\n<]", text[start:].lstrip(), maxsplit=1)[0].strip(" \t.*`$")
    if not answer:
        return Verdict(False, None, "countdown")
    correct = len(answer) <= _LONGEST_ANSWER and _CountdownParser(answer, numbers).left_over() == {target: 1}
    return Verdict(correct, answer[:_LONGEST_ANSWER], "countdown")


class _Wrong(Exception):
    """The answer breaks a rule or cannot be read."""


class _CountdownParser:
    """answer = statement ("," statement)*;  statement = sum ["=" number];  sum, product, atom as usual.

    Every number that is read is taken from the pool, and the value of a statement is put back: so steps and infix are
    one grammar.
    """

    def __init__(self, answer: str, numbers: Sequence[int]) -> None:
        self.pool = Counter(numbers)
        self.tokens: list[str] = []
        self.readable = True
        text, position = answer.translate(_SIGNS), 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                self.readable = False
                break
            self.tokens.append(match[1])
            position = match.end()
        self.position = 0
        self.depth = 0

    def left_over(self) -> Counter[int] | None:
        """Returns the pool after all statements, None when the answer is wrong in itself."""
        if not self.readable:
            return None
        try:
            self._statement()
            while self._take(","):
                self._statement()
        except _Wrong:
            return None
        return +self.pool if self.position == len(self.tokens) else None

    def _take(self, *wanted: str) -> str | None:
        if self.position < len(self.tokens) and self.tokens[self.position] in wanted:
            self.position += 1
            return self.tokens[self.position - 1]
        return None

    def _number(self) -> int:
        token = self.tokens[self.position] if self.position < len(self.tokens) else ""
        if not token.isdigit() or len(token) > 2:
            raise _Wrong
        self.position += 1
        return int(token)

    def _statement(self) -> None:
        value = self._chain("+-")
        if self._take("=") and self._number() != value:
            raise _Wrong
        self.pool[value] += 1

    def _chain(self, operators: str) -> int:
        """Returns a sum (`"+-"`) of products (`"*/"`) of atoms, left to right."""
        operand = (lambda: self._chain("*/")) if operators == "+-" else self._atom
        value = operand()
        while operator := self._take(*operators):
            result = apply(value, operator, operand())
            if result is None:
                raise _Wrong
            value = result
        return value

    def _atom(self) -> int:
        if self._take("("):
            self.depth += 1
            if self.depth > _DEEPEST_NESTING:
                raise _Wrong
            value = self._chain("+-")
            self.depth -= 1
            if not self._take(")"):
                raise _Wrong
            return value
        number = self._number()
        if self.pool[number] < 1:
            raise _Wrong
        self.pool[number] -= 1
        return number
