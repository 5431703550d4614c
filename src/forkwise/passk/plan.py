"""Plans a study before it is run: what `forkwise plan` reports, as numbers; `plan.json` holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from forkwise.errors import InputError
from forkwise.folders.results import Input, read_result
from forkwise.passk.components import Components
from forkwise.passk.design import FEWEST_RUNS
from forkwise.passk.estimator import FloatArray
from forkwise.passk.power import (
    MOST_RUNS,
    Size,
    Test,
    detectable,
    least_runs,
    power_at,
    power_curve,
    runs_needed,
    variance_of,
)
from forkwise.version import __version__

SCHEMA = 2
PLAN = "plan.json"

_PROBLEMS = (10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 7500, 10_000)
_UNLIMITED = 10**9
_DRAWN_RUNS = 48  # points of a power curve


@dataclass(frozen=True)
class Costs:
    """What a study costs: each trained run, and each sample, in one unit; and what there is to spend."""

    run: float
    sample: float
    budget: float | None
    arms: int
    """Arms that are trained."""
    fixed: bool
    """Whether there is a reference beside them that is only sampled."""

    def of(self, size: Size) -> float:
        """Returns the cost of a study of this size."""
        drawn = size.problems * size.samples * self.sample
        return self.arms * size.runs * (self.run + drawn) + (drawn if self.fixed else 0.0)


@dataclass(frozen=True)
class Detectable:
    """The smallest difference that the study finds with the wanted power.

    Attributes:
        low, high: the same if the variance over runs is at the ends of its interval.
        runs, run_problem, sampling, method_problem: shares of the variance of the difference.
        any_problems: the smallest difference with these runs and problems and samples without limit.
        any_runs: that on these problems and samples with runs without limit.
    """

    endpoint: str
    difference: float
    low: float
    high: float
    runs: float
    run_problem: float
    sampling: float
    method_problem: float
    any_problems: float
    any_runs: float


@dataclass(frozen=True)
class Needed:
    """The runs per arm that find a difference on the study's problems and samples; None: no number does.

    Attributes:
        low, high: the same if the variance over runs is at the ends of its interval.
        cost: of such a study; None where no costs are given.
    """

    endpoint: str
    difference: float
    runs: int | None
    low: int | None
    high: int | None
    cost: float | None


@dataclass(frozen=True)
class PowerCurve:
    """The power for a difference over runs per arm, and with the variance over runs at the ends of its interval."""

    endpoint: str
    difference: float
    runs: FloatArray
    power: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class PricedStudy:
    """A study that costs least for a difference, or finds the smallest difference within the budget."""

    endpoint: str
    difference: float
    size: Size
    power: float
    cost: float


@dataclass(frozen=True)
class Plan:
    """What a study can find, and what it takes."""

    size: Size
    contrasts: int
    endpoints: int
    level: float
    tests: dict[str, Test]
    """How a difference is tested, by endpoint."""
    costs: Costs | None
    components: list[Components]
    out_of_reach: list[str]
    """Endpoints that need more samples than the study has."""
    detectable: list[Detectable]
    needed: list[Needed]
    curves: list[PowerCurve]
    cheapest: list[PricedStudy]
    affordable: list[PricedStudy]

    @property
    def trained(self) -> bool:
        """Whether the study says anything about other trainings."""
        return self.size.runs >= FEWEST_RUNS


@dataclass(frozen=True)
class PlanFile:
    """Content of `plan.json`.

    Attributes:
        inputs: every file that was read.
        sentence: the conclusion in words.
        limits: what cannot be claimed, in words.
    """

    schema: int
    forkwise: str
    settings: dict[str, Any]
    inputs: list[Input]
    sentence: str
    limits: list[str]
    plan: Plan


def plan_file(
    plan: Plan, settings: dict[str, Any], inputs: list[Input], sentence: str, limits: Sequence[str]
) -> PlanFile:
    """Adds to a plan its words, settings and inputs, and the version of forkwise."""
    return PlanFile(SCHEMA, __version__, settings, inputs, sentence, list(limits), plan)


def read_plan(path: Path) -> PlanFile:
    """Reads a file that `forkwise plan --json` wrote.

    Raises:
        InputError: the file is none, or is damaged.
    """
    return read_result(path, PlanFile, schema=SCHEMA, command="forkwise plan --json")


def make_plan(
    components: Sequence[Components],
    size: Size,
    tests: dict[str, Test],
    *,
    detect: Sequence[float],
    contrasts: int = 1,
    endpoints: int = 1,
    level: float = 0.95,
    costs: Costs | None = None,
    max_problems: int = 1000,
) -> Plan:
    """Computes what a study of a size can find at each endpoint, and what the differences take.

    Args:
        tests: how a difference is tested, by endpoint.
        detect: differences to be found.
        costs: None leaves out what is cheapest.
        max_problems: most problems of the cheapest study.

    Raises:
        InputError: every endpoint needs more samples than the study has.
    """
    reached = [c for c in components if c.largest_k <= size.samples]
    if not reached:
        raise InputError(
            f"Every K asked for exceeds the {size.samples} samples of a problem, and none can be estimated from fewer "
            "samples than K: plan with more --samples, or a smaller --k."
        )
    needed = [_needed(c, d, size, tests[c.endpoint], costs) for c in reached for d in detect]
    fewest = max(tests[c.endpoint].fewest for c in reached)
    most = max([n.runs or 0 for n in needed] + [size.runs, 2 * fewest])
    drawn = np.unique(np.round(np.geomspace(fewest, min(1.3 * most, MOST_RUNS), _DRAWN_RUNS)))
    cheapest: list[PricedStudy] = []
    affordable: list[PricedStudy] = []
    if costs is not None:
        sizes = [p for p in _PROBLEMS if p <= max_problems] + [min(size.problems, max_problems)]
        for c in reached:
            ns = [noise.n for noise in c.noise if noise.n >= c.largest_k]
            pairs = [(q, n) for q in sorted(set(sizes)) for n in ns]
            cheapest += [x for d in detect if (x := _cheapest(c, d, pairs, tests[c.endpoint], costs)) is not None]
            if costs.budget is not None and (x := _affordable(c, pairs, tests[c.endpoint], costs)) is not None:
                affordable.append(x)
    return Plan(
        size=size,
        contrasts=contrasts,
        endpoints=endpoints,
        level=level,
        tests={c.endpoint: tests[c.endpoint] for c in components},
        costs=costs,
        components=list(components),
        out_of_reach=[c.endpoint for c in components if c not in reached],
        detectable=[_detectable(c, size, tests[c.endpoint]) for c in reached],
        needed=needed,
        curves=[_curve(c, d, drawn, size, tests[c.endpoint]) for c in reached for d in detect],
        cheapest=cheapest,
        affordable=affordable,
    )


def _ends(c: Components) -> tuple[Components, Components]:
    """Returns the components with the variance over runs at the ends of its interval."""
    return replace(c, run=c.run_low), replace(c, run=c.run_high)


def _detectable(c: Components, size: Size, test: Test) -> Detectable:
    variance = variance_of(c, size, test)
    low, high = (detectable(end, size, test) for end in _ends(c))
    total = variance.total or 1.0
    return Detectable(
        endpoint=c.endpoint,
        difference=detectable(c, size, test),
        low=low,
        high=high,
        runs=variance.runs / total,
        run_problem=variance.run_problem / total,
        sampling=variance.sampling / total,
        method_problem=variance.method_problem / total,
        any_problems=detectable(c, replace(size, problems=_UNLIMITED), test),
        any_runs=detectable(c, replace(size, runs=_UNLIMITED), test),
    )


def _needed(c: Components, difference: float, size: Size, test: Test, costs: Costs | None) -> Needed:
    runs, low, high = (runs_needed(x, difference, size, test) for x in (c, *_ends(c)))
    cost = None if costs is None or runs is None else costs.of(replace(size, runs=runs))
    return Needed(c.endpoint, difference, runs, low, high, cost)


def _curve(c: Components, difference: float, runs: FloatArray, size: Size, test: Test) -> PowerCurve:
    # More variance over runs is less power.
    power, high, low = (power_curve(x, difference, runs, size, test) for x in (c, *_ends(c)))
    return PowerCurve(c.endpoint, difference, runs, power, low, high)


def _cheapest(
    c: Components, difference: float, pairs: Sequence[tuple[int, int]], test: Test, costs: Costs
) -> PricedStudy | None:
    """Finds the cheapest runs x problems x samples for a difference; None where none finds it."""
    bounds = []
    for problems, n in pairs:
        size = Size(test.fewest, problems, n)
        least = least_runs(c, difference, size, test)
        if least is not None and least <= MOST_RUNS:
            bounds.append((costs.of(replace(size, runs=max(test.fewest, int(least)))), problems, n))
    best: PricedStudy | None = None
    for bound, problems, n in sorted(bounds):
        if best is not None and bound >= best.cost:
            break  # no study that is left can be cheaper
        size = Size(test.fewest, problems, n)
        runs = runs_needed(c, difference, size, test)
        if runs is not None:
            size = replace(size, runs=runs)
            if best is None or costs.of(size) < best.cost:
                best = PricedStudy(c.endpoint, difference, size, power_at(c, difference, size, test), costs.of(size))
    return best


def _affordable(c: Components, pairs: Sequence[tuple[int, int]], test: Test, costs: Costs) -> PricedStudy | None:
    """Finds what shows the smallest difference within the budget; None where it does not pay for the fewest runs."""
    best: PricedStudy | None = None
    for problems, n in pairs:
        one, two = (costs.of(Size(runs, problems, n)) for runs in (1, 2))
        runs = MOST_RUNS if two == one else int(((costs.budget or 0.0) - one) / (two - one)) + 1
        size = Size(min(runs, MOST_RUNS), problems, n)
        if size.runs < test.fewest or costs.of(size) > (costs.budget or 0.0) * (1 + 1e-9):
            continue
        difference = detectable(c, size, test)
        if best is None or difference < best.difference:
            best = PricedStudy(c.endpoint, difference, size, test.power, costs.of(size))
    return best
