"""Plans a study, as `forkwise plan` does: from the arms of a pilot or from stated variances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from forkwise.errors import InputError
from forkwise.folders.results import Input, inputs_of
from forkwise.passk.components import Components, estimate, is_endpoint
from forkwise.passk.design import FEWEST_PAIRS, FEWEST_RUNS, seed_order
from forkwise.passk.differences import CURVE
from forkwise.passk.estimator import k_grid, shown_ks
from forkwise.passk.files import inputs_of_tables
from forkwise.passk.intervals import check_level
from forkwise.passk.notes import Note, shared_notes
from forkwise.passk.outcomes import Arm, common_problems
from forkwise.passk.plan import Costs, Plan, make_plan
from forkwise.passk.power import Size, Test
from forkwise.passk.stated import Stated, read_earlier, read_stated
from forkwise.reading import parse_json, read_bytes
from forkwise.terminal import counted

DEFAULT_RUNS = 5
_SHOWN = 4  # K, without --k
_BEYOND = 4  # times the pilot's samples up to which a cheaper study may draw
_LARGEST_RHO = 0.99
_LARGEST = 10**9  # of runs, problems and samples


def plan_study(
    pilot: Sequence[Arm] = (),
    components: Path | None = None,
    *,
    ks: Sequence[str] | None = None,
    runs: int | None = None,
    problems: int | None = None,
    samples: int | None = None,
    detect: Sequence[float] = (0.01, 0.02, 0.03),
    power: float = 0.8,
    level: float = 0.95,
    contrasts: int = 1,
    endpoints: int = 1,
    paired_seeds: bool = False,
    rho: float | None = None,
    fixed: bool = False,
    method_problem_sd: float | None = None,
    cost_run: float | None = None,
    cost_sample: float | None = None,
    budget: float | None = None,
    max_problems: int = 1000,
    intersect: bool = False,
) -> tuple[Plan, list[Input], list[Note]]:
    """Plans a study from the arms of a pilot, or from stated variances.

    Args:
        pilot: arms over the same problems, at least one of them with several runs.
        components: a file of stated variances, or an earlier `plan.json`; in place of a pilot.
        ks: endpoints, each a K or `curve`; None chooses a few.
        runs, problems, samples: size of the study; None is the pilot's.
        detect: differences to be found.
        power, level: the wanted chance to find them; the coverage of the test's interval.
        contrasts, endpoints: comparisons with the reference, and endpoints tested together: they share alpha.
        paired_seeds, rho: whether runs of all arms share seeds, and how they correlate; None estimates it.
        fixed: the reference is one model that is not trained again.
        method_problem_sd: SD over problems of the arms' difference; None is what the variances say.
        cost_run, cost_sample, budget: what a trained run and a sample cost, and what there is to spend.
        max_problems: problems that there are, for the cheapest study.
        intersect: estimate on the problems that the arms share.

    Returns:
        The plan, the files that were read, and notes about them.

    Raises:
        InputError: something given cannot be used.
    """
    _check_test(power, level, rho, fixed, paired_seeds, method_problem_sd)
    _check_differences(detect)
    _check_size(runs=runs, problems=problems, samples=samples)
    costs = _costs(cost_run, cost_sample, budget, contrasts, fixed)
    if bool(pilot) == (components is not None):
        raise InputError(
            "Variances come from the tables of a pilot, TABLE,TABLE,... for each arm, or from a file with "
            "--components: give one of the two."
        )
    if components is not None:
        stated, inputs = _stated(components, level), inputs_of([components])
        notes: list[Note] = []
        known, pilot_size = _chosen(stated, ks, components), (DEFAULT_RUNS, stated.problems, stated.samples)
    else:
        arms, notes = _pilot(pilot, intersect=intersect, in_order_of_seeds=paired_seeds and rho is None)
        inputs = inputs_of_tables(table for arm in arms for table in arm.tables)
        known = _estimated(arms, ks, samples, paired=paired_seeds and rho is None, level=level)
        pilot_size = (min(len(arm.runs) for arm in arms), len(arms[0].problems), min(a.largest_k() for a in arms))
    size = Size(*map(_or_pilot, ("runs", "problems", "samples"), (runs, problems, samples), pilot_size))
    _check_runs(size.runs, paired_seeds or rho is not None)
    alpha = (1 - level) / (contrasts * endpoints)
    of_methods = None if method_problem_sd is None else method_problem_sd**2
    tests = {c.endpoint: Test(alpha, power, _rho(c, rho, paired_seeds), fixed, of_methods) for c in known}
    plan = make_plan(
        known,
        size,
        tests,
        detect=sorted(set(detect)),
        contrasts=contrasts,
        endpoints=endpoints,
        level=level,
        costs=costs,
        max_problems=max_problems,
    )
    return plan, inputs, notes


def _check_test(
    power: float, level: float, rho: float | None, fixed: bool, paired: bool, method_problem_sd: float | None
) -> None:
    check_level(level)
    if not 1 - level < power < 1:
        raise InputError(
            f"The power is {power:g}: it is the chance to find a difference, between {1 - level:g}, which luck alone "
            "gives, and 1, such as 0.8."
        )
    if rho is not None and not -1 < rho < 1:
        raise InputError(f"rho is {rho:g}: a correlation lies between -1 and 1.")
    if fixed and (paired or rho is not None):
        raise InputError("A fixed reference shares no seeds: leave out --fixed, or --paired-seeds and --rho.")
    if method_problem_sd is not None and not 0 <= method_problem_sd <= 1:
        raise InputError(
            f"--method-problem-sd is {method_problem_sd:g}: a standard deviation of differences of Pass@K lies between "
            "0 and 1."
        )


def _check_size(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and not 1 <= size < _LARGEST:
            raise InputError(f"--{name} is {size}: give a number from 1 to a billion.")


def _check_runs(runs: int, paired: bool) -> None:
    """Refuses what `forkwise compare` refuses: a spread of training from two runs, or pairs from fewer than five."""
    if paired and runs < FEWEST_PAIRS:
        raise InputError(
            f"The study has {counted(runs, 'run')} per arm, and pairs of seeds take at least {FEWEST_PAIRS}: give more "
            "--runs, or leave out --paired-seeds and --rho."
        )
    if 1 < runs < FEWEST_RUNS:
        raise InputError(
            f"The study has {runs} runs per arm, and how training varies shows in {FEWEST_RUNS} at least: give more "
            "--runs, or --runs 1, which compares these very models."
        )


def _check_differences(differences: Sequence[float]) -> None:
    for difference in differences:
        if not 0 < difference < 1:
            raise InputError(
                f"--detect holds {difference:g}: a difference of Pass@K to be found lies above 0 and below 1, such as "
                ".02 for two points."
            )


def _costs(run: float | None, sample: float | None, budget: float | None, contrasts: int, fixed: bool) -> Costs | None:
    for name, value in (("--cost-run", run), ("--cost-sample", sample), ("--budget", budget)):
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value:g}: a cost is a number from 0 on.")
    if run or sample:
        return Costs(run or 0.0, sample or 0.0, budget, contrasts if fixed else contrasts + 1, fixed)
    if budget is not None:
        raise InputError("--budget says what there is to spend, but nothing costs: give --cost-run and --cost-sample.")
    return None


def _or_pilot(name: str, wanted: int | None, pilot: int | None) -> int:
    number = pilot if wanted is None else wanted
    if number is None:
        raise InputError(f"Nothing says how many {name} the study has: give --{name}.")
    return number


def parse_differences(text: str) -> list[float]:
    """Parses `--detect`, such as `.01,.02`."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--detect takes differences with commas, such as .01,.02,.03, not '{text}'.") from error


