"""Which p counts as shown at each look at a study, so that all looks together make the agreed error."""

from __future__ import annotations

from functools import lru_cache

from forkwise.passk.looks import nominal_alphas
from forkwise.study.spec import Study

_levels = lru_cache(nominal_alphas)


def boundary(study: Study, seeds: int) -> float:
    """Returns the p below which the primary difference is shown with so many seeds; 0 where no look was planned."""
    assert study.primary is not None
    planned = [*study.looks, len(study.seeds)]
    if seeds not in planned:
        return 0.0
    shares = tuple(number / planned[-1] for number in planned)
    return _levels(shares, 1 - study.primary.level)[planned.index(seeds)]
