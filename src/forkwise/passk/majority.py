"""maj@K: what a majority vote over K samples gets right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from forkwise.passk.estimator import FloatArray
from forkwise.passk.outcomes import Arm
from forkwise.progress import watch
from forkwise.tasks.answers.classes import answer_classes

EXACT_UP_TO = 64
"""Samples per problem up to which maj@K is computed exactly."""


@dataclass(frozen=True)
class Votes:
    """The answers to one problem: samples per distinct answer, the share of each that is correct, and no-answers."""

    counts: npt.NDArray[np.int64]
    correct: FloatArray
    none: int


def count_votes(
    answers: Sequence[str | None], correct: Sequence[bool] | npt.NDArray[np.bool_], *, by_text: bool = False
) -> Votes:
    """Counts votes over classes of equal answers (`answer_classes`). A sample without an answer casts no vote."""
    tally: dict[int, list[int]] = {}
    none = 0
    for answer, verdict in zip(answer_classes(answers, by_text=by_text), correct, strict=True):
        if answer is None:
            none += 1
            continue
        row = tally.setdefault(answer, [0, 0])
        row[0] += 1
        row[1] += bool(verdict)
    table = np.array(list(tally.values()), dtype=np.int64).reshape(-1, 2)
    return Votes(table[:, 0], table[:, 1] / np.maximum(table[:, 0], 1), none)


def _times(poly_GK: FloatArray, coefficients: Sequence[FloatArray | float]) -> FloatArray:
    """Multiplies polynomials in x, cut at the degree of the first; a coefficient may differ per row."""
    product = np.zeros_like(poly_GK)
    width = poly_GK.shape[1]
    for j, coefficient in enumerate(coefficients[:width]):
        product[:, j:] += np.reshape(coefficient, (-1, 1)) * poly_GK[:, : width - j]
    return product


def _win_counts(votes: Votes, winner: int, largest: int) -> FloatArray:
    """Sums the share of the vote's prize that `winner` takes over all K-subsets; index K = 0..largest.

    With v votes for the winner, the subsets are counted by the generating function
    `C(m, v) x^v * prod_rivals (sum_{j<v} C(m_b, j) x^j + s C(m_b, v) x^v)`: the power of s is the number t of rivals
    tied with it, and the prize 1/(1+t) is the integral of s^t over [0, 1], which Gauss–Legendre nodes give exactly.
    """
    m = int(votes.counts[winner])
    rivals = np.delete(votes.counts, winner)
    total = np.zeros(largest + 1)
    for v in range(1, min(m, largest) + 1):
        strong = rivals[rivals >= v]  # the others can neither beat nor tie v votes, and neither can no-answers
        free = int(rivals[rivals < v].sum()) + votes.none
        ties = min(strong.size, largest // v - 1)
        nodes, weights = np.polynomial.legendre.leggauss(ties // 2 + 1)
        s = (nodes + 1) / 2
        poly = np.zeros((s.size, largest + 1))
        poly[:, v] = special.comb(m, v)
        poly = _times(poly, list(special.comb(free, np.arange(min(free, largest) + 1))))
        for rival in strong:
            poly = _times(poly, [*special.comb(rival, np.arange(v)), s * special.comb(rival, v)])
        total += weights / 2 @ poly
    return total


def maj_at_k(votes: Votes, ks: Sequence[int], *, draws: int = 2000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Computes the chance that the most frequent answer of K samples drawn without replacement is correct; ties share.

    K samples without a single answer are wrong. Exact for up to `EXACT_UP_TO` samples, else `draws` seeded draws per K.

    Returns:
        `(chance, error)`, each `(len(ks),)`; `error` is the Monte-Carlo standard error, 0 where exact.
    """
    n = int(votes.counts.sum()) + votes.none
    k = np.asarray(ks)
    if not (votes.correct > 0).any():
        return np.zeros(k.size), np.zeros(k.size)
    if n <= EXACT_UP_TO:
        won = np.zeros(int(k.max()) + 1)
        for a in np.flatnonzero(votes.correct > 0):
            won += votes.correct[a] * _win_counts(votes, int(a), int(k.max()))
        return won[k] / special.comb(n, k), np.zeros(k.size)
    rng = np.random.default_rng(seed)
    urn = np.append(votes.counts, votes.none)
    chance, error = np.empty(k.size), np.empty(k.size)
    for i, size in enumerate(k):
        drawn = rng.multivariate_hypergeometric(urn, int(size), size=draws, method="marginals")[:, :-1]
        top = drawn.max(axis=1, keepdims=True)
        leading = (drawn == top) & (top > 0)
        prize = (leading @ votes.correct) / np.maximum(leading.sum(axis=1), 1)
        chance[i], error[i] = prize.mean(), prize.std(ddof=1) / np.sqrt(draws)
    return chance, error


def majority_curves(arm: Arm, ks: Sequence[int], *, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Computes maj@K `(S, Q, K)`, and the Monte-Carlo standard error `(K,)` of its mean over runs and problems."""
    assert arm.answer_N is not None
    value = np.empty((len(arm.runs), len(arm.problems), len(ks)))
    error = np.empty_like(value)
    for s, row in enumerate(arm.groups()):
        for q, index in enumerate(watch(row, f"maj@K of {arm.name}", "problems")):
            votes = count_votes([arm.answer_N[i] for i in index], arm.correct_N[index], by_text=arm.by_text)
            value[s, q], error[s, q] = maj_at_k(votes, ks, seed=seed + q)
    return value, np.sqrt((error**2).sum(axis=(0, 1))) / (value.shape[0] * value.shape[1])
