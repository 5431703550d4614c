"""Rigorous bounds of a token's entropy from its top-k log-probabilities and the mass that they miss.

With candidates p_1 >= ... >= p_k, m = 1 - sum p_i and V tokens in the vocabulary, the entropy is
`sum -p_i log p_i` plus what the unseen tail contributes: at least as much as if its mass sat on as few tokens as
possible, none likelier than p_k, and at most `m log((V - k) / m)`, as if it were spread evenly. This is exact for the
numbers as given; servers round them to some 1e-7, which moves the bounds by as little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError

FloatArray = npt.NDArray[np.float64]

ASSUMED_VOCABULARY = 1 << 18
"""Tokens, where nobody says how many: not below any vocabulary in common use (Gemma's has 262,144)."""

_ROUNDING = 1e-3  # log-probs come rounded, up to some 1e-6 above 0; raw logits are off by units
_MASS_ROUNDING = 0.01
_SAME = 1e-6  # a log-prob of the list that is the sampled token's
_FLOOR = -1000.0  # OpenAI writes -9999 for "very unlikely": no information on the tail
_COMPLETE = 1e-3  # a list that misses less than this may be shorter than the others: there is hardly anything else


class LogprobError(ValueError):
    """Log-probs that cannot be such; says which position and what they look like."""


@dataclass(frozen=True)
class Bounds:
    """Entropy of each token, nats, `(T,)` float64."""

    low: FloatArray
    high: FloatArray
    missing: FloatArray
    """Probability that the candidates leave out."""
    candidates: int
    """The usual k."""


def entropy_bounds(
    top: Sequence[Sequence[float]], vocabulary: int = ASSUMED_VOCABULARY, sampled: Sequence[float | None] | None = None
) -> Bounds:
    """Bounds of the entropy at each position.

    Args:
        top: log-probs (nats) of the candidates at each position, in any order; -inf is allowed.
        vocabulary: number of tokens; a larger one gives a higher upper bound, by `m log` of the ratio.
        sampled: log-prob of the token at each position. vLLM adds a sampled token that is not among the k likeliest to
            the list; where the sampled one is the least likely of the list, the tail is capped by the one before it.

    Raises:
        LogprobError: log-probs above 0, raw logits, or truncated lists.
    """
    if sampled is not None and len(sampled) != len(top):
        raise LogprobError(
            f"there are {len(sampled)} tokens but {len(top)} lists of candidates: the lists are truncated"
        )
    lists = [np.sort(np.asarray(c, dtype=np.float64))[::-1] for c in top]
    usual, certain = _usual(lists, sampled)
    low, high, missing = np.zeros(len(lists)), np.zeros(len(lists)), np.zeros(len(lists))
    for t, candidates in enumerate(lists):
        own = None if sampled is None else sampled[t]
        mass = _check(candidates, t, usual, vocabulary, own)
        told = candidates[candidates > _FLOOR]
        p = np.exp(told)
        partial = float(-(p * told).sum())
        m = max(0.0, 1.0 - mass)
        last = own is not None and told.size > 1 and abs(told[-1] - own) < _SAME
        appended = last and (candidates.size > usual or not certain)
        cap = float(p[-2] if appended else p[-1])
        low[t] = partial + _concentrated(m, cap)
        spread = vocabulary - told.size
        high[t] = max(low[t], partial + (m * math.log(spread / m) if m > 0 and spread > 0 else 0.0))
        missing[t] = m
    return Bounds(low, high, missing, usual)


def _usual(lists: Sequence[FloatArray], sampled: Sequence[float | None] | None) -> tuple[int, bool]:
    """The k of the lists, and whether it is certain: a list that ends with the sampled token may be one longer."""
    certain = [
        c.size
        for c, own in zip(lists, sampled or [None] * len(lists), strict=True)
        if c.size < 2 or own is None or abs(c[-1] - own) >= _SAME
    ]
    if certain:
        return int(np.median(certain)), True
    return min((c.size for c in lists), default=0), not lists


def _check(candidates: FloatArray, t: int, usual: int, vocabulary: int, own: float | None) -> float:
    """The mass of the candidates of position `t`, or an error."""
    place = f"position {t + 1}"
    if candidates.size == 0:
        raise LogprobError(f"{place} has no candidates: the lists are truncated")
    if np.isnan(candidates).any():
        raise LogprobError(f"{place} has a log-prob that is not a number")
    highest = float(candidates[0]) if own is None else max(float(candidates[0]), own)
    if highest > _ROUNDING:
        raise LogprobError(f"{place} has a log-prob of {highest:.4g}, above 0: these are raw logits, or no log-probs")
    mass = float(np.exp(candidates).sum())
    if mass > 1 + _MASS_ROUNDING:
        raise LogprobError(f"the candidates at {place} have a probability of {mass:.3g}: these are raw logits")
    # The likeliest of V tokens has at least 1/V; candidates below that are not the likeliest, or no log-probs.
    if candidates[0] < -math.log(vocabulary) - _ROUNDING:
        raise LogprobError(
            f"the likeliest candidate at {place} has a log-prob of {candidates[0]:.4g}, which no distribution over "
            f"{vocabulary:,} tokens allows: these are raw logits"
        )
    if candidates.size < usual and 1 - mass > _COMPLETE:
        raise LogprobError(
            f"{place} has {candidates.size} candidates where {usual} are usual, and they miss {1 - mass:.1%} of the "
            "probability: the lists are truncated"
        )
    return mass


def _concentrated(mass: float, cap: float) -> float:
    """The smallest `sum -p log p` of numbers that add up to `mass`, none above `cap`: as many at the cap as fit."""
    if mass <= 0 or cap <= 0:
        return 0.0
    full = math.floor(mass / cap)
    rest = mass - full * cap
    value = -full * cap * math.log(cap)
    return value - rest * math.log(rest) if rest > 0 else value


def check_vocabulary(vocabulary: int) -> None:
    """Raises InputError for a vocabulary that no model has."""
    if vocabulary < 2:
        raise InputError(f"The vocabulary is {vocabulary}: give the model's number of tokens, such as 151936.")
