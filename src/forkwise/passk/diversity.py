"""How different a problem's samples are from each other, at equal counts and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError
from forkwise.passk.estimator import FloatArray
from forkwise.passk.outcomes import Arm
from forkwise.progress import watch
from forkwise.tasks.answers.classes import answer_classes

TokenTexts = Sequence[str]
Embed = Callable[[Sequence[str]], npt.ArrayLike]
"""A function from texts to vectors, one row per text: `forkwise.explore.encoder.SentenceEncoder().encode`."""


def _ngrams(tokens: TokenTexts, n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def distinct_n(samples: Sequence[TokenTexts], n: int, budget: int | None = None) -> float:
    """Returns the expected share of distinct n-grams among `budget` drawn without replacement from all samples.

    The plain ratio distinct/total falls with the amount of text; at a fixed budget it does not. The expectation is
    exact (rarefaction, Hurlbert 1971, Ecology 52(4)): each n-gram with frequency f is seen with probability
    `1 - C(N-f, budget) / C(N, budget)`.

    Args:
        samples: tokenised texts.
        budget: n-grams compared; `None` takes all there are, which is the plain distinct-n.

    Raises:
        InputError: fewer than `budget` n-grams, or none.
    """
    frequency = Counter(gram for tokens in samples for gram in _ngrams(tokens, n))
    total = sum(frequency.values())
    budget = total if budget is None else budget
    if not 1 <= budget <= total:
        raise InputError(f"A budget of {budget} {n}-grams needs between 1 and the {total} that the samples hold.")
    # C(N-f, m) / C(N, m) = prod_{i<f} (N-m-i) / (N-i)
    i = np.arange(max(frequency.values()), dtype=np.float64)
    unseen = np.concatenate([[1.0], np.cumprod(np.clip(total - budget - i, 0, None) / (total - i))])
    repeats = Counter(frequency.values())
    return float(sum(many * (1 - unseen[f]) for f, many in repeats.items()) / budget)


def self_bleu(samples: Sequence[TokenTexts], max_n: int = 4) -> float:
    """Returns the mean BLEU of each sample against all others: 1 when all are equal, near 0 when they share nothing.

    Equal to nltk's `sentence_bleu(others, sample, smoothing_function=SmoothingFunction().method1)` with uniform weights
    (Zhu et al. 2018, arXiv 1802.01886, sec. 2.3), but in time linear in the text: the clipping count "largest in any
    other sample" needs only the largest and second-largest count of each n-gram.

    Raises:
        InputError: fewer than two samples.
    """
    if len(samples) < 2:
        raise InputError("Self-BLEU compares samples with each other, so it needs at least two.")
    lengths = np.array([len(tokens) for tokens in samples])
    log_precision = np.zeros(len(samples))
    silent = np.zeros(len(samples), dtype=bool)  # no word in common with any other: nltk answers 0
    for n in range(1, max_n + 1):
        counted = [Counter(_ngrams(tokens, n)) for tokens in samples]
        best: dict[tuple[str, ...], tuple[int, int]] = {}
        for grams in counted:
            for gram, count in grams.items():
                first, second = best.get(gram, (0, 0))
                if count > first:
                    best[gram] = (count, first)
                elif count > second:
                    best[gram] = (first, count)
        for s, grams in enumerate(counted):
            # The largest count elsewhere is the second-largest overall exactly when this sample holds the largest.
            matched = sum(
                min(count, best[gram][1] if count == best[gram][0] else best[gram][0]) for gram, count in grams.items()
            )
            silent[s] |= n == 1 and matched == 0
            log_precision[s] += np.log((matched or 0.1) / max(1, sum(grams.values()))) / max_n  # method1: epsilon 0.1
    ordered = np.sort(lengths)
    penalty = np.empty(len(samples))
    for s, length in enumerate(lengths):
        # Nearest length among the others; of two equally near ones the shorter.
        at = int(np.searchsorted(ordered, length))
        neighbours = [ordered[j] for j in (at - 1, at + 1) if 0 <= j < len(ordered)]
        nearest = min(neighbours, key=lambda other: (abs(int(other) - int(length)), other))
        penalty[s] = 0.0 if length == 0 else min(0.0, 1 - nearest / length)
    scores = np.where(silent | (lengths == 0), 0.0, np.exp(penalty + log_precision))
    return float(scores.mean())


def repetition_rate(samples: Sequence[TokenTexts], n: int = 4) -> float:
    """Returns the mean share of n-grams that already occurred in the same sample; 0 for a text that is too short."""
    rates = []
    for tokens in samples:
        grams = _ngrams(tokens, n)
        rates.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return float(np.mean(rates))


def answer_entropy(answers: Sequence[str | None], *, by_text: bool = False) -> float:
    """Returns the entropy (nats) of the answers, with the Miller–Madow correction `+ (distinct - 1) / (2 n)`.

    Equal answers count as one, see `answer_classes`. Samples without an answer are left out; NaN when there is
    no answer at all. (Miller 1955, "Note on the bias of information estimates".)
    """
    votes = Counter(a for a in answer_classes(answers, by_text=by_text) if a is not None)
    n = sum(votes.values())
    if n == 0:
        return float("nan")
    p = np.array(list(votes.values())) / n
    return float(-(p * np.log(p)).sum() + (len(votes) - 1) / (2 * n))


def mean_pairwise_cosine(embeddings: npt.ArrayLike) -> float:
    """Returns the mean cosine over all pairs of unit rows, from the sum alone: `(|sum e|^2 - n) / (n (n - 1))`."""
    unit = _unit_rows(embeddings)
    n = unit.shape[0]
    return float(((unit.sum(axis=0) ** 2).sum() - n) / (n * (n - 1)))


def vendi_score(embeddings: npt.ArrayLike) -> float:
    """Returns the effective number of distinct rows: exp of the entropy of the eigenvalues of the cosine matrix over n.

    Friedman & Dieng 2023, arXiv 2210.02410, eq. 2. The `n x n` Gram matrix and the `d x d` covariance share their
    non-zero eigenvalues, and the smaller matrix is used.
    """
    unit = _unit_rows(embeddings)
    n, d = unit.shape
    values = np.linalg.eigvalsh(unit @ unit.T if n <= d else unit.T @ unit) / n
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def _unit_rows(embeddings: npt.ArrayLike) -> FloatArray:
    array = np.asarray(embeddings, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < 2:
        raise InputError(f"Embeddings must be one row per sample, at least two; the shape is {array.shape}.")
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise InputError("An embedding is zero, NaN or infinite, so it has no direction; embed that text again.")
    unit: FloatArray = array / norms
    return unit


@dataclass(frozen=True)
class Diversity:
    """Diversity of one arm's samples: measure -> value per problem `(Q,)`, NaN where it is undefined."""

    arm: str
    samples: int
    """Number of samples used of each problem, the first; the same in every arm, since most measures depend on it."""
    budget: int
    """Number of n-grams of words that distinct-n compares; the same in every arm and problem."""
    values: dict[str, FloatArray]


