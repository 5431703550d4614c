"""The contract of an engine that draws completions, the unit of its work, and the seeds of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from forkwise.progress import Meter
from forkwise.tasks import Problem


@dataclass(frozen=True)
class Block:
    """The unit of work: samples `sample_ids` of one problem; `index` is the problem's place in the run."""

    index: int
    problem: Problem
    sample_ids: range

    @property
    def name(self) -> str:
        return f"{self.index:05d}-{self.sample_ids.start:06d}"


class TopToken(NamedTuple):
    """A candidate at one position, and its log-probability in nats."""

    token: str
    logprob: float


@dataclass(frozen=True)
class Completion:
    """A completion that an engine drew for one sample. Token-level fields have an entry per token, or are None.

    Attributes:
        text: the generated text, without the end-of-sequence token.
        prompt: the text the model continued; of a conversation sent to a server, its messages as JSON.
        n_tokens: generated tokens, the end-of-sequence token included.
        finish_reason: "stop" or "length".
        token_ids, tokens: what was generated, as ids and as text.
        logprobs: log-probabilities of those tokens, in nats.
        entropies: entropies of the distributions that those tokens were drawn from, in nats.
        varentropies: variances of the surprisal over those distributions, in nats squared.
        top_logprobs: the likeliest candidates at each position.
    """

    text: str
    prompt: str
    n_tokens: int | None
    finish_reason: str | None
    token_ids: list[int] | None = None
    tokens: list[str] | None = None
    logprobs: list[float] | None = None
    entropies: list[float] | None = None
    varentropies: list[float] | None = None
    top_logprobs: list[list[TopToken]] | None = None


class SamplingEngine(Protocol):
    """An engine draws completions. One block always gives the same ones, whatever is asked for before or beside it."""

    def settings(self) -> Mapping[str, Any]:
        """Returns what decides the output besides the job; two runs with different settings are not mixed."""
        ...

    def draw(self, blocks: Sequence[Block], meter: Meter) -> Iterator[tuple[Block, list[Completion]]]:
        """Yields each block once, in any order, as soon as it is complete; progress in between goes to `meter`."""
        ...


def sample_seed(seed: int, problem_id: str, sample_id: int) -> int:
    """Returns the seed of one sample: it depends on the run's seed, the problem and the index, and on nothing else."""
    digest = hashlib.sha256(f"{seed}\x00{problem_id}\x00{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def request_seed(seed: int, problem_id: str, sample_id: int) -> int:
    """Returns a `sample_seed` in the 31 bits that every server takes; the samples of a problem never share one."""
    return (sample_seed(seed, problem_id, 0) + sample_id) % 2**31
