"""What continuations of a prefix say of it: its value, what its next token decides, and what a token was worth.

With V(s) the chance of a right answer after the prefix s, and a the next token drawn from the policy, a token decides
`F = Var_a V(s a)`. Outcomes come in pairs: first tokens drawn independently, two continuations after each. The two of a
pair share their first token and nothing else, so the mean of their product estimates `E V(s a)^2`, and that of products
of different pairs `V(s)^2`: their difference is F without bias, and may be negative. (Grouping continuations by their
first token weighs tokens equally and not by their probability, which is wrong where these are unequal.)

V is a martingale along a trace, so what its tokens decide adds up, in the mean over traces, to `V0 (1 - V0)`.

Suffixes: A first tokens, N states, Q problems.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forkwise.explore.contrast import FloatArray, IntArray, cluster_t
from forkwise.explore.findings import Estimate

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StateValue:
    """Unbiased estimates of one prefix."""

    value: float
    """V: chance of a right answer."""
    decided: float
    """F: variance over the next token of the chance after it; may be negative."""
    open: float
    """V (1 - V): what is not yet decided."""


def pair_estimates(right_A2: BoolArray | FloatArray) -> StateValue:
    """Estimates a prefix from the outcomes of pairs, `(A, 2)`: one first token per row, two continuations each."""
    outcome_A2 = np.asarray(right_A2, dtype=np.float64)
    first = outcome_A2.shape[0]
    if outcome_A2.ndim != 2 or outcome_A2.shape[1] != 2 or first < 2:
        raise ValueError(f"outcomes are of shape {outcome_A2.shape}: at least two first tokens, two continuations each")
    mean_A = outcome_A2.mean(axis=1)
    squared = (mean_A.sum() ** 2 - (mean_A**2).sum()) / (first * (first - 1))
    value = float(mean_A.mean())
    return StateValue(value, float((outcome_A2[:, 0] * outcome_A2[:, 1]).mean() - squared), float(value - squared))


def token_advantage(forced: BoolArray | FloatArray, right_A2: BoolArray | FloatArray) -> tuple[float, float]:
    """Returns the true advantage Q - V of a token, from continuations after forcing it, and the variance of its error.

    Args:
        forced: `(R,)` outcomes after the token.
        right_A2: outcomes of pairs, drawn independently of these.
    """
    after = np.asarray(forced, dtype=np.float64)
    mean_A = np.asarray(right_A2, dtype=np.float64).mean(axis=1)
    variance = after.var(ddof=1) / after.size + mean_A.var(ddof=1) / mean_A.size
    return float(after.mean() - mean_A.mean()), float(variance)


def permuted_decided(right_A2: BoolArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """Draws F with outcomes dealt anew to first tokens, `(draws,)`: the exact null where no token decides anything."""
    flat = np.asarray(right_A2, dtype=np.float64).ravel()
    dealt = rng.permuted(np.broadcast_to(flat, (draws, flat.size)), axis=1).reshape(draws, -1, 2)
    mean_RA = dealt.mean(axis=2)
    first = mean_RA.shape[1]
    squared = (mean_RA.sum(axis=1) ** 2 - (mean_RA**2).sum(axis=1)) / (first * (first - 1))
    drawn: FloatArray = dealt.prod(axis=2).mean(axis=1) - squared
    return drawn


def variance_of_outcome(right: int, samples: int) -> float:
    """Estimates V0 (1 - V0) of a problem without bias, from its samples."""
    return right * (samples - right) / (samples * (samples - 1))


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


def budget(decided_Q: FloatArray, available_Q: FloatArray, level: float = 0.95) -> Budget:
    """Compares the sum of what tokens decide with V0 (1 - V0), problem by problem, `(Q,)` each."""

    def over_problems(x_Q: FloatArray) -> tuple[Estimate, float | None]:
        return cluster_t(float(x_Q.mean()), x_Q - x_Q.mean(), np.ones(x_Q.size), level)

    difference, p = over_problems(decided_Q - available_Q)
    return Budget(over_problems(decided_Q)[0], over_problems(available_Q)[0], difference, p)


def weighted_mean(x_N: FloatArray, weight_N: FloatArray, problem_N: IntArray, level: float = 0.95) -> Estimate:
    """Returns the mean over all tokens of a number known of the drawn states, with its interval over problems.

    Args:
        weight_N: one over the chance that the state was drawn.
    """
    if not x_N.size:
        return Estimate(None)
    problems = int(problem_N.max()) + 1
    size_Q = np.bincount(problem_N, weights=weight_N, minlength=problems).astype(np.float64)
    value = float((weight_N * x_N).sum() / weight_N.sum())
    score_Q = np.bincount(problem_N, weights=weight_N * (x_N - value), minlength=problems).astype(np.float64)
    return cluster_t(value, score_Q, size_Q, level)[0]
