"""The whole analysis of one run: token entropy, behaviours against their nulls, rarity, input dependence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from forkwise.errors import InputError
from forkwise.explore.behaviours import pivotal, rare, reflective
from forkwise.explore.contrast import FloatArray, mean_interval
from forkwise.explore.dependence import CrossLogprobs, from_cross, from_texts
from forkwise.explore.encoders import Encoder
from forkwise.explore.findings import Dependence, EntropySummary, Estimate, Rarity
from forkwise.explore.rarity import rarity
from forkwise.explore.results import RunExploration, TrainingRow
from forkwise.explore.settings import ExploreSettings
from forkwise.explore.tokens import (
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

_RELATIVE = np.linspace(0, 1, 21)
_ABSOLUTE = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 1 << 30)
_SENTENCE = (0, 1, 2, 3, 4, 5, 7, 10, 15, 25, 50, 1 << 30)


def explore_run(
    run: RunTraces,
    settings: ExploreSettings,
    *,
    base: Sequence[Trace] | None = None,
    encoder: Encoder | None = None,
    cross: CrossLogprobs | None = None,
) -> RunExploration:
    """Explores one run, and its right and wrong samples alone: entropy, behaviours, rarity, dependence.

    Args:
        base: traces of the base model, for rarity.
        encoder: of sentences; None leaves rarity out.
        cross: log-probs of responses under prompts, for input dependence.
    """
    whole = _explore(run, settings, base, encoder, cross)
    if whole.entropy is not None:
        settings = replace(settings, threshold=whole.entropy.threshold)
    parts = {
        name: replace(run, traces=[trace for trace in run.traces if trace.correct is verdict], empty=0)
        for name, verdict in (("right", True), ("wrong", False))
    }
    if not all(part.traces for part in parts.values()):
        return whole
    split = {name: _explore(_recounted(part), settings, base, encoder, None) for name, part in parts.items()}
    return replace(whole, by_verdict=split)


def _recounted(part: RunTraces) -> RunTraces:
    without = sum(trace.tokens is None for trace in part.traces)
    if without == len(part.traces):
        return replace(part, source=None, without_tokens=0)
    return replace(part, without_tokens=without if part.source else 0)


def _explore(
    run: RunTraces,
    settings: ExploreSettings,
    base: Sequence[Trace] | None,
    encoder: Encoder | None,
    cross: CrossLogprobs | None,
) -> RunExploration:
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
    pivotal_tokens, entries = pivotal(traces, tokens, settings)
    behaviours = [
        pivotal_tokens,
        reflective(traces, sentences, settings),
        *([rare(traces, sentences, rare_texts, settings)] if rare_result else []),
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
        entries=entries,
        rarity=rare_result,
        dependence=_dependence(traces, cross, settings),
        without_tokens=run.without_tokens,
        rarity_refused=refused,
        cut_off=sum(trace.cut_off is not None for trace in traces),
    )


# ------------------------------------------------------------------------------------------------------------ entropy


def _entropy(run: RunTraces, table: TokenTable, settings: ExploreSettings) -> EntropySummary:
    units, level = table.units, settings.resampling.level
    value = units.value_N
    threshold = float(np.quantile(value, settings.quantile)) if settings.threshold is None else settings.threshold
    edges = np.linspace(0.0, max(float(value.max()), 1e-6), 41)
    length_N = np.bincount(units.trace_N)[units.trace_N]
    bounded = run.source == "top-k"
    assert run.source is not None

    def mean(column: FloatArray | None) -> Estimate:
        if column is None:
            return Estimate(None)
        return mean_interval(column, units.problem_N, units.problems, level, within=(0.0, np.inf))

    return EntropySummary(
        source=run.source,
        tokens=value.size,
        mean=mean(value),
        upper_mean=float(units.upper_N.mean()) if units.upper_N is not None else None,
        vocabulary=settings.vocabulary if bounded else None,
        vocabulary_source=settings.vocabulary_source if bounded else None,
        candidates=run.candidates,
        quantile=settings.quantile,
        threshold=threshold,
        histogram=histogram(value, edges),
        pivotal_histogram=histogram(value[table.pivotal_N], edges),
        relative_profile=profile(table, table.position_N / length_N, _RELATIVE.tolist(), level),
        absolute_profile=profile(table, table.position_N, _ABSOLUTE, level),
        sentence_profile=profile(table, table.distance_N, _SENTENCE, level),
        types=token_types(table, threshold),
        forks=fork_tokens(table, threshold),
        temperatures=sorted(run.temperatures),
        cuts=sorted(run.cuts),
        surprisal=mean(table.surprisal_N),
        varentropy=mean(table.varentropy_N),
        varentropy_correlation=_correlation(value, table.varentropy_N),
    )


def _correlation(entropy: FloatArray, varentropy: FloatArray | None) -> float | None:
    if varentropy is None or not entropy.std() or not varentropy.std():
        return None
    return float(np.corrcoef(entropy, varentropy)[0, 1])


# ------------------------------------------------------------------------------------------- dependence, training row


def _dependence(traces: Sequence[Trace], cross: CrossLogprobs | None, settings: ExploreSettings) -> list[Dependence]:
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
