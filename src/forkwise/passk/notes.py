"""What a reader must know of a result beside its numbers, as facts; `forkwise.report.passk_notes` has the sentences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Topic = Literal[
    "imported",
    "unscored",
    "lengths missing",
    "lengths in words",
    "no lengths",
    "bare problems",
    "unequal samples",
    "simulated",
    "all alike",
    "one sample",
    "few problems",
    "several runs",
    "embeddings",
    "shared problems",
    "unequal n",
    "no common length",
    "diversity and runs",
    "matching refused",
    "matching in part",
    "all fixed",
    "some fixed",
    "covered",
    "clusters of one",
    "clusters",
    "look",
    "benchmarks",
    "benchmarks of unequal n",
]
Fact = bool | int | float | str | list[str] | dict[str, int]


@dataclass(frozen=True)
class Note:
    """One thing that a reader must know.

    Attributes:
        topic: what it is about.
        facts: its numbers and names.
        arms: the arms that it is about; empty where it is about all.
    """

    topic: Topic
    facts: dict[str, Fact]
    arms: list[str]


def note(topic: Topic, **facts: Fact) -> Note:
    """Makes a note about all arms."""
    return Note(topic, facts, [])


def shared_notes(notes_of_arms: Iterable[tuple[str, Iterable[Note]]]) -> list[Note]:
    """Collects the notes of the arms, each once; a note that is not about all arms gets their names."""
    notes_by_arm = {name: list(notes) for name, notes in notes_of_arms}
    shared: list[Note] = []
    for one in (note for notes in notes_by_arm.values() for note in notes):
        who = [name for name, notes in notes_by_arm.items() if one in notes]
        named = one if len(who) == len(notes_by_arm) else replace(one, arms=who)
        if named not in shared:
            shared.append(named)
    return shared