def parse_endpoints(text: str | None) -> list[str] | None:
    """Parses `--k`: numbers of samples, and `curve`; None stays None."""
    if text is None:
        return None
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if not is_endpoint(name):
            raise InputError(f"--k takes numbers of samples and {CURVE}, such as 1,16,{CURVE}, not '{text}'.")
    return [name if name == CURVE else str(int(name)) for name in names]


def _position(endpoint: str) -> float:
    return math.inf if endpoint == CURVE else int(endpoint)


# ------------------------------------------------------------------------------------------------------- the pilot


def _pilot(arms: Sequence[Arm], *, intersect: bool, in_order_of_seeds: bool) -> tuple[list[Arm], list[Note]]:
    """Brings the arms to one set of problems, with notes; runs in the order of their seeds where they are paired."""
    if len({arm.name for arm in arms}) < len(arms):
        raise InputError("Two arms of the pilot have the same name: name them apart, as in NAME=PATH.")
    same, notes = common_problems(arms, intersect=intersect)
    notes += [n for n in shared_notes((arm.name, arm.notes) for arm in arms) if "length" not in n.topic]
    return _in_order_of_seeds(same) if in_order_of_seeds else same, notes


def _estimated(
    arms: Sequence[Arm], ks: Sequence[str] | None, samples: int | None, *, paired: bool, level: float
) -> list[Components]:
    n = min(arm.largest_k() for arm in arms)
    if ks is None:
        ks = [*map(str, shown_ks(k_grid(n), _SHOWN)), *([CURVE] if n > 1 else [])]
    endpoints = sorted(ks, key=_position)
    for name in endpoints:
        if name != CURVE and int(name) > n:
            raise InputError(
                f"Pass@{name} needs {name} samples of every problem, but one in the pilot has {n}: nothing says how it "
                "varies, so draw more samples, or plan for a smaller K."
            )
    ns = [*(m for m in k_grid(_BEYOND * n) if m >= min(n, 8)), n, samples or n]
    return estimate(arms, endpoints, largest_k=min(n, samples or n), ns=ns, paired=paired, level=level)


