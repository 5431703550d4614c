"""What `forkwise explore` finds, as frozen dataclasses, and `explore.json`, the file that holds them.

Entropies and log-probabilities are in nats, lengths in tokens or words as the name says, shares between 0 and 1. A
number that does not exist (no interval with one problem, no entropy without token data) is None, and null in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.folders.results import Input, read_result, write_result

SCHEMA = 3
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
    """A statistic when entropies are shifted circularly within each trace, and the two-sided p of the observed one."""

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
    """What the strata hold equal, in words; empty for `raw`."""
    marked: int
    others: int
    supported: float
    """Share of all marked units that have others in their stratum; units without are left out. 1 for `raw`."""
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
    """The circular-shift null of `difference`."""
    identified: tuple[float, float] | None = None
    """Range in which `difference` must lie whatever the unseen tail looks like; only from top-k log-probs."""


@dataclass(frozen=True)
class Behaviour:
    """One kind of marked unit: how often it occurs, and its entropy against that of others."""

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
    """The versions of the contrast, raw first; empty without entropies."""
    by_group: dict[str, int] = field(default_factory=dict)
    """Matches per group of the lexicon, or per reflective pattern (a sentence may match several)."""
    examples: list[str] = field(default_factory=list)
    mean_entropy: float | None = None


@dataclass(frozen=True)
class Entry:
    """One entry of the pivotal lexicon, compared with all other tokens."""

    entry: str
    group: str
    count: int
    problems: int
    """Number of problems in which the entry occurs."""
    mean_entropy: float | None = None
    difference: Estimate = Estimate(None)
    """Entropy of the entry's tokens minus that of all others, nats."""
    auc: Estimate = Estimate(None)
    matched_difference: Estimate = Estimate(None)
    """Entropy of the entry's tokens minus that of others in the strata of the `matched` version of `Contrast`, nats."""
    supported: float | None = None
    p: float | None = None
    """Two-sided p of the difference, by circular shifts within traces."""
    q: float | None = None
    """The p adjusted by Benjamini and Hochberg over the entries that were tested."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values: `counts[i]` lie in `[edges[i], edges[i+1])`, and the last bin is closed."""

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
    """Share of the type's tokens above the threshold."""


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
    """Origin of the entropies: `stored` (exact, at sampling), `model` (exact, teacher-forced), `top-k` (bounds)."""
    tokens: int
    mean: Estimate
    upper_mean: float | None
    """Mean of the upper bounds; only with `top-k`."""
    vocabulary: int | None
    """Number of tokens assumed in the upper bound; only with `top-k`."""
    vocabulary_source: str | None
    candidates: int | None
    """The usual k; only with `top-k`."""
    quantile: float
    threshold: float
    """The `quantile` of all tokens of the run at once; a token above it is of high entropy."""
    histogram: Histogram
    pivotal_histogram: Histogram
    """Histogram of the tokens that begin a match of the lexicon, with the same edges."""
    relative_profile: list[ProfilePoint]
    absolute_profile: list[ProfilePoint]
    sentence_profile: list[ProfilePoint]
    """Mean entropy by distance from the start of the sentence, in tokens."""
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
    """Whether the distance is also beyond the null's quantile among base sentences of its length."""


