"""Does `forkwise explore` claim too much? Simulated traces whose marks have no effect, or one that is known.

    python benchmarks/explore_calibration.py            # the tables of docs/explore.md, three minutes of CPU time
    python benchmarks/explore_calibration.py --quick    # the same with few data sets, some seconds

Traces of some 120 tokens: entropies depend on their neighbours, on the problem, and in some designs on the place, the
trace, or a template that samples of a problem share. A row says in which share of data sets a 95 % interval misses the
true value: nominal .05. The truth of raw comparisons, and of effects that vary, is that of 1,200 problems.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from forkwise.explore.contrast import ContrastDesign, MatchedDesign, Units, contrast
from forkwise.explore.findings import Estimate
from forkwise.explore.rarity import BaseDistances

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rng = np.random.Generator

TOKENS = 120
NOTHING = (0.0, 0.5, 0.0)
"""Raw difference, its AUC and matched difference where marks do nothing."""


@dataclass(frozen=True)
class Cell:
    """A design: what is simulated, and how much of it."""

    name: str
    kind: str
    problems: int = 10
    samples: int = 4
    effect: float = 0.0


@dataclass(frozen=True)
class Traces:
    units: Units
    marked_N: Bools
    stratum_N: Ints


# -------------------------------------------------------------------------------- populations


def neighbours(rng: Rng, shape: tuple[int, int], correlation: float) -> Floats:
    """Standard normal rows whose neighbours are correlated."""
    noise = rng.normal(size=shape)
    noise[:, 1:] *= np.sqrt(1 - correlation**2)
    return np.asarray(lfilter([1], [1, -correlation], noise, axis=1))


def traces(rng: Rng, cell: Cell) -> Traces:
    rows, width, kind = cell.problems * cell.samples, int(1.3 * TOKENS), cell.kind
    problem = np.repeat(np.arange(cell.problems), cell.samples)
    copied = kind in ("template", "identical")
    length = np.full(rows, TOKENS) if copied else (TOKENS * rng.uniform(0.7, 1.3, rows)).astype(np.int64)
    place = np.arange(width) / length[:, None]
    level = 0.3 * rng.normal(size=cell.problems)[problem][:, None]
    often = np.minimum(0.3, 0.05 * np.exp(0.4 * rng.normal(size=cell.problems)))[problem][:, None]
    latent = neighbours(rng, (rows, width), {"clumped": 0.9, "starts": 0.3}.get(kind, 0.5))
    stratum = np.minimum((10 * place).astype(np.int64), 9)
    if kind == "position":
        often = np.minimum(0.5, 0.15 * np.exp(-3 * place))
        latent = latent + 2 * np.exp(-3 * place)
    elif kind == "traces":
        high = rng.normal(size=(rows, 1))
        often, latent = 0.05 * np.exp(0.7 * high), latent + 0.7 * high
    elif kind == "starts":
        first = rng.random((rows, width)) < 1 / 16
        often, latent, stratum = np.where(first, 0.25, 0.015), latent + 2.0 * first, first.astype(np.int64)
    elif kind == "few":
        often = np.full((rows, 1), 0.001)
    elif kind == "fine":
        stratum = 20 * stratum + rng.integers(0, 20, stratum.shape)
    marked = rng.random((rows, width)) < often / (4 if kind == "clumped" else 1)
    if kind == "clumped":
        marked = marked | np.roll(marked, 1, 1) | np.roll(marked, 2, 1) | np.roll(marked, 3, 1)
    if copied:  # every sample follows the problem's first, to a random place or to the end
        first_of = cell.samples * problem
        until = rng.uniform(0.3, 1.0, rows) * TOKENS if kind == "template" else np.full(rows, width)
        follows = np.arange(width) < until[:, None]
        latent, marked = np.where(follows, latent[first_of], latent), np.where(follows, marked[first_of], marked)
    varied = 0.6 * rng.normal(size=cell.problems)[problem][:, None] if kind == "varied" else 0.0
    value = np.log1p(np.exp(latent + (cell.effect + varied) * marked - 1 + level))
    inside = np.arange(width) < length[:, None]
    trace = np.repeat(np.arange(rows)[:, None], width, axis=1)[inside]
    return Traces(Units(value[inside], problem[trace], trace), marked[inside], stratum[inside])


# -------------------------------------------------------------------------------- contrasts


def designs(made: Traces) -> tuple[ContrastDesign, MatchedDesign]:
    every = np.ones(made.marked_N.size, dtype=bool)
    return ContrastDesign(made.units, every), MatchedDesign(made.units, every, made.stratum_N)


@cache
def truths(cell: Cell) -> tuple[float, float, float]:
    """The raw difference, its AUC and the matched difference in 1,200 problems; they are 0, 0.5 and 0 where neither
    place nor trace nor effect says anything of marks, and the last one where only the effect does not."""
    if not cell.effect and cell.kind not in ("position", "traces", "starts", "varied"):
        return NOTHING
    shifts = []
    for seed in range(30):
        made = traces(np.random.default_rng([9, seed]), cell)
        raw, matched = (
            contrast(design, made.marked_N, auc=not isinstance(design, MatchedDesign)) for design in designs(made)
        )
        assert raw is not None
        assert matched is not None
        shifts.append([raw.difference.value, raw.auc.value, matched.difference.value])
    difference, auc, within = np.mean(np.array(shifts, dtype=float), axis=0)
    return float(difference), float(auc), float(within) if cell.effect or cell.kind == "varied" else 0.0


def misses(estimate: Estimate, truth: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return not estimate.low <= truth <= estimate.high


ROWS = [
    Cell("independent, 10 problems", "plain"),
    Cell("independent, 30 problems", "plain", 30),
    Cell("clumped marks, neighbours .9, 10", "clumped"),
    Cell("marks and entropy early in the trace, 10", "position"),
    Cell("marks and entropy early in the trace, 30", "position", 30),
    Cell("traces differ in both, 10", "traces"),
    Cell("traces differ in both, 30", "traces", 30),
    Cell("effect varies over problems, 10", "varied"),
    Cell("effect varies over problems, 30", "varied", 30),
    Cell("template, 4 samples, 10", "template"),
    Cell("template, 16 samples, 10", "template", samples=16),
    Cell("template, 8 samples, 30", "template", 30, 8),
    Cell("identical samples, 8, 10", "identical", samples=8),
    Cell("marks at starts of sentences, 10", "starts"),
    Cell("200 strata, 10", "fine"),
    Cell("200 strata, 30", "fine", 30),
    Cell("4 problems", "plain", 4),
    Cell("some 5 marks in all, 10", "few"),
]
POWER = [
    Cell("independent, 10 problems", "plain", effect=0.2),
    Cell("independent, 30 problems", "plain", 30, effect=0.2),
    Cell("marks and entropy early in the trace, 10", "position", effect=0.2),
    Cell("template, 8 samples, 10", "template", samples=8, effect=0.2),
]


def simulate(cells: Sequence[Cell], sets: int, *, find: bool = False) -> dict[str, Floats]:
    """Prints and returns, per design, the shares of raw and matched intervals that miss the truth, or nothing with
    `find`."""
    shares = {}
    for cell in cells:
        raw_truth, auc_truth, truth = NOTHING if find else truths(replace(cell, name="", problems=40, samples=4))
        missed, few = [], 0
        for i in range(sets):
            made = traces(np.random.default_rng([zlib.crc32(cell.name.encode()), i]), cell)
            claimed = [contrast(design, made.marked_N) for design in designs(made)]
            if any(one is None or one.too_few for one in claimed):
                few += 1
                continue
            raw, matched = (one for one in claimed if one is not None)
            half = misses(matched.auc, 0.5) if not (cell.effect or cell.kind == "varied") or find else np.nan
            of_raw = [misses(raw.difference, raw_truth), misses(raw.auc, auc_truth)]
            missed.append([*of_raw, misses(matched.difference, truth), half])
        if few * 2 > sets:
            print(f"| {cell.name} | too few: no difference is given in {few / sets:.0%} | | | |", flush=True)
            continue
        shares[cell.name] = np.mean(np.array(missed, dtype=float), axis=0)
        print(
            f"| {cell.name} | {' | '.join('' if np.isnan(x) else f'{x:.3f}' for x in shares[cell.name])} |", flush=True
        )
    return shares


# -------------------------------------------------------------------------------- rarity


def rare(rng: Rng, problems: int, base: int, run: int) -> tuple[bool, bool, float]:
    """Whether the interval of the share beyond the null misses a tenth (as one, and by length), and the share.

    Distances of both models have one distribution: a level of the problem, one of the sample, and noise.
    """
    level = 0.5 * rng.normal(size=problems)

    def pool(samples: int) -> tuple[Floats, Ints, Ints]:
        count = rng.integers(4, 12, size=(problems, samples))
        problem = np.repeat(np.repeat(np.arange(problems), samples), count.ravel())
        sample = np.repeat(0.3 * rng.normal(size=problems * samples), count.ravel())
        words = rng.integers(0, 4, problem.size)
        return np.exp(0.2 * (level[problem] + sample + rng.normal(size=problem.size) + 0.5 * words)), problem, words

    (null_M, problem_M, bin_M), (distance_N, problem_N, bin_N) = pool(base), pool(run)
    null = BaseDistances(null_M, problem_M, 0.9)
    one_N, one_M = np.zeros_like(bin_N), np.zeros_like(bin_M)
    intervals = [
        null.interval(distance_N, problem_N, own, theirs, problems, resamples=400, seed=0, level=0.95)
        for own, theirs in ((one_N, one_M), (bin_N, bin_M))
    ]
    assert intervals[1].value is not None
    return misses(intervals[0], 0.1), misses(intervals[1], 0.1), intervals[1].value


def rarities(sets: int) -> None:
    if not sets:
        return
    for problems, base, run in ((12, 4, 4), (12, 2, 6), (12, 6, 2), (30, 4, 4), (30, 8, 2)):
        drawn = [rare(np.random.default_rng([problems, base, i]), problems, base, run) for i in range(sets)]
        plain, length, share = np.mean(np.array(drawn, dtype=float), axis=0)
        print(f"| {problems} problems, base {base}, run {run} | {plain:.3f} | {length:.3f} | {share:.4f} |", flush=True)


def table(title: str, header: str, fill: Callable[[], object]) -> None:
    print(f"\n### {title}\n\n| {header} |\n|{'---|' * (header.count('|') + 1)}")
    fill()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few data sets")
    parser.add_argument("--designs", default="", help="only those whose name holds this text")
    parser.add_argument("--sets", type=int, default=400, help="data sets of each design")
    options = parser.parse_args(arguments)
    sets = 40 if options.quick else options.sets

    def named(cells: Sequence[Cell]) -> list[Cell]:
        return [cell for cell in cells if options.designs in cell.name]

    table(
        "Share of 95 % intervals that miss the truth, where marks do nothing or vary",
        "design | raw difference | raw AUC | matched difference | matched AUC",
        lambda: simulate(named(ROWS), sets),
    )
    table(
        "Share of intervals that find an effect of +0.2",
        "design | raw difference | raw AUC | matched difference | matched AUC",
        lambda: simulate(named(POWER), sets // 2, find=True),
    )
    table(
        "Rarity: intervals that miss a tenth, where run and base are alike",
        "samples of a problem | beyond the null | of its length | mean share of its length",
        lambda: rarities(0 if options.designs else sets),
    )


if __name__ == "__main__":
    main()
