"""What is found about a run, part by part: entropies, behaviours, rarity, dependence on the prompt.

Entropies and log-probabilities are in nats, lengths in tokens or words as the name says, shares between 0 and 1. A
number that does not exist (no interval with one problem, no entropy without token data) is None, and null in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over problems (cluster bootstrap); both ends None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PlaceboNull:
    """The difference that lexicons of other words have, with as many occurrences word by word."""

    mean: float
    low: float
    """2.5 % quantile over the lexicons."""
    high: float
    """97.5 % quantile."""
    p: float
    """Share of lexicons as far from their mean as the observed difference; at least 1 / (`draws` + 1)."""
    draws: int
    """Number of lexicons; of an entry, words that occur about as often."""


@dataclass(frozen=True)
class Contrast:
    """Entropy of marked units (tokens or sentences) against others."""

    version: str
    """`raw`; `matched`: against others of the same trace and stratum; `matched, words`: and both begin a word."""
    strata: str
    """What the strata hold equal, in words; empty for `raw`."""
    marked: int
    others: int
    """Units that marked ones are compared with: in their strata, or raw, in their problems."""
    supported: float
    """Share of all marked units that have others in their trace and in their stratum, or raw, in their problem; units
    without have no weight."""
    problems: int
    """Problems with at least one marked unit that has weight."""
    mean_marked: float
    """Raw, the mean over problems of each problem's mean; matched, the mean over marked units."""
    mean_other: float | None = None
    """`mean_marked - difference`: raw, the mean over the same problems; matched, what others have in the place of the
    marked ones."""
    difference: Estimate = Estimate(None)
    """Nats: raw, the mean over problems of the difference of means in each, since pooled a few long traces would weigh
    most; matched, the coefficient of the mark, with a constant for each trace and each stratum."""
    p: float | None = None
    """Two-sided p of the difference, by the same standard error over problems as its interval."""
    auc: Estimate = Estimate(None)
    """Chance that a marked unit has more entropy than another of its problem, as a mean over problems; of a matched
    version, a higher rank in its trace than another of its stratum. Ties count half; 0.5 is none."""
    null: PlaceboNull | None = None
    """Differences of lexicons of other words; of pivotal tokens alone."""
    identified: tuple[float, float] | None = None
    """Range in which `difference` must lie whatever the unseen tail looks like; only from top-k log-probs."""
    too_few: bool = False
    """Whether marks, or problems that hold them, are too few for a difference."""


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
    """Entropy of the entry's tokens minus that of all others, as in the `raw` version of `Contrast`, nats."""
    auc: Estimate = Estimate(None)
    matched_difference: Estimate = Estimate(None)
    """Entropy of the entry's tokens minus that of others, as in the `matched` version of `Contrast`, nats."""
    supported: float | None = None
    p: float | None = None
    """Two-sided p of `matched_difference`."""
    null: PlaceboNull | None = None
    """Matched differences of other words that occur about as often."""
    q: float | None = None
    """The p adjusted by Benjamini and Hochberg over the entries that were tested."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values: `counts[i]` lie in `[edges[i], edges[i+1])`, and the last bin is closed."""

    edges: list[float]
    counts: list[int]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"a histogram has {len(self.edges)} edges for {len(self.counts)} counts")


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
    """A token text (outer blanks removed) that is above the threshold more often than tokens are on the whole."""

    token: str
    count: int
    high: int
    """Occurrences above the threshold."""
    excess: float
    """`high` minus what as many tokens of any kind would have; the table is sorted by it."""
    mean_entropy: float
    pivotal: bool
    """Whether most of its occurrences begin a match of the lexicon."""
    mean_varentropy: float | None = None
    """Nats squared, where it is stored: small where few tokens share the mass evenly, large with a long tail."""


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
    temperatures: list[float] = field(default_factory=list)
    """Temperatures of the distributions that these are the entropies of."""
    cuts: list[float] = field(default_factory=list)
    """The top-p below 1 at which tokens were sampled; entropies are of the whole distribution, before that cut."""
    surprisal: Estimate = Estimate(None)
    """Mean surprisal of the sampled tokens, nats; it differs from the mean entropy where sampling was not plain."""
    varentropy: Estimate = Estimate(None)
    """Mean varentropy, nats squared, where it is stored."""
    varentropy_correlation: float | None = None
    """Correlation of entropy and varentropy over tokens."""


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
    """Share of distinct sentences that are rare; of base sentences it is `1 - quantile` by the null definitions. The
    interval draws problems of both models, and with them the null's quantile; `top` shares have none."""
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
    problems: int
    """Number of problems that both models have; sentences of others are left out."""
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
    """The logarithm of the number of prompts, which no estimate from N prompts can exceed."""
    saturated: bool
    """Whether `information` is within 5 % of the ceiling: the true value is at least this, differences mean nothing."""
    retrieval: list[Retrieval]
    p: float
    """Chance of at least this information without any dependence, by permutation of prompts."""
    retrieval_p: float
    permutations: int
    smallest_p: float
    """About the smallest that `p` can be: with few prompts hardly any order is as good as a chance one."""
    entropy: float | None = None
    """H(Z), nats per response; `model` only."""
    conditional_entropy: float | None = None
    """H(Z|X), nats per response; `model` only."""
