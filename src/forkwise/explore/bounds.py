"""Rigorous bounds of a token's entropy from log-probabilities of some candidates and the mass that they miss.

With k candidates p_i, m = 1 - sum p_i and V tokens in the vocabulary, the entropy is `sum -p_i log p_i` plus what the
unseen tail contributes: at most `m log((V - k) / m)`, as if it were spread evenly, and at least as much as if its mass
sat on as few tokens as possible. Where the candidates are the k likeliest, none of these is likelier than p_k. Often
they are not: vLLM lists the sampled token and the k - 1 likeliest; candidates with one string share one entry of a text
completion's list; a log-prob may be null. Then nothing caps the tail, which may be a single token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError

FloatArray = npt.NDArray[np.float64]

ASSUMED_VOCABULARY = 1 << 18
"""Size of the vocabulary where nobody gives it: not below any in common use (Gemma's has 262,144 tokens)."""

_TOO_HIGH = 1e-3  # nats above 0: rounded log-probs reach some 1e-6, raw logits several whole nats
_MASS_ROUNDING = 0.01
_SAME = 0.01  # nats: a candidate this near to the sampled token may be it, rounded otherwise
_FLOOR = -1000.0  # OpenAI writes -9999 for "very unlikely": no information on the tail
_FEWEST_DECIMALS = 2
_STORED = 1e-6  # nats: rounding of float32 in a log-prob whose token matters


class LogprobError(ValueError):
    """The numbers given cannot be log-probs; the message says at which position, and what they look like."""


@dataclass(frozen=True)
class Bounds:
    """Entropy of each token, nats, `(T,)` float64."""

    low: FloatArray
    high: FloatArray
    missing: FloatArray
    """Probability that the candidates leave out, for each token."""
    candidates: int
    """The usual number k of candidates."""


def entropy_bounds(
    top: Sequence[Sequence[float | None]],
    vocabulary: int = ASSUMED_VOCABULARY,
    sampled: Sequence[float | None] | None = None,
    rounding: float = 0.0,
) -> Bounds:
    """Bounds the entropy at each position from below and above.

    Args:
        top: log-probs (nats) of the candidates at each position, in any order. None and NaN stand for a candidate whose
            log-prob is unknown, -9999 and -inf for one below all others. Positions may have fewer than usual, or none.
        vocabulary: number of tokens; a larger one gives a higher upper bound, by `m log` of the ratio.
        sampled: log-prob of the token at each position, None where unknown. A list whose least likely candidate
            is the sampled one need not be the k likeliest. Without `sampled`, the longest lists are taken for that.
        rounding: how far a log-prob may be from what it was before it was written, nats.

    Raises:
        LogprobError: log-probs above 0, or raw logits.
    """
    if sampled is not None and len(sampled) != len(top):
        raise LogprobError(
            f"there are {len(sampled)} tokens but {len(top)} lists of candidates: the lists are truncated"
        )
    lists = [np.array([math.nan if v is None else v for v in row], dtype=np.float64) for row in top]
    drawn = [None if sampled is None else sampled[t] for t in range(len(lists))]
    known = [np.sort(row[row > _FLOOR])[::-1] for row in lists]
    complete = [known[t].size > 0 and (sampled is None or _apart(known[t][-1], drawn[t])) for t in range(len(lists))]
    # A placeholder may stand for the sampled token, which then is not one of the k candidates.
    sizes = [known[t].size if _is_placeholder(drawn[t]) else int((~np.isnan(row)).sum()) for t, row in enumerate(lists)]
    # In lists that are not complete, the sampled token may come on top of the k.
    usual = max((size if whole else size - 1 for size, whole in zip(sizes, complete, strict=True)), default=0)
    masses = [_check(known[t], t, drawn[t]) for t in range(len(lists))]
    likeliest = [whole and sizes[t] >= usual and not np.isnan(lists[t]).any() for t, whole in enumerate(complete)]
    _check_likeliest([float(p[0]) if p.size else None for p in known], likeliest, vocabulary)
    bounds = [_bounds(p, whole, vocabulary, rounding) for p, whole in zip(known, likeliest, strict=True)]
    low, high = np.array(bounds, dtype=np.float64).reshape(-1, 2).T
    missing = np.maximum(0.0, 1.0 - np.array(masses, dtype=np.float64))
    return Bounds(low, high, missing, usual if any(complete) else max(sizes, default=0))


def candidate_logprobs(candidates: Sequence[Mapping[str, Any]] | None) -> list[float | None]:
    """Returns the log-probs of a stored list of candidates, with None for one that is there twice or may be lost.

    A text completion's list is an object whose keys are the candidates' texts: parts of characters, which all read
    `U+FFFD`, and tokens without any text share one entry. Some servers write the sampled token into its own list again.
    """
    values: list[float | None] = []
    pairs: set[tuple[str, float | None]] = set()
    for candidate in candidates or ():
        pair = (candidate["token"] or "", candidate["logprob"])
        values.append(None if pair in pairs else pair[1])
        pairs.add(pair)
    texts = {text for text, _ in pairs}
    if len(texts) == len(values) and any(not text or "\N{REPLACEMENT CHARACTER}" in text for text in texts):
        values.append(None)
    return values


def written_rounding(values: Sequence[float | None]) -> float:
    """Says how far a server's rounding may have moved each log-prob, nats, by the decimals that all of them have."""
    logprobs = np.array([v for v in values if v is not None and v != 0 and v > _FLOOR], dtype=np.float64)
    if not logprobs.size:
        return _STORED + 0.5 * 10.0**-_FEWEST_DECIMALS  # zeros alone do not tell
    for decimals in range(_FEWEST_DECIMALS, 6):
        scaled = logprobs * 10.0**decimals
        exact = scaled[np.abs(scaled) * 2**-23 < 0.1]  # float32 keeps these decimals
        if exact.size and (np.abs(exact - np.round(exact)) <= np.abs(exact) * 2**-23 + 1e-9).all():
            return _STORED + 0.5 * 10.0**-decimals
    return _STORED


def _is_placeholder(logprob: float | None) -> bool:
    return logprob is not None and logprob <= _FLOOR


def _apart(least: float, sampled: float | None) -> bool:
    """Whether the least likely candidate is certainly not the sampled token, so that the list holds the likeliest."""
    return sampled is not None and abs(sampled - least) > _SAME


def _check(logprobs: FloatArray, t: int, sampled: float | None) -> float:
    """Returns the mass of the candidates of position `t`; refuses what cannot be log-probs."""
    where = f"position {t + 1}"
    highest = max([*logprobs[:1], -math.inf if sampled is None or math.isnan(sampled) else sampled])
    if highest > _TOO_HIGH:
        raise LogprobError(f"{where} has a log-prob of {highest:.4g}, above 0: these are raw logits, or no log-probs")
    mass = float(np.exp(logprobs).sum())
    if mass > 1 + _MASS_ROUNDING:
        raise LogprobError(f"the candidates at {where} have a probability of {mass:.3g}: these are raw logits")
    return mass


def _check_likeliest(best: Sequence[float | None], likeliest: Sequence[bool], vocabulary: int) -> None:
    """Refuses candidates that no distribution allows as its likeliest, which has at least 1 / V."""
    least = -math.log(vocabulary) - _TOO_HIGH
    low = [value is not None and value < least for value in best]
    listed = [value is not None for value in best]
    wrong = [t for t, certain in enumerate(likeliest) if certain and low[t]]
    if not wrong and sum(listed) > 1 and low.count(True) == sum(listed):  # sampled tokens are not all that unlikely
        wrong = [listed.index(True)]
    if wrong:
        raise LogprobError(
            f"the likeliest candidate at position {wrong[0] + 1} has a log-prob of {best[wrong[0]]:.4g}, which no "
            f"distribution over {vocabulary:,} tokens allows: these are raw logits"
        )


def _bounds(logprobs: FloatArray, likeliest: bool, vocabulary: int, rounding: float) -> tuple[float, float]:
    """Bounds the entropy at one position; `likeliest` says that no unseen token is likelier than the last candidate."""
    below, above = logprobs - rounding, np.minimum(logprobs + rounding, 0.0)
    tail = (max(0.0, 1.0 - float(np.exp(above).sum())), max(0.0, 1.0 - float(np.exp(below).sum())))
    unseen = vocabulary - logprobs.size
    cap = math.exp(above[-1]) if likeliest else 1.0
    if unseen * cap < tail[0]:  # the unseen tokens cannot hold the tail if all lie below the last candidate
        cap = 1.0
    low = float(np.minimum(_surprise(below), _surprise(above)).sum()) + _least_concentrated(*tail, cap)
    high = float(_surprise(np.clip(-1.0, below, above)).sum())  # -p log p is largest at p = 1/e
    if unseen > 0 and tail[1] > 0:
        mass = min(tail[1], max(tail[0], unseen / math.e))  # where m log(unseen / m) is largest
        high += mass * math.log(unseen / mass)
    return low, max(low, min(high, math.log(vocabulary)))


def _surprise(logprobs: FloatArray) -> FloatArray:
    """Returns `-p log p` of each candidate."""
    return -np.exp(logprobs) * logprobs


def _least_concentrated(least: float, most: float, cap: float) -> float:
    """Minimises `_concentrated` over masses from `least` to `most`; it is concave between two multiples of the cap."""
    if least <= 0 or cap <= 0:
        return 0.0
    multiple = math.ceil(least / cap) * cap
    return min(_concentrated(mass, cap) for mass in ([least, most, multiple] if multiple < most else [least, most]))


def _concentrated(mass: float, cap: float) -> float:
    """Minimises `sum -p log p` of numbers that add up to `mass`, none above `cap`: as many at the cap as fit."""
    if mass <= 0:
        return 0.0
    full = math.floor(mass / cap)
    remainder = mass - full * cap
    surprise = -full * cap * math.log(cap)
    return surprise - remainder * math.log(remainder) if remainder > 0 else surprise


def check_vocabulary(vocabulary: int) -> None:
    """Raises InputError for a vocabulary that no model has."""
    if vocabulary < 2:
        raise InputError(f"The vocabulary is {vocabulary}: give the model's number of tokens, such as 151936.")
