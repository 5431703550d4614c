"""What a task is: problems that carry their answer, and a verdict on a completion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from random import Random
from typing import Any, Literal, Protocol, TypeVar, get_args

from forkwise.errors import InputError

Split = Literal["train", "validation", "test"]
Prompt = str | list[dict[str, str]]
Entry = TypeVar("Entry", bound=tuple[Any, ...])


class Question(Protocol):
    """What a problem asks, as data."""

    def text(self) -> str:
        """Returns the question in words."""
        ...


Asked = TypeVar("Asked", bound=Question)


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: a name that is the same on every machine and in every run; samples are paired by it.
        prompt: the text that the model continues (a chat template, where wanted, is applied by the engine), or the
            messages of a conversation, `[{"role": ..., "content": ...}]`.
        answer: gold answer as text, or None where only the verifier can tell (Countdown has many solutions).
        cluster: what it shares with other problems, such as a topic, a source or a template; None: nothing known.
        meta: JSON-serialisable facts that the verifier needs, e.g. `{"numbers": [3, 7], "target": 21}`.
    """

    id: str
    prompt: Prompt
    answer: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    cluster: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The verdict that a verifier reached.

    Attributes:
        correct: right or wrong, or None when no verdict could be reached (unscored is not wrong).
        answer: the answer extracted from the completion, None if there is none.
        by: the path that decided: `"countdown"`, `"exact"`, `"integer"`, `"math-verify"`, `"timeout"`, ...
    """

    correct: bool | None
    answer: str | None
    by: str


class Task(Protocol):
    """A source of problems and the judge of completions. Model output is parsed, never evaluated."""

    name: str

    def problems(self, split: Split, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        """Returns `n` problems of a split (None: all); equal arguments, equal problems; splits are disjoint."""
        ...

    def verify(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Returns one verdict per completion; `problems[i]` is what `completions[i]` answers."""
        ...


def problem_range(task: Task, split: Split, number: int | None, *, first: int = 0, seed: int = 0) -> list[Problem]:
    """Returns `number` problems of a split (None: all that are left) from the one in place `first` on.

    Raises:
        InputError: `first` is below 0, or there are not so many problems.
    """
    if first < 0:
        raise InputError(f"The first problem is {first}: places count from 0.")
    problems = task.problems(split, None if number is None else first + number, seed=seed)
    if first and first >= len(problems):
        raise InputError(f"{task.name} has {len(problems)} {split} problems, so none is left from place {first} on.")
    return problems[first:]


def split_by_hash(text: str) -> Split:
    """Returns the split that a text belongs to for ever, by a hash: 80 % train, 10 % validation, 10 % test."""
    digit = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10
    return "train" if digit < 8 else "validation" if digit == 8 else "test"


def draw_questions(number: int, seed: str, draw: Callable[[Random], Asked]) -> dict[str, Asked]:
    """Draws so many questions that differ, by their ids."""
    rng = Random(seed)
    questions: dict[str, Asked] = {}
    while len(questions) < number:
        question = draw(rng)
        questions[question_id(question.text())] = question
    return questions


def deal(
    pools: Mapping[int, Iterable[Entry]], split: Split, n: int | None, seed: int, source: str, prefix: str = ""
) -> list[Entry]:
    """Returns the first `n` entries (None: all) of a split in the order that `seed` gives; the pools alternate.

    A larger `n` only appends. They alternate for as long as there are entries of each. An entry begins with its
    problem's id; a hash of `prefix` and id says which split it belongs to.

    Raises:
        InputError: unknown split, or fewer than `n` entries in it.
    """
    if split not in get_args(Split):
        raise InputError(f"There is no split {split!r}; use 'train', 'validation' or 'test'.")
    columns = []
    for size, pool in pools.items():
        column = [entry for entry in pool if split_by_hash(prefix + entry[0]) == split]
        Random(f"{seed}-{size}").shuffle(column)
        columns.append(column)
    entries = [entry for row in zip_longest(*columns) for entry in row if entry is not None]
    if n is not None and not 0 <= n <= len(entries):
        raise InputError(f"{source} has {len(entries)} {split} problems, so {n} cannot be had; ask for fewer.")
    return entries[:n]


def check_paired(completions: Sequence[str], problems: Sequence[Problem]) -> None:
    """Raises InputError unless there is a problem for each completion."""
    if len(completions) != len(problems):
        raise InputError(
            f"{len(completions)} completions but {len(problems)} problems; give one problem for each completion."
        )


def question_id(question: str) -> str:
    """Returns a problem id that depends on the question's text alone, blanks and line ends aside.

    So samples of different runs, checkpoints and tools pair by problem. 64 bits: a collision among a million problems
    has probability 3e-8.
    """
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:16]
