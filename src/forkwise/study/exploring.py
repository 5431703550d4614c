"""What receipts tell beside the registered comparison: how much the runs of an arm differ, and what a budget buys.

Suffixes: S runs (seeds), Q problems, K values of k, B budgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forkwise.passk import Arm, k_grid
from forkwise.passk.design import make_design
from forkwise.passk.estimator import FloatArray
from forkwise.passk.two_way import joint_test
from forkwise.study.receipts import Receipt

_MOST_BUDGETS = 6


@dataclass(frozen=True)
class Spread:
    """Pass@K of the runs of an arm, each over all problems: their mean and standard deviation at each of `ks`."""

    arm: str
    ks: list[int]
    mean: list[float]
    sd: list[float]


@dataclass(frozen=True)
class WithinBudget:
    """What tokens buy: the chance that samples of so many tokens hold a right one, by the mean length of each problem.

    Attributes:
        value: of the arm, at each of `budgets`, in tokens per problem.
        difference, low, high: from the reference, with a band over all budgets and arms; None for the reference.
    """

    arm: str
    budgets: list[int]
    value: list[float]
    difference: list[float] | None = None
    low: list[float] | None = None
    high: list[float] | None = None


def spreads(arms: Sequence[Arm], n: int) -> list[Spread]:
    """Measures how much runs differ; empty with one run per arm."""
    ks = k_grid(n)
    by_arm = []
    for arm in arms:
        by_run_SK = arm.curves(ks).mean(axis=1)
        if len(by_run_SK) > 1:
            by_arm.append(Spread(arm.name, ks, by_run_SK.mean(axis=0).tolist(), by_run_SK.std(axis=0, ddof=1).tolist()))
    return by_arm


def pass_within(arm: Arm, tokens_SQ: FloatArray, budgets: Sequence[int]) -> FloatArray:
    """Returns the chance to have a right sample within each budget, `(S, Q, B)`, by the mean lengths of the samples.

    A problem gets K = budget / mean length samples, between two whole numbers one of them at random, so that the mean
    number is kept. No budget may ask for more than there are.
    """
    curve_SQK = np.concatenate([np.zeros((*tokens_SQ.shape, 1)), arm.curves(range(1, arm.largest_k() + 1))], axis=2)
    columns = []
    for budget in budgets:
        k_SQ = budget / tokens_SQ
        whole = np.floor(k_SQ).astype(int)
        ends = [np.take_along_axis(curve_SQK, np.minimum(whole + up, arm.largest_k())[:, :, None], 2) for up in (0, 1)]
        share = (k_SQ - whole)[:, :, None]
        columns.append((1 - share) * ends[0] + share * ends[1])
    return np.concatenate(columns, axis=2)


def within_budgets(
    arms: Sequence[Arm], receipts: Mapping[str, Receipt], *, paired: bool, level: float, resamples: int = 10_000
) -> list[WithinBudget]:
    """Compares arms at equal numbers of tokens; empty where a run has no lengths, as a collapsed one."""
    tokens = [_tokens(arm, receipts) for arm in arms]
    known = [t_SQ for t_SQ in tokens if t_SQ is not None]
    if len(known) < len(tokens) or min(float(t_SQ.min()) for t_SQ in known) <= 0:
        return []
    budgets = _budgets(arms, known)
    if not budgets:
        return []
    values = [pass_within(arm, t_SQ, budgets) for arm, t_SQ in zip(arms, known, strict=True)]
    design = make_design(arms, (), paired, level)
    varied = [design.vary(arm.name, x, arms[0].name, values[0]) for arm, x in zip(arms[1:], values[1:], strict=True)]
    joint = joint_test(varied, resamples=resamples, seed=0)
    by_arm = [WithinBudget(arms[0].name, budgets, values[0].mean(axis=(0, 1)).tolist())]
    for arm, x, variation in zip(arms[1:], values[1:], varied, strict=True):
        band = variation.interval(joint.critical(level), level)
        bounds = (band.mean.tolist(), band.low.tolist(), band.high.tolist())
        by_arm.append(WithinBudget(arm.name, budgets, x.mean(axis=(0, 1)).tolist(), *bounds))
    return by_arm


def _tokens(arm: Arm, receipts: Mapping[str, Receipt]) -> FloatArray | None:
    """Returns the mean length of each run and problem, in the order of the arm."""
    rows = []
    for run in arm.runs:
        receipt = receipts[run]
        if receipt.tokens is None:
            return None
        by_problem = dict(zip(receipt.problems, receipt.tokens, strict=True))
        rows.append([by_problem[problem] for problem in arm.problems])
    return np.array(rows)


def _budgets(arms: Sequence[Arm], tokens: Sequence[FloatArray]) -> list[int]:
    """Chooses budgets from one mean sample of the longest arm up to the most that every problem's samples add up to."""
    most = min(arm.largest_k() * float(t_SQ.min()) for arm, t_SQ in zip(arms, tokens, strict=True))
    least = max(float(t_SQ.mean()) for t_SQ in tokens)
    if most < least:
        return []
    number = min(_MOST_BUDGETS, 1 + int(np.log2(most / least)))
    return sorted({int(budget) for budget in np.geomspace(least, most, number)})
