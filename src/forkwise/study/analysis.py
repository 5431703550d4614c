"""What the receipts of a study say: how far it is, what can be known without comparing arms, and the registered test.

Suffixes: S runs (seeds), Q problems, K values of k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from forkwise.errors import InputError
from forkwise.folders.results import inputs_of
from forkwise.passk import Arm, Comparison, Evaluation, compare, evaluate, k_grid
from forkwise.passk.design import FEWEST_PAIRS, FEWEST_RUNS
from forkwise.passk.one_more import HeldAgainst
from forkwise.study.contrasts import (
    Receipts,
    SeedContrast,
    against_yardstick,
    arms_of,
    contrast,
    endpoint_name,
    values,
)
from forkwise.study.exploring import Spread, WithinBudget, spreads, within_budgets
from forkwise.study.looks import Ending, ending
from forkwise.study.receipts import arm_of, read_receipts, receipt_file, starts
from forkwise.study.registration import PLAN, read_plan
from forkwise.study.spec import BASE, Study
from forkwise.study.spending import boundary
from forkwise.version import __version__

# ------------------------------------------------------------------------------------------------------ how far it is


@dataclass(frozen=True)
class Progress:
    """How many of the runs of a study are there; `seeds` are those that all arms have a run of."""

    runs: int
    finished: int
    started: list[str]
    """Runs that were started and have no receipt."""
    collapsed: list[str]
    restarts: int
    seeds: list[int]


def progress(study: Study, folder: Path, receipts: Receipts) -> Progress:
    """Counts the runs of all arms; the model before training is none of them."""
    names = study.runs()[1:]
    finished = [receipts[name] for name in names if name in receipts]
    return Progress(
        runs=len(names),
        finished=len(finished),
        started=[name for name in names if name not in receipts and starts(folder, name)],
        collapsed=[receipt.run for receipt in finished if receipt.collapsed is not None],
        restarts=sum(max(0, len(receipt.attempts) - 1) for receipt in finished),
        seeds=[seed for seed in study.seeds if all(arm.run(seed) in receipts for arm in study.arms)],
    )


@dataclass(frozen=True)
class Blinded:
    """What a study says about itself without comparing its arms, at one endpoint.

    Attributes:
        mean: over all arms and seeds.
        gain: of that over the model before training; None where it was not sampled.
        run_sd: standard deviation over seeds of a run's mean, pooled over arms.
        rho: correlation of the runs of two arms that share a seed, averaged over pairs of arms.
    """

    endpoint: str
    mean: float
    gain: float | None
    run_sd: float | None
    rho: float | None


def blinded(study: Study, receipts: Receipts, seeds: Sequence[int]) -> list[Blinded]:
    """Measures what a study can be planned from, pooled over arms."""
    arms, n = list(arms_of(study, receipts, seeds).values()), study.evaluation.n
    base = arm_of(BASE, [receipts[BASE]]) if BASE in receipts else None
    endpoints: list[int | str] = ["curve", 1, *(study.primary.secondary if study.primary else []), k_grid(n)[-1]]
    at_endpoints = []
    for endpoint in dict.fromkeys(endpoints):
        by_run = np.array([values(arm, endpoint, n).mean(axis=1) for arm in arms])
        sd = rho = None
        if len(seeds) > 1:
            sd = float(np.sqrt(by_run.var(axis=1, ddof=1).mean()))
            pairs = np.corrcoef(by_run)[np.triu_indices(len(arms), 1)] if (by_run.std(axis=1) > 0).all() else []
            rho = float(np.mean(pairs)) if len(pairs) else None
        gain = None if base is None else float(by_run.mean() - values(base, endpoint, n).mean())
        at_endpoints.append(Blinded(endpoint_name(endpoint, n), float(by_run.mean()), gain, sd, rho))
    return at_endpoints


# ---------------------------------------------------------------------------------------------------------- the result


@dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        progress: the runs.
        seeds: the seeds that the result is about.
        shown_below: the p below which the primary difference is shown; 0 where no look was planned with these seeds.
        early: whether it is read before a registered look or the end, or beyond a look that ended it.
        single: the arms' single runs held against those of the yardstick; None without one, or until that is there.
        primary: None where the study has no primary comparison, or it may not be looked at yet.
        secondary: at other K, with p adjusted by Holm, held to the same bound; `gate` against another arm, only after a
            shown primary.
        exploratory: everything else, of all arms; None where nothing may be compared.
        base: the model before training.
        spread, within: how much the runs of each arm differ, and what a budget of tokens buys; exploratory too.
        ending: the look at which the study ended, with the reason; None where it did not.
        otherwise: looks whose record says otherwise than the receipts.
    """

    progress: Progress
    seeds: list[int]
    blinded: list[Blinded] = field(default_factory=list)
    shown_below: float = 0.0
    early: bool = False
    single: HeldAgainst | None = None
    primary: SeedContrast | None = None
    secondary: list[SeedContrast] = field(default_factory=list)
    gate: SeedContrast | None = None
    exploratory: Comparison | None = None
    base: Evaluation | None = None
    spread: list[Spread] = field(default_factory=list)
    within: list[WithinBudget] = field(default_factory=list)
    ending: Ending | None = None
    otherwise: list[int] = field(default_factory=list)

    @property
    def shown(self) -> bool:
        """Whether the primary difference is shown."""
        return self.primary is not None and self.primary.p < self.shown_below


