"""Results of `forkwise passk` and `forkwise compare`, as numbers; `forkwise.passk.files` puts them on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError
from forkwise.passk.bayesian import Bayesian
from forkwise.passk.benchmark_results import Benchmarks
from forkwise.passk.certified import Certified, certify
from forkwise.passk.changes import Changes
from forkwise.passk.estimator import FloatArray
from forkwise.passk.extrapolation import Extrapolation
from forkwise.passk.intervals import Interval, Row, bounds_at, enough_problems
from forkwise.passk.notes import Note

COLUMNS = [
    *("arm", "reference", "metric", "k", "at", "value", "low", "high", "band_low", "band_high"),
    *("p", "adjusted_p", "problems", "effective_n", "of_reference", "of_arm", "error"),
]
"""Columns of the tidy rows; a cell that does not apply is empty."""


@dataclass(frozen=True)
class Curve:
    """A statistic along K with its interval: of one arm over problems, or the paired difference of two arms.

    Attributes:
        metric: its name in the tidy rows.
        title: its name in tables.
        ks: the K of the interval's entries.
        error: Monte-Carlo standard error of the mean at each K; None where the value is exact.
        shown: whether tables of the arm show it.
    """

    metric: str
    title: str
    ks: list[int]
    interval: Interval
    error: FloatArray | None = None
    shown: bool = True

    def rows(self, names: Row) -> Iterator[Row]:
        """Makes one row per K."""
        for i, k in enumerate(self.ks):
            error = {} if "reference" in names else {"error": 0.0 if self.error is None else float(self.error[i])}
            yield {**names, "metric": self.metric, "k": k, **bounds_at(self.interval, i), **error}


@dataclass(frozen=True)
class LengthRow:
    """Pass@K with longer answers counted wrong (`cap`), or the pass rate within a length budget (`budget`)."""

    control: str
    at: int
    """The cap or the budget, in the arm's length unit."""
    k: int | None
    value: float
    low: float
    high: float
    error: float = 0.0
    """Monte-Carlo standard error, 0 where the value is exact."""


@dataclass(frozen=True)
class Evaluation:
    """Pass@K and the other statistics of one arm. Intervals are BCa over problems unless said otherwise."""

    arm: str
    runs: int
    problems: int
    samples: tuple[int, int]
    """Fewest and most scored samples of a problem."""
    curves: dict[str, Curve]
    """Curves by the names of their statistics, see `forkwise.passk.metrics`."""
    mean_length: float | None
    length_unit: str
    no_answer: float | None
    """Share of samples without a final answer; None where answers were not recorded."""
    length: list[LengthRow]
    diversity: dict[str, Interval]
    extrapolation: Extrapolation | None
    same_problems: Interval
    """Pass@K with the interval for these very problems, of sampling noise alone, at each of `ks`."""
    notes: list[Note]

    @property
    def pass_at_k(self) -> Interval:
        """Pass@K at each of `ks`."""
        return self.curves["pass@k"].interval

    @property
    def ks(self) -> list[int]:
        """Returns every K at which Pass@K was evaluated."""
        return self.curves["pass@k"].ks

    def rows(self) -> list[Row]:
        """Returns every number as one row of `COLUMNS`."""
        names = {"arm": self.arm}
        rows = [row for curve in self.curves.values() for row in curve.rows(names)]
        for i, k in enumerate(self.ks):
            rows.append({**names, "metric": "pass@k, these problems", "k": k, **bounds_at(self.same_problems, i)})
        for r in self.length:
            bounds = {"value": r.value, "low": r.low, "high": r.high, "error": r.error}
            rows.append({**names, "metric": f"pass@k, {r.control}", "k": r.k, "at": r.at, **bounds})
        rows += [{**names, "metric": name, **bounds_at(interval)} for name, interval in self.diversity.items()]
        if self.extrapolation is not None:
            for i, k in enumerate(self.extrapolation.ks):
                bounds = bounds_at(self.extrapolation.pass_at_k, i) | {"error": float(self.extrapolation.misfit[i])}
                rows.append({**names, "metric": "pass@k, beta-binomial model", "k": k, **bounds})
        if self.mean_length is not None:
            rows.append({**names, "metric": f"mean length ({self.length_unit})", "value": self.mean_length})
        return rows

    def to_pandas(self) -> Any:
        """Returns `rows()` as a pandas DataFrame; needs pandas."""
        return _to_pandas(self.rows())


