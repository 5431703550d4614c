"""Orders arms by their means over benchmarks: how often one is better than the reference, and its place among all.

Suffixes: B benchmarks, S runs, Q problems, G problems or clusters, K values of k, R draws, A arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from forkwise.passk.benchmark_results import Improvement, Standing
from forkwise.passk.design import ComparisonDesign
from forkwise.passk.differences import DifferenceSettings
from forkwise.passk.estimator import FloatArray, IntArray
from forkwise.passk.intervals import by_cluster, problem_weights
from forkwise.passk.outcomes import Arm
from forkwise.passk.two_way import Variation, joint_test, vary_over

_TIE = 1e-12  # scores that differ by less are equal


@dataclass(frozen=True)
class ArmsOn:
    """One benchmark: its arms, the reference first, their runs in the same order on all benchmarks, and its design."""

    name: str
    arms: list[Arm]
    design: ComparisonDesign

    def values(self, ks: Sequence[int]) -> list[FloatArray]:
        """Returns Pass@K of every arm, `(S, Q, K)`."""
        return [arm.curves(ks) for arm in self.arms]


def vary_means(sets: Sequence[ArmsOn], values: Sequence[Sequence[FloatArray]], i: int, j: int) -> Variation:
    """Returns how arm `i` minus arm `j` varies in the mean over benchmarks."""
    strata, names = [], ("", "")
    for one, x in zip(sets, values, strict=True):
        arm, reference = one.arms[i].name, one.arms[j].name
        stratum, names = one.design.stratum(arm, x[i], reference, x[j], f"problems of {one.name}")
        strata.append(stratum)
    return vary_over(strata, level=sets[0].design.level, names=names)


def probability_of_improvement(arm_BS: Sequence[FloatArray], reference_BS: Sequence[FloatArray]) -> float:
    """Returns the chance that a run of the arm has a higher score than one of the reference, averaged over benchmarks.

    Equal scores count half (Agarwal et al. 2021, arXiv 2108.13264, section 4.3).
    """
    shares = []
    for x_S, y_S in zip(arm_BS, reference_BS, strict=True):
        d_SS = np.asarray(x_S)[:, None] - np.asarray(y_S)[None]
        shares.append(np.mean(np.where(np.abs(d_SS) <= _TIE, 0.5, d_SS > 0)))
    return float(np.mean(shares))


def order_arms(
    sets: Sequence[ArmsOn], scores: Sequence[Sequence[FloatArray]], ks: Sequence[int], judge: DifferenceSettings
) -> tuple[list[Improvement], list[Standing]]:
    """Finds how often each arm is better than the reference, and its place; `scores` are `(S, Q, K)` at `ks`."""
    names = [arm.name for arm in sets[0].arms]
    level, tails = judge.level, [(1 - judge.level) / 2, (1 + judge.level) / 2]
    drawn = _draw(sets, scores, judge)
    improvements, standings = [], []
    for at, k in enumerate(ks):
        here = [[x[:, :, at].mean(axis=1) for x in one] for one in scores]
        for i in range(1, len(names)):
            value = probability_of_improvement([one[i] for one in here], [one[0] for one in here])
            d_RBSS = [x[i][:, :, at, None] - x[0][:, None, :, at] for x in drawn]
            won_R = np.mean([np.where(np.abs(d) <= _TIE, 0.5, d > 0).mean(axis=(1, 2)) for d in d_RBSS], axis=0)
            low, high = (float(end) for end in np.quantile(won_R, tails))
            improvements.append(Improvement(names[i], names[0], k, value, min(low, value), max(high, value)))
        mean_A = np.array([np.mean([one[i].mean() for one in here]) for i in range(len(names))])
        drawn_AR = np.array([np.mean([x[i][:, :, at].mean(axis=1) for x in drawn], axis=0) for i in range(len(names))])
        above, below = _surely(sets, [[x[:, :, [at]] for x in one] for one in scores], judge, level)
        places_AR = _places(drawn_AR)
        for i, (name, rank) in enumerate(zip(names, _places(mean_A[:, None])[:, 0].tolist(), strict=True)):
            shares = [float((places_AR[i] == r).mean()) for r in range(1, len(names) + 1)]
            sure = (1 + above[i], len(names) - below[i])
            standings.append(Standing(name, k, float(mean_A[i]), int(rank), *sure, shares))
    return improvements, standings


def _places(scores_AR: FloatArray) -> IntArray:
    """Returns the place of each arm in each draw, 1 for the highest score."""
    places: IntArray = 1 + (scores_AR[None] > scores_AR[:, None] + _TIE).sum(axis=1)
    return places


def _surely(
    sets: Sequence[ArmsOn], scores: Sequence[Sequence[FloatArray]], judge: DifferenceSettings, level: float
) -> tuple[list[int], list[int]]:
    """Counts, for each arm, those that are surely better and surely worse: all pairs of arms by one test.

    The places that are left are simultaneous confidence sets (Mogstad et al. 2024, Rev. Econ. Stud. 91(1)).
    """
    number = len(sets[0].arms)
    pairs = list(combinations(range(number), 2))
    variations = [vary_means(sets, scores, i, j) for i, j in pairs]
    joint = joint_test(variations, resamples=judge.resamples, seed=judge.seed)
    above, below = [0] * number, [0] * number
    for (i, j), variation in zip(pairs, variations, strict=True):
        if joint.p(variation.scores())[0] > 1 - level or variation.mean[0] == 0:
            continue
        better, worse = (i, j) if variation.mean[0] > 0 else (j, i)
        below[better] += 1
        above[worse] += 1
    return above, below


def _draw(
    sets: Sequence[ArmsOn], scores: Sequence[Sequence[FloatArray]], judge: DifferenceSettings
) -> list[list[FloatArray]]:
    """Draws the scores of runs again, `(R, S, K)` for every benchmark and arm.

    Problems (or clusters) are drawn within each benchmark, the same for all arms; the runs of an arm that is trained
    are drawn too, the same on all benchmarks, and the same for all arms where seeds are paired.
    """
    runs: dict[str, IntArray] = {}
    for i, arm in enumerate(sets[0].arms):
        if sets[0].design.trained(arm.name):
            paired = sets[0].design.seeds is not None
            rng = np.random.default_rng([judge.seed, 1, 0 if paired else i])
            runs[arm.name] = rng.integers(0, len(arm.runs), size=(judge.resamples, len(arm.runs)))
    drawn = []
    for b, (one, of_arms) in enumerate(zip(sets, scores, strict=True)):
        rows = [by_cluster(x, one.design.cluster_Q) for x in of_arms]
        if one.design.seeds is not None:
            rows = [x[one.design.seeds[arm.name]] for x, arm in zip(rows, one.arms, strict=True)]
        blocks = [
            [np.einsum("rg,sgk->rsk", weights, x) for x in rows]
            for weights in problem_weights(rows[0].shape[1], judge.resamples, judge.seed + b)
        ]
        whole = [np.concatenate(of_arm) for of_arm in zip(*blocks, strict=True)]
        drawn.append(
            [
                np.take_along_axis(x, runs[arm.name][:, :, None], axis=1) if arm.name in runs else x
                for x, arm in zip(whole, one.arms, strict=True)
            ]
        )
    return drawn
