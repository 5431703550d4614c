"""What `forkwise passk` and `forkwise compare` find, as numbers, and the files that hold them.

`passk.json` and `compare.json` are these dataclasses as JSON; `forkwise report` reads them. Tidy rows, one per number,
are what `--csv` writes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from forkwise.errors import InputError
from forkwise.folders import write_text
from forkwise.folders.results import Input, inputs_of, read_result
from forkwise.passk.estimator import FloatArray
from forkwise.passk.extrapolation import Extrapolation
from forkwise.passk.intervals import Interval
from forkwise.samples.store import find_shards
from forkwise.version import __version__

PASSK = "passk.json"
COMPARE = "compare.json"
SCHEMA = 1

COLUMNS = [
    *("arm", "reference", "metric", "k", "at", "value", "low", "high", "band_low", "band_high"),
    *("p", "adjusted_p", "run_p", "problems", "effective_n", "of_reference", "of_arm", "error"),
]
"""Columns of the tidy rows; a row leaves empty what does not apply to it."""

Row = dict[str, Any]


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
        """One row per K."""
        for i, k in enumerate(self.ks):
            error = {} if "reference" in names else {"error": 0.0 if self.error is None else float(self.error[i])}
            yield {**names, "metric": self.metric, "k": k, **bounds_at(self.interval, i), **error}


def bounds_at(interval: Interval, i: int | tuple[()] = ()) -> dict[str, float]:
    """Entry `i` of an interval as plain numbers; without `i`, the interval of a single value."""
    return {"value": float(interval.mean[i]), "low": float(interval.low[i]), "high": float(interval.high[i])}


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
    """Pass@K of one arm and what belongs beside it. Intervals are BCa over problems unless said otherwise."""

    arm: str
    runs: int
    problems: int
    samples: tuple[int, int]
    """Fewest and most scored samples of a problem."""
    curves: dict[str, Curve]
    """By the name of their statistic, see `forkwise.passk.metrics`."""
    mean_length: float | None
    length_unit: str
    no_answer: float | None
    """Share of samples without a final answer; None where answers were not recorded."""
    length: list[LengthRow]
    diversity: dict[str, Interval]
    extrapolation: Extrapolation | None
    notes: list[str]

    @property
    def pass_at_k(self) -> Interval:
        """Pass@K at each of `ks`."""
        return self.curves["pass@k"].interval

    @property
    def ks(self) -> list[int]:
        """Every K at which Pass@K was evaluated."""
        return self.curves["pass@k"].ks

    def rows(self) -> list[Row]:
        """Every number as one row of `COLUMNS`."""
        names = {"arm": self.arm}
        rows = [row for curve in self.curves.values() for row in curve.rows(names)]
        for r in self.length:
            bounds = {"value": r.value, "low": r.low, "high": r.high, "error": r.error}
            rows.append({**names, "metric": f"pass@k, {r.control}", "k": r.k, "at": r.at, **bounds})
        rows += [{**names, "metric": name, **bounds_at(interval)} for name, interval in self.diversity.items()]
        if self.extrapolation is not None:
            for i, k in enumerate(self.extrapolation.ks):
                bounds = bounds_at(self.extrapolation.pass_at_k, i)
                rows.append({**names, "metric": "pass@k, beta-binomial model", "k": k, **bounds})
        if self.mean_length is not None:
            rows.append({**names, "metric": f"mean length ({self.length_unit})", "value": self.mean_length})
        return rows

    def to_pandas(self) -> Any:
        """`rows()` as a pandas DataFrame; needs pandas."""
        return _to_pandas(self.rows())


@dataclass(frozen=True)
class Crossing:
    """Where the difference curve changes sign, found again in every bootstrap draw."""

    k: float | None
    """Interpolated in log K; None where the observed curves do not cross."""
    low: float | None
    """Lower end of the interval: 0 is "already before K = 1", None is "not up to the largest K"."""
    high: float | None
    """Upper end, likewise."""
    no_crossing: float
    """Share of draws whose curve keeps one sign."""
    reversed: float
    """Share of draws that cross the other way round."""


@dataclass(frozen=True)
class LengthDifference:
    """A difference with length held still. `control` is cap, budget or matched; see docs/passk.md."""

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
    """matched: mean over problems of Kish's effective number of samples."""
    error: float = 0.0
    """Monte-Carlo standard error of the difference, 0 where exact."""


