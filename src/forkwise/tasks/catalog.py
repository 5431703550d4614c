"""Catalogs: which of a few parts fit a description, answered by their ids in a box.

    Parts: B07 is a blue nut of 5 mm. K31 is a red bolt of 12 mm. ... Which parts are red and longer than 10 mm? Give
    their ids in \\boxed{}, separated by commas.

An answer is structured: a set of ids, judged as a whole (right or wrong) or by the harmonic mean of precision and
recall (`f1`), which is a reward for training. Model output is parsed, never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from forkwise.errors import InputError
from forkwise.tasks.base import Problem, Split, Verdict, check_paired, deal, draw_questions, split_by_hash

KINDS = ("one", "set")
COLOURS = ("red", "blue", "green", "black")
THINGS = ("bolt", "nut", "screw", "pin")

_POOL = 5_000  # catalogs of each kind
_PARTS = 6
_LONGEST = 20  # mm
_BOX = re.compile(r"\\boxed\{([^{}]{0,200})\}")
_ID = re.compile(r"[A-Z]\d{2}")


@dataclass(frozen=True)
class CatalogPart:
    """A part, known by its id."""

    name: str
    colour: str
    thing: str
    length: int

    def sentence(self) -> str:
        """Returns the part in words."""
        return f"{self.name} is a {self.colour} {self.thing} of {self.length} mm."


@dataclass(frozen=True)
class Catalog:
    """Parts, and what is asked of them: a colour, and a length in mm that they exceed."""

    parts: tuple[CatalogPart, ...]
    colour: str
    above: int

    def text(self) -> str:
        """Returns the catalog and its question in words."""
        parts = " ".join(part.sentence() for part in self.parts)
        return (
            f"Parts: {parts} Which parts are {self.colour} and longer than {self.above} mm? Give their ids in "
            "\\boxed{}, separated by commas."
        )

    def answer(self) -> tuple[str, ...]:
        """Returns the ids of the parts that fit, sorted."""
        return tuple(sorted(p.name for p in self.parts if p.colour == self.colour and p.length > self.above))


def _draw(rng: Random, fitting: Collection[int]) -> Catalog:
    """Draws a catalog of which so many parts fit."""
    letters = rng.sample("ABCDEFGHJKLMNPRSTUVWXYZ", _PARTS)
    parts = tuple(
        CatalogPart(
            f"{letter}{rng.randrange(100):02}", rng.choice(COLOURS), rng.choice(THINGS), rng.randint(1, _LONGEST)
        )
        for letter in letters
    )
    catalog = Catalog(parts, rng.choice(COLOURS), rng.randint(0, _LONGEST - 2))
    return catalog if len(catalog.answer()) in fitting else _draw(rng, fitting)


@cache
def _pool(kind: str) -> dict[str, Catalog]:
    """Returns all catalogs of a kind by their ids: those that one part fits, or two to four."""
    fitting = (1,) if kind == "one" else (2, 3, 4)
    return draw_questions(_POOL, f"catalog-{kind}", lambda rng: _draw(rng, fitting))


class Catalogs:
    """Catalogs of which one part fits (`one`) or several (`set`), and the verifier of their answers.

    There are 5,000 of each kind. A catalog belongs to one split for ever, whatever the seed.

    Args:
        kinds: with both, catalogs of each alternate.
    """

    name = "catalog"

    def __init__(self, kinds: Sequence[str] = KINDS) -> None:
        if not kinds or not set(kinds) <= set(KINDS):
            raise InputError(f"Catalogs are of the kinds one and set, not {tuple(kinds)}: set kinds to some of them.")
        self.kinds = tuple(sorted(set(kinds)))

    def catalogs(self, split: Split) -> list[Catalog]:
        """Returns all catalogs of a split, those of one kind behind those of the other."""
        entries = [entry for kind in self.kinds for entry in _pool(kind).items()]
        return [catalog for name, catalog in entries if split_by_hash(f"catalog {name}") == split]

    def problems(self, split: Split, n: int | None = None, *, seed: int = 0) -> list[Problem]:
        """Returns the first `n` problems of a split in the order that `seed` gives (None: all).

        A larger `n` only appends.

        Raises:
            InputError: unknown split, or fewer than `n` problems in it.
        """
        pools = {number: _pool(kind).items() for number, kind in enumerate(self.kinds)}
        return [
            Problem(problem_id, catalog.text(), ", ".join(catalog.answer()))
            for problem_id, catalog in deal(pools, split, n, seed, "The task catalog", "catalog ")
        ]

    def verify(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Returns one verdict per completion: right if the last box holds exactly the ids that fit."""
        check_paired(completions, problems)
        return [_verify(text, str(problem.answer)) for text, problem in zip(completions, problems, strict=True)]


def boxed_ids(text: str) -> frozenset[str] | None:
    """Returns the ids in the last box of a text; None without a box that holds ids and nothing else."""
    boxes = _BOX.findall(text)
    parts = [part for part in re.split(r"[,;\s]+", boxes[-1]) if part] if boxes else []
    return frozenset(parts) if parts and all(_ID.fullmatch(part) for part in parts) else None


def set_f1(answer: frozenset[str] | None, gold: frozenset[str]) -> float:
    """Computes the harmonic mean of precision and recall of a set of ids; 0 where nothing is shared."""
    shared = len(answer & gold) if answer else 0
    return 2 * shared / (len(answer or ()) + len(gold)) if shared else 0.0


def f1(prompts: Any, completions: Sequence[Any], *, answer: Sequence[str], **_: Any) -> list[float]:
    """Rewards each completion by `set_f1`: `--reward forkwise.tasks.catalog:f1`."""
    texts = [text if isinstance(text, str) else str(text[-1].get("content") or "") for text in completions]
    return [set_f1(boxed_ids(text), frozenset(gold.split(", "))) for text, gold in zip(texts, answer, strict=True)]


def _verify(text: str, gold: str) -> Verdict:
    answer = boxed_ids(text)
    shown = None if answer is None else ", ".join(sorted(answer))[:200]
    return Verdict(answer == frozenset(gold.split(", ")), shown, "catalog")
