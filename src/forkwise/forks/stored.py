"""Continuations of states at rest: in files of a few states, in a folder that survives being killed at any moment.

A state's continuations are drawn side by side, and no others with them; their seeds depend on the run's seed, the
state's sample and place, and their number. So nothing depends on which states are there already, or on how many.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from forkwise.errors import InputError
from forkwise.folders.results import read_result, write_result
from forkwise.forks.branches import FirstTokens
from forkwise.progress import Meter
from forkwise.tasks import Problem, Verdict

TOKENS = "tokens"
"""Folder of `forkwise forks` for the samples with token ids and entropies."""
FOLDER = "continuations"
"""Where they lie in the folder of `forkwise forks`."""
_SCHEMA = 1
_CHUNK = 4
"""States in a file, which is what a kill can lose."""


@dataclass(frozen=True)
class State:
    """A prefix that is continued.

    Attributes:
        index: of its token in the frame.
        name: of its sample and place, for seeds and messages.
        prompt, prefix: token ids of the prompt, and of the trace before the token.
        token: id of the token that the trace has there, which is forced beside the likeliest; None forces none.
        problem: what continuations answer.
    """

    index: int
    name: str
    prompt: list[int]
    prefix: list[int]
    token: int | None
    problem: Problem


@dataclass(frozen=True)
class Continued:
    """The continuations of a state, in the order of their first tokens."""

    state: int
    """Index of the state's token in the frame."""
    first: FirstTokens
    texts: list[str]
    """The texts of the first tokens."""
    continuations: list[str]
    """Text from the first token on."""
    answers: list[str | None]
    correct: list[bool | None]
    generated: int
    """Tokens drawn in all, first tokens aside."""
    cut: int
    """Continuations that reached the limit of tokens."""


@dataclass(frozen=True)
class _Chunk:
    states: list[Continued]
    schema: int = field(default=_SCHEMA)


class Continues(Protocol):
    """Whoever continues states: a model on this machine, or a server."""

    def draw(self, state: State, progress: Callable[[int], None] = ...) -> Continued:
        """Draws and verifies the continuations of a state; `progress` is told how many tokens were drawn."""


def refuse_random(texts: Sequence[Hashable], verdicts: Sequence[Verdict], sample: str) -> None:
    """Refuses a verifier that judges the same text in two ways; unscored beside a verdict is no contradiction.

    Args:
        texts: of one problem, or each with its problem.
        sample: names one of them.
    """
    verdict_of: dict[Hashable, bool] = {}
    for text, verdict in zip(texts, verdicts, strict=True):
        if verdict.correct is not None and verdict_of.setdefault(text, verdict.correct) != verdict.correct:
            raise InputError(
                f"The verifier is random: the same text, {sample}, was once right and once wrong. What a token decides "
                "could not be told from what the verifier does: use one that decides by the text alone."
            )


def continue_states(
    folder: Path, states: Sequence[State], continuer: Continues | None, meter: Meter
) -> list[Continued]:
    """Continues the states that the folder lacks, and returns all, in their order.

    Args:
        continuer: None where the folder lacks none.

    Raises:
        InputError: a damaged file, or the engine cannot go on. What was written stays, and the same call continues.
    """
    chunks = [states[i : i + _CHUNK] for i in range(0, len(states), _CHUNK)]
    continued: list[Continued] = []
    for number, chunk in enumerate(chunks):
        file = chunk_file(folder, number)
        if not file.exists():
            assert continuer is not None
            drawn = []
            for state in chunk:
                drawn.append(continuer.draw(state, lambda tokens: meter.add(tokens=tokens)))
                meter.add(samples=1)
            write_result(file, _Chunk(drawn))
        stored = read_result(file, _Chunk, schema=_SCHEMA, command="forkwise forks").states
        if [c.state for c in stored] != [state.index for state in chunk]:
            raise InputError(f"'{file}' holds other states: delete it, and the same command draws its own again.")
        continued += stored
    return continued


def read_continued(out: Path, states: int) -> list[Continued]:
    """Reads the continuations of all states that `forkwise forks --out` left behind.

    Raises:
        InputError: some are missing.
    """
    files = [chunk_file(out / FOLDER, i // _CHUNK) for i in range(0, states, _CHUNK)]
    chunks = [read_result(file, _Chunk, schema=_SCHEMA, command="forkwise forks").states for file in files]
    return [state for chunk in chunks for state in chunk]


def chunk_file(folder: Path, number: int) -> Path:
    """Names the file of the states `_CHUNK * number` and following."""
    return folder / f"{number:05d}.json"


def count_stored(folder: Path, states: int) -> int:
    """Counts the states, of so many, that the folder holds."""
    starts = range(0, states, _CHUNK)
    return sum(min(_CHUNK, states - i) for i in starts if chunk_file(folder, i // _CHUNK).exists())


def storable(text: str) -> str:
    """Replaces lone surrogates, which are no text that a file can hold."""
    return text.encode("utf-8", "replace").decode()
