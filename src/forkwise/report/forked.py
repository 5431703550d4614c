"""What `forkwise forks` measured on the samples that a page shows: chances of success along them, and their forks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forkwise.errors import InputError
from forkwise.forks.results import FirstToken, Forks, StateRow
from forkwise.forks.sentence_results import Sentences
from forkwise.forks.stored import read_continued
from forkwise.forks.ways import ways_of
from forkwise.samples.store import Key

_LONGEST = 1000  # characters of a continuation in the page


@dataclass(frozen=True)
class ChanceAt:
    """The chance of success at a place of a sample."""

    position: int
    """Tokens before it."""
    chance: float
    error: float
    """Standard error."""


@dataclass
class SampleForks:
    """What is known of one sample."""

    values: list[ChanceAt] = field(default_factory=list)
    states: list[tuple[StateRow, list[FirstToken]]] = field(default_factory=list)


def measured(
    forks: Sequence[tuple[Path, Forks]], by_sentence: Sequence[Sentences], notes: list[str]
) -> dict[Key, SampleForks]:
    """Collects what was measured, by sample.

    Args:
        forks: each with its file, beside which continuations are looked for.
        notes: where is said what is missing.
    """
    samples: dict[Key, SampleForks] = {}
    for path, result in forks:
        ways = _ways(path, result, notes)
        for n, state in enumerate(result.states):
            sample = samples.setdefault((state.run, state.problem_id, state.sample_id), SampleForks())
            if n in ways:
                sample.states.append((state, ways[n]))
            if state.value is not None:
                sample.values.append(ChanceAt(state.position, state.value, state.value_error or 0.0))
    for sentences in by_sentence:
        for row in sentences.sentences:
            if row.position is not None and row.before is not None:
                sample = samples.setdefault((sentences.run, row.problem_id, row.sample_id), SampleForks())
                sample.values.append(ChanceAt(row.position, row.before, row.before_error or 0.0))
        for point in sentences.points:
            sample = samples.setdefault((sentences.run, point.problem_id, point.sample_id), SampleForks())
            sample.values.append(ChanceAt(point.position, point.value, point.error))
    for sample in samples.values():
        # Where both units looked at a place, the one with the smaller error counts.
        best: dict[int, ChanceAt] = {}
        for value in sorted(sample.values, key=lambda v: -v.error):
            best[value.position] = value
        sample.values = [best[position] for position in sorted(best)]
    return samples


def _ways(path: Path, result: Forks, notes: list[str]) -> Mapping[int, list[FirstToken]]:
    """Returns the ways of each state; without the continuations, of those that the file itself holds to read."""
    try:
        continued = read_continued(path.parent, len(result.states))
        return {n: ways_of(state, _LONGEST) for n, state in enumerate(continued)}
    except InputError:
        notes.append(
            f"The continuations of '{path}' are not beside it any more, so the viewer shows those of the states that "
            "its tables list."
        )
    listed = {_place(s.state): s.ways for s in (*result.forks, *result.false_forks, *result.hidden_forks)}
    return {n: listed[_place(state)] for n, state in enumerate(result.states) if _place(state) in listed}


def _place(state: StateRow) -> tuple[str, int, int]:
    return state.problem_id, state.sample_id, state.position
