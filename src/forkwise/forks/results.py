"""What `forkwise forks` finds, as frozen dataclasses, and `forks.json`, the file that holds them.

F is what a token decides: the variance, over the token that the model draws there, of the chance of a right answer
after it (or, of `--outcome answer`, of the chance of each answer, summed). Means are over the tokens of a sample, all
samples of a problem and all problems alike; intervals are over problems.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkwise.explore.findings import Estimate
from forkwise.folders.results import Input, read_result, write_result
from forkwise.forks.cost import Cost
from forkwise.forks.estimators import Budget
from forkwise.forks.states import StateStratum
from forkwise.samples.direct import Imported

SCHEMA = 1
"""Version of `forks.json`. It grows when a field changes its meaning or goes; new optional fields do not count."""

FILE = "forks.json"

_NONE = Estimate(None)


@dataclass(frozen=True)
class Part:
    """Some of the tokens, and what they decide."""

    name: str
    states: int
    """States that were drawn of them."""
    of_tokens: float
    """The share of all tokens that these are."""
    mean_entropy: float | None
    """Nats."""
    decided: Estimate
    """Mean F of a token."""
    open: Estimate
    """Mean V (1 - V) before the token: what was left to decide."""
    share: Estimate
    """The share of all that is decided which these tokens decide; none where the budget does not add up."""
    p: float | None
    """p-value of no token deciding anything: outcomes dealt anew to first tokens, one-sided."""
    difference: Estimate = _NONE
    """Mean F minus that of all other tokens of equal entropy (by bin)."""
    difference_p: float | None = None
    supported: float | None = None
    """Share of these tokens whose bin of entropy has others."""


@dataclass(frozen=True)
class Top:
    """The tokens of most entropy, and the share of all that is decided which they decide."""

    of_tokens: float
    threshold: float
    """Nats above which these tokens lie."""
    share: Estimate
    matched: Estimate
    """Share that as many tokens decide at the same places of the traces (by tenth), whatever their entropy."""
    minus_matched: Estimate
    minus_random: Estimate
    """Share minus that of as many tokens at random, which is `of_tokens`."""


@dataclass(frozen=True)
class End:
    """A continuation, and how it ended."""

    text: str
    """The text of the continuation, from its first token on."""
    answer: str | None
    correct: bool | None


@dataclass(frozen=True)
class FirstToken:
    """One first token of a state, and what came of it."""

    token: str
    probability: float
    forced: bool
    continuations: int
    right: float | None
    """Share of its continuations that are right; None without verdicts."""
    text: str
    """The first of its continuations, from the token on."""
    ends: list[End] = field(default_factory=list)
    """One continuation for each way in which they end: the first right one, the first wrong one."""
    answers: list[str | None] = field(default_factory=list)
    """The answers of its continuations, the most frequent first; None where one has none."""


@dataclass(frozen=True)
class ForcedToken:
    """A token that was forced at a state, and its true advantage."""

    token_id: int
    token: str
    probability: float
    advantage: float | None
    """Q - V: chance of a right answer after it, minus that before it; None without verdicts."""
    error: float | None
    """Standard error of that."""


@dataclass(frozen=True)
class StateRow:
    """A state: a token of a sample, and what was found there."""

    run: str
    problem_id: str
    sample_id: int
    position: int
    """How many tokens of the sample stand before the state."""
    token: str
    kind: str
    entropy: float
    chance: float
    """The probability with which the state was drawn."""
    correct: bool | None
    """Whether the sample that holds the state is right."""
    value: float | None
    """V: chance of a right answer before the token."""
    decided: float
    open: float
    p: float
    """p-value of the state deciding nothing, one-sided."""
    forced: list[ForcedToken]
    """What its forced tokens were worth; the first is the sample's own, then come the likeliest."""
    value_error: float | None = None
    """Standard error of V."""
    again: float | None = None
    """The chance with which the state was chosen to be continued again; None where it was not."""


@dataclass(frozen=True)
class Seen:
    """A state to read."""

    state: StateRow
    before: str
    """Text before the token, its end."""
    ways: list[FirstToken]
    """What the tokens there lead to, the likeliest token first."""


@dataclass(frozen=True)
class Forks:
    """Everything that `forks.json` holds."""

    samples: str
    """The table, as given."""
    model: str
    outcome: str
    inputs: list[Input]
    settings: dict[str, Any]
    """Options of the command by name."""
    lexicon: str
    reflective: str
    problems: int
    of_problems: int
    always: int
    never: int
    traces: int
    tokens: int
    cost: Cost
    generated: int
    """Tokens drawn in all continuations."""
    cut: int
    """Continuations that reached the limit of tokens."""
    unscored: int
    """Continuations without a verdict, which count as not right."""
    unscored_samples: int
    empty: int
    """Used samples without text, whose one token is not looked at."""
    log_prob_difference: float | None
    """Mean absolute difference of the stored log-probs from the model's, nats; None where none are stored."""
    budget: Budget
    threshold: float
    """Nats above which tokens are of high entropy."""
    all: Part
    by_entropy: list[Part]
    """Bins of entropy; the intervals of `decided` hold for all bins at once (a band)."""
    by_class: list[Part]
    by_place: list[Part]
    """Fifths of the trace."""
    by_verdict: list[Part]
    tops: list[Top]
    forks: list[Seen]
    """States of high entropy that decide most."""
    false_forks: list[Seen]
    """States of high entropy with an open outcome that decide least."""
    hidden_forks: list[Seen]
    """States not of high entropy that decide most."""
    states: list[StateRow]
    strata: list[StateStratum] = field(default_factory=list)
    """The design by which states were drawn."""
    entropies: str = "model"
    """What entropies are: computed (`model`), or from likeliest tokens of the table, lower bounds (`top-k`)."""
    imported: Imported | None = None
    schema: int = SCHEMA
    forkwise: str = ""


def write(folder: Path, forks: Forks) -> Path:
    """Writes `folder/forks.json`, whole or not at all."""
    return write_result(folder / FILE, forks)


def read(path: Path) -> Forks:
    """Reads the forks in a file, or in a folder's `forks.json`."""
    path = path / FILE if path.is_dir() else path
    return read_result(path, Forks, schema=SCHEMA, command="forkwise forks")