def _in_order_of_seeds(arms: Sequence[Arm]) -> list[Arm]:
    """Orders the runs of every arm by their seeds."""
    if len(arms) < 2:
        raise InputError("One arm says nothing about how seeds of two arms go together: add an arm, or state --rho.")
    orders = seed_order(arms)
    if len(arms[0].runs) < 2:
        raise InputError("One pair of seeds says nothing about how they go together: state --rho.")
    return [
        replace(arm, runs=tuple(arm.runs[i] for i in order), run_N=np.argsort(order)[arm.run_N])
        for arm, order in ((arm, orders[arm.name]) for arm in arms)
    ]


# ------------------------------------------------------------------------------------------------ stated components


def _stated(path: Path, level: float) -> Stated:
    """Reads stated components, or those of an earlier plan."""
    try:
        content = parse_json(read_bytes(path))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        content = None
    if isinstance(content, dict) and "schema" in content:
        return read_earlier(path)
    return read_stated(path, level)


def _chosen(stated: Stated, ks: Sequence[str] | None, path: Path) -> list[Components]:
    """Returns the components of the endpoints asked for."""
    known = {c.endpoint: c for c in stated.components}
    endpoints = sorted(known if ks is None else ks, key=_position)
    for name in endpoints:
        if name not in known:
            raise InputError(f"'{path}' says nothing about '{name}': it has components of {', '.join(known)}.")
    return [known[name] for name in endpoints]


def _rho(c: Components, rho: float | None, paired_seeds: bool) -> float | None:
    """Returns the correlation that the test makes use of; None where seeds are not paired."""
    if rho is not None or not paired_seeds:
        return rho
    if c.rho is None:
        raise InputError("Nothing says how seeds of two arms go together: state --rho, such as 0.3.")
    return min(c.rho, _LARGEST_RHO)
