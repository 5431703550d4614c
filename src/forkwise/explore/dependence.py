"""Whether the reasoning still depends on the prompt. Token entropy cannot tell: varied text may ignore the prompt.

RAGEN-2 (arXiv 2604.06268) splits the entropy of responses Z to prompts X: `H(Z) = H(Z|X) + I(X; Z)`. Every response is
scored under every prompt; with `matched` its log-probability under its own and `marginal` the log of the mean of its
probabilities under all N prompts, `I = mean(matched - marginal)`, never more than log N.

Where it cannot discriminate: on word problems, where every response repeats its problem's nouns and numbers, any
estimate sits at log N whatever the reasoning does, and is printed as saturated. It speaks where prompts are alike.

Suffixes: M responses, N distinct prompts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import logsumexp

from forkwise.errors import InputError
from forkwise.explore.contrast import FloatArray, IntArray, Resampling, mean_interval
from forkwise.explore.findings import Dependence, Retrieval
from forkwise.folders import whole_file

_SATURATED = 0.95  # of log N
_KS = (1, 2, 4, 8)


@dataclass(frozen=True)
class CrossLogprobs:
    """Log-probabilities of every response under every prompt.

    Attributes:
        logprob_MN: nats, of the whole response; -inf where a prompt makes it impossible.
        own_M: index of the prompt that a response answers.
    """

    logprob_MN: FloatArray
    own_M: IntArray

    def __post_init__(self) -> None:
        m, n = self.logprob_MN.shape if self.logprob_MN.ndim == 2 else (0, 0)
        if n < 2 or m < 2:
            raise InputError(
                f"Input dependence compares prompts, so it needs responses to at least two; the matrix is {m} x {n}."
            )
        if self.own_M.shape != (m,) or self.own_M.min() < 0 or self.own_M.max() >= n:
            raise InputError(f"'own' must hold for each of the {m} responses the index of its prompt, 0 to {n - 1}.")
        if np.isnan(self.logprob_MN).any() or (self.logprob_MN > 1e-3).any():
            raise InputError("The cross log-probabilities hold NaN or values above 0: they must be log-probs in nats.")
        if not np.isfinite(self.logprob_MN[np.arange(m), self.own_M]).all():
            raise InputError("A response is impossible under its own prompt: the matrix or 'own' is wrong.")


def read_cross(path: Path) -> CrossLogprobs:
    """Reads a matrix that any trainer may have written: `.npz` with `logprobs` (M, N) in nats and `own` (M,).

    Raises:
        InputError: it cannot be read, or is not such a matrix.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return CrossLogprobs(file["logprobs"].astype(np.float64), file["own"].astype(np.int64))
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{path}' cannot be read as .npz with 'logprobs' and 'own' ({error}).") from error


def write_cross(path: Path, cross: CrossLogprobs) -> None:
    """Writes the matrix to a file that `read_cross` reads."""
    with whole_file(path) as file:
        np.savez_compressed(file, logprobs=cross.logprob_MN, own=cross.own_M)


def from_cross(cross: CrossLogprobs, resampling: Resampling | None = None) -> Dependence:
    """Estimates the mutual information of responses and prompts, its parts, and whether it is more than chance.

    The interval is over prompts (the columns stay). p permutes which prompt belongs to which group of responses.
    """
    resampling = resampling or Resampling()
    n = cross.logprob_MN.shape[1]
    matched_M = cross.logprob_MN[np.arange(cross.own_M.size), cross.own_M]
    marginal_M = logsumexp(cross.logprob_MN, axis=1) - math.log(n)
    information = mean_interval(matched_M - marginal_M, cross.own_M, n, resampling.level)
    assert information.value is not None
    p, retrieval_p = _permuted(cross.logprob_MN - marginal_M[:, None], cross.own_M, resampling)
    return Dependence(
        method="model",
        prompts=n,
        responses=cross.own_M.size,
        information=information,
        ceiling=math.log(n),
        saturated=information.value >= _SATURATED * math.log(n),
        retrieval=_retrieval(cross.logprob_MN, cross.own_M, resampling),
        p=p,
        retrieval_p=retrieval_p,
        permutations=resampling.resamples,
        smallest_p=_smallest_p(n, resampling),
        entropy=float(-marginal_M.mean()),
        conditional_entropy=float(-matched_M.mean()),
    )


def from_texts(prompts: Sequence[str], responses: Sequence[str], resampling: Resampling | None = None) -> Dependence:
    """Measures dependence without a model: how well the words of a response point to its prompt.

    Similarity is the cosine of TF-IDF vectors; the information is InfoNCE's lower bound (van den Oord et al. 2018,
    arXiv 1807.03748, eq. 5) with the temperature chosen on the other half of the prompts.

    Args:
        prompts, responses: `(M,)`; equal prompts are one.

    Raises:
        InputError: fewer than two distinct prompts.
    """
    resampling = resampling or Resampling()
    distinct = list(dict.fromkeys(prompts))
    n = len(distinct)
    if n < 2:
        raise InputError("Input dependence compares prompts, so it needs responses to at least two different ones.")
    number = {prompt: i for i, prompt in enumerate(distinct)}
    own_M = np.array([number[prompt] for prompt in prompts])
    similarity_MN = _tfidf_cosine(responses, distinct)
    gain_M = _info_nce(similarity_MN, own_M)
    information = mean_interval(gain_M, own_M, n, resampling.level)
    assert information.value is not None
    p, retrieval_p = _permuted(similarity_MN, own_M, resampling)
    return Dependence(
        method="text",
        prompts=n,
        responses=own_M.size,
        information=information,
        ceiling=math.log(n),
        saturated=information.value >= _SATURATED * math.log(n),
        retrieval=_retrieval(similarity_MN, own_M, resampling),
        p=p,
        retrieval_p=retrieval_p,
        permutations=resampling.resamples,
        smallest_p=_smallest_p(n, resampling),
    )


