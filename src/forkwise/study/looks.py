"""Looks at a study before its end, and when it ends there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from forkwise.folders.results import write_result
from forkwise.reading import parse_json
from forkwise.study.contrasts import Receipts, SeedContrast, primary_contrast
from forkwise.study.receipts import hashes_of, read_receipts
from forkwise.study.spec import Study
from forkwise.study.spending import boundary
from forkwise.version import __version__


def conditional_power(contrast: SeedContrast, effect: float, seeds: int, study: Study) -> float:
    """Returns the chance that the end shows a difference in the direction of `effect`, if that is the true one.

    By B-values (Lan & Wittes 1988, Biometrics 44(2)): the variance over runs falls with more seeds, that over problems
    stays.
    """
    last = len(study.seeds)
    of_runs = min(contrast.run_variance, contrast.se**2)
    final_se = np.sqrt(contrast.se**2 - of_runs + of_runs * seeds / last)
    t = (final_se / contrast.se) ** 2
    sign = np.sign(effect)
    b_now = sign * contrast.mean / contrast.se * np.sqrt(t)
    needed = stats.norm.isf(boundary(study, last) / 2)
    drift = abs(effect) / final_se
    return float(stats.norm.sf((needed - b_now - drift * (1 - t)) / np.sqrt(max(1 - t, 1e-12))))


def decide(study: Study, contrast: SeedContrast, seeds: int) -> str | None:
    """Says why the study ends at this look, or None if it goes on."""
    assert study.primary is not None
    if contrast.p < boundary(study, seeds):
        return "the primary difference is shown"
    if study.stopping.equivalence and contrast.equivalent(study.primary.margin):
        return f"the interval of the primary difference lies within ±{study.primary.margin:g}"
    futility = study.stopping.futility
    if futility is not None:
        power = conditional_power(contrast, futility.effect, seeds, study)
        if power < futility.power:
            return f"the chance to show a difference of {futility.effect:+g} at the end is {power:.3f}"
    return None


def look_file(receipts: Path, seeds: int) -> Path:
    """Returns the record of a look."""
    return receipts / f"look-{seeds}.json"


@dataclass(frozen=True)
class Look:
    """The record of a look: the content of `look-N.json`.

    Attributes:
        low, high: Student t interval, which knows of no looks.
        stops: why the study ends here; None where it goes on.
        receipts: SHA-256 of every receipt that was looked at.
    """

    schema: int
    forkwise: str
    plan: str
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    boundary: float
    stops: str | None
    receipts: dict[str, str]


def look_at(study: Study, receipts: Path, seeds: Sequence[int]) -> str | None:
    """Makes the look that was registered after these seeds, records it, and says why the study ends, or None."""
    runs = [arm.run(seed) for arm in study.arms for seed in seeds]
    finished = read_receipts(receipts, study.sha256(), runs)
    contrast = primary_contrast(study, finished, seeds)
    why = decide(study, contrast, len(seeds))
    look = Look(
        schema=1,
        forkwise=__version__,
        plan=study.sha256(),
        seeds=len(seeds),
        difference=contrast.mean,
        low=contrast.low,
        high=contrast.high,
        p=contrast.p,
        boundary=boundary(study, len(seeds)),
        stops=why,
        receipts=hashes_of(receipts, finished),
    )
    write_result(look_file(receipts, len(seeds)), look)
    return None if why is None else Ending(len(seeds), why).sentence()


@dataclass(frozen=True)
class Ending:
    """A study that ended at a look: after how many seeds, and why."""

    seeds: int
    why: str

    def sentence(self) -> str:
        """Says that the study ends there."""
        return f"The study ends at its look after {self.seeds} seeds, as registered: {self.why}."


def ending(study: Study, folder: Path, receipts: Receipts, complete: Sequence[int]) -> tuple[Ending | None, list[int]]:
    """Finds the look at which a study ended, if it did.

    The record of a look has the last word, since the study went by it; where there is none, the receipts say it again.

    Args:
        complete: seeds that have a receipt in every arm.

    Returns:
        The ending, and the looks whose record says otherwise than the receipts.
    """
    otherwise: list[int] = []
    for number in study.looks:
        if study.primary is None or not set(study.seeds[:number]) <= set(complete):
            break
        why = decide(study, primary_contrast(study, receipts, study.seeds[:number]), number)
        stops = why
        with suppress(OSError, ValueError, KeyError, TypeError):
            stops = parse_json(look_file(folder, number).read_bytes())["stops"]
        otherwise += [number] if (stops is None) != (why is None) else []
        if stops is not None:
            return Ending(number, str(stops)), otherwise
    return None, otherwise
