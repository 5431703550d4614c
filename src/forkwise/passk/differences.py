"""Judges differences of arms from the first, all of them and all K by one test.

Suffixes: K values of k, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from forkwise.passk.changes import Changes
from forkwise.passk.crossing import find_crossing
from forkwise.passk.intervals import Interval, enough_problems
from forkwise.passk.results import Curve, Difference, Endpoint
from forkwise.passk.two_way import Variation, joint_test

MARGIN = 0.05
"""Default equivalence margin: differences of Pass@K within ±0.05 count as none."""

CURVE = "curve"
"""The name of the primary endpoint that is the mean of Pass@K over K = 1, 2, 4, ..., n."""


@dataclass(frozen=True)
class Pair:
    """An arm and the reference before they are judged; names and numbers as in `Difference`.

    Attributes:
        variation, endpoint: of the difference in Pass@K, and at the primary endpoint, if one was named.
    """

    arm: str
    reference: str
    runs: tuple[int, int]
    trained: tuple[bool, bool]
    variation: Variation
    same_problems: Interval
    endpoint: Variation | None = None
    changes: Changes | None = None
    others: dict[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class DifferenceSettings:
    """Settings of every test.

    Attributes:
        problems: how many there are, or how many problems of equal weight say as much.
        largest_k: the largest K that all arms have, where the curve of the primary endpoint ends.
    """

    level: float
    margin: float
    problems: float
    resamples: int
    seed: int
    largest_k: int

    def differences(self, ks: list[int], pairs: Sequence[Pair], primary: int | str | None) -> list[Difference]:
        """Judges the arms together, at these K and at the primary endpoint by itself."""
        joint = joint_test([pair.variation for pair in pairs], resamples=self.resamples, seed=self.seed)
        endpoints = self._endpoints(pairs, primary)
        differences = []
        for pair, endpoint in zip(pairs, endpoints, strict=True):
            variation = pair.variation
            band = replace(variation.interval(joint.critical(self.level), self.level), resamples=self.resamples)
            inside = self._equivalent(band)
            upto = int(inside.argmin()) if not inside.all() else len(ks)
            draws_RK = variation.mean + variation.draws(self.resamples, self.seed)
            difference = Difference(
                pair.arm,
                pair.reference,
                ks,
                variation.pointwise(self.level),
                pair.same_problems,
                band,
                variation.p(),
                joint.p(variation.scores()),
                pair.runs,
                pair.trained,
                find_crossing(ks, variation.mean, draws_RK, self.level),
                self.margin,
                ks[upto - 1] if upto else None,
                pair.changes,
                endpoint,
                pair.others,
            )
            differences.append(difference)
        return differences

    def _endpoints(self, pairs: Sequence[Pair], primary: int | str | None) -> list[Endpoint | None]:
        """Tests the primary endpoint of every arm, by itself but for the other arms."""
        chosen = [pair.endpoint for pair in pairs if pair.endpoint is not None]
        if primary is None or not chosen:
            return [None] * len(pairs)
        name, k = (CURVE, self.largest_k) if primary == CURVE else ("pass@k", int(primary))
        joint = joint_test(chosen, resamples=self.resamples, seed=self.seed)
        endpoints: list[Endpoint | None] = []
        for variation in chosen:
            adjusted = variation.interval(joint.critical(self.level), self.level)
            scalar = Interval(adjusted.mean[0], adjusted.low[0], adjusted.high[0], self.level)
            p = float(joint.p(variation.scores())[0])
            endpoints.append(Endpoint(name, k, scalar, p, bool(self._equivalent(adjusted)[0])))
        return endpoints

    def _equivalent(self, band: Interval) -> npt.NDArray[np.bool_]:
        """Says at which K the band lies within the margin, on problems enough for it."""
        enough = enough_problems(self.problems, self.level, self.margin)
        inside: npt.NDArray[np.bool_] = (band.low >= -self.margin) & (band.high <= self.margin) & enough
        return inside