def _retrieval(score_MN: FloatArray, own_M: IntArray, resampling: Resampling) -> list[Retrieval]:
    """Returns the share of responses whose own prompt is among the k that fit best; of prompts that fit as well, it is
    the expectation over their order, so that scores which tell nothing give chance."""
    n = score_MN.shape[1]
    own_score = score_MN[np.arange(own_M.size), own_M][:, None]
    better_M, equal_M = (score_MN > own_score).sum(axis=1), (score_MN == own_score).sum(axis=1)
    return [
        Retrieval(k, mean_interval(hit_M, own_M, n, resampling.level, within=(0.0, 1.0)), k / n)
        for k in _KS
        if k < n
        for hit_M in [np.clip((k - better_M) / equal_M, 0.0, 1.0)]
    ]


def _permuted(score_MN: FloatArray, own_M: IntArray, resampling: Resampling) -> tuple[float, float]:
    """Returns p of the mean own score and of the accuracy at 1, dealing prompts to groups of responses at random."""
    n = score_MN.shape[1]
    rng = np.random.default_rng([resampling.seed, 7])
    finite = np.maximum(score_MN, -1e9)  # an impossible pair stays the worst
    sum_NN = np.zeros((n, n))
    np.add.at(sum_NN, own_M, finite)
    best = finite.max(axis=1, keepdims=True)
    hit_NN = np.zeros((n, n))
    hit_MN = (finite == best) / (finite == best).sum(axis=1, keepdims=True)
    np.add.at(hit_NN, own_M, hit_MN)
    rows = np.arange(n)
    observed, hits = float(np.trace(sum_NN)), float(np.trace(hit_NN))
    as_large = as_many = 0
    for _ in range(resampling.resamples):
        dealt = rng.permutation(n)
        as_large += float(sum_NN[rows, dealt].sum()) >= observed - 1e-9 * abs(observed)
        as_many += float(hit_NN[rows, dealt].sum()) >= hits - 1e-9
    return (1 + as_large) / (resampling.resamples + 1), (1 + as_many) / (resampling.resamples + 1)


def _smallest_p(n: int, resampling: Resampling) -> float:
    """Returns what p would be if only the true order of the prompts gave as much: of n! orders, or of those drawn."""
    orders = math.factorial(n) if n < 20 else math.inf
    return 1 / (resampling.resamples + 1) + (1 - 1 / (resampling.resamples + 1)) / orders


def _info_nce(similarity_MN: FloatArray, own_M: IntArray) -> FloatArray:
    """Returns `log N + log softmax(similarity / tau)[own]` per response; tau fits prompts of the other parity."""
    n = similarity_MN.shape[1]
    rows = np.arange(own_M.size)

    def gain(tau: float) -> FloatArray:
        scaled = similarity_MN / tau
        value: FloatArray = math.log(n) + scaled[rows, own_M] - logsumexp(scaled, axis=1)
        return value

    grid = np.geomspace(0.005, 10.0, 24)
    gains = np.stack([gain(float(tau)) for tau in grid])
    gain_M = np.empty(own_M.size)
    for parity in (0, 1):
        in_half, in_other_half = own_M % 2 == parity, own_M % 2 != parity
        chosen = int(np.argmax(gains[:, in_other_half].mean(axis=1))) if in_other_half.any() else gains.shape[0] - 1
        gain_M[in_half] = gains[chosen, in_half]
    return gain_M


_TERM = re.compile(r"\\?[^\W\d_]+|\d+|[^\w\s]")


def _tfidf_cosine(texts: Sequence[str], prompts: Sequence[str]) -> FloatArray:
    """Computes the cosine of the TF-IDF vectors of texts and prompts, `(texts, prompts)`; idf is over the prompts.

    Terms are words, whole numbers and signs; tf is `1 + log count`, idf `log((1 + N) / (1 + df))`, so what every prompt
    holds counts nothing.
    """
    term_counts = [Counter(_TERM.findall(prompt.lower())) for prompt in prompts]
    index = {term: i for i, term in enumerate(dict.fromkeys(term for count in term_counts for term in count))}
    df = np.zeros(len(index))
    for count in term_counts:
        df[[index[term] for term in count]] += 1
    idf = np.log((1 + len(prompts)) / (1 + df))
    a = _rows([Counter(_TERM.findall(text.lower())) for text in texts], index, idf)
    return np.asarray((a @ _rows(term_counts, index, idf).T).todense(), dtype=np.float64)


def _rows(term_counts: Sequence[Counter[str]], index: dict[str, int], idf: npt.NDArray[np.float64]) -> Any:
    weights, columns, pointers = [], [], [0]
    for count in term_counts:
        terms = [(index[term], 1 + math.log(times)) for term, times in count.items() if term in index]
        values = np.array([weight for _, weight in terms]) * idf[[i for i, _ in terms]] if terms else np.zeros(0)
        norm = float(np.linalg.norm(values)) or 1.0
        weights += (values / norm).tolist()
        columns += [i for i, _ in terms]
        pointers.append(len(columns))
    return sparse.csr_matrix((weights, columns, pointers), shape=(len(term_counts), len(index)))