@dataclass(frozen=True)
class Difference:
    """Pass@K of one arm minus the reference's, over the same problems."""

    arm: str
    reference: str
    ks: list[int]
    interval: Interval
    """Pointwise Student t: over problems with one run per arm, over problems and runs with several (see `compare`)."""
    band: Interval
    """Simultaneous: covers the whole curve, and all arms, at once."""
    p: FloatArray
    """Sign-flip permutation p at each K, unadjusted."""
    adjusted_p: FloatArray
    """Max-T adjusted over K, then Holm over arms."""
    run_p: FloatArray | None
    """p of relabelling the runs, max-T adjusted over K and Holm over arms; None with one run in either arm."""
    runs: tuple[int, int]
    """Runs of the reference and of the arm."""
    crossing: Crossing
    margin: float
    equivalent_up_to: int | None
    """The largest K such that the band lies within ±margin at every evaluated K up to it; None if there is none."""
    others: dict[str, Curve] = field(default_factory=dict)
    """Paired differences of the other statistics, with pointwise intervals."""
    length: list[LengthDifference] = field(default_factory=list)
    diversity: dict[str, Interval] = field(default_factory=dict)

    @property
    def claim_p(self) -> FloatArray:
        """The adjusted p at each K of a claim: over problems, and over runs too where there are several."""
        return self.adjusted_p if self.run_p is None else np.maximum(self.adjusted_p, self.run_p)

    def claimed(self, alpha: float) -> npt.NDArray[np.bool_]:
        """At which K a difference can be claimed."""
        return self.claim_p <= alpha

    def rows(self) -> list[Row]:
        """Every number as one row of `COLUMNS`."""
        names = {"arm": self.arm, "reference": self.reference}
        rows: list[Row] = []
        for i, k in enumerate(self.ks):
            row: Row = {**names, "metric": "pass@k", "k": k, **bounds_at(self.interval, i)}
            row |= {"band_low": float(self.band.low[i]), "band_high": float(self.band.high[i])}
            row |= {"p": float(self.p[i]), "adjusted_p": float(self.adjusted_p[i])}
            rows.append(row if self.run_p is None else {**row, "run_p": float(self.run_p[i])})
        rows += [row for curve in self.others.values() for row in curve.rows(names)]
        for r in self.length:
            row = {**names, "metric": f"pass@k, {r.control}", "k": r.k, "at": r.at}
            row |= {"value": r.difference, "low": r.low, "high": r.high}
            row |= {"problems": r.problems, "effective_n": r.effective_n, "error": r.error}
            rows.append(row | {"of_reference": r.reference_value, "of_arm": r.value})
        rows += [{**names, "metric": name, **bounds_at(interval)} for name, interval in self.diversity.items()]
        if self.crossing.k is not None:
            low, high = (np.inf if end is None else end for end in (self.crossing.low, self.crossing.high))
            rows.append({**names, "metric": "crossing k", "value": self.crossing.k, "low": low, "high": high})
        return rows


@dataclass(frozen=True)
class Comparison:
    """All arms against the first."""

    reference: str
    arms: list[Evaluation]
    differences: list[Difference]
    problems: int
    level: float
    length_unit: str
    """Of all arms; empty where they have no unit in common."""
    notes: list[str]

    def rows(self) -> list[Row]:
        """Every number as one row of `COLUMNS`; rows with a `reference` are differences."""
        return [row for arm in self.arms for row in arm.rows()] + [row for d in self.differences for row in d.rows()]

    def to_pandas(self) -> Any:
        """`rows()` as a pandas DataFrame; needs pandas."""
        return _to_pandas(self.rows())


@dataclass(frozen=True)
class PasskFile:
    """The content of `passk.json`: arms evaluated one by one.

    Attributes:
        schema: version of this layout.
        forkwise: version of forkwise that wrote the file.
        settings: the options that were used; null is the default.
        inputs: every shard that was read.
        evaluations: one per run.
    """

    schema: int
    forkwise: str
    settings: dict[str, Any]
    inputs: list[Input]
    evaluations: list[Evaluation]


