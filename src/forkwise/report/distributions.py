"""Where the entropy of an arm's tokens lies: from stored entropies in bounded memory, or from an exploration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from forkwise.explore.findings import EntropySummary
from forkwise.report.sources import SampleArm
from forkwise.samples.store import Key, read_batches

FloatArray = npt.NDArray[np.float64]

QUANTILE = 0.8
"""Quantile of an arm's tokens above which a token counts as high-entropy (arXiv 2506.01939, arXiv 2506.14758)."""

_BIN = 0.0001  # nats: below the last digit that is shown
_BINS = 250_000  # up to 25 nats: no vocabulary has more
_PLACES = 20  # parts into which a trace is cut


@dataclass(frozen=True)
class Distribution:
    """Token entropies of one arm, in nats."""

    source: str
    """How the entropies were got, in words."""
    tokens: int
    mean: float
    threshold: float
    """The quantile `quantile` of all tokens of the arm."""
    above_x: list[float]
    above: list[float]
    """Share of tokens with more nats than each of `above_x`."""
    position: list[float]
    """Middle of each part of the trace, in percent of its length."""
    position_mean: list[float]
    position_low: list[float] | None = None
    position_high: list[float] | None = None
    low: float | None = None
    """Lower end of the mean's interval over problems, where there is one; `high` is the upper end."""
    high: float | None = None
    quantile: float = QUANTILE


def stored_entropies(arm: SampleArm) -> tuple[Distribution | None, set[Key]]:
    """Reads the distribution of the entropies that lie with the samples, and which samples have them."""
    counts = np.zeros(_BINS, dtype=np.int64)
    place_sum, place_count = np.zeros(_PLACES), np.zeros(_PLACES)
    total = 0.0
    keys: set[Key] = set()
    for rows in read_batches(arm.tables, ["run", "problem_id", "sample_id", "entropies"], arm.runs):
        batch = rows.filter(pc.is_valid(rows["entropies"]))
        if not batch.num_rows:
            continue
        lists = batch["entropies"]
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        starts = np.cumsum(lengths) - lengths
        tenth = ((np.arange(values.size) - np.repeat(starts, lengths)) * _PLACES) // np.repeat(lengths, lengths)
        finite = np.isfinite(values)
        values, tenth = np.maximum(values[finite], 0.0), tenth[finite]
        counts += np.bincount(np.minimum((values / _BIN).astype(np.int64), _BINS - 1), minlength=_BINS)
        place_sum += np.bincount(tenth, weights=values, minlength=_PLACES)
        place_count += np.bincount(tenth, minlength=_PLACES)
        total += float(values.sum())
        names = (batch[name].to_pylist() for name in ("run", "problem_id", "sample_id"))
        keys |= set(zip(*names, strict=True))
    tokens = int(counts.sum())
    if not tokens:
        return None, keys
    edges: FloatArray = np.arange(_BINS + 1, dtype=np.float64) * _BIN
    x, above = _survival(edges, counts)
    reached = place_count > 0
    return (
        Distribution(
            source="exact, stored with the samples",
            tokens=tokens,
            mean=total / tokens,
            threshold=_quantile(edges, counts, QUANTILE),
            above_x=x,
            above=above,
            position=[100 * (i + 0.5) / _PLACES for i in np.flatnonzero(reached)],
            position_mean=[float(v) for v in place_sum[reached] / place_count[reached]],
        ),
        keys,
    )


_SOURCES = {
    "stored": "exact, stored with the samples",
    "model": "exact, computed by the model afterwards",
    "top-k": "lower bounds from top-k log-probabilities",
}


def explored_entropies(summary: EntropySummary) -> Distribution:
    """Takes the distribution from a result of `forkwise explore`."""
    x, above = _survival(np.array(summary.histogram.edges), np.array(summary.histogram.counts))
    points = [point for point in summary.relative_profile if point.tokens]
    bounded = [(p.low, p.high) for p in points if p.low is not None and p.high is not None]
    with_bounds = len(bounded) == len(points)
    return Distribution(
        source=_source(summary),
        tokens=summary.tokens,
        mean=float("nan") if summary.mean.value is None else summary.mean.value,
        threshold=summary.threshold,
        above_x=x,
        above=above,
        position=[50 * (point.start + point.end) for point in points],
        position_mean=[point.mean for point in points],
        position_low=[low for low, _ in bounded] if with_bounds else None,
        position_high=[high for _, high in bounded] if with_bounds else None,
        low=summary.mean.low,
        high=summary.mean.high,
        quantile=summary.quantile,
    )


def _source(summary: EntropySummary) -> str:
    temperatures = ", ".join(f"{t:g}" for t in summary.temperatures)
    source = _SOURCES.get(summary.source, summary.source)
    return f"{source}, temperature {temperatures}" if temperatures else source


def _quantile(edges: FloatArray, counts: npt.NDArray[np.int64], q: float) -> float:
    """Finds a quantile to the width of a bin."""
    return float(edges[1:][np.searchsorted(np.cumsum(counts), q * counts.sum())])


def _survival(edges: FloatArray, counts: npt.NDArray[np.int64], points: int = 80) -> tuple[list[float], list[float]]:
    """Returns x and the share of values above x, at about `points` x up to where one value in 100,000 is left."""
    above = 1 - np.concatenate([[0], np.cumsum(counts)]) / max(int(counts.sum()), 1)
    most = int(np.searchsorted(-above, -1e-5)) + 1
    at = np.unique(np.linspace(0, min(most, len(edges) - 1), points).astype(np.int64))
    return [float(x) for x in edges[at]], [float(y) for y in np.maximum(above[at], 0)]
