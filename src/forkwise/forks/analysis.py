"""What the tokens of a table decide: by entropy, kind, place and verdict, against nulls, with problems as clusters.

Suffixes: C answers, D draws of the null, N states, Q problems, R continuations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from forkwise.explore.contrast import FEWEST_MARKS, FEWEST_PROBLEMS, BoolArray, FloatArray, IntArray, cluster_t
from forkwise.explore.findings import Estimate
from forkwise.forks.estimators import (
    Budget,
    StateValue,
    budget,
    most_decided,
    permuted_decided,
    share_of,
    state_value,
    weighted_mean,
)
from forkwise.forks.frame import CLASSES, Frame, Pool
from forkwise.forks.results import Part, Top
from forkwise.forks.second import SecondStage, combined
from forkwise.forks.states import DrawnStates
from forkwise.forks.stored import Continued
from forkwise.progress import watch
from forkwise.tasks.answers.classes import answer_classes

EDGES = (0.0, 0.05, 0.2, 0.5, 0.8, 1.1, 1.4, 2.0, np.inf)
"""Bins of entropy, nats."""
TOPS = (0.05, 0.1, 0.2, 0.4)
_NO_PART = 1e-9
_FIFTHS = ("first fifth", "second", "third", "fourth", "last fifth")


@dataclass(frozen=True)
class StateEstimates:
    """Estimates of all states, in the order of the draw.

    Attributes:
        weight_N: one over the chance of the state and over the samples of its problem; sums to the mean length of a
            trace, problems alike, times their number.
        null_ND: what they decide with outcomes dealt anew to first tokens.
    """

    frame: Frame
    pool: Pool
    drawn: DrawnStates
    decided_N: FloatArray
    open_N: FloatArray
    weight_N: FloatArray
    problem_N: IntArray
    entropy_N: FloatArray
    null_ND: FloatArray
    level: float
    by_answer: bool = False

    @property
    def problems(self) -> int:
        """How many problems there are."""
        return len(self.pool.problems)

    def per_problem(self, x_N: FloatArray) -> FloatArray:
        """Sums a number of states to what a trace of each problem has of it, `(Q,)`."""
        return np.bincount(self.problem_N, weights=self.weight_N * x_N, minlength=self.problems).astype(np.float64)

    @property
    def most_N(self) -> FloatArray:
        """What states can decide at most, `(N,)`; bounds of entropy from the likeliest tokens say nothing of it."""
        if self.frame.entropies == "model":
            return most_decided(self.entropy_N, by_answer=self.by_answer)
        return np.full(self.entropy_N.size, self.most_open)

    @property
    def most_open(self) -> float:
        """What is open at most."""
        return 1.0 if self.by_answer else 0.25

    def share(self, part_N: FloatArray, further_Q: FloatArray | float = 0.0) -> Estimate:
        """Returns the share of all that is decided that tokens decide, with their parts in it: 1, 0 or between.

        Args:
            further_Q: what each problem adds to the share by the parts alone, beyond the mean.
        """
        of_states = (part_N, self.decided_N, self.weight_N, self.problem_N, self.most_N)
        return share_of(*of_states, self.level, further_Q)


def estimate_states(
    frame: Frame,
    pool: Pool,
    drawn: DrawnStates,
    continued: Sequence[Continued],
    *,
    by_answer: bool,
    permutations: int,
    seed: int,
    level: float,
) -> StateEstimates:
    """Estimates every state, and draws the null of each."""
    values, null_ND = _values(continued, by_answer, permutations, np.random.default_rng([seed, 12]))
    units = frame.table.units
    return StateEstimates(
        frame=frame,
        pool=pool,
        drawn=drawn,
        decided_N=np.array([value.decided for value in values]),
        open_N=np.array([value.open for value in values]),
        weight_N=frame.per_trace_N[drawn.index] / drawn.chance,
        problem_N=units.problem_N[drawn.index],
        entropy_N=units.value_N[drawn.index],
        null_ND=null_ND,
        level=level,
        by_answer=by_answer,
    )


def _values(
    continued: Sequence[Continued], by_answer: bool, permutations: int, rng: np.random.Generator
) -> tuple[list[StateValue], FloatArray]:
    values, null = [], []
    for state in watch(continued, "dealing outcomes anew", "states"):
        outcome_RC = outcomes(state.answers, state.correct, by_answer)
        values.append(state_value(state.first.branches, outcome_RC))
        null.append(permuted_decided(state.first.branches, outcome_RC, permutations, rng))
    return values, np.array(null)


def with_second(
    estimates: StateEstimates,
    again: SecondStage,
    continued: Sequence[Continued],
    share: float,
    *,
    by_answer: bool,
    permutations: int,
    seed: int,
) -> StateEstimates:
    """Adds the second stage: what the states of `again` decide by their further continuations.

    Args:
        share: of all continuations of a state that is continued again, the further ones.
    """
    values, null_MD = _values(continued, by_answer, permutations, np.random.default_rng([seed, 15]))
    decided_N = combined(estimates.decided_N, again, np.array([value.decided for value in values]), share)
    open_N = combined(estimates.open_N, again, np.array([value.open for value in values]), share)
    null_ND = combined(estimates.null_ND, again, null_MD, share)
    return replace(estimates, decided_N=decided_N, open_N=open_N, null_ND=null_ND)


def outcomes(answers: Sequence[str | None], correct: Sequence[bool | None], by_answer: bool) -> FloatArray:
    """Codes how continuations ended, `(R, C)`: right or not; or a column for each answer, and one for none."""
    if not by_answer:
        return np.array([[verdict is True] for verdict in correct], dtype=np.float64)
    classes = [-1 if c is None else c for c in answer_classes(answers)]
    outcome_RC: FloatArray = (np.array(classes)[:, None] == np.unique(classes)[None, :]).astype(np.float64)
    return outcome_RC


def check_budget(estimates: StateEstimates) -> Budget:
    """Compares what tokens decide, summed over a trace, with what there is to decide."""
    decided_Q = estimates.per_problem(estimates.decided_N)
    return budget(decided_Q, estimates.pool.available_Q, estimates.level, estimates.weight_N * estimates.most_N)


# ------------------------------------------------------------------------------------------------------------- parts


def part(
    estimates: StateEstimates, name: str, of_frame: BoolArray, *, shares: bool, bins: int = 1, matched: bool = False
) -> Part:
    """Describes the tokens `of_frame`.

    Args:
        shares: whether shares mean anything, since the budget adds up.
        bins: parts whose intervals of `decided` are to hold at once.
        matched: whether to compare them with others of equal entropy.
    """
    inside_N = of_frame[estimates.drawn.index]
    states = int(inside_N.sum())
    weight_frame = estimates.frame.per_trace_N
    of_tokens = float(weight_frame[of_frame].sum() / weight_frame.sum())
    if states < FEWEST_MARKS:
        nothing = Estimate(None)
        return Part(name, states, of_tokens, None, decided=nothing, open=nothing, share=nothing, p=None)

    def mean(x_N: FloatArray, most: FloatArray | float, level: float) -> Estimate:
        return weighted_mean(x_N, inside_N, estimates.weight_N, estimates.problem_N, (0.0, most), level)

    sum_D = estimates.weight_N[inside_N] @ estimates.null_ND[inside_N]
    observed = float(estimates.weight_N[inside_N] @ estimates.decided_N[inside_N])
    difference, p, supported = equal_entropy(estimates, of_frame) if matched else (Estimate(None), None, None)
    return Part(
        name=name,
        states=states,
        of_tokens=of_tokens,
        mean_entropy=float(
            np.average(estimates.frame.table.units.value_N[of_frame], weights=estimates.frame.per_trace_N[of_frame])
        ),
        decided=mean(estimates.decided_N, estimates.most_N, estimates.level ** (1 / bins)),
        open=mean(estimates.open_N, estimates.most_open, estimates.level),
        share=estimates.share(inside_N.astype(np.float64)) if shares else Estimate(None),
        p=exceeding(sum_D, observed),
        difference=difference,
        difference_p=p,
        supported=supported,
    )


def exceeding(null_D: FloatArray, observed: float) -> float:
    """Returns the one-sided p of a number under draws of its null."""
    return float((1 + (null_D >= observed - 1e-12).sum()) / (null_D.size + 1))


def equal_entropy(estimates: StateEstimates, of_frame: BoolArray) -> tuple[Estimate, float | None, float | None]:
    """Compares what some tokens decide with what others of the same bin of entropy do, bins as frequent as of these.

    A bin takes two states of either side. A mean of few states is nearer to these than to the truth, so what they
    deviate from it is enlarged, as much as it takes for independent states. Degrees of freedom are of the side with
    fewer problems.

    Returns:
        The difference, its two-sided p, and the share of these tokens whose bin has states of both sides. There is no
        difference where either side has fewer than `FEWEST_MARKS` states in such bins, or is of fewer than
        `FEWEST_PROBLEMS` problems.
    """
    bin_frame = np.searchsorted(EDGES, estimates.frame.table.units.value_N, side="right")
    tokens_B = np.bincount(bin_frame[of_frame], weights=estimates.frame.per_trace_N[of_frame])
    bin_N, inside_N, weight = bin_frame[estimates.drawn.index], of_frame[estimates.drawn.index], estimates.weight_N
    score_N, part_2N, total, value = np.zeros(weight.size), np.zeros((2, weight.size)), 0.0, 0.0
    for at in np.flatnonzero(tokens_B):
        sides = [side & (bin_N == at) for side in (inside_N, ~inside_N)]
        if min(int(side.sum()) for side in sides) < 2:
            continue
        total += tokens_B[at]
        for part_N, sign, side in zip(part_2N, (1, -1), sides, strict=True):
            share = weight[side] / weight[side].sum()
            mean = float(share @ estimates.decided_N[side])
            value += sign * tokens_B[at] * mean
            part_N[side] = tokens_B[at] * share
            score_N[side] = sign * part_N[side] * (estimates.decided_N[side] - mean) / np.sqrt(1 - (share**2).sum())
    compared = [part_N > 0 for part_N in part_2N]
    supported = float(total / tokens_B.sum())
    if any(of.sum() < FEWEST_MARKS or _problems(estimates, of) < FEWEST_PROBLEMS for of in compared):
        return Estimate(None), None, supported

    def by_problem(x_N: FloatArray) -> FloatArray:
        return np.bincount(estimates.problem_N, weights=x_N, minlength=estimates.problems).astype(np.float64)

    score_Q, sizes = by_problem(score_N), [by_problem(part_N) for part_N in part_2N]
    rarer, other = sorted(sizes, key=lambda size_Q: -float(size_Q @ size_Q))
    # Problems of the other side alone have scores too, and no part in the degrees of freedom.
    estimate, p = cluster_t(value / total, score_Q, rarer + _NO_PART * other, estimates.level)
    return estimate, p, supported


def _problems(estimates: StateEstimates, of_N: BoolArray) -> int:
    return int(np.unique(estimates.problem_N[of_N]).size)


def by_entropy(estimates: StateEstimates, *, shares: bool) -> list[Part]:
    """Describes bins of entropy, with a band for what they decide.

    Of the many tokens of the lowest bin a few decide what is decided there, and hardly any of these is drawn. So its
    interval goes just as far as entropies allow, of all of its tokens.
    """
    entropy = estimates.frame.table.units.value_N
    inside = [((entropy >= low) & (entropy < high), low, high) for low, high in pairwise(EDGES)]
    filled = [(of_frame, low, high) for of_frame, low, high in inside if of_frame.any()]
    parts = [
        part(estimates, f"{low:g}–{high:g}" if high < np.inf else f"above {low:g}", of, shares=shares, bins=len(filled))
        for of, low, high in filled
    ]
    lowest, (of_frame, low, _) = parts[0], filled[0]
    decided = lowest.decided
    if low == 0 and decided.value is not None and decided.low is not None and estimates.frame.entropies == "model":
        weight = estimates.frame.per_trace_N[of_frame]
        most = float(np.average(most_decided(entropy[of_frame], by_answer=estimates.by_answer), weights=weight))
        decided = Estimate(decided.value, min(decided.low, 0.0), max(decided.value, most))
    return [replace(lowest, decided=decided), *parts[1:]]


def by_class(estimates: StateEstimates, *, shares: bool) -> list[Part]:
    """Describes pivotal tokens, reflective starts, operators and others, each against others of equal entropy."""
    kinds = [(name, estimates.frame.kind_N == i) for i, name in enumerate(CLASSES)]
    return [part(estimates, name, of, shares=shares, matched=True) for name, of in kinds if of.any()]


def by_place(estimates: StateEstimates, *, shares: bool) -> list[Part]:
    """Describes fifths of the traces."""
    fifth = estimates.frame.table.decile_N // 2
    return [part(estimates, name, fifth == i, shares=shares) for i, name in enumerate(_FIFTHS)]


def by_verdict(estimates: StateEstimates) -> list[Part]:
    """Describes the tokens of right and of wrong samples; the sum is an identity over both, so there are no shares."""
    trace_N = estimates.frame.table.units.trace_N
    right = np.array([trace.correct is True for trace in estimates.frame.traces])[trace_N]
    wrong = np.array([trace.correct is False for trace in estimates.frame.traces])[trace_N]
    return [part(estimates, name, of, shares=False) for name, of in (("right", right), ("wrong", wrong)) if of.any()]


def tops(estimates: StateEstimates) -> list[Top]:
    """Says what the tokens of most entropy decide, against others at the same places and at random."""
    table, per_trace = estimates.frame.table, estimates.frame.per_trace_N
    entropy, decile = table.units.value_N, table.decile_N
    order = np.argsort(-entropy, kind="stable")
    reached = np.cumsum(per_trace[order]) / per_trace.sum()
    tokens = []
    for share in TOPS:
        top = np.zeros(entropy.size, dtype=np.bool_)
        top[order[: int(np.searchsorted(reached, share)) + 1]] = True
        of_tokens, rate, of_Q, rate_Q = _like_tops(estimates, top)
        top_N, like_N = top[estimates.drawn.index].astype(np.float64), rate[decile[estimates.drawn.index]]
        tokens.append(
            Top(
                of_tokens=of_tokens,
                threshold=float(entropy[top].min()),
                share=estimates.share(top_N),
                matched=estimates.share(like_N, rate_Q),
                minus_matched=estimates.share(top_N - like_N, -rate_Q),
                minus_random=estimates.share(top_N - of_tokens, -of_Q),
            )
        )
    return tokens


def _like_tops(estimates: StateEstimates, top: BoolArray) -> tuple[float, FloatArray, FloatArray, FloatArray]:
    """Returns which share of tokens is `top`, in all and by tenth of the traces, and how far each problem moves what as
    many others decide: anywhere, and at these places."""
    table, weight = estimates.frame.table, estimates.frame.per_trace_N
    decile, problem = table.decile_N, table.units.problem_N
    tokens_D = np.bincount(decile, weights=weight, minlength=10)
    rate_D = np.bincount(decile, weights=weight * top, minlength=10) / np.maximum(tokens_D, 1e-300)
    decided = estimates.weight_N * estimates.decided_N
    decided_D = np.bincount(decile[estimates.drawn.index], weights=decided, minlength=10) / decided.sum()
    of_tokens = float(weight[top].sum() / weight.sum())
    each = decided_D / np.maximum(tokens_D, 1e-300)
    of_Q = np.bincount(problem, weights=weight * (top - of_tokens) / weight.sum(), minlength=estimates.problems)
    rate_Q = np.bincount(problem, weights=weight * (top - rate_D[decile]) * each[decile], minlength=estimates.problems)
    return of_tokens, rate_D, of_Q.astype(np.float64), rate_Q.astype(np.float64)