@dataclass(frozen=True)
class Crossing:
    """Where the difference curve changes sign, found again in every bootstrap draw."""

    k: float | None
    """Interpolated in log K; None where the observed curves do not cross."""
    low: float | None
    """Lower end of the interval: 0 is "already before K = 1", None is "not up to the largest K"."""
    high: float | None
    """Upper end of the interval, with 0 and None as for `low`."""
    no_crossing: float
    """Share of draws whose curve keeps one sign."""
    reversed: float
    """Share of draws that cross the other way round."""


@dataclass(frozen=True)
class LengthDifference:
    """A difference in Pass@K with length held still. `control` is cap, budget or matched; see docs/passk.md."""

    control: str
    at: int | None
    """The cap or the budget in the arms' length unit; None for matched."""
    k: int | None
    problems: int
    reference_value: float
    value: float
    difference: float
    low: float
    high: float
    effective_n: float | None = None
    """Mean over problems of Kish's effective number of samples; only for matched."""
    error: float = 0.0
    """Monte-Carlo standard error of the difference, 0 where exact."""
    band_low: float | None = None
    """Lower end of the band that covers all budgets and arms at once; None for the other controls."""
    band_high: float | None = None


@dataclass(frozen=True)
class Endpoint:
    """What was named beforehand as the one thing to be tested, with its interval and p, adjusted for the arms alone."""

    metric: str
    """`pass@k`, or `curve`: the mean of Pass@K over K = 1, 2, 4, ..., k."""
    k: int
    interval: Interval
    p: float
    equivalent: bool
    """Whether the interval lies within the margin, on problems enough for it."""


