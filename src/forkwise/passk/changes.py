"""Which problems changed hands: solved by one arm alone, or more often by one, each with an exact test.

Suffixes: Q problems.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from forkwise.passk.outcomes import Arm


@dataclass(frozen=True)
class SolvedAlone:
    """A problem that one of two arms solved, with the number of its right samples among n."""

    problem: str
    right: int
    n: int


@dataclass(frozen=True)
class Changes:
    """What became of each problem, from a reference to an arm with as many samples. Both tests are about these models.

    Attributes:
        by_both, by_neither: numbers of problems that both solved, or neither, in any of their samples.
        by_arm, by_reference: the problems that one of them solved alone, the most often solved first.
        solved_p: two-sided p of "a problem that one alone solves is as likely solved by either" (exact McNemar test).
        better, worse: numbers of problems that the arm solved more, and less, often.
        rate_p: two-sided p of "more often is as likely as less often" (exact sign test).
    """

    by_both: int
    by_neither: int
    by_arm: list[SolvedAlone]
    by_reference: list[SolvedAlone]
    solved_p: float
    better: int
    worse: int
    rate_p: float


def _even(one: int, other: int) -> float:
    """Returns the two-sided p of `one` heads in `one + other` throws of a coin; 1 without a throw."""
    return float(stats.binomtest(one, one + other).pvalue) if one + other else 1.0


def find_changes(arm: Arm, reference: Arm) -> Changes | None:
    """Counts what became of each problem; None where the arms have different numbers of samples of some problem.

    Runs of an arm count together: a problem is solved if any of them solved it.
    """
    (n_Q, c_Q), (m_Q, d_Q) = (tuple(side_SQ.sum(axis=0) for side_SQ in side.counts()) for side in (arm, reference))
    if not np.array_equal(n_Q, m_Q):
        return None
    alone = []
    for mine_Q, theirs_Q in ((c_Q, d_Q), (d_Q, c_Q)):
        chosen = np.flatnonzero((mine_Q > 0) & (theirs_Q == 0))
        chosen = chosen[np.argsort(-mine_Q[chosen], kind="stable")]
        alone.append([SolvedAlone(arm.problems[q], int(mine_Q[q]), int(n_Q[q])) for q in chosen])
    by_arm, by_reference = alone
    better, worse = int((c_Q > d_Q).sum()), int((c_Q < d_Q).sum())
    return Changes(
        int(((c_Q > 0) & (d_Q > 0)).sum()),
        int(((c_Q == 0) & (d_Q == 0)).sum()),
        by_arm,
        by_reference,
        _even(len(by_arm), len(by_reference)),
        better,
        worse,
        _even(better, worse),
    )
