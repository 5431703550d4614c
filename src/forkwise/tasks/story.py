"""Stories: who has how many, after a chain of two to four events told in plain sentences.

    Anna has 7 apples. Ben gives Anna 5 apples. Ben buys 3 apples. Anna sells half of the apples. How many apples does
    Anna have?

(6: what Ben buys is not Anna's.) Every number on the way is a whole number from 0 to 99. The answer of a completion is
what `forkwise.tasks.answers` finds in it, compared as a whole number; nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from forkwise.errors import InputError
from forkwise.tasks.answers import compare_exactly, find_answer
from forkwise.tasks.base import Problem, Split, Verdict, check_paired, deal, draw_questions

SIZES = (2, 3, 4)
LIMIT = 100
"""Every number of a story is below this limit."""

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo")
THINGS = ("apples", "pears", "plums", "nuts", "books", "coins", "stamps", "cards")

_POOL = 10_000  # stories of each size
_AMOUNTS = range(2, 13)
_FIRST = range(3, 31)


@dataclass(frozen=True)
class EventKind:
    """A kind of event: its sentence, and what becomes of what the hero has.

    `text` has the fields `{hero}`, `{friend}`, `{n}` and `{things}`; `operator` is that of `have operator n`, or empty
    where the event is the friend's alone.
    """

    text: str
    operator: str
    factor: int = 0
    """The number of a kind that has no amount in its sentence."""


KINDS = {
    "buys": EventKind("{hero} buys {n} {things}.", "+"),
    "finds": EventKind("{hero} finds {n} {things}.", "+"),
    "gets": EventKind("{friend} gives {hero} {n} {things}.", "+"),
    "sells": EventKind("{hero} sells {n} {things}.", "-"),
    "loses": EventKind("{hero} loses {n} {things}.", "-"),
    "gives": EventKind("{hero} gives {friend} {n} {things}.", "-"),
    "doubles": EventKind("Then {hero} has twice as many.", "*", 2),
    "triples": EventKind("Then {hero} has three times as many.", "*", 3),
    "halves": EventKind("{hero} sells half of the {things}.", "/", 2),
    "friend buys": EventKind("{friend} buys {n} {things}.", ""),
    "friend sells": EventKind("{friend} sells {n} {things}.", ""),
}
"""The kinds of events by their names."""

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda have, n: have + n,
    "-": lambda have, n: have - n,
    "*": lambda have, n: have * n,
    "/": lambda have, n: have // n,
}


@dataclass(frozen=True)
class Event:
    """An event of a story, by the name of its kind, with its amount."""

    kind: str
    n: int

    def after(self, have: int) -> int | None:
        """Returns what the hero has then; None where the rules forbid it."""
        operator = KINDS[self.kind].operator
        if not operator:
            return have
        if operator == "/" and have % self.n:
            return None
        result = _OPERATIONS[operator](have, self.n)
        return result if 0 <= result < LIMIT else None


@dataclass(frozen=True)
class Story:
    """A story: the hero has `first` things, and then come the events."""

    hero: str
    friend: str
    things: str
    first: int
    events: tuple[Event, ...]

    def text(self) -> str:
        """Returns the story in words, with its question."""
        names = {"hero": self.hero, "friend": self.friend, "things": self.things}
        told = [KINDS[event.kind].text.format(n=event.n, **names) for event in self.events]
        first = f"{self.hero} has {self.first} {self.things}."
        return " ".join([first, *told, f"How many {self.things} does {self.hero} have?"])

    def answer(self) -> int:
        """Returns what the hero has in the end."""
        have = self.first
        for event in self.events:
            after = event.after(have)
            assert after is not None
            have = after
        return have


def _tell(size: int, rng: Random) -> Story:
    hero, friend = rng.sample(NAMES, 2)
    things, first = rng.choice(THINGS), rng.choice(_FIRST)
    have = first
    events: list[Event] = []
    while len(events) < size:
        kind = rng.choice(tuple(KINDS))
        event = Event(kind, KINDS[kind].factor or rng.choice(_AMOUNTS))
        after = event.after(have)
        if after is not None:
            have = after
            events.append(event)
    return Story(hero, friend, things, first, tuple(events))


@cache
def _pool(size: int) -> dict[str, Story]:
    """Returns all stories of a size by their ids."""
    return draw_questions(_POOL, f"story-{size}", lambda rng: _tell(size, rng))


class Stories:
    """Stories of two, three and four events, and the verifier of their answers.

    There are 10,000 of each size. A story belongs to one split for ever, whatever the seed: a hash of its text decides,
    which is its id too.

    Args:
        sizes: numbers of events; with several, stories of each alternate.
    """

    name = "story"

    def __init__(self, sizes: Sequence[int] = SIZES) -> None:
        if not sizes or not set(sizes) <= set(SIZES):
            raise InputError(f"Stories have 2, 3 or 4 events, not {tuple(sizes)}: set sizes to some of {SIZES}.")
        self.sizes = tuple(sorted(set(sizes)))

    def problems(self, split: Split, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        """Returns the first `n` problems of a split in the order that `seed` gives (None: all).

        A larger `n` only appends.

        Raises:
            InputError: unknown split, or fewer than `n` problems in it.
        """
        return [_problem(*entry) for entry in self._entries(split, n, seed)]

    def stories(self, split: Split, n: int | None = None, *, seed: int = 0) -> list[Story]:
        """Returns the stories of these problems, as data."""
        return [story for _, story in self._entries(split, n, seed)]

    def _entries(self, split: Split, n: int | None, seed: int) -> list[tuple[str, Story]]:
        pools = {size: _pool(size).items() for size in self.sizes}
        return deal(pools, split, n, seed, "The task story", "story ")

    def verify(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Returns one verdict per completion. Time is linear in the length of the text, whatever it holds."""
        check_paired(completions, problems)
        return [_verify(text, str(problem.answer)) for text, problem in zip(completions, problems, strict=True)]


def _problem(problem_id: str, story: Story) -> Problem:
    return Problem(problem_id, story.text(), str(story.answer()), {"events": [event.kind for event in story.events]})


def _verify(text: str, gold: str) -> Verdict:
    answer = find_answer(text).answer
    if not answer:
        return Verdict(False, None, "story")
    verdict = compare_exactly(gold, answer)
    return Verdict(verdict is not None and verdict.correct is True, answer[:200], "story")
