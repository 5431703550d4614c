"""The yardstick of a study with one seed per arm: further runs of the reference, which say how much its runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from forkwise.errors import InputError
from forkwise.passk.design import FEWEST_RUNS
from forkwise.passk.intervals import check_level
from forkwise.terminal import counted


@dataclass(frozen=True)
class Yardstick:
    """What the single runs of the arms are held against: further runs of the first arm, at one endpoint.

    Attributes:
        seeds: of the further runs; the first arm's run with the study's seed counts too.
        endpoint: a K, or `curve`: the mean of Pass@K over K = 1, 2, 4, ... up to n.
        level: of the intervals, over all arms.
    """

    seeds: list[int]
    endpoint: int | Literal["curve"] = "curve"
    level: float = 0.95

    def check(self, seeds: Sequence[int], reference: str, n: int) -> None:
        """Refuses seeds that tell nothing, and an endpoint that `n` samples cannot show.

        Args:
            seeds: of every arm.
            reference: the first arm.
        """
        if len(seeds) > 1:
            raise InputError(
                f"A yardstick is for studies with one seed per arm, and there are {len(seeds)}: give one, or leave the "
                "yardstick out."
            )
        together = [*seeds, *self.seeds]
        if len(set(together)) < len(together) or min(together) < 0:
            raise InputError(
                "yardstick.seeds must be different whole numbers from 0 on, and other ones than that of the arms."
            )
        if len(together) < FEWEST_RUNS:
            raise InputError(
                f"With the yardstick '{reference}' has {counted(len(together), 'run')}, and how training varies shows "
                f"in {FEWEST_RUNS} at least: give more of yardstick.seeds."
            )
        if isinstance(self.endpoint, int) and not 1 <= self.endpoint <= n:
            raise InputError(
                f"K = {self.endpoint} cannot be estimated from n = {n} samples per problem: raise n, or ask for less."
            )
        check_level(self.level)
