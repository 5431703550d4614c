"""Rare behaviours: sentences far from everything that the base model writes, against how far its own sentences are.

arXiv 2506.14758 calls the tenth of the sentences rare whose mean distance to the k = 5 nearest sentences of the base
model is largest. By that definition a tenth is always rare. So the same distance is measured between base sentences:
the base is cut into two halves, and sentences of either model in one half are compared with base sentences of the
other. What counts is how many lie beyond the base's own quantile, and whether they still do among sentences of their
length.

Distances between embeddings are about wording and style as much as about strategy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from forkwise.errors import InputError
from forkwise.explore.contrast import (
    BoolArray,
    FloatArray,
    IntArray,
    Resampling,
    Units,
    contrast,
    mean_interval,
    share_interval,
)
from forkwise.explore.encoders import Encoder
from forkwise.explore.lexicon import Lexicon, ReflectivePatterns
from forkwise.explore.neighbours import mean_distances
from forkwise.explore.results import Estimate, Histogram, RareGroup, Rarity, SentenceSpan
from forkwise.explore.traces import Trace

_LENGTH_BINS = 8
_LEAST_IN_BIN = 40  # base sentences in a bin; with fewer, its quantile means little
_WORD = re.compile(r"[^\W\d_]{2,}")


def is_comparable(sentence: str) -> bool:
    """Whether a sentence has at least three words, one of two letters or more: formulas alone are not compared."""
    return len(sentence.split()) >= 3 and _WORD.search(sentence) is not None


@dataclass(frozen=True)
class _Pool:
    """Distinct sentences of one model. Each belongs to the fold of its first occurrence."""

    texts: list[str]
    fold_N: IntArray
    problem_N: IntArray
    places: dict[str, list[tuple[int, int]]]
    """Every occurrence of a text, as (trace, sentence)."""
    occurrences: int

    @property
    def words_N(self) -> FloatArray:
        return np.array([len(text.split()) for text in self.texts], dtype=np.float64)


def _pool(traces: Sequence[Trace], fold_of: Sequence[int], problem_of: dict[str, int], limit: int, seed: int) -> _Pool:
    places: dict[str, list[tuple[int, int]]] = {}
    occurrences = 0
    for t, trace in enumerate(traces):
        for s, span in enumerate(trace.sentences):
            text = " ".join(trace.text[span.start : span.end].split())
            if is_comparable(text):
                places.setdefault(text, []).append((t, s))
                occurrences += 1
    texts = list(places)
    if len(texts) > limit:
        drawn = np.sort(np.random.default_rng([seed, 5]).choice(len(texts), limit, replace=False))
        texts = [texts[i] for i in drawn]
    first_trace = [places[text][0][0] for text in texts]
    return _Pool(
        texts=texts,
        fold_N=np.array([fold_of[t] for t in first_trace], dtype=np.int64),
        problem_N=np.array([problem_of[traces[t].problem_id] for t in first_trace], dtype=np.int64),
        places=places,
        occurrences=occurrences,
    )


def _folds(traces: Sequence[Trace], unit: str, fold_of_problem: dict[str, int]) -> list[int]:
    """Deals each trace to one of two halves: every second sample of a problem, or every second problem."""
    if unit == "problem":
        return [fold_of_problem[trace.problem_id] for trace in traces]
    samples_so_far: dict[str, int] = {}
    folds = []
    for trace in traces:
        i = samples_so_far.get(trace.problem_id, 0)
        samples_so_far[trace.problem_id] = i + 1
        # Problems with an odd number of samples alternate in which half gets the larger part.
        folds.append((i + fold_of_problem[trace.problem_id]) % 2)
    return folds


def _fold_unit(base: Sequence[Trace]) -> str:
    counts: dict[str, int] = {}
    for trace in base:
        counts[trace.problem_id] = counts.get(trace.problem_id, 0) + 1
    return "sample" if np.median(list(counts.values())) >= 2 else "problem"


def rarity(
    traces: Sequence[Trace],
    base: Sequence[Trace],
    encoder: Encoder,
    lexicon: Lexicon,
    reflective: ReflectivePatterns,
    *,
    k: int = 5,
    quantile: float = 0.9,
    limit: int = 50_000,
    resampling: Resampling | None = None,
) -> tuple[Rarity, set[str]]:
    """Finds sentences of `traces` that are far from those of `base`, and how far base sentences are from each other.

    Args:
        limit: most distinct sentences of each model; more are drawn from at random.

    Returns:
        The result, and the texts (white space normalised) of the farthest `1 - quantile`.

    Raises:
        InputError: too few sentences in the base, or in the traces.
    """
    resampling = resampling or Resampling()
    problems = sorted({trace.problem_id for trace in [*traces, *base]})
    problem_of = {problem: i for i, problem in enumerate(problems)}
    shuffled = np.random.default_rng([resampling.seed, 4]).permutation(len(problems))
    # Problems of the base alternate, so that both halves have as many.
    in_base = {trace.problem_id for trace in base}
    order = sorted(problems, key=lambda p: (p not in in_base, shuffled[problem_of[p]]))
    fold_of_problem = {problem: i % 2 for i, problem in enumerate(order)}
    unit = _fold_unit(base)
    pool = _pool(traces, _folds(traces, unit, fold_of_problem), problem_of, limit, resampling.seed)
    base_pool = _pool(base, _folds(base, unit, fold_of_problem), problem_of, limit, resampling.seed)
    references = _references(base, _folds(base, unit, fold_of_problem), set(base_pool.texts), resampling.seed)
    size = len(references[0])
    if size < max(k, 2) or len(pool.texts) < 10:
        raise InputError(
            f"Rarity needs more sentences: the base has {len(base_pool.texts)} distinct ones of three words or more in "
            f"{len(base)} samples, and the run {len(pool.texts)}; draw more samples."
        )
    vectors = _encode(encoder, base_pool.texts, *references, pool.texts)
    distance_N = _distances(pool, references, vectors, k)
    null_N = _distances(base_pool, references, vectors, k)
    rare_sets = _definitions(distance_N, null_N, pool.words_N, base_pool.words_N, quantile)
    marks = _Marks(
        np.array([bool(reflective.names(text)) for text in pool.texts]),
        np.array([bool(lexicon.matches(text)) for text in pool.texts]),
    )
    groups = [_group(name, rare_N, pool, marks, len(problems), resampling) for name, rare_N in rare_sets.items()]
    farthest_N, *_, controlled_N = rare_sets.values()
    edges = np.linspace(0.0, float(max(distance_N.max(), null_N.max())) + 1e-9, 41)
    farthest = np.argsort(-distance_N, kind="stable")[:30]
    measured = Rarity(
        encoder=encoder.name,
        k=k,
        quantile=quantile,
        sentences=pool.occurrences,
        distinct=len(pool.texts),
        base_sentences=base_pool.occurrences,
        base_distinct=len(base_pool.texts),
        reference=size,
        folds=unit,
        mean_distance=float(distance_N.mean()),
        base_mean_distance=float(null_N.mean()),
        difference=_gap(distance_N, pool.problem_N, null_N, base_pool.problem_N, len(problems), resampling),
        auc=_auc(distance_N, null_N),
        distances=_histogram(distance_N, edges),
        base_distances=_histogram(null_N, edges),
        groups=groups,
        rare=_occurrences(traces, pool, distance_N, farthest_N, controlled_N),
        farthest=[pool.texts[i] for i in farthest],
    )
    return measured, {pool.texts[i] for i in np.flatnonzero(farthest_N)}


def _references(base: Sequence[Trace], folds: Sequence[int], pool: set[str], seed: int) -> tuple[list[str], list[str]]:
    """Draws distinct sentences of either half of the base, as many from both. A sentence may be in both halves."""
    halves: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for trace, fold in zip(base, folds, strict=True):
        for span in trace.sentences:
            text = " ".join(trace.text[span.start : span.end].split())
            if text in pool:
                halves[fold][text] = None
    size = min(len(half) for half in halves)
    rng = np.random.default_rng([seed, 6])
    first, second = (
        [texts[i] for i in np.sort(rng.choice(len(texts), size, replace=False))] if size else []
        for texts in (list(halves[0]), list(halves[1]))
    )
    return first, second


def _encode(encoder: Encoder, *groups: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    distinct = list(dict.fromkeys(text for group in groups for text in group))
    return dict(zip(distinct, encoder.encode(distinct), strict=True))


def _distances(
    pool: _Pool, references: Sequence[Sequence[str]], vectors: dict[str, npt.NDArray[np.float32]], k: int
) -> FloatArray:
    """Measures the distance of each sentence of the pool to the half of the base that its trace is not in."""
    distance_N = np.empty(len(pool.texts))
    for fold in (0, 1):
        rows = np.flatnonzero(pool.fold_N == fold)
        if rows.size:
            queries = np.stack([vectors[pool.texts[i]] for i in rows])
            reference = np.stack([vectors[text] for text in references[1 - fold]])
            distance_N[rows] = mean_distances(queries, reference, k)
    return distance_N


def _definitions(
    distance_N: FloatArray, null_M: FloatArray, words_N: FloatArray, null_words_M: FloatArray, quantile: float
) -> dict[str, BoolArray]:
    """Returns which sentences are rare by each of the three definitions."""
    percent = round(100 * (1 - quantile), 1)
    beyond = np.full(distance_N.size, np.nan)
    bin_N, bin_M = _length_bins(words_N, null_words_M)
    for b in np.unique(bin_M):
        beyond[bin_N == b] = np.quantile(null_M[bin_M == b], quantile)
    return {
        f"top {percent:g} %": distance_N > np.quantile(distance_N, quantile),
        "beyond the null": distance_N > np.quantile(null_M, quantile),
        "beyond the null of its length": distance_N > beyond,
    }


def _length_bins(words_N: FloatArray, null_words_M: FloatArray) -> tuple[IntArray, IntArray]:
    """Bins sentences by words, with at least `_LEAST_IN_BIN` base sentences in each; sentences longer or shorter than
    those of the base go to the outer bins."""
    bins = max(1, min(_LENGTH_BINS, null_words_M.size // _LEAST_IN_BIN))
    edges = np.unique(np.quantile(null_words_M, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, words_N, side="right"), np.searchsorted(edges, null_words_M, side="right")


@dataclass(frozen=True)
class _Marks:
    reflective_N: BoolArray
    pivotal_N: BoolArray


def _group(
    name: str, rare_N: BoolArray, pool: _Pool, marks: _Marks, problems: int, resampling: Resampling
) -> RareGroup:
    words_N = pool.words_N

    def share(mark_N: BoolArray, member_N: BoolArray) -> Estimate:
        return share_interval(mark_N, member_N, pool.problem_N, problems, resampling)

    return RareGroup(
        definition=name,
        sentences=int(rare_N.sum()),
        share=mean_interval(rare_N.astype(np.float64), pool.problem_N, problems, resampling),
        mean_words=float(words_N[rare_N].mean()) if rare_N.any() else float("nan"),
        rest_mean_words=float(words_N[~rare_N].mean()) if (~rare_N).any() else float("nan"),
        reflective=share(marks.reflective_N, rare_N),
        rest_reflective=share(marks.reflective_N, ~rare_N),
        pivotal=share(marks.pivotal_N, rare_N),
        rest_pivotal=share(marks.pivotal_N, ~rare_N),
    )


def _gap(
    a_N: FloatArray, problem_a: IntArray, b_M: FloatArray, problem_b: IntArray, problems: int, resampling: Resampling
) -> Estimate:
    """Returns the difference of means, with both pools resampled by the same problems."""
    marked = np.concatenate([np.ones(a_N.size, dtype=bool), np.zeros(b_M.size, dtype=bool)])
    problem_N = np.concatenate([problem_a, problem_b])
    units = Units(np.concatenate([a_N, b_M]), problem_N, np.arange(marked.size))
    distance_contrast = contrast(units, marked, ~marked, resampling=resampling, null=False)
    assert distance_contrast is not None
    return distance_contrast.difference


def _auc(a_N: FloatArray, b_M: FloatArray) -> float:
    ranks = stats.rankdata(np.concatenate([a_N, b_M]))
    return float((ranks[: a_N.size].sum() - a_N.size * (a_N.size + 1) / 2) / (a_N.size * b_M.size))


def _histogram(values: FloatArray, edges: FloatArray) -> Histogram:
    counts, _ = np.histogram(values, edges)
    return Histogram([float(edge) for edge in edges], [int(count) for count in counts])


def _occurrences(
    traces: Sequence[Trace], pool: _Pool, distance_N: FloatArray, rare_N: BoolArray, controlled_N: BoolArray
) -> list[SentenceSpan]:
    spans = []
    for i in np.flatnonzero(rare_N):
        for t, s in pool.places[pool.texts[i]]:
            trace, span = traces[t], traces[t].sentences[s]
            spans.append(
                SentenceSpan(
                    trace.run,
                    trace.problem_id,
                    trace.sample_id,
                    span.start,
                    span.end,
                    float(distance_N[i]),
                    bool(controlled_N[i]),
                )
            )
    return sorted(spans, key=lambda span: (span.problem_id, span.sample_id, span.start))