NGRAM = 3


def diversity(arms: Sequence[Arm], *, budget: int | None = None, embed: Embed | None = None) -> list[Diversity]:
    """Measures the diversity of each arm's problems, at the same number of samples and the same n-gram budget.

    Runs (seeds) of an arm are measured one by one and averaged. Texts are split at white space.

    Args:
        budget: n-grams compared by distinct-n; `None` is the most that every problem of every arm has.
        embed: turns texts into vectors; adds the mean pairwise cosine and the Vendi score of each problem's samples.

    Raises:
        InputError: an arm read without its texts, or with fewer than two samples of a problem.
    """
    for arm in arms:
        if arm.completion_N is None or any(text is None for text in arm.completion_N):
            raise InputError(f"'{arm.name}' lacks the texts of its samples, so their diversity cannot be measured.")
    samples = min(arm.largest_k() for arm in arms)
    if samples < 2:
        raise InputError("Diversity compares samples with each other, so it needs at least two per problem.")
    words = [[str(text).split() for text in arm.completion_N] for arm in arms]  # type: ignore[union-attr]
    chosen = [[[index[:samples] for index in row] for row in arm.groups()] for arm in arms]
    smallest = min(
        sum(max(0, len(words[a][i]) - NGRAM + 1) for i in index)
        for a, rows in enumerate(chosen)
        for row in rows
        for index in row
    )
    budget = smallest if budget is None else budget
    measured = []
    for a, arm in enumerate(arms):
        per_run: dict[str, list[list[float]]] = {}
        for row in chosen[a]:
            columns: dict[str, list[float]] = {}
            for index in watch(row, f"diversity of {arm.name}", "problems"):
                texts = [words[a][i] for i in index]
                right = [i for i in index if arm.correct_N[i]]
                measures = {
                    f"distinct-{NGRAM}": distinct_n(texts, NGRAM, budget) if budget else float("nan"),
                    "self-BLEU": self_bleu(texts),
                    "4-gram repetition": repetition_rate(texts),
                    "distinct correct texts": float(len({tuple(words[a][i]) for i in right})),
                }
                if arm.answer_N is not None:
                    answers = [arm.answer_N[i] for i in index]
                    classes = answer_classes(answers, by_text=arm.by_text)
                    class_of = dict(zip(index, classes, strict=True))
                    measures["answer entropy (nats)"] = answer_entropy(answers, by_text=arm.by_text)
                    measures["distinct correct answers"] = float(len({class_of[i] for i in right} - {None}))
                    measures["no answer (share)"] = float(np.mean([c is None for c in classes]))
                if embed is not None:
                    vectors = embed([str(arm.completion_N[i]) for i in index])  # type: ignore[index]
                    measures["mean pairwise cosine"] = mean_pairwise_cosine(vectors)
                    measures["Vendi score"] = vendi_score(vectors)
                for name, value in measures.items():
                    columns.setdefault(name, []).append(value)
            for name, column in columns.items():
                per_run.setdefault(name, []).append(column)
        values = {name: np.mean(np.array(rows), axis=0) for name, rows in per_run.items()}
        measured.append(Diversity(arm.name, samples, budget, values))
    return measured
