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
    bounded,
    difference_interval,
    share_interval,
    t_interval,
)
from forkwise.explore.encoders import Encoder
from forkwise.explore.findings import Estimate, Histogram, RareGroup, Rarity, SentenceSpan
from forkwise.explore.lexicon import Lexicon, ReflectivePatterns
from forkwise.explore.neighbours import mean_distances
from forkwise.explore.traces import Trace
from forkwise.passk.intervals import problem_weights
from forkwise.progress import watch

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
    amounts: dict[str, int] = {}
    for trace in base:
        amounts[trace.problem_id] = amounts.get(trace.problem_id, 0) + 1
    return "sample" if np.median(list(amounts.values())) >= 2 else "problem"


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

    Only problems that both have are looked at: sentences about something else are far from any base. The function has
    more than 60 lines because its steps share the distances of both models.

    Args:
        limit: most distinct sentences of each model; more are drawn from at random.

    Returns:
        The result, and the texts (white space normalised) of the farthest `1 - quantile`.

    Raises:
        InputError: too few sentences in the base, or in the traces.
    """
    resampling = resampling or Resampling()
    shared = {trace.problem_id for trace in traces} & {trace.problem_id for trace in base}
    if not shared:
        raise InputError("Rarity needs problems that the run and the base share, and there is none.")
    traces, base = ([trace for trace in side if trace.problem_id in shared] for side in (traces, base))
    problems = sorted(shared)
    problem_of = {problem: i for i, problem in enumerate(problems)}
    shuffled = np.random.default_rng([resampling.seed, 4]).permutation(len(problems))
    order = sorted(problems, key=lambda p: int(shuffled[problem_of[p]]))
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
    null = BaseDistances(null_N, base_pool.problem_N, quantile)
    bin_N, bin_M = _length_bins(pool.words_N, base_pool.words_N)
    one_N, one_M = np.zeros_like(bin_N), np.zeros_like(bin_M)
    rare_sets = {
        f"top {round(100 * (1 - quantile), 1):g} %": distance_N > np.quantile(distance_N, quantile),
        "beyond the null": null.beyond(distance_N, one_N, one_M),
        "beyond the null of its length": null.beyond(distance_N, bin_N, bin_M),
    }
    intervals = [
        None,
        *(
            null.interval(
                *(distance_N, pool.problem_N, bins_N, base_own, len(problems)),
                resamples=resampling.resamples,
                seed=resampling.seed,
                level=resampling.level,
            )
            for bins_N, base_own in ((one_N, one_M), (bin_N, bin_M))
        ),
    ]
    marks = _Marks(
        np.array([bool(reflective.names(text)) for text in pool.texts]),
        np.array([bool(lexicon.matches(text)) for text in pool.texts]),
    )
    groups = [
        _group(name, rare_N, share, pool, marks, len(problems), resampling.level)
        for (name, rare_N), share in zip(rare_sets.items(), intervals, strict=True)
    ]
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
        problems=len(problems),
        reference=size,
        folds=unit,
        mean_distance=float(distance_N.mean()),
        base_mean_distance=float(null_N.mean()),
        difference=difference_interval(
            *(distance_N, pool.problem_N, null_N, base_pool.problem_N, len(problems), resampling.level)
        ),
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


@dataclass(frozen=True)
class BaseDistances:
    """Distances of base sentences from the base, whose quantile says what is rare.

    A sentence like these lies beyond the value of rank `quantile * (size + 1)` in a share `1 - quantile` of cases;
    between two ranks it is interpolated. In each bin the quantile is its own.
    """

    distance_M: FloatArray
    problem_M: IntArray
    quantile: float

    def beyond(self, distance_N: FloatArray, bin_N: IntArray, bin_M: IntArray) -> BoolArray:
        """Says which sentences lie beyond the null of their bin."""
        threshold_N = np.full(distance_N.size, np.inf)
        for b in np.unique(bin_M):
            threshold_N[bin_N == b] = np.quantile(self.distance_M[bin_M == b], self.quantile, method="weibull")
        return distance_N > threshold_N

    def interval(
        self,
        distance_N: FloatArray,
        problem_N: IntArray,
        bin_N: IntArray,
        bin_M: IntArray,
        problems: int,
        *,
        resamples: int,
        seed: int,
        level: float,
    ) -> Estimate:
        """Returns the share of sentences beyond, with an interval that draws the problems of both models at once."""
        value = float(self.beyond(distance_N, bin_N, bin_M).mean())
        size_Q = np.bincount(problem_N, minlength=problems).astype(np.float64)
        tables = []
        for b in np.unique(bin_M):
            null, null_index = np.unique(self.distance_M[bin_M == b], return_inverse=True)
            below_QV = _counts(self.problem_M[bin_M == b], null_index, problems, null.size).cumsum(axis=1)
            inside = bin_N == b
            # Of each value of the null: how many sentences of a problem lie beyond it.
            above = np.searchsorted(null, distance_N[inside], side="left")
            at_QV = _counts(problem_N[inside], above, problems, null.size + 1)
            tables.append((below_QV, at_QV[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]))
        drawn: list[FloatArray] = []
        blocks = problem_weights(problems, resamples, seed)
        for share_RQ in watch(blocks, "drawing problems", "draws", resamples, lambda: sum(d.size for d in drawn)):
            w_RQ = share_RQ * problems
            beyond_R = np.zeros(len(w_RQ))
            for below_QV, beyond_QV in tables:
                below_RV = w_RQ @ below_QV
                rank_R = self.quantile * (below_RV[:, -1] + 1)
                at_R = np.minimum((below_RV < rank_R[:, None] - 1e-9).sum(axis=1), below_RV.shape[1] - 1)
                beyond_R += (w_RQ * beyond_QV[:, at_R].T).sum(axis=1)
            size_R = w_RQ @ size_Q
            drawn.append(beyond_R[size_R > 0] / size_R[size_R > 0])
        error = float(np.concatenate(drawn).std()) * float(np.sqrt(problems / max(problems - 1, 1)))
        return bounded(t_interval(value, error, size_Q, level), 0.0, 1.0)


def _counts(row: IntArray, column: IntArray, rows: int, columns: int) -> FloatArray:
    cells = np.bincount(row * columns + column, minlength=rows * columns)
    return cells.reshape(rows, columns).astype(np.float64)


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
    name: str, rare_N: BoolArray, whole: Estimate | None, pool: _Pool, marks: _Marks, problems: int, level: float
) -> RareGroup:
    words_N = pool.words_N

    def share(mark_N: BoolArray, member_N: BoolArray) -> Estimate:
        return share_interval(mark_N, member_N, pool.problem_N, problems, level)

    return RareGroup(
        definition=name,
        sentences=int(rare_N.sum()),
        share=whole or Estimate(float(rare_N.mean())),
        mean_words=float(words_N[rare_N].mean()) if rare_N.any() else float("nan"),
        rest_mean_words=float(words_N[~rare_N].mean()) if (~rare_N).any() else float("nan"),
        reflective=share(marks.reflective_N, rare_N),
        rest_reflective=share(marks.reflective_N, ~rare_N),
        pivotal=share(marks.pivotal_N, rare_N),
        rest_pivotal=share(marks.pivotal_N, ~rare_N),
    )


def _auc(a_N: FloatArray, b_M: FloatArray) -> float:
    ranks = stats.rankdata(np.concatenate([a_N, b_M]))
    return float((ranks[: a_N.size].sum() - a_N.size * (a_N.size + 1) / 2) / (a_N.size * b_M.size))


def _histogram(values: FloatArray, edges: FloatArray) -> Histogram:
    amounts, _ = np.histogram(values, edges)
    return Histogram([float(edge) for edge in edges], [int(count) for count in amounts])


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