@dataclass(frozen=True)
class RareGroup:
    """Sentences that count as rare under one definition, and what they are like."""

    definition: str
    sentences: int
    """Number of distinct rare sentences."""
    share: Estimate
    """Share of distinct sentences that are rare; of base sentences it is `1 - quantile` by the null definitions."""
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
    """How far sentences are from the base model's, and base sentences from each other (the null)."""

    encoder: str
    k: int
    quantile: float
    """Share of sentences that are not rare: at 0.9, the farthest tenth is."""
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
    """Mean distance of the sentences minus that of base sentences."""
    auc: float
    """Chance that a sentence is farther from the reference than a held-out base sentence."""
    distances: Histogram
    base_distances: Histogram
    """Histogram of the distances of base sentences, with the same edges."""
    groups: list[RareGroup]
    """One group for each definition: `top 10 %` (the paper's), `beyond the null`, `beyond the null of its length`."""
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
    """How it was measured: `model` (cross log-probabilities) or `text` (TF-IDF similarity)."""
    prompts: int
    """Number N of distinct prompts."""
    responses: int
    information: Estimate
    """Mutual information of response and prompt, nats; of `text`, the InfoNCE lower bound."""
    ceiling: float
    """log N, which no estimate from N prompts can exceed."""
    saturated: bool
    """Whether `information` is within 5 % of the ceiling: the true value is at least this, differences mean nothing."""
    retrieval: list[Retrieval]
    p: float
    """Chance of at least this information without any dependence, by permutation of prompts."""
    retrieval_p: float
    permutations: int
    entropy: float | None = None
    """H(Z), nats per response; `model` only."""
    conditional_entropy: float | None = None
    """H(Z|X), nats per response; `model` only."""


@dataclass(frozen=True)
class TrainingRow:
    """One point of the figures over training (the paper's Figure 8)."""

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
    """Share of reflective sentences."""
    reflective_entropy: float | None
    repetition: float
    """Share of word 4-grams that already occurred in the same response."""


@dataclass(frozen=True)
class RunExploration:
    """Everything that was found about one run."""

    run: str
    model: str
    samples: int
    empty: int
    """Number of samples without text, which are left out."""
    problems: int
    words: int
    sentences: int
    entropy: EntropySummary | None
    behaviours: list[Behaviour]
    """The behaviours `pivotal`, `reflective` and, with a base, `rare`."""
    entries: list[Entry]
    """Entries of the lexicon that occur, most frequent first."""
    rarity: Rarity | None
    dependence: list[Dependence]
    without_tokens: int = 0
    """Number of samples without token data, where others of the run have them."""
    rarity_refused: str | None = None
    """Why rarity could not be measured against the base, where there is one."""


@dataclass(frozen=True)
class Exploration:
    """Everything that `explore.json` holds: one or more runs, and what they were explored with."""

    samples: list[str]
    """The tables that were analysed, paths as given."""
    token_data: list[str]
    """Tables with exact entropies, parallel to `samples`: these, or what `--model` wrote (relative to the file)."""
    inputs: list[Input]
    """Every shard that was read, those of the base too."""
    settings: dict[str, Any]
    """Options of the command by name, but for `samples`, `out` and `breaks`."""
    lexicon: str
    """Name of the file, and the first digits of its hash."""
    reflective: str
    breaks: list[str]
    """Words that begin a sentence besides punctuation (`--breaks`); a viewer that splits sentences needs them."""
    runs: list[RunExploration]
    series: list[TrainingRow]
    """One row for each run, in the order of `runs`."""
    full_logits: str | None = None
    """Why `--model` scores by its full logits, where it does."""
    imported: list[str] = field(default_factory=list)
    """What the import of other tools' files found and remarked."""
    schema: int = SCHEMA
    forkwise: str = ""

    def run(self, name: str) -> RunExploration:
        """Returns the run called `name`.

        Raises:
            InputError: there is none.
        """
        for run in self.runs:
            if run.run == name:
                return run
        raise InputError(f"There is no run '{name}' here: it holds {', '.join(run.run for run in self.runs)}.")


def write(folder: Path, exploration: Exploration) -> Path:
    """Writes `folder/explore.json`, whole or not at all."""
    return write_result(folder / FILE, exploration)


def read(path: Path) -> Exploration:
    """Reads the exploration in a file, or in a folder's `explore.json`."""
    path = path / FILE if path.is_dir() else path
    return _whole(read_result(path, Exploration, schema=SCHEMA, command=_COMMAND))


def _whole(exploration: Exploration) -> Exploration:
    if len(exploration.token_data) != len(exploration.samples):
        raise InputError(
            f"{FILE} is damaged (it has another number of tables with tokens than with samples): run {_COMMAND} again."
        )
    return exploration
