"""What `forkwise explore` finds, as frozen dataclasses, and `explore.json`, the file that holds them.

Entropies and log-probabilities are in nats, lengths in tokens or words as the name says, shares between 0 and 1. A
number that does not exist (no interval with one problem, no entropy without token data) is None, and null in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.folders.results import Input, parse_result, read_result, result_text, write_result

SCHEMA = 2
"""Version of `explore.json`. It grows when a field changes its meaning or goes; new optional fields do not count."""

FILE = "explore.json"
_COMMAND = "forkwise explore --out"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over problems (cluster bootstrap); both ends None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Null:
    """What the same statistic is when entropies are shifted circularly within each trace, and its two-sided p."""

    mean: float
    low: float
    """2.5 % quantile of the shifted statistic."""
    high: float
    """97.5 % quantile."""
    p: float
    draws: int


@dataclass(frozen=True)
class Contrast:
    """Entropy of marked units (tokens or sentences) against others."""

    version: str
    """`raw`; `matched`: against others of the same stratum; `matched, words`: and both sides begin a word."""
    strata: str
    """What is held equal, in words; empty for `raw`."""
    marked: int
    others: int
    supported: float
    """Share of all marked units that have others in their stratum; the rest is left out. 1 for `raw`."""
    problems: int
    """Problems with at least one marked unit."""
    mean_marked: float
    mean_other: float
    """Mean of the others; of a matched version, with the strata of the marked ones."""
    difference: Estimate
    """`mean_marked - mean_other`, nats."""
    auc: Estimate
    """Chance that a marked unit has more entropy than another (of its stratum); ties count half; 0.5 is none."""
    null: Null | None
    """Of `difference`."""
    identified: tuple[float, float] | None = None
    """Only from top-k log-probs: the range in which `difference` must lie whatever the unseen tail looks like."""


@dataclass(frozen=True)
class Behaviour:
    """A kind of unit that was looked for."""

    name: str
    """`pivotal`, `reflective` or `rare`."""
    unit: str
    """`token` (a match of the lexicon is counted once, at its first token) or `sentence`."""
    count: int
    total: int
    """Units in all: words for `pivotal`, sentences for the others."""
    per_response: float
    per_1000_words: float
    contrasts: list[Contrast]
    """Raw first; empty without entropies."""
    by_group: dict[str, int] = field(default_factory=dict)
    """Matches per group of the lexicon, or per reflective pattern (a sentence may match several)."""
    examples: list[str] = field(default_factory=list)
    mean_entropy: float | None = None


@dataclass(frozen=True)
class Entry:
    """One entry of the pivotal lexicon against all other tokens."""

    entry: str
    group: str
    count: int
    problems: int
    """In which it occurs."""
    mean_entropy: float | None
    difference: Estimate
    """Raw, nats."""
    auc: Estimate
    matched_difference: Estimate
    """Same strata as `Contrast` `matched`."""
    supported: float | None
    p: float | None
    """Circular shift within traces, two-sided."""
    q: float | None
    """Benjamini–Hochberg over the entries that were tested."""


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values in `[edges[i], edges[i+1])`, the last bin closed."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class ProfilePoint:
    """Mean entropy of the tokens at positions `[start, end)`: tokens, or shares of the trace."""

    start: float
    end: float
    tokens: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TokenType:
    """Tokens of one type: word, word continuation, number, mathematics, punctuation, whitespace, special."""

    name: str
    tokens: int
    mean: float
    high_share: float
    """Share of them above the threshold."""


@dataclass(frozen=True)
class ForkToken:
    """A token text (outer blanks removed) that is often above the threshold."""

    token: str
    count: int
    high: int
    """Occurrences above the threshold; the table is sorted by it."""
    mean_entropy: float
    pivotal: bool
    """Whether most of its occurrences begin a match of the lexicon."""


@dataclass(frozen=True)
class EntropySummary:
    """Token entropy of one run."""

    source: str
    """`stored` (exact, at sampling), `model` (exact, teacher-forced) or `top-k` (then values are lower bounds)."""
    tokens: int
    mean: Estimate
    upper_mean: float | None
    """`top-k` only: mean of the upper bounds."""
    vocabulary: int | None
    """`top-k` only: tokens assumed in the upper bound."""
    vocabulary_source: str | None
    candidates: int | None
    """`top-k` only: the usual k."""
    quantile: float
    threshold: float
    """Tokens above it are high-entropy: that quantile of all tokens of the run at once."""
    histogram: Histogram
    pivotal_histogram: Histogram
    """Same edges, tokens that begin a match of the lexicon."""
    relative_profile: list[ProfilePoint]
    absolute_profile: list[ProfilePoint]
    sentence_profile: list[ProfilePoint]
    """By distance from the start of the sentence, tokens."""
    types: list[TokenType]
    forks: list[ForkToken]


@dataclass(frozen=True)
class SentenceSpan:
    """A sentence by place: characters `[start, end)` of the sample's completion."""

    run: str
    problem_id: str
    sample_id: int
    start: int
    end: int
    distance: float
    """Mean cosine distance to the k nearest base sentences."""
    length_controlled: bool
    """Also beyond the null's quantile among base sentences of its length."""


@dataclass(frozen=True)
class RareGroup:
    """Sentences that count as rare under one definition, and what they are like."""

    definition: str
    sentences: int
    """Distinct ones."""
    share: Estimate
    """Of the distinct sentences. Under the null definitions, base sentences have `1 - quantile`."""
    mean_words: float
    rest_mean_words: float
    reflective: Estimate
    """Share of reflective sentences among the rare."""
    rest_reflective: Estimate
    pivotal: Estimate
    """Share of sentences with a match of the lexicon among the rare."""
    rest_pivotal: Estimate


