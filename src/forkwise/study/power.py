"""What a study can find, and what it takes, before it is run: `forkwise plan` from a pilot's receipts or variances."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from forkwise.errors import InputError
from forkwise.passk import Arm
from forkwise.passk.design import FEWEST_PAIRS, FEWEST_RUNS
from forkwise.passk.planning import plan_study
from forkwise.report.plan import conclusion, limits, tables
from forkwise.report.table import Block
from forkwise.study.analysis import progress, read_folder
from forkwise.study.contrasts import arms_of
from forkwise.study.receipts import Receipt, read_receipts
from forkwise.study.spec import BASE, Study

_DIFFERENCES = (0.01, 0.02, 0.03)


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
    return [conclusion(study_plan), *tables(study_plan), *(f"- {limit}" for limit in limits(study_plan, notes))]
