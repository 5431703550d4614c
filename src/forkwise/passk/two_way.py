"""How a mean difference varies over problems and training runs, and the one test of all K and arms that rests on it.

Suffixes: S runs (training seeds) of an arm, Q problems, G clusters of problems, K values of k, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from forkwise.passk.estimator import FloatArray, IntArray
from forkwise.passk.intervals import Interval, by_cluster, cluster_count, unseen

_BLOCK = 1 << 21  # random numbers held at a time: 16 MB
ENOUGH = 6  # problems that differ: with fewer, even differences of one sign are no surprise (2 * 2^-5 > .05)


@dataclass(frozen=True)
class Variation:
    """The mean difference of two arms at each K, with its standard error, and what random draws of it are made from.

    Attributes:
        mean: `(K,)`.
        se: standard error, `(K,)`, never 0.
        freedom: Satterthwaite's degrees of freedom of `se`, `(K,)`.
        rows: for each source of variation one row per unit (problem or cluster, run), whose squares sum to the variance
            that the source gives to the mean. Differences that share units have the same rows' name.
    """

    mean: FloatArray
    se: FloatArray
    freedom: FloatArray
    rows: dict[str, FloatArray]

    def scores(self) -> FloatArray:
        """Returns |t| at each K as the normal score of the same p, which makes K of different freedom comparable."""
        scores: FloatArray = stats.norm.isf(stats.t.sf(np.abs(self.mean) / self.se, self.freedom))
        return scores

    def interval(self, score: float, level: float) -> Interval:
        """Makes the interval of all differences whose `scores` would not exceed `score`, cut at ±1."""
        half = stats.t.isf(stats.norm.sf(score), self.freedom) * self.se
        return Interval(self.mean, np.maximum(self.mean - half, -1.0), np.minimum(self.mean + half, 1.0), level)

    def at(self, i: int) -> Variation:
        """Returns the variation at the K number `i` alone."""
        rows = {name: rows[:, i : i + 1] for name, rows in self.rows.items()}
        return Variation(self.mean[i : i + 1], self.se[i : i + 1], self.freedom[i : i + 1], rows)

    def pointwise(self, level: float) -> Interval:
        """Makes the Student t interval at each K by itself."""
        return self.interval(float(stats.norm.ppf((1 + level) / 2)), level)

    def p(self) -> FloatArray:
        """Returns the two-sided p at each K by itself."""
        p: FloatArray = 2 * stats.norm.sf(self.scores())
        return p

    def draws(self, resamples: int, seed: int) -> FloatArray:
        """Draws deviations of the mean, `(R, K)`: normal, with the estimated correlation of all K.

        Each unit gets a random factor; a source that two differences share gets the same factors in both.
        """
        generators = {name: np.random.default_rng([seed, *name.encode()]) for name in (*self.rows, "unseen")}
        variance = sum(((rows**2).sum(axis=0) for rows in self.rows.values()), np.zeros(self.mean.size))
        share = np.minimum(1.0, self.se / np.sqrt(np.where(variance > 0, variance, 1.0)))
        missing = np.sqrt(np.maximum(0.0, self.se**2 - variance))
        draws_RK = np.empty((resamples, self.mean.size))
        block = max(1, _BLOCK // max(len(rows) for rows in self.rows.values()))
        for start in range(0, resamples, block):
            r = min(block, resamples - start)
            moved_RK = np.zeros((r, self.mean.size))
            for name, rows in self.rows.items():
                moved_RK += generators[name].standard_normal((r, len(rows))) @ rows
            extra_R = generators["unseen"].standard_normal((r, 1))
            draws_RK[start : start + r] = share * moved_RK + missing * extra_R
        return draws_RK


def _interaction(x_SGK: FloatArray) -> FloatArray:
    """Returns the part of the variance over an arm's runs that problems already carry, `(K,)`."""
    s, g, _ = x_SGK.shape
    residual = x_SGK - x_SGK.mean(axis=1)[:, None] - x_SGK.mean(axis=0)[None] + x_SGK.mean(axis=(0, 1))
    interaction: FloatArray = (residual**2).sum(axis=(0, 1)) / ((s - 1) * (g - 1)) / (s * g)
    return interaction