@dataclass(frozen=True)
class Rarity:
    """Distance of sentences to the base model's, and the same distance between base sentences (the null)."""

    encoder: str
    k: int
    quantile: float
    """0.9: the farthest tenth is rare."""
    sentences: int
    distinct: int
    base_sentences: int
    base_distinct: int
    reference: int
    """Base sentences that every distance is measured against; equal for both pools and folds."""
    folds: str
    """What is kept apart between a sentence and its reference: `sample` or `problem`."""
    mean_distance: float
    base_mean_distance: float
    difference: Estimate
    """Of the two means."""
    auc: float
    """Chance that a sentence is farther from the reference than a held-out base sentence."""
    distances: Histogram
    base_distances: Histogram
    """Same edges."""
    groups: list[RareGroup]
    """`top 10 %` (the paper's), `beyond the null`, `beyond the null of its length`."""
    rare: list[SentenceSpan]
    """Every occurrence of a sentence of the first group."""
    farthest: list[str]
    """Texts of the farthest distinct sentences."""


@dataclass(frozen=True)
class Retrieval:
    """How often a response's own prompt is among the k that fit it best."""

    k: int
    accuracy: Estimate
    chance: float


@dataclass(frozen=True)
class Dependence:
    """Whether responses depend on their prompts."""

    method: str
    """`model` (cross log-probabilities) or `text` (TF-IDF similarity)."""
    prompts: int
    """Distinct ones: N."""
    responses: int
    information: Estimate
    """Mutual information of response and prompt, nats; of `text`, the InfoNCE lower bound."""
    ceiling: float
    """log N: no estimate from N prompts can exceed it."""
    saturated: bool
    """Within 5 % of the ceiling: the true value is at least this, and differences up there mean nothing."""
    retrieval: list[Retrieval]
    p: float
    """Permutation of prompts: chance of at least this information without any dependence."""
    retrieval_p: float
    permutations: int
    entropy: float | None = None
    """H(Z), nats per response; `model` only."""
    conditional_entropy: float | None = None
    """H(Z|X), nats per response; `model` only."""


@dataclass(frozen=True)
class TrainingRow:
    """One row of the figures over training (the paper's Figure 8)."""

    run: str
    step: int | None
    samples: int
    accuracy: float | None
    mean_length: float
    length_unit: str
    mean_entropy: float | None
    pivotal: int
    pivotal_per_response: float
    pivotal_per_1000_words: float
    pivotal_entropy: float | None
    reflective: int
    reflective_per_response: float
    reflective_share: float
    """Of the sentences."""
    reflective_entropy: float | None
    repetition: float
    """Share of word 4-grams that already occurred in the same response."""


@dataclass(frozen=True)
class RunExploration:
    """Everything about one run."""

    run: str
    model: str
    samples: int
    empty: int
    """Samples without text, left out."""
    problems: int
    words: int
    sentences: int
    entropy: EntropySummary | None
    behaviours: list[Behaviour]
    """Pivotal, reflective and, with a base, rare."""
    entries: list[Entry]
    """Of the lexicon, those that occur; most frequent first."""
    rarity: Rarity | None
    dependence: list[Dependence]
    notes: list[str]


@dataclass(frozen=True)
class Exploration:
    """The content of `explore.json`."""

    samples: list[str]
    """The tables that were analysed, paths as given."""
    token_data: list[str]
    """Tables with exact entropies, parallel to `samples`: the same, or what `--model` wrote (relative to the file)."""
    inputs: list[Input]
    """Every shard that was read, of the base too."""
    settings: dict[str, Any]
    """The other options of the command, by name."""
    lexicon: str
    """Name of the file, and the first digits of its hash."""
    reflective: str
    breaks: list[str]
    """Words that begin a sentence besides punctuation (`--breaks`); a viewer that splits sentences needs them."""
    runs: list[RunExploration]
    series: list[TrainingRow]
    """One row per run, in the order given."""
    notes: list[str]
    schema: int = SCHEMA
    forkwise: str = ""

    def run(self, name: str) -> RunExploration:
        """The run of that name.

        Raises:
            InputError: there is none.
        """
        for run in self.runs:
            if run.run == name:
                return run
        raise InputError(f"There is no run '{name}' here: it holds {', '.join(run.run for run in self.runs)}.")


def to_json(exploration: Exploration) -> str:
    """`explore.json` as text: valid JSON, NaN and infinity as null."""
    return result_text(exploration)


def from_json(text: str | bytes) -> Exploration:
    """What `to_json` wrote.

    Raises:
        InputError: not such a file, or one of another schema version.
    """
    return _whole(parse_result(text, Exploration, schema=SCHEMA, name=FILE, command=_COMMAND))


def write(folder: Path, exploration: Exploration) -> Path:
    """Writes `folder/explore.json`, whole or not at all."""
    return write_result(folder / FILE, exploration)


def read(path: Path) -> Exploration:
    """The exploration in a file, or in a folder's `explore.json`."""
    path = path / FILE if path.is_dir() else path
    return _whole(read_result(path, Exploration, schema=SCHEMA, command=_COMMAND))


def _whole(exploration: Exploration) -> Exploration:
    if len(exploration.token_data) != len(exploration.samples):
        raise InputError(
            f"{FILE} is damaged (it has another number of tables with tokens than with samples): run {_COMMAND} again."
        )
    return exploration
