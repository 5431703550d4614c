"""The whole analysis of one run: token entropy, behaviours against their nulls, rarity, input dependence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from forkwise.errors import InputError
from forkwise.explore.contrast import (
    BoolArray,
    Resampling,
    Units,
    benjamini_hochberg,
    contrast,
    entry_null,
    mean_interval,
)
from forkwise.explore.dependence import CrossLogprobs, from_cross, from_texts
from forkwise.explore.encoders import Encoder
from forkwise.explore.lexicon import Lexicon, ReflectivePatterns
from forkwise.explore.rarity import rarity
from forkwise.explore.results import (
    Behaviour,
    Contrast,
    Dependence,
    EntropySummary,
    Entry,
    Estimate,
    Rarity,
    RunExploration,
    TrainingRow,
)
from forkwise.explore.tokens import (
    STRATA_SENTENCES,
    STRATA_TOKENS,
    SentenceTable,
    TokenTable,
    fork_tokens,
    histogram,
    profile,
    sentence_table,
    token_table,
    token_types,
)
from forkwise.explore.traces import RunTraces, Trace
from forkwise.passk.diversity import repetition_rate
from forkwise.progress import watch

_RELATIVE = np.linspace(0, 1, 21)
_ABSOLUTE = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 1 << 30)
_SENTENCE = (0, 1, 2, 3, 4, 5, 7, 10, 15, 25, 50, 1 << 30)
_EXAMPLES = 12


@dataclass(frozen=True)
class Settings:
    """Settings of the analysis.

    Attributes:
        lexicon, reflective: what counts as pivotal and reflective.
        quantile: tokens above it, over the whole run, are high-entropy.
        k, rare_quantile, limit: of `rarity`.
        least: occurrences from which an entry of the lexicon is tested.
        vocabulary, vocabulary_source: for bounds from top-k log-probs, and how the number is known.
        resampling: of every interval and null.
    """

    lexicon: Lexicon
    reflective: ReflectivePatterns
    quantile: float = 0.8
    k: int = 5
    rare_quantile: float = 0.9
    limit: int = 50_000
    least: int = 10
    vocabulary: int | None = None
    vocabulary_source: str | None = None
    resampling: Resampling = field(default_factory=Resampling)

    def __post_init__(self) -> None:
        for name in ("quantile", "rare_quantile"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')} is {getattr(self, name)}: it must be between 0 and 1.")
        if self.k < 1:
            raise InputError(f"k is {self.k}: it must be at least 1.")


def explore_run(
    run: RunTraces,
    settings: Settings,
    *,
    base: Sequence[Trace] | None = None,
    encoder: Encoder | None = None,
    cross: CrossLogprobs | None = None,
) -> RunExploration:
    """Explores one run: entropy, behaviours, rarity and dependence, as far as the data allow.

    Args:
        base: traces of the base model, for rarity.
        encoder: of sentences; None leaves rarity out.
        cross: log-probs of responses under prompts, for input dependence.
    """
    traces = run.traces
    problems = list(dict.fromkeys(trace.problem_id for trace in traces))
    problem_of = {problem: i for i, problem in enumerate(problems)}
    tokens = token_table(traces, problem_of, settings.lexicon) if run.source else None
    sentences = sentence_table(traces, problem_of) if run.source else None
    rare_result: Rarity | None = None
    rare_texts: set[str] = set()
    refused: str | None = None
    if base is not None and encoder is not None:
        try:
            rare_result, rare_texts = rarity(
                traces,
                base,
                encoder,
                settings.lexicon,
                settings.reflective,
                k=settings.k,
                quantile=settings.rare_quantile,
                limit=settings.limit,
                resampling=settings.resampling,
            )
        except InputError as error:
            refused = str(error)
    behaviours = [
        _pivotal(traces, tokens, settings),
        _reflective(traces, sentences, settings),
        *([_rare(traces, sentences, rare_texts, settings)] if rare_result else []),
    ]
    return RunExploration(
        run=run.run,
        model=run.model,
        samples=len(traces) + run.empty,
        empty=run.empty,
        problems=len(problems),
        words=sum(len(trace.text.split()) for trace in traces),
        sentences=sum(len(trace.sentences) for trace in traces),
        entropy=_entropy(run, tokens, settings) if tokens else None,
        behaviours=behaviours,
        entries=_entries(traces, tokens, settings),
        rarity=rare_result,
        dependence=_dependence(traces, cross, settings),
        without_tokens=run.without_tokens,
        rarity_refused=refused,
    )


# ------------------------------------------------------------------------------------------------------------ entropy


def _entropy(run: RunTraces, table: TokenTable, settings: Settings) -> EntropySummary:
    units, resampling = table.units, settings.resampling
    value = units.value_N
    threshold = float(np.quantile(value, settings.quantile))
    edges = np.linspace(0.0, max(float(value.max()), 1e-6), 41)
    length_N = np.bincount(units.trace_N)[units.trace_N]
    bounded = run.source == "top-k"
    assert run.source is not None
    return EntropySummary(
        source=run.source,
        tokens=value.size,
        mean=mean_interval(value, units.problem_N, units.problems, resampling),
        upper_mean=float(units.upper_N.mean()) if units.upper_N is not None else None,
        vocabulary=settings.vocabulary if bounded else None,
        vocabulary_source=settings.vocabulary_source if bounded else None,
        candidates=run.candidates,
        quantile=settings.quantile,
        threshold=threshold,
        histogram=histogram(value, edges),
        pivotal_histogram=histogram(value[table.pivotal_N], edges),
        relative_profile=profile(table, table.position_N / length_N, _RELATIVE.tolist(), resampling),
        absolute_profile=profile(table, table.position_N, _ABSOLUTE, resampling),
        sentence_profile=profile(table, table.distance_N, _SENTENCE, resampling),
        types=token_types(table, threshold),
        forks=fork_tokens(table, threshold),
    )


# --------------------------------------------------------------------------------------------------------- behaviours


def _per(count: int, traces: Sequence[Trace]) -> tuple[float, float]:
    words = sum(len(trace.text.split()) for trace in traces)
    return count / len(traces), 1000 * count / max(words, 1)


def _versions(
    versions: Sequence[tuple[str, str, Units, BoolArray, BoolArray, np.ndarray | None]], resampling: Resampling
) -> list[Contrast]:
    contrasts = [
        contrast(units, marked, other, stratum_N=stratum, version=version, strata=strata, resampling=resampling)
        for version, strata, units, marked, other, stratum in watch(versions, "comparing entropies", "comparisons")
    ]
    return [version for version in contrasts if version is not None]


def _pivotal(traces: Sequence[Trace], table: TokenTable | None, settings: Settings) -> Behaviour:
    matches = [(trace, match) for trace in traces for match in settings.lexicon.matches(trace.text)]
    groups = Counter(settings.lexicon.groups[match.entry] for _, match in matches)
    contrasts: list[Contrast] = []
    if table is not None:
        word_N = table.word_N
        rows = [
            ("raw", "", table.units, table.pivotal_N, table.other_N, None),
            ("matched", STRATA_TOKENS, table.units, table.pivotal_N, table.other_N, table.stratum_N),
            (
                "matched, words",
                f"{STRATA_TOKENS}; both begin a word",
                table.units,
                table.pivotal_N & word_N,
                table.other_N & word_N,
                table.stratum_N,
            ),
        ]
        contrasts = _versions(rows, settings.resampling)
    per_response, per_1000 = _per(len(matches), traces)
    return Behaviour(
        name="pivotal",
        unit="token",
        count=len(matches),
        total=sum(len(trace.text.split()) for trace in traces),
        per_response=per_response,
        per_1000_words=per_1000,
        contrasts=contrasts,
        by_group={group: groups[group] for group in dict.fromkeys(settings.lexicon.groups.values())},
        mean_entropy=contrasts[0].mean_marked if contrasts else None,
    )


def _reflective(traces: Sequence[Trace], table: SentenceTable | None, settings: Settings) -> Behaviour:
    patterns: Counter[str] = Counter()
    marked: set[tuple[int, int]] = set()
    texts: dict[str, None] = {}
    for t, trace in enumerate(traces):
        for s, span in enumerate(trace.sentences):
            text = trace.text[span.start : span.end]
            names = settings.reflective.names(text)
            if names:
                marked.add((t, s))
                patterns.update(names)
                texts[text] = None
    return _sentences("reflective", traces, table, marked, list(texts), settings, dict(patterns.most_common()))


def _rare(traces: Sequence[Trace], table: SentenceTable | None, texts: set[str], settings: Settings) -> Behaviour:
    marked = {
        (t, s)
        for t, trace in enumerate(traces)
        for s, span in enumerate(trace.sentences)
        if " ".join(trace.text[span.start : span.end].split()) in texts
    }
    return _sentences("rare", traces, table, marked, sorted(texts), settings, {})


def _sentences(
    name: str,
    traces: Sequence[Trace],
    table: SentenceTable | None,
    marked: set[tuple[int, int]],
    texts: Sequence[str],
    settings: Settings,
    by_group: dict[str, int],
) -> Behaviour:
    """Counts the marked (trace, sentence), and compares their entropy with that of other sentences."""
    contrasts = _sentence_contrasts(table, marked, settings)
    per_response, per_1000 = _per(len(marked), traces)
    return Behaviour(
        name=name,
        unit="sentence",
        count=len(marked),
        total=sum(len(trace.sentences) for trace in traces),
        per_response=per_response,
        per_1000_words=per_1000,
        contrasts=contrasts,
        by_group=by_group,
        examples=_spread(texts),
        mean_entropy=contrasts[0].mean_marked if contrasts else None,
    )


def _sentence_contrasts(
    table: SentenceTable | None, marked: set[tuple[int, int]], settings: Settings
) -> list[Contrast]:
    if table is None or table.units.value_N.size == 0:
        return []
    sentences = zip(table.trace_N.tolist(), table.index_N.tolist(), strict=True)
    marked_N = np.array([sentence in marked for sentence in sentences], dtype=bool)
    rows = [
        ("raw", "", table.units, marked_N, ~marked_N, None),
        ("matched", STRATA_SENTENCES, table.units, marked_N, ~marked_N, table.stratum_N),
        (
            "matched, first token left out",
            f"{STRATA_SENTENCES}; the mean leaves out each sentence's first token",
            table.later_units,
            marked_N,
            ~marked_N,
            table.stratum_N,
        ),
    ]
    return _versions(rows, settings.resampling)


def _spread(texts: Sequence[str]) -> list[str]:
    """Picks some of the texts, evenly spread, and cuts long ones."""
    step = max(1, len(texts) // _EXAMPLES)
    return [text if len(text) <= 200 else text[:199] + "…" for text in texts[::step][:_EXAMPLES]]


def _entries(traces: Sequence[Trace], table: TokenTable | None, settings: Settings) -> list[Entry]:
    """Returns every entry of the lexicon that occurs, tested against all other tokens if it occurs often enough."""
    count: Counter[str] = Counter()
    problems: dict[str, set[str]] = {}
    for trace in traces:
        for match in settings.lexicon.matches(trace.text):
            count[match.entry] += 1
            problems.setdefault(match.entry, set()).add(trace.problem_id)
    counted = watch(count.most_common(), "testing pivotal words", "words")
    entries = [_entry(entry, n, len(problems[entry]), table, settings) for entry, n in counted]
    tested = [entry for entry in entries if entry.p is not None]
    q = dict(zip((e.entry for e in tested), benjamini_hochberg([e.p for e in tested if e.p is not None]), strict=True))
    return [replace(entry, q=q.get(entry.entry)) for entry in entries]


def _entry(entry: str, count: int, problems: int, table: TokenTable | None, settings: Settings) -> Entry:
    nothing = Entry(entry, settings.lexicon.groups[entry], count, problems)
    if table is None:
        return nothing
    marked_N = table.entry_N == table.entries.index(entry)
    if not marked_N.any():
        return nothing
    mean = float(table.units.value_N[marked_N].mean())
    if marked_N.sum() < settings.least:
        return replace(nothing, mean_entropy=mean)
    raw = contrast(table.units, marked_N, table.other_N, resampling=settings.resampling, null=False)
    matched = contrast(
        table.units, marked_N, table.other_N, stratum_N=table.stratum_N, resampling=settings.resampling, null=False
    )
    if raw is None:
        return replace(nothing, mean_entropy=mean)
    return replace(
        nothing,
        mean_entropy=mean,
        difference=raw.difference,
        auc=raw.auc,
        matched_difference=matched.difference if matched else Estimate(None),
        supported=matched.supported if matched else 0.0,
        p=entry_null(table.units, np.flatnonzero(marked_N), settings.resampling).p,
    )


# ------------------------------------------------------------------------------------------- dependence, training row


def _dependence(traces: Sequence[Trace], cross: CrossLogprobs | None, settings: Settings) -> list[Dependence]:
    measured = [from_cross(cross, settings.resampling)] if cross is not None else []
    prompted = [trace for trace in traces if trace.prompt]
    if len({trace.prompt for trace in prompted}) >= 2:
        prompts, texts = [str(t.prompt) for t in prompted], [t.text for t in prompted]
        measured.append(from_texts(prompts, texts, settings.resampling))
    return measured


def training_row(run: RunTraces, exploration: RunExploration, step: int | None = None) -> TrainingRow:
    """Returns the run's point in the figures over training (arXiv 2506.14758, Figure 8)."""
    traces = run.traces
    scored = [trace.correct for trace in traces if trace.correct is not None]
    in_tokens = all(trace.n_tokens is not None for trace in traces)
    lengths = [trace.n_tokens if in_tokens else len(trace.text.split()) for trace in traces]
    by_name = {behaviour.name: behaviour for behaviour in exploration.behaviours}
    pivotal, reflective = by_name["pivotal"], by_name["reflective"]
    return TrainingRow(
        run=run.run,
        step=step,
        samples=len(traces),
        accuracy=float(np.mean(scored)) if scored else None,
        mean_length=float(np.mean([length or 0 for length in lengths])),
        length_unit="tokens" if in_tokens else "words",
        mean_entropy=exploration.entropy.mean.value if exploration.entropy else None,
        pivotal=pivotal.count,
        pivotal_per_response=pivotal.per_response,
        pivotal_per_1000_words=pivotal.per_1000_words,
        pivotal_entropy=pivotal.mean_entropy,
        reflective=reflective.count,
        reflective_per_response=reflective.per_response,
        reflective_share=reflective.count / max(reflective.total, 1),
        reflective_entropy=reflective.mean_entropy,
        repetition=repetition_rate([trace.text.split() for trace in traces]),
    )