def count_sparseness(difference_GK: FloatArray) -> FloatArray:
    """Says how little the variance over problems rests on: 1 where all are alike, 0 where six or more differ, `(K,)`.

    The number that differ is that of Kish, `(sum |d|)^2 / sum d^2`, of deviations from the median.
    """
    d_GK = np.abs(difference_GK - np.median(difference_GK, axis=0))
    d_GK[d_GK < 1e-12] = 0.0
    squares = (d_GK**2).sum(axis=0)
    differing = np.divide(d_GK.sum(axis=0) ** 2, squares, out=np.zeros_like(squares), where=squares > 0)
    sparse: FloatArray = np.maximum(0.0, 1 - differing / ENOUGH)
    return sparse


@dataclass(frozen=True)
class Stratum:
    """The values of two arms on one set of problems, each `(S, Q, K)`: those of one benchmark, or all there are.

    Attributes:
        cluster_Q: number of the cluster of each problem; None where every problem stands for itself.
        name: what its problems are called among the rows of a `Variation`.
    """

    arm_SQK: FloatArray
    reference_SQK: FloatArray
    cluster_Q: IntArray | None = None
    name: str = "problems"

    def units(self) -> FloatArray:
        """Returns the mean difference of each problem or cluster, `(G, K)`."""
        return by_cluster(self.arm_SQK.mean(axis=0) - self.reference_SQK.mean(axis=0), self.cluster_Q)

    def freedom(self) -> float:
        """Returns the degrees of freedom of the variance over problems."""
        return cluster_count(self.arm_SQK.shape[1], self.cluster_Q) - 1


def vary(
    arm_SQK: FloatArray,
    reference_SQK: FloatArray,
    *,
    cluster_Q: IntArray | None = None,
    level: float = 0.95,
    names: tuple[str, str] = ("arm", "reference"),
) -> Variation:
    """Returns how the mean difference of two arms varies over one set of problems; see `vary_over`."""
    return vary_over([Stratum(arm_SQK, reference_SQK, cluster_Q)], level=level, names=names)


def vary_over(
    strata: Sequence[Stratum], *, level: float = 0.95, names: tuple[str, str] = ("arm", "reference")
) -> Variation:
    """Returns how the mean difference of two arms varies, over problems and over the runs of each arm with several.

    With several strata it is the mean of their mean differences, each of equal weight; their problems are drawn
    independently, and a run is the same run in all of them.

    The variance is two-way: over problems plus over the runs of each arm, minus their interaction, which both hold
    (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat. 29(2), eq. 2.10); it is no less than the interaction alone. An
    arm of one row has no variance over runs. Its freedom is Satterthwaite's for this sum; where the arms have different
    numbers of runs, the one by the mean variance of a run if that is smaller, because a small variance of few runs by
    chance would otherwise count as sure.

    Where fewer than six problems differ, they say little about those that were not drawn. The standard error is then no
    less than what makes the interval at `level` the exact binomial one for none that differs, in proportion to how few
    do.

    Args:
        strata: the same runs of each arm in all of them, in the same order.
        level: of the intervals that the smallest standard error is made for.
        names: of the arms, by which differences share their runs.
    """
    b = len(strata)
    units = [stratum.units() for stratum in strata]
    mean = np.mean([u_GK.mean(axis=0) for u_GK in units], axis=0)
    rows, problems, spread, floor, floor_spread = {}, np.zeros_like(mean), *np.zeros((3, mean.size))
    for stratum, u_GK in zip(strata, units, strict=True):
        g = u_GK.shape[0]
        rows[stratum.name] = (u_GK - u_GK.mean(axis=0)) / (np.sqrt(g * (g - 1)) * b)
        variance = (rows[stratum.name] ** 2).sum(axis=0)
        least = unseen(g, level) / stats.t.ppf((1 + level) / 2, g - 1) * count_sparseness(u_GK) / b
        problems += variance
        spread += variance**2 / stratum.freedom()
        floor += least**2
        floor_spread += least**4 / stratum.freedom()
    total, overlap, runs = problems.copy(), np.zeros_like(problems), []
    for arm, name in enumerate(names):
        values = [by_cluster((s.arm_SQK, s.reference_SQK)[arm], s.cluster_Q) for s in strata]
        s = values[0].shape[0]
        if s == 1:
            continue
        by_run = np.mean([x_SGK.mean(axis=1) for x_SGK in values], axis=0)
        rows[f"runs of {name}"] = (by_run - by_run.mean(axis=0)) / np.sqrt(s * (s - 1))
        variance = (rows[f"runs of {name}"] ** 2).sum(axis=0)
        runs.append((s, variance))
        total += variance
        for x_SGK in values:
            interaction = _interaction(x_SGK) / b**2
            total -= interaction
            overlap += interaction
            spread += interaction**2 / ((s - 1) * (x_SGK.shape[1] - 1))
    total = np.maximum(total, overlap)
    of_problems = sum(stratum.freedom() for stratum in strata)
    by_runs = spread + sum((v**2 / (s - 1) for s, v in runs), np.zeros_like(total))
    freedom_K = np.divide(total**2, by_runs, out=np.full_like(total, of_problems), where=by_runs > 0)
    if len({s for s, _ in runs}) > 1:
        of_a_run = sum(v * s * (s - 1) for s, v in runs) / sum(s - 1 for s, _ in runs)
        pooled = np.maximum(problems - overlap + sum(of_a_run / s for s, _ in runs), overlap)
        by_mean = spread + sum((of_a_run / s) ** 2 / (s - 1) for s, _ in runs)
        freedom_K = np.minimum(freedom_K, np.divide(pooled**2, by_mean, out=freedom_K.copy(), where=by_mean > 0))
    se, least = np.sqrt(total), np.sqrt(floor)
    of_floor = np.divide(floor**2, floor_spread, out=np.full_like(floor, of_problems), where=floor_spread > 0)
    return Variation(mean, np.maximum(se, least), np.where(se < least, of_floor, freedom_K), rows)


