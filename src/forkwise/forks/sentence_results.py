"""What `forkwise forks --unit sentence` finds, and `sentences.json`, the file that holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkwise.explore.findings import Estimate
from forkwise.folders.results import Input, read_result, write_result
from forkwise.forks.cost import Cost
from forkwise.forks.estimators import Budget
from forkwise.samples.direct import Imported

SCHEMA = 1
"""Version of `sentences.json`. It grows when a field changes its meaning or goes; new optional fields do not count."""

FILE = "sentences.json"


@dataclass(frozen=True)
class SentenceRow:
    """A sentence of a sample that was looked at."""

    problem_id: str
    sample_id: int
    place: int
    """How many sentences of the sample stand before this one."""
    text: str
    reflective: bool
    before: float | None
    """V: chance of a right answer before the sentence; None without verdicts."""
    after: float | None
    """V: chance of a right answer after the sentence; of the last sentence, whether the sample is right."""
    decided: float
    """Square of the change, without bias; may be negative."""
    position: int | None = None
    """How many tokens of the sample stand before the sentence."""
    before_error: float | None = None
    """Standard error of `before`."""


@dataclass(frozen=True)
class SentenceKind:
    """Sentences of one kind."""

    name: str
    sentences: int
    decided: Estimate
    """Mean of the squared change."""
    change: Estimate
    """Mean of the change of the chance of a right answer."""
    share: Estimate
    """Share of all that is decided; none where the budget does not add up."""


@dataclass(frozen=True)
class Step:
    """A token within a sentence that changes the chance of a right answer; both chances are measured again."""

    problem_id: str
    sample_id: int
    place: int
    """How many sentences of the sample stand before the token's own."""
    position: int
    """How many tokens of the sample stand before the token."""
    token: str
    text: str
    """What stands before the token in its sentence."""
    before: float
    before_error: float
    after: float
    after_error: float


@dataclass(frozen=True)
class Point:
    """A place within a sentence that was continued from while looking for such a token."""

    problem_id: str
    sample_id: int
    position: int
    value: float
    error: float


@dataclass(frozen=True)
class Effect:
    """What a reflective sentence causes: the chance of a right answer with it as the next minus with another."""

    difference: Estimate
    p: float | None
    states: int
    """States whose continuations begin with both."""
    reflective: int
    """Continuations of these states that begin with a reflective sentence."""
    others: int


@dataclass(frozen=True)
class Sentences:
    """Everything that `sentences.json` holds."""

    samples: str
    model: str
    outcome: str
    inputs: list[Input]
    settings: dict[str, Any]
    reflective: str
    problems: int
    of_problems: int
    traces: int
    """Samples that were looked at."""
    cost: Cost
    budget: Budget
    kinds: list[SentenceKind]
    effect: Effect
    sentences: list[SentenceRow]
    run: str = ""
    bisected: int = 0
    """Sentences that were halved."""
    steps: list[Step] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    imported: Imported | None = None
    schema: int = SCHEMA
    forkwise: str = ""


def read(path: Path) -> Sentences:
    """Reads the sentences in a file, or in a folder's `sentences.json`."""
    path = path / FILE if path.is_dir() else path
    return read_result(path, Sentences, schema=SCHEMA, command="forkwise forks --unit sentence")


def write(folder: Path, sentences: Sentences) -> Path:
    """Writes `folder/sentences.json`, whole or not at all."""
    return write_result(folder / FILE, sentences)