@dataclass(frozen=True)
class Difference:
    """Pass@K of one arm minus the reference's, over the same problems.

    Intervals and p are about problems like these, and about other training runs of the arms that `trained` says.
    """

    arm: str
    reference: str
    ks: list[int]
    interval: Interval
    """Pointwise Student t interval."""
    same_problems: Interval
    """Pointwise interval for these very models and problems: what sampling them again would change."""
    band: Interval
    """Simultaneous band, which covers the whole curve, and all arms, at once."""
    p: FloatArray
    """The p of Student's t at each K by itself."""
    adjusted_p: FloatArray
    """The p adjusted for all K and all arms; at most 1 - level exactly where the band excludes 0."""
    runs: tuple[int, int]
    """Numbers of runs of the reference and of the arm."""
    trained: tuple[bool, bool]
    """Whether it is about other training runs of the reference and of the arm, or about these very models."""
    crossing: Crossing
    margin: float
    equivalent_up_to: int | None
    """The largest K such that the band lies within ±margin at every evaluated K up to it; None if there is none."""
    changes: Changes | None = None
    """Which problems changed hands; None where the arms have different numbers of samples."""
    primary: Endpoint | None = None
    """The primary endpoint; where there is one, all else is exploratory."""
    others: dict[str, Curve] = field(default_factory=dict)
    """Paired differences of the other statistics, with pointwise intervals."""
    length: list[LengthDifference] = field(default_factory=list)
    diversity: dict[str, Interval] = field(default_factory=dict)

    @property
    def least(self) -> float:
        """Returns how much worse the arm may be at most, as a difference: of the primary endpoint, or else at any K."""
        return float(self.band.low.min() if self.primary is None else self.primary.interval.low)

    @property
    def certified(self) -> Certified:
        """Returns the K at which the arm is better, or worse, all at once at the level of the band."""
        return certify(self.ks, self.band)

    def claimed(self, alpha: float) -> npt.NDArray[np.bool_]:
        """Says at which K a difference can be claimed, if no primary endpoint was named."""
        return self.adjusted_p <= alpha

    def rows(self) -> list[Row]:
        """Returns every number as one row of `COLUMNS`."""
        names = {"arm": self.arm, "reference": self.reference}
        rows: list[Row] = []
        for i, k in enumerate(self.ks):
            row: Row = {**names, "metric": "pass@k", "k": k, **bounds_at(self.interval, i)}
            row |= {"band_low": float(self.band.low[i]), "band_high": float(self.band.high[i])}
            rows.append(row | {"p": float(self.p[i]), "adjusted_p": float(self.adjusted_p[i])})
        for i, k in enumerate(self.ks):
            rows.append({**names, "metric": "pass@k, these problems", "k": k, **bounds_at(self.same_problems, i)})
        if self.changes is not None:
            for who, problems in (("arm", self.changes.by_arm), ("reference", self.changes.by_reference)):
                rows.append({**names, "metric": f"problems solved by the {who} alone", "value": len(problems)})
        if self.primary is not None:
            metric = f"primary: {self.primary.metric}"
            bounds = bounds_at(self.primary.interval)
            rows.append({**names, "metric": metric, "k": self.primary.k, **bounds, "adjusted_p": self.primary.p})
        rows += [row for curve in self.others.values() for row in curve.rows(names)]
        for r in self.length:
            row = {**names, "metric": f"pass@k, {r.control}", "k": r.k, "at": r.at}
            row |= {"value": r.difference, "low": r.low, "high": r.high}
            if r.band_low is not None:
                row |= {"band_low": r.band_low, "band_high": r.band_high}
            row |= {"problems": r.problems, "effective_n": r.effective_n, "error": r.error}
            rows.append(row | {"of_reference": r.reference_value, "of_arm": r.value})
        rows += [{**names, "metric": name, **bounds_at(interval)} for name, interval in self.diversity.items()]
        if self.crossing.k is not None:
            low, high = (np.inf if end is None else end for end in (self.crossing.low, self.crossing.high))
            rows.append({**names, "metric": "crossing k", "value": self.crossing.k, "low": low, "high": high})
        return rows


@dataclass(frozen=True)
class Comparison:
    """The comparison of all arms with the first."""

    reference: str
    arms: list[Evaluation]
    differences: list[Difference]
    problems: int
    effective_problems: float
    """How many problems of equal weight that stand for themselves say as much: fewer where they come in clusters."""
    level: float
    length_unit: str
    """Unit of the lengths of all arms; empty where they have none in common."""
    notes: list[Note]
    benchmarks: Benchmarks | None = None
    """What each of several benchmarks says; all else is then the mean over them. None where there is one."""
    bayesian: Bayesian | None = None
    """What scorio says about the arms; None where it was not asked."""

    def not_worse(self, margin: float) -> bool:
        """Says whether every arm is shown to be worse than the reference by less than the margin (non-inferiority).

        It goes by the primary endpoint, or else by the band at every K; as for equivalence, a share of the problems as
        large as the margin must not have gone unseen.

        Raises:
            InputError: a margin that is not above 0 and below 1.
        """
        if not 0 < margin < 1:
            raise InputError(f"The gate's margin is {margin}: it is how much worse an arm may be, above 0 and below 1.")
        enough = enough_problems(self.effective_problems, self.level, margin)
        return all(d.least > 0 or (d.least > -margin and enough) for d in self.differences)

    def rows(self) -> list[Row]:
        """Returns every number as one row of `COLUMNS`; rows with a `reference` are differences."""
        rows = [row for arm in self.arms for row in arm.rows()] + [row for d in self.differences for row in d.rows()]
        return rows + [row for more in (self.benchmarks, self.bayesian) if more is not None for row in more.rows()]

    def to_pandas(self) -> Any:
        """Returns `rows()` as a pandas DataFrame; needs pandas."""
        return _to_pandas(self.rows())


def _to_pandas(rows: list[Row]) -> Any:
    import pandas

    return pandas.DataFrame(rows)