@dataclass(frozen=True)
class JointTest:
    """The distribution of the largest score over all K and arms if nothing differs: what makes band and adjusted p.

    R draws say nothing of a chance below 1 / (R + 1). Beyond the largest of them both go by Bonferroni's bound.

    Attributes:
        largest: the largest score in each draw, falling; None where there is one number alone, whose score is normal.
        numbers: over how many the largest is taken.
    """

    largest: FloatArray | None
    numbers: int = 1

    def critical(self, level: float) -> float:
        """Returns the score that is exceeded anywhere with a chance of `1 - level`."""
        alone = float(stats.norm.isf((1 - level) / 2))
        if self.largest is None:
            return alone
        rank = int(np.floor((1 - level) * (self.largest.size + 1) + 1e-9))
        if rank == 0:
            return max(float(self.largest[0]), float(stats.norm.isf((1 - level) / (2 * self.numbers))))
        return max(alone, float(self.largest[rank - 1]))

    def p(self, scores: FloatArray) -> FloatArray:
        """Returns the adjusted p of each score; it is at most `1 - level` exactly where the band excludes 0."""
        p: FloatArray = 2 * stats.norm.sf(scores)
        if self.largest is not None:
            at_least = self.largest.size - np.searchsorted(self.largest[::-1], scores, side="left")
            drawn = (1 + at_least) / (self.largest.size + 1)
            p = np.where(at_least > 0, np.maximum(p, drawn), np.minimum(self.numbers * p, drawn))
        return p


def joint_test(variations: Sequence[Variation], *, resamples: int, seed: int) -> JointTest:
    """Finds what the largest score over the K of all differences is by chance (max-t; Hothorn, Bretz & Westfall 2008).

    All K and all arms are judged by one distribution, so that the chance of any false claim is bounded whichever of
    them truly differ. The band is the sup-t one of Montiel Olea & Plagborg-Møller 2019, J. Appl. Econometrics 34(1),
    with the Student quantile of each K's freedom at the level of its critical value.
    """
    if len(variations) == 1 and variations[0].mean.size == 1:
        return JointTest(None)
    largest = np.zeros(resamples)
    for variation in variations:
        draws_RK = variation.draws(resamples, seed)
        np.maximum(largest, (np.abs(draws_RK) / variation.se).max(axis=1), out=largest)
    return JointTest(np.sort(largest)[::-1], sum(variation.mean.size for variation in variations))
