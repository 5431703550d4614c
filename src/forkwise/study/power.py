"""What a study can find, and what it takes, before it is run: `forkwise plan` from a pilot's receipts or variances."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from statistics import fmean

from forkwise.errors import InputError
from forkwise.passk import Arm
from forkwise.passk.components import Components
from forkwise.passk.design import FEWEST_PAIRS, FEWEST_RUNS
from forkwise.passk.one_more import smallest_found
from forkwise.passk.planning import plan_study
from forkwise.report.formats import interval
from forkwise.report.plan import conclusion, limits, tables
from forkwise.report.table import Block
from forkwise.study.analysis import progress, read_folder
from forkwise.study.contrasts import arms_of, endpoint_name
from forkwise.study.receipts import Receipt, read_receipts
from forkwise.study.spec import BASE, Study
from forkwise.terminal import counted

_DIFFERENCES = (0.01, 0.02, 0.03)
_POWER = 0.8


def read_pilot(folder: Path) -> tuple[list[Arm], list[Receipt]]:
    """Reads the arms of a pilot, or of any study, from its receipts; and those receipts, without the base model's.

    Raises:
        InputError: there are fewer than three seeds of every arm.
    """
    study, root, _ = read_folder(folder)
    receipts = read_receipts(root, study.sha256(), study.runs())
    seeds = progress(study, root, receipts).seeds
    if len(seeds) < FEWEST_RUNS:
        raise InputError(
            f"The pilot in '{folder}' has {len(seeds)} seeds in all arms, and how training varies takes at least "
            f"{FEWEST_RUNS}."
        )
    of_arms = [receipt for name, receipt in receipts.items() if name != BASE]
    return list(arms_of(study, receipts, seeds).values()), of_arms


def minutes(receipts: list[Receipt]) -> tuple[float, float]:
    """Returns the mean minutes of a training run and of 100,000 samples, by the runs that were started once."""
    whole = [r for r in receipts if len(r.attempts) == 1 and r.collapsed is None] or receipts
    training = fmean(r.seconds.get("training", 0.0) for r in whole) / 60
    sampling = fmean(r.seconds.get("sampling", 0.0) / sum(r.n) for r in whole) / 60 * 100_000
    return training, sampling


def power(study: Study, *, pilot: list[Arm], components: Path | None, run: float, samples: float) -> list[Block]:
    """Says what the study can find at its endpoints.

    Args:
        pilot, components: what the variances come from: one of them.
        run, samples: minutes of a training run, and of 100,000 samples.
    """
    if 1 < len(study.seeds) < FEWEST_RUNS:
        return []  # `design` says that nothing about other trainings comes of it
    primary, futility = study.primary, study.stopping.futility
    named = [] if primary is None else [primary.endpoint, *primary.secondary]
    if study.yardstick is not None:
        named = [study.yardstick.endpoint]
    study_plan, _, notes = plan_study(
        pilot,
        components,
        ks=list(dict.fromkeys(map(str, named))) or None,
        runs=len(study.seeds),
        problems=study.evaluation.problems,
        samples=study.evaluation.n,
        detect=_DIFFERENCES if futility is None else sorted({*_DIFFERENCES, abs(futility.effect)}),
        level=0.95 if primary is None else primary.level,
        paired_seeds=len(study.seeds) >= FEWEST_PAIRS,
        cost_run=run or None,
        cost_sample=samples / 100_000 or None,
    )
    blocks: list[Block] = [conclusion(study_plan), *tables(study_plan)]
    blocks += [f"- {limit}" for limit in limits(study_plan, notes)]
    return [*_single(study, study_plan.components[0]), *blocks]


def _single(study: Study, known: Components) -> list[Block]:
    """Says what difference the runs of a yardstick show, in one run of an arm."""
    yardstick, e = study.yardstick, study.evaluation
    if yardstick is None:
        return []
    runs, arms = 1 + len(yardstick.seeds), len(study.arms) - 1
    smallest = smallest_found(arms, runs, yardstick.level, _POWER)
    noise = (known.run_problem + known.noise_at(e.n)) / e.problems
    sd, *ends = (sqrt(run + noise) for run in (known.run, known.run_low, known.run_high))
    low, high = (min(1.0, smallest * end) for end in ends) if known.run_freedom else (None, None)
    at = endpoint_name(yardstick.endpoint, e.n)
    return [
        f"Of one run of an arm, held against {counted(runs, 'run')} of {study.arms[0].name}, a difference of "
        f"{interval(min(1.0, smallest * sd), low, high)} at {at} is found ({_POWER:.0%} power, alpha "
        f"{1 - yardstick.level:.2g} for the {counted(arms, 'arm')} together): {smallest:.1f} times the standard "
        f"deviation of a run on these problems, {sd:.4f}."
    ]
