"""Reasoning traces that search in words: what the embedded base model is trained on.

A trace tries to solve a Countdown problem, says what it checked, and goes on with "wait", "hmm" or "instead" until it
is satisfied or gives up. For `use 3 5 8 13 to make 24 :`

    try 13 - 8 = 5 , 5 * 5 = 25 , 25 - 3 = 22 , check no
    hmm because 24 = 8 * 3 need 8 , 13 - 5 = 8 , 8 / 8 = 1 ,
    wait maybe 13 - 5 = 8 , 8 - 8 = 0 , 3 + 0 = 3 , check no so answer : none

(in one line). The author of the traces is mediocre on purpose. Each attempt follows one of three strategies of
different quality, and says so with its first word: `try` joins numbers at random, `maybe` does so but aims the last
operation at the target, and `because` works backward from the target. Some attempts are abandoned half-way, some are
not checked, and many traces end with a wrong answer or with none. So a model that imitates them is right now and
then, in many different ways: there is something to reinforce, and something to lose. Arithmetic is always right, and
`check yes` is written only where it is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from forkwise.tasks.base import Problem
from forkwise.tasks.countdown import LIMIT, Step, reachable, steps_of

MAX_TOKENS = 100
"""Longest trace in tokens, without the end-of-sequence token."""

WORDS = (
    "use",
    "to",
    "make",
    ":",
    ",",
    "=",
    "+",
    "-",
    "*",
    "/",
    "(",
    ")",
    "try",
    "maybe",
    "because",
    "need",
    "check",
    "yes",
    "no",
    "wait",
    "hmm",
    "instead",
    "so",
    "answer",
    "none",
)
VOCABULARY = (*WORDS, *map(str, range(LIMIT)))
"""Every word that a prompt or trace can hold."""

# Probabilities of the mixture. They were set so that the trained model's Pass@1 on four numbers is between 0.1 and 0.2.
_STRATEGIES = {"try": 0.3, "maybe": 0.4, "because": 0.3}
_AIM = 0.9  # an aiming attempt takes a last step that hits, where there is one
_FORESEE = 0.3  # an earlier step of an aiming attempt leaves the target within reach, where one does
_STOP = 0.7  # an aiming attempt stops before its last step, where that cannot hit
_ABANDON = 0.15  # a try stops half-way
_UNCHECKED = 0.2  # a finished attempt that failed is left without a check
_ATTEMPTS = ((1, 0.1), (2, 0.2), (3, 0.25), (4, 0.25), (5, 0.2))  # patience, and its probability
_NO_ANSWER = 0.3  # giving up says so, instead of answering with the last attempt

_LONGEST_ATTEMPT = 24  # tokens, with the "check no" and the link before it
_LONGEST_ENDING = 22  # "check yes so answer :" and three steps


def trace(problem: Problem, rng: Random, *, patience: int | None = None) -> str:
    """Writes a trace for a problem: words joined by single spaces, at most `MAX_TOKENS`, decided by the state of `rng`.

    `patience` is the number of attempts before giving up (None: drawn anew for each trace, mostly 2 to 4).
    """
    numbers, target = problem.meta["numbers"], problem.meta["target"]
    words: list[str] = []
    attempts = patience or rng.choices(*zip(*_ATTEMPTS, strict=True))[0]
    while True:
        attempts -= 1
        text, steps = _attempt(numbers, target, rng)
        words += text
        finished = len(steps) == len(numbers) - 1
        hit = finished and steps[-1][3] == target
        room = len(words) + _LONGEST_ATTEMPT + _LONGEST_ENDING <= MAX_TOKENS
        if hit:
            words += ["check", "yes", "so", *_answer(steps)]
            return " ".join(words)
        checked = finished and rng.random() >= _UNCHECKED
        if checked:
            words += ["check", "no"]
        if attempts <= 0 or not room:
            give_up = not finished or (checked and rng.random() < _NO_ANSWER)
            words += ["so", "answer", ":", "none"] if give_up else _answer(steps)
            return " ".join(words)
        words += rng.choice((["wait"], ["hmm"], ["instead"]) if finished else (["wait"], ["hmm"]))


def _attempt(numbers: Sequence[int], target: int, rng: Random) -> tuple[list[str], list[Step]]:
    """Returns one attempt's words and the steps that it would answer with; fewer than needed if it was abandoned."""
    strategy = rng.choices(list(_STRATEGIES), list(_STRATEGIES.values()))[0]
    backward = _last_steps(numbers, target) if strategy == "because" else []
    if not backward:
        strategy = "maybe" if strategy == "because" else strategy
        steps = _join(numbers, target, rng, aim=strategy == "maybe")
        if strategy == "try" and steps[-1][3] != target and rng.random() < _ABANDON:
            steps = steps[: rng.randrange(1, len(numbers) - 1)]
        return [strategy, *_spell(steps), ","], steps
    if rng.random() < _FORESEE:
        backward = [b for b in backward if b[2] in reachable(_without(numbers, b[0]))] or backward
    used, last, needed = rng.choice(backward)
    steps = _join(_without(numbers, used), needed, rng, aim=True)
    words = ["because", str(target), "=", *map(str, last[:3]), "need", str(needed), ",", *_spell(steps), ","]
    if len(steps) < len(numbers) - 2:
        return words, steps
    # A miss would answer with what it reached joined to the number it kept, in any way.
    reached = steps[-1][3]
    return words, [*steps, last if reached == needed else rng.choice(steps_of(reached, used))]


def _last_steps(numbers: Sequence[int], target: int) -> list[tuple[int, Step, int]]:
    """Finds steps `number op x` or `x op number` that give the target: `(number used, last step, other operand)`."""
    steps = []
    for used in sorted(set(numbers)):
        for needed in range(LIMIT):
            steps += [(used, step, needed) for step in steps_of(used, needed) if step[3] == target]
    return steps


def _join(numbers: Sequence[int], target: int, rng: Random, *, aim: bool) -> list[Step]:
    """Returns steps that join the numbers: all at random, or aimed at the target for as long as there is hope."""
    pool = tuple(numbers)
    steps: list[Step] = []
    while len(pool) > 1:
        options = _options(pool)
        if aim and steps and len(pool) == 2 and target not in reachable(pool) and rng.random() < _STOP:
            break
        if aim and rng.random() < (_AIM if len(pool) == 2 else _FORESEE):
            options = [step for step in options if target in reachable(_after(pool, step))] or options
        step = rng.choice(options)
        steps.append(step)
        pool = _after(pool, step)
    return steps


def _options(pool: Sequence[int]) -> list[Step]:
    return [step for i, a in enumerate(pool) for b in pool[i + 1 :] for step in steps_of(a, b)]


def _without(pool: Sequence[int], *used: int) -> tuple[int, ...]:
    remaining = list(pool)
    for number in used:
        remaining.remove(number)
    return tuple(remaining)


def _after(pool: Sequence[int], step: Step) -> tuple[int, ...]:
    return tuple(sorted([*_without(pool, step[0], step[2]), step[3]]))


def _spell(steps: Sequence[Step]) -> list[str]:
    """Spells steps out as `a op b = c , a op b = c`."""
    return " , ".join(f"{a} {operator} {b} = {c}" for a, operator, b, c in steps).split(" ")


def _answer(steps: Sequence[Step]) -> list[str]:
    return ["answer", ":", *_spell(steps)]
