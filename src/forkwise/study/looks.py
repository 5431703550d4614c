"""Looks at a study before its end, and when it ends there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from forkwise.study.contrasts import SeedContrast, primary_contrast
from forkwise.study.receipts import read_receipts, write_note
from forkwise.study.spec import Study
from forkwise.study.spending import boundary


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
    if study.stopping.equivalence and contrast.within(study.primary.margin):
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


def look_at(study: Study, receipts: Path, seeds: Sequence[int]) -> str | None:
    """Makes the look that was registered after these seeds, records it, and says why the study ends, or None."""
    runs = {arm.name: [arm.run(seed) for seed in seeds] for arm in study.arms}
    finished = read_receipts(receipts, study.sha256(), [run for names in runs.values() for run in names])
    contrast = primary_contrast(study, finished, seeds)
    why = decide(study, contrast, len(seeds))
    record = {
        "plan": study.sha256(),
        "seeds": len(seeds),
        "difference": contrast.mean,
        "low": contrast.low,
        "high": contrast.high,
        "p": contrast.p,
        "boundary": boundary(study, len(seeds)),
        "stops": why,
    }
    write_note(look_file(receipts, len(seeds)), record)
    if why is None:
        return None
    return f"The study ends at its look after {len(seeds)} seeds, as registered: {why}."