@dataclass(frozen=True)
class CompareFile:
    """The content of `compare.json`: arms against a reference.

    Attributes:
        schema, forkwise, settings, inputs: as in `PasskFile`.
        sentence: the conclusion in words.
        comparison: the numbers.
        beside: arms that were evaluated and not compared, such as the base model of all of them.
    """

    schema: int
    forkwise: str
    settings: dict[str, Any]
    inputs: list[Input]
    sentence: str
    comparison: Comparison
    beside: list[Evaluation]

    @property
    def evaluations(self) -> list[Evaluation]:
        """Every arm: those that are not compared, then the reference and the others."""
        return [*self.beside, *self.comparison.arms]


def passk_file(evaluations: list[Evaluation], settings: dict[str, Any], tables: list[Path]) -> PasskFile:
    """What `passk.json` holds; `tables` are the samples tables that the evaluations are of."""
    return PasskFile(SCHEMA, __version__, settings, _inputs(tables), evaluations)


def compare_file(
    comparison: Comparison,
    sentence: str,
    settings: dict[str, Any],
    tables: list[Path],
    beside: list[Evaluation] | None = None,
) -> CompareFile:
    """What `compare.json` holds; `tables` are the samples tables that it is about."""
    return CompareFile(SCHEMA, __version__, settings, _inputs(tables), sentence, comparison, beside or [])


def _inputs(tables: Iterable[Path]) -> list[Input]:
    """Every shard of the tables with its SHA-256."""
    return inputs_of(shard for table in tables for shard in find_shards(table))


def is_about(file: PasskFile | CompareFile, tables: Iterable[Path], names: Iterable[str]) -> bool:
    """Whether the file was computed from just these samples tables, and its arms have just these names."""
    if {e.arm for e in file.evaluations} != set(names):
        return False
    return {i.sha256 for i in file.inputs} == {i.sha256 for i in _inputs(tables)}


def read_passk(path: Path) -> PasskFile:
    """What `forkwise passk --json` wrote; InputError if the file is none or damaged."""
    return _checked(path, read_result(path, PasskFile, schema=SCHEMA, command="forkwise passk --json"))


def read_compare(path: Path) -> CompareFile:
    """What `forkwise compare --json` wrote; InputError if the file is none or damaged."""
    return _checked(path, read_result(path, CompareFile, schema=SCHEMA, command="forkwise compare --json"))


File = TypeVar("File", PasskFile, CompareFile)


def _checked(path: Path, file: File) -> File:
    """The file, if its parts fit together; msgspec has checked the types alone.

    Raises:
        InputError: they do not.
    """
    names = [e.arm for e in file.evaluations]
    fit = (
        bool(names)
        and len(set(names)) == len(names)
        and all({"pass@k", "mean@n"} <= set(e.curves) for e in file.evaluations)
    )
    curves = [(c.ks, c.interval) for e in file.evaluations for c in e.curves.values()]
    curves += [(e.extrapolation.ks, e.extrapolation.pass_at_k) for e in file.evaluations if e.extrapolation]
    single = [v for e in file.evaluations for v in e.diversity.values()]
    if isinstance(file, CompareFile):
        differences = file.comparison.differences
        fit &= bool(differences) and {name for d in differences for name in (d.arm, d.reference)} <= set(names)
        p_values = [(d.ks, p) for d in differences for p in (d.p, d.adjusted_p, d.run_p) if p is not None]
        fit &= all(p.shape == (len(ks),) for ks, p in p_values)
        curves += [pair for d in differences for pair in ((d.ks, d.interval), (d.ks, d.band))]
        curves += [(c.ks, c.interval) for d in differences for c in d.others.values()]
        single += [v for d in differences for v in d.diversity.values()]
    fit &= all(ks and ks[0] > 0 and ks == sorted(set(ks)) for ks, _ in curves)
    shapes = [((len(ks),), interval) for ks, interval in curves] + [((), interval) for interval in single]
    if not fit or any(x.shape != shape for shape, i in shapes for x in (i.mean, i.low, i.high)):
        raise InputError(f"'{path}' is damaged (its parts do not fit together): write it again.")
    return file


def write_csv(path: Path, rows: list[Row]) -> None:
    """One line per number, at full precision."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())


def _to_pandas(rows: list[Row]) -> Any:
    import pandas

    return pandas.DataFrame(rows)