def analyse(study: Study, folder: Path, receipts: Receipts, *, early: bool = False) -> Result:
    """Analyses the receipts, which lie in `folder`, as the study says.

    A study with a primary comparison is compared at its looks and its end alone, unless `early` says otherwise; a pilot
    never is.
    """
    far = progress(study, folder, receipts)
    end, otherwise = ending(study, folder, receipts, far.seeds)
    last = len(study.seeds) if end is None else end.seeds
    planned = [n for n in (*study.looks, len(study.seeds)) if n <= last and _complete(study, far, n)]
    if study.primary is None or early:
        seeds = far.seeds
    else:
        seeds = study.seeds[: planned[-1]] if planned else []
    facts = blinded(study, receipts, far.seeds) if far.seeds else []
    base = evaluate(arm_of(BASE, [receipts[BASE]])) if BASE in receipts else None
    single = against_yardstick(study, receipts)
    if study.pilot or not seeds:
        return Result(far, far.seeds, facts, single=single, base=base)
    arms = arms_of(study, receipts, seeds)
    compared: Comparison | None = None
    within: list[WithinBudget] = []
    if len(seeds) == 1 or len(seeds) >= FEWEST_RUNS:
        compared, within = _explore(study, list(arms.values()), receipts)
    spread = spreads(list(arms.values()), study.evaluation.n)
    if study.primary is None or len(seeds) < FEWEST_PAIRS:
        return Result(
            far, seeds, facts, 0.0, early, single, exploratory=compared, base=base, spread=spread, within=within
        )
    n, level = study.evaluation.n, study.primary.level
    reference, tested = arms[study.arms[0].name], arms[study.tested.name]
    primary = contrast(tested, reference, study.primary.endpoint, n, level)
    limit = boundary(study, len(seeds)) if len(seeds) <= last and seeds == study.seeds[: len(seeds)] else 0.0
    gate = None
    if study.primary.gate is not None and primary.p < limit:
        gate = contrast(tested, arms[study.arm(study.primary.gate).name], study.primary.endpoint, n, level)
    return Result(
        progress=far,
        seeds=seeds,
        blinded=facts,
        shown_below=limit,
        early=early and len(seeds) not in planned,
        primary=primary,
        secondary=_holm([contrast(tested, reference, k, n, level) for k in study.primary.secondary]),
        gate=gate,
        exploratory=compared,
        base=base,
        spread=spread,
        within=within,
        ending=end,
        otherwise=otherwise,
    )


@dataclass(frozen=True)
class Reading:
    """A study read from its receipts: what `forkwise study analyse --json` writes."""

    schema: int
    forkwise: str
    plan: str
    registered: str | None
    """Date of the registration; None where the study was begun without one."""
    content: dict[str, Any]
    """The study, as a study file holds it."""
    receipts: dict[str, str]
    """SHA-256 of every receipt that was read."""
    result: Result


def read_folder(folder: Path) -> tuple[Study, Path, str | None]:
    """Finds the plan and the receipts in the folder of a study, or in that of its receipts alone.

    Returns:
        The study, the folder of its receipts, and the date of its registration.

    Raises:
        InputError: there is no plan.
    """
    inner = folder / "receipts"
    root = inner if (inner / PLAN).exists() else folder
    if not (root / PLAN).exists():
        raise InputError(f"'{folder}' holds no study (no {PLAN}): give the --out or --receipts of forkwise study run.")
    study, record = read_plan(root / PLAN)
    registered = record.get("registered")
    return study, root, None if registered is None else str(registered)


def read_study_folder(folder: Path, *, early: bool = False) -> tuple[Study, Receipts, Reading]:
    """Analyses the study in a folder; see `read_folder` and `analyse`."""
    study, root, registered = read_folder(folder)
    receipts = read_receipts(root, study.sha256(), study.runs())
    result = analyse(study, root, receipts, early=early)
    hashes = {i.path: i.sha256 for i in inputs_of(receipt_file(root, run) for run in receipts)}
    return study, receipts, Reading(1, __version__, study.sha256(), registered, study.plain(), hashes, result)


def _complete(study: Study, far: Progress, number: int) -> bool:
    return set(study.seeds[:number]) <= set(far.seeds)


def _holm(contrasts: Sequence[SeedContrast]) -> list[SeedContrast]:
    """Adjusts the p of several contrasts, each a single number, by Holm's step-down."""
    adjusted, floor = list(contrasts), 0.0
    for rank, i in enumerate(np.argsort([c.p for c in contrasts], kind="stable")):
        floor = max(floor, min(1.0, (len(contrasts) - rank) * contrasts[i].p))
        adjusted[i] = replace(contrasts[i], p=floor)
    return adjusted


def _explore(study: Study, arms: Sequence[Arm], receipts: Receipts) -> tuple[Comparison, list[WithinBudget]]:
    margin = study.primary.margin if study.primary else 0.05
    paired = len(arms[0].runs) >= FEWEST_PAIRS
    comparison = compare(*arms, ks=k_grid(study.evaluation.n), margin=margin, paired_seeds=paired)
    return comparison, within_budgets(arms, receipts, paired=paired, level=comparison.level)
