"""What continuations of a prefix say of it: its value, what its next token decides, and what a token was worth.

With V(s) the chance of a right answer after the prefix s, and a the next token drawn from the policy, a token decides
`F = Var_a V(s a) = E_a V(s a)^2 - V(s)^2`. The next token's probabilities are known, so the likeliest tokens are
forced, with several continuations after each, and only the rest of the mass, the tail, is drawn: first tokens
independently, two continuations after each. Products of two continuations after one first token estimate `V(s a)^2`,
products of continuations after different ones `V(s)^2`, each weighed by the probability of its tokens: F without bias,
which may be negative. (Grouping continuations by their first token weighs tokens equally and not by their probability,
which is wrong where these are unequal.) Where nothing is forced, these are pairs after independent first tokens.

V is a martingale along a trace, so what its tokens decide adds up, in the mean over traces, to `V0 (1 - V0)`. Where the
outcome is the identity of the answer, everything is summed over answers, and this is `1 - sum of squared shares`.

Suffixes: C answers (one, "right", where that is the outcome), G first tokens, N states, Q problems, R continuations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forkwise.explore.contrast import FloatArray, IntArray, cluster_t
from forkwise.explore.findings import Estimate
from forkwise.forks.bounded import Unseen, bounded_ratio, p_of_zero

BoolArray = npt.NDArray[np.bool_]

_ENTRIES = 1 << 22  # of outcomes that are dealt anew at a time
_RARER = np.geomspace(1e-12, 0.5, 100_000)
_OF_TWO_WAYS = -_RARER * np.log(_RARER) - (1 - _RARER) * np.log1p(-_RARER)
"""Entropy of two ways, the rarer of which has the probability `_RARER`; nats."""


@dataclass(frozen=True)
class Branches:
    """The first tokens of a prefix's continuations, in the order of these.

    Attributes:
        weight_G: of a forced token its probability; of a drawn one the mass of the tail over their number.
        forced_G: whether the token was forced, and not drawn.
        size_G: continuations after each, at least two.
    """

    weight_G: FloatArray
    forced_G: BoolArray
    size_G: IntArray

    def __post_init__(self) -> None:
        drawn = int((~self.forced_G).sum())
        if drawn == 1 or (self.size_G < 2).any() or not np.isclose(self.weight_G.sum(), 1.0, atol=1e-6):
            raise ValueError("branches need two continuations each, none or two drawn tokens, and all of the mass")

    @classmethod
    def drawn(cls, first: int, each: int = 2) -> Branches:
        """Makes branches whose first tokens are all drawn."""
        return cls(np.full(first, 1 / first), np.zeros(first, dtype=np.bool_), np.full(first, each, dtype=np.int64))


@dataclass(frozen=True)
class StateValue:
    """Unbiased estimates of one prefix."""

    value_C: FloatArray
    """V: chance of each answer, or of a right one."""
    decided: float
    """F: variance over the next token of the chance after it; may be negative."""
    open: float
    """V (1 - V): what is not yet decided."""


def _moments(branches: Branches, outcome_RC: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns the mean after each first token, `(..., G, C)`, V, `(..., C)`, and F, `(...)`."""
    starts = np.cumsum(branches.size_G) - branches.size_G
    size_G1 = branches.size_G[:, None]
    total_GC = np.add.reduceat(outcome_RC, starts, axis=-2)
    squares_GC = np.add.reduceat(outcome_RC**2, starts, axis=-2)
    mean_GC = total_GC / size_G1
    squared_GC = (total_GC**2 - squares_GC) / (size_G1 * (size_G1 - 1))
    weight_G1, forced_G1 = branches.weight_G[:, None], branches.forced_G[:, None]
    part_GC = weight_G1 * mean_GC
    forced_C = (part_GC * forced_G1).sum(axis=-2)
    tail_C = (part_GC * ~forced_G1).sum(axis=-2)
    own_C = (forced_G1 * (weight_G1**2 * squared_GC - part_GC**2)).sum(axis=-2)
    drawn = int((~branches.forced_G).sum())
    across_C = (tail_C**2 - (part_GC**2 * ~forced_G1).sum(axis=-2)) * (drawn / max(drawn - 1, 1))
    value_squared_C = forced_C**2 + own_C + 2 * forced_C * tail_C + across_C
    decided = ((weight_G1 * squared_GC).sum(axis=-2) - value_squared_C).sum(axis=-1)
    return mean_GC, np.stack([forced_C + tail_C, value_squared_C]), decided


def state_value(branches: Branches, outcome_RC: FloatArray) -> StateValue:
    """Estimates a prefix from its continuations.

    Args:
        outcome_RC: 1 where a continuation ends in the answer (or is right), else 0; in the order of the branches.
    """
    _, (value_C, squared_C), decided = _moments(branches, np.asarray(outcome_RC, dtype=np.float64))
    return StateValue(value_C, float(decided), float((value_C - squared_C).sum()))


