"""Several arms put in order, in words: over several benchmarks, and by scorio."""

from __future__ import annotations

from forkwise.passk import Comparison
from forkwise.passk.benchmark_results import Benchmarks, Standing
from forkwise.passk.differences import CURVE
from forkwise.passk.estimator import shown_ks
from forkwise.report.formats import at, coverage, interval, number
from forkwise.report.table import Block, Table

_FEW = 6  # K in the columns


def on_benchmarks(c: Comparison) -> list[Block]:
    """Makes the tables of a comparison over several benchmarks; none where there is one."""
    benchmarks = c.benchmarks
    if benchmarks is None:
        return []
    level = coverage(c.level)
    ks = shown_ks(benchmarks.on[0].ks, _FEW)
    rows = [
        [o.benchmark, o.arm, str(o.problems), *(at(o.band, o.ks.index(k), "+") for k in ks)]
        for name in benchmarks.names
        for o in benchmarks.on
        if o.benchmark == name
    ]
    caption = f"Minus {c.reference} on each benchmark [{level} band over all benchmarks, arms and K]"
    blocks: list[Block] = [Table(caption, ["benchmark", "arm", "problems", *(f"Pass@{k}" for k in ks)], rows, labels=2)]
    endpoints = sorted({m.k for m in benchmarks.improvements})
    header = [_endpoint(benchmarks, k) for k in endpoints]
    values = {(m.arm, m.k): interval(m.value, m.low, m.high) for m in benchmarks.improvements}
    arms = [d.arm for d in c.differences]
    caption = f"Probability that a run is better than one of {c.reference} on a benchmark [{level} bootstrap interval]"
    blocks.append(Table(caption, ["arm", *header], [[arm, *(values[arm, k] for k in endpoints)] for arm in arms]))
    standings = {(s.arm, s.k): s for s in benchmarks.standings}
    caption = f"Place by the mean over benchmarks [places that are left, {level} sure for all arms]: share of resamples"
    rows = [[e.arm, *(_place(standings[e.arm, k]) for k in endpoints)] for e in c.arms]
    return [*blocks, Table(caption, ["arm", *header], rows)]


def _endpoint(benchmarks: Benchmarks, k: int) -> str:
    return f"mean of Pass@1, 2, 4, ..., {k}" if benchmarks.endpoint == CURVE else f"Pass@{k}"


def _place(s: Standing) -> str:
    place = str(s.low) if s.low == s.high else f"{s.low}–{s.high}"
    shares = ", ".join(f"{rank}: {share:.0%}" for rank, share in enumerate(s.shares, start=1) if share >= 0.005)
    return f"{number(s.value)}, place {s.place} [{place}]: {shares}"


def by_scorio(c: Comparison) -> list[Block]:
    """Makes the tables of what scorio says; none where it was not asked."""
    bayesian = c.bayesian
    if bayesian is None:
        return []
    ks = shown_ks(bayesian.posteriors[0].ks, _FEW)
    rows = [[p.arm, *(at(p.interval, p.ks.index(k)) for k in ks)] for p in bayesian.posteriors]
    for row, p in zip(rows, bayesian.posteriors, strict=True):
        row.append(f"{p.prior[0]:.3g}, {p.prior[1]:.3g}")
    level = coverage(bayesian.posteriors[0].interval.level)
    caption = f"Pass@K of these models on these problems, by scorio {bayesian.version} [{level} credible interval]"
    blocks: list[Block] = [Table(caption, ["arm", *(f"Pass@{k}" for k in ks), "fitted beta prior"], rows)]
    places = [[p.arm, *(str(by[i]) for by in bayesian.places.values())] for i, p in enumerate(bayesian.posteriors)]
    return [*blocks, Table("Places by the ranking models of scorio; no test", ["arm", *bayesian.places], places)]
