"""The comparison that a study tests: two arms at one endpoint, over problems like these and over other trainings.

Suffixes: S runs (seeds), Q problems, K values of k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forkwise.errors import InputError
from forkwise.passk import Arm, k_grid
from forkwise.passk.design import make_design
from forkwise.passk.estimator import FloatArray
from forkwise.passk.intervals import enough_problems
from forkwise.passk.one_more import HeldAgainst, hold_against
from forkwise.study.receipts import Receipt, arm_of
from forkwise.study.spec import Study
from forkwise.terminal import counted

Receipts = Mapping[str, Receipt]


@dataclass(frozen=True)
class SeedContrast:
    """A difference of two arms at one endpoint, over problems (or clusters of them) and over paired seeds.

    Attributes:
        low, high: Student t interval, at the level of the primary comparison.
        run_variance: the part of `se` squared that more seeds make smaller.
        seeds, problems: how many there are of each.
        effective_problems: how many problems that stand for themselves say as much: fewer in clusters.
    """

    arm: str
    reference: str
    endpoint: str
    mean: float
    low: float
    high: float
    p: float
    se: float
    run_variance: float
    seeds: int
    problems: int
    effective_problems: float
    level: float

    def equivalent(self, margin: float) -> bool:
        """Whether the whole interval lies within ±margin, on problems enough for it, as in `forkwise compare`."""
        enough = enough_problems(self.effective_problems, self.level, margin)
        return -margin <= self.low and self.high <= margin and enough


def endpoint_name(endpoint: int | str, n: int) -> str:
    """Returns an endpoint in words."""
    return f"Pass@{endpoint}" if endpoint != "curve" else f"mean Pass@K over K = 1, 2, 4, ..., {k_grid(n)[-1]}"


def values(arm: Arm, endpoint: int | str, n: int) -> FloatArray:
    """Returns the endpoint of every run and problem, `(S, Q)`."""
    ks = k_grid(n) if endpoint == "curve" else [int(endpoint)]
    mean_SQ: FloatArray = arm.curves(ks).mean(axis=2)
    return mean_SQ


def contrast(arm: Arm, reference: Arm, endpoint: int | str, n: int, level: float) -> SeedContrast:
    """Compares two arms by the differences of their seeds, with the standard error of `forkwise compare`.

    Raises:
        InputError: too few seeds, or problems that are all in one cluster.
    """
    design = make_design([reference, arm], (), paired_seeds=True, level=level)
    tested_SQ1, reference_SQ1 = (values(x, endpoint, n)[:, :, None] for x in (arm, reference))
    variation = design.vary(arm.name, tested_SQ1, reference.name, reference_SQ1)
    interval = variation.pointwise(level)
    [of_runs] = [rows for source, rows in variation.rows.items() if source.startswith("runs of")]
    return SeedContrast(
        arm=arm.name,
        reference=reference.name,
        endpoint=endpoint_name(endpoint, n),
        mean=float(interval.mean[0]),
        low=float(interval.low[0]),
        high=float(interval.high[0]),
        p=float(variation.p()[0]),
        se=float(variation.se[0]),
        run_variance=float((of_runs**2).sum()),
        seeds=len(arm.runs),
        problems=len(arm.problems),
        effective_problems=design.effective(len(arm.problems)),
        level=level,
    )


def arms_of(study: Study, receipts: Receipts, seeds: Sequence[int]) -> dict[str, Arm]:
    """Makes the arms of these seeds; every run must have its receipt.

    Raises:
        InputError: one has none.
    """
    missing = [arm.run(seed) for arm in study.arms for seed in seeds if arm.run(seed) not in receipts]
    if missing:
        raise InputError(
            f"No receipt of {counted(len(missing), 'run')}, such as '{missing[0]}': every started run counts."
        )
    return {arm.name: arm_of(arm.name, [receipts[arm.run(seed)] for seed in seeds]) for arm in study.arms}


def primary_contrast(study: Study, receipts: Receipts, seeds: Sequence[int]) -> SeedContrast:
    """Returns the primary comparison with these seeds."""
    assert study.primary is not None
    arms = arms_of(study, receipts, seeds)
    tested, reference = arms[study.tested.name], arms[study.arms[0].name]
    return contrast(tested, reference, study.primary.endpoint, study.evaluation.n, study.primary.level)


def against_yardstick(study: Study, receipts: Receipts) -> HeldAgainst | None:
    """Holds the arms' single runs against those of the yardstick; None without one, or where a run of it is missing."""
    yardstick, names = study.yardstick, study.reference_runs()
    if yardstick is None or any(name not in receipts for name in names):
        return None
    n, [seed] = study.evaluation.n, study.seeds

    def value(receipt: Receipt) -> float:
        return float(values(arm_of(receipt.run, [receipt]), yardstick.endpoint, n).mean())

    measured = {arm.name: receipts[arm.run(seed)] for arm in study.arms[1:] if arm.run(seed) in receipts}
    return hold_against(
        study.arms[0].name,
        [value(receipts[name]) for name in names],
        {name: value(receipt) for name, receipt in measured.items()},
        arms=len(study.arms) - 1,
        level=yardstick.level,
    )