def most_decided(entropy_N: FloatArray, *, by_answer: bool = False) -> FloatArray:
    """Computes what a token can decide at most, by its entropy in nats.

    With less than log 2 nats one token has the probability 1 - x, and x is at most what the entropy of two ways allows,
    of x and of 1 - x. What is decided is at most whether this token comes, `x (1 - x)`; or, of answers, which token
    comes, `1 - (1 - x)^2` if all of the others are rare.
    """
    x = _RARER[np.searchsorted(_OF_TWO_WAYS, entropy_N).clip(max=_RARER.size - 1)]  # the next above
    most, ever = (x * (2 - x), 1.0) if by_answer else (x * (1 - x), 0.25)
    most_N: FloatArray = np.select([entropy_N <= 0, entropy_N < _OF_TWO_WAYS[-1]], [0.0, most], default=ever)
    return most_N


def permuted_decided(branches: Branches, outcome_RC: FloatArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """Draws F with outcomes dealt anew to first tokens, `(draws,)`: the exact null where no token decides anything."""
    outcome = np.asarray(outcome_RC, dtype=np.float64)
    at_a_time, decided = max(1, _ENTRIES // outcome.size), []
    for first in range(0, draws, at_a_time):
        number = min(at_a_time, draws - first)
        order = rng.permuted(np.broadcast_to(np.arange(outcome.shape[0]), (number, outcome.shape[0])), axis=1)
        decided.append(_moments(branches, outcome[order])[2])
    return np.concatenate(decided)


def advantages(branches: Branches, right_R: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Estimates what each first token is worth, Q - V, `(G,)`, and the variance of the error of that.

    Both are without bias of forced tokens.
    """
    mean_G, error_G, share_G = _errors(branches, np.asarray(right_R, dtype=np.float64))
    variance_G = share_G.sum() - share_G + (1 - branches.weight_G) ** 2 * error_G
    return mean_G - branches.weight_G @ mean_G, variance_G


def _errors(branches: Branches, right_R: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns the mean after each first token, the variance of its error, and what of it is in that of V, `(G,)`."""
    size_G = branches.size_G
    starts = np.cumsum(size_G) - size_G
    mean_G = np.add.reduceat(right_R, starts) / size_G
    error_G = np.add.reduceat((right_R - np.repeat(mean_G, size_G)) ** 2, starts) / (size_G - 1) / size_G
    share_G = branches.weight_G**2 * error_G
    tail = ~branches.forced_G
    if tail.any():  # of drawn tokens, the spread of their means holds everything
        share_G[tail] = branches.weight_G[tail] ** 2 * mean_G[tail].var(ddof=1)
    return mean_G, error_G, share_G


def value_error(branches: Branches, right_R: FloatArray) -> float:
    """Estimates the standard error of V."""
    return float(np.sqrt(_errors(branches, np.asarray(right_R, dtype=np.float64))[2].sum()))


def binomial_error(share: float, number: int) -> float:
    """Estimates the standard error of a share of `number` continuations that were drawn alike."""
    return float(np.sqrt(share * (1 - share) / (number - 1)))


def halved(branches: Branches, right_R: FloatArray) -> tuple[float, float]:
    """Estimates what the first forced token is worth from each of two halves of the continuations.

    Continuations of a forced token are dealt to the halves in turn, and drawn tokens with theirs: so both estimates
    are without bias, their errors have nothing to do with each other, and their product estimates the square.
    """
    starts = np.cumsum(branches.size_G) - branches.size_G
    weight_G, forced_G = branches.weight_G, branches.forced_G
    worth = []
    for half in (0, 1):
        mean_G = np.array([right_R[i : i + n][half::2].mean() for i, n in zip(starts, branches.size_G, strict=True)])
        whole_G = np.array([right_R[i : i + n].mean() for i, n in zip(starts, branches.size_G, strict=True)])
        value = float(weight_G[forced_G] @ mean_G[forced_G])
        tail = np.flatnonzero(~forced_G)
        if tail.size:
            value += float(weight_G[tail].sum() * whole_G[tail[half::2]].mean())
        worth.append(float(mean_G[0]) - value)
    return worth[0], worth[1]


def variance_of_outcome(outcome_counts: IntArray | list[int], samples: int) -> float:
    """Estimates V0 (1 - V0) of a problem without bias, from how many of its samples end in each answer.

    Where the outcome is right or wrong, `outcome_counts` is the number of right ones alone.
    """
    of = np.asarray(outcome_counts, dtype=np.float64)
    return float((of * (samples - of)).sum() / (samples * (samples - 1)))


@dataclass(frozen=True)
class Budget:
    """The check of what tokens decide against what there is to decide, means over problems."""

    decided: Estimate
    """Sum of F over a trace."""
    available: Estimate
    """V0 (1 - V0)."""
    difference: Estimate
    p: float | None

    @property
    def agrees(self) -> bool:
        """Whether the sum misses what is available by no more than chance allows; only then shares mean anything."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and low <= 0 <= high


def over_problems(x_Q: FloatArray, level: float = 0.95, more: float = 0.0) -> tuple[Estimate, float | None]:
    """Returns the mean over problems of equal weight, with its interval and the two-sided p of zero.

    Of sums over states they are Student's or Gaffke's, whichever is wider: the first below, the second above.

    Args:
        more: what a state that was not drawn may add to the sum of a problem.
    """
    student, p = cluster_t(float(x_Q.mean()), x_Q - x_Q.mean(), np.ones(x_Q.size), level)
    if not more or student.low is None or student.high is None or p is None:
        return student, p
    one_Q, ends = np.ones(x_Q.size), (Unseen(0.0, 0.0), Unseen(more, 0.0))
    other, of_other = bounded_ratio(x_Q, one_Q, one_Q, *ends, level), p_of_zero(x_Q, one_Q, *ends)
    if other.low is None or other.high is None or of_other is None:
        return student, p
    wider = Estimate(student.value, min(student.low, other.low), max(student.high, other.high))
    return wider, max(p, of_other)


def budget(
    decided_Q: FloatArray, available_Q: FloatArray, level: float = 0.95, most_N: FloatArray | None = None
) -> Budget:
    """Compares the sum of what tokens decide with V0 (1 - V0), problem by problem, `(Q,)` each.

    Args:
        most_N: what each drawn state can add to the sum of its problem, and so one that was not drawn.
    """
    more = 0.0 if most_N is None else Unseen.picked(most_N, most_N, most_N).part
    difference, p = over_problems(decided_Q - available_Q, level, more)
    return Budget(over_problems(decided_Q, level, more)[0], over_problems(available_Q, level)[0], difference, p)


def share_of(
    part_N: FloatArray,
    decided_N: FloatArray,
    weight_N: FloatArray,
    problem_N: IntArray,
    most_N: FloatArray,
    level: float,
    further_Q: FloatArray | float = 0.0,
) -> Estimate:
    """Returns the share of all that is decided which some tokens decide, over problems; none where nothing is decided.

    Args:
        part_N: how much of each state is counted.
        weight_N: one over the chance that the state was drawn.
        most_N: what each state can decide at most.
        further_Q: how far each problem moves the share in another way, as a part of all that is decided; sums to 0.
    """
    whole_N, mass_N = weight_N * decided_N, weight_N * most_N
    if whole_N.sum() <= 0:
        return Estimate(None)
    least = Unseen.picked(mass_N * (part_N.max() - part_N), mass_N * part_N, mass_N)
    most = Unseen.picked(mass_N * (part_N - part_N.min()), mass_N * part_N, mass_N)
    part_Q, whole_Q, mass_Q = _by_problem(np.size(further_Q), problem_N, whole_N * part_N, whole_N, mass_N)
    return bounded_ratio(part_Q + further_Q * whole_N.sum(), whole_Q, mass_Q, least, most, level)


def weighted_mean(
    x_N: FloatArray,
    of_N: BoolArray,
    weight_N: FloatArray,
    problem_N: IntArray,
    within: tuple[FloatArray | float, FloatArray | float] | None,
    level: float = 0.95,
) -> Estimate:
    """Returns the mean over all tokens of a number known of the drawn states, with its interval over problems.

    Args:
        of_N: which states are meant.
        weight_N: one over the chance that the state was drawn.
        within: what the number is at least, and at most; None if it goes either way alike, which suits Student's
            interval.
    """
    if not of_N.any():
        return Estimate(None)
    weight, problem = weight_N[of_N], problem_N[of_N]
    part_Q, whole_Q = _by_problem(0, problem, weight * x_N[of_N], weight)
    if within is None:
        value = float(part_Q.sum() / whole_Q.sum())
        return cluster_t(value, part_Q - value * whole_Q, whole_Q, level)[0]
    least, most = (np.broadcast_to(np.asarray(end, dtype=np.float64), x_N.shape)[of_N] for end in within)
    lowest, highest = (Unseen.picked(weight * (most - least), weight * end, weight) for end in (least, most))
    return bounded_ratio(part_Q, whole_Q, whole_Q, lowest, highest, level)


def _by_problem(problems: int, problem_N: IntArray, *of: FloatArray) -> list[FloatArray]:
    return [np.bincount(problem_N, weights=x_N, minlength=problems).astype(np.float64) for x_N in of]
