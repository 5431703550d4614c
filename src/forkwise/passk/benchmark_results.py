"""What several benchmarks say about the same arms, as numbers: on each, how often better, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkwise.passk.estimator import FloatArray
from forkwise.passk.intervals import Interval, Row, bounds_at


def effective(problems: Sequence[float]) -> float:
    """Returns how many problems of equal weight say as much as benchmarks of these sizes that weigh the same."""
    return len(problems) ** 2 / sum(1 / number for number in problems)


@dataclass(frozen=True)
class OnBenchmark:
    """The difference of an arm from the reference on one benchmark.

    Attributes:
        of_arm, of_reference: Pass@K of both.
        interval: pointwise.
        band: covers all benchmarks, K and arms at once, and belongs to the adjusted p.
    """

    benchmark: str
    problems: int
    arm: str
    reference: str
    ks: list[int]
    of_arm: FloatArray
    of_reference: FloatArray
    interval: Interval
    band: Interval
    adjusted_p: FloatArray


@dataclass(frozen=True)
class Improvement:
    """The chance that a run of the arm does better than one of the reference on a benchmark, averaged over benchmarks.

    Equal scores count half. With one run of each it is the share of the benchmarks on which the arm is ahead.
    """

    arm: str
    reference: str
    k: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """The place of an arm among all by its mean over benchmarks; 1 is the best, and equal arms share the better place.

    Attributes:
        low, high: best and worst place that the differences of all pairs of arms leave open, for all arms at once.
        shares: of the resamples in which it takes place 1, 2, ...
    """

    arm: str
    k: int
    value: float
    place: int
    low: int
    high: int
    shares: list[float]


@dataclass(frozen=True)
class Benchmarks:
    """Results on several benchmarks, which all weigh the same.

    Attributes:
        problems, samples: of each benchmark; the samples are the fewest of a problem.
        endpoint: what improvements and places are about: `pass@k`, or `curve`.
    """

    names: list[str]
    problems: list[int]
    samples: list[int]
    on: list[OnBenchmark]
    endpoint: str
    improvements: list[Improvement]
    standings: list[Standing]

    def rows(self) -> list[Row]:
        """Returns every number as a tidy row."""
        rows: list[Row] = []
        for o in self.on:
            names = {"arm": o.arm, "reference": o.reference, "metric": f"pass@k, {o.benchmark}", "problems": o.problems}
            for i, k in enumerate(o.ks):
                row: Row = {**names, "k": k, **bounds_at(o.interval, i), "adjusted_p": float(o.adjusted_p[i])}
                row |= {"band_low": float(o.band.low[i]), "band_high": float(o.band.high[i])}
                rows.append(row | {"of_arm": float(o.of_arm[i]), "of_reference": float(o.of_reference[i])})
        for m in self.improvements:
            row = {"arm": m.arm, "reference": m.reference, "metric": f"probability of improvement, {self.endpoint}"}
            rows.append({**row, "k": m.k, "value": m.value, "low": m.low, "high": m.high})
        for s in self.standings:
            row = {"arm": s.arm, "metric": f"place, {self.endpoint}", "k": s.k}
            rows.append({**row, "value": s.place, "low": s.low, "high": s.high})
        return rows
