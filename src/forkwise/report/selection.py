"""Which samples a report shows: of every arm and problem alike, right and wrong ones in turn."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forkwise.report.sources import SampleArm
from forkwise.samples.store import Key, read_batches

_EPSILON = 1e-4  # of TRL's group normalisation


@dataclass(frozen=True)
class ListedSample:
    """A sample that may be shown."""

    arm: int
    key: Key
    correct: bool | None
    n_tokens: int | None
    advantage: float | None
    """Advantage, normalised over the group: the samples of one run and problem."""
    traced: bool
    """Whether the sample has entropies."""
    measured: bool = False
    """Whether it was continued from some of its tokens."""

    @property
    def rank(self) -> int:
        """What is known of its tokens; samples of which more is known come first."""
        return 2 * (not self.measured) + (not self.traced)


def list_samples(
    arms: Sequence[SampleArm], traced: Mapping[int, set[Key]], measured: Collection[Key] = ()
) -> list[ListedSample]:
    """Lists every sample of every arm, without texts."""
    listed: list[ListedSample] = []
    for a, arm in enumerate(arms):
        rows: list[tuple[Key, bool | None, int | None]] = []
        for batch in read_batches(arm.tables, ["run", "problem_id", "sample_id", "correct", "n_tokens"], arm.runs):
            columns = [batch[name].to_pylist() for name in ("run", "problem_id", "sample_id", "correct", "n_tokens")]
            rows += [((run, problem, i), correct, n) for run, problem, i, correct, n in zip(*columns, strict=True)]
        groups: dict[tuple[str, str], list[bool]] = {}
        for (run, problem, _), correct, _ in rows:
            if correct is not None:
                groups.setdefault((run, problem), []).append(correct)
        have = traced.get(a, set())
        listed += [
            ListedSample(a, key, correct, n, _advantage(correct, groups.get(key[:2], [])), key in have, key in measured)
            for key, correct, n in rows
        ]
    return listed


def _advantage(correct: bool | None, group: Sequence[bool]) -> float | None:
    """Computes `(r - mean) / (std + eps)` in the group, as TRL's `scale_rewards="group"`; None without a verdict."""
    if correct is None:
        return None
    n, mean = len(group), sum(group) / len(group)
    std = math.sqrt(n * mean * (1 - mean) / (n - 1)) if n > 1 else 0.0
    return (correct - mean) / (std + _EPSILON)


def choose(samples: Sequence[ListedSample], problems: int, per_problem: int) -> list[ListedSample]:
    """Chooses at most `per_problem` samples of each arm on `problems` problems, evenly over the sorted problem ids.

    Problems and samples that were continued from their tokens come first. Of each arm and problem, those with entropies
    come first, right and wrong ones in turn, lowest sample ids first.
    """
    continued = {sample.key[1] for sample in samples if sample.measured}
    uncontinued = {sample.key[1] for sample in samples} - continued
    chosen_ids = _spread(continued, problems) | _spread(uncontinued, problems - len(continued))
    groups: dict[tuple[str, int], list[ListedSample]] = {}
    for sample in samples:
        if sample.key[1] in chosen_ids:
            groups.setdefault((sample.key[1], sample.arm), []).append(sample)
    chosen_samples: list[ListedSample] = []
    for group in (groups[key] for key in sorted(groups)):
        ordered = sorted(group, key=lambda s: (s.rank, s.key[2], s.key[0]))
        kinds: dict[bool | None, list[ListedSample]] = {}
        for sample in ordered:
            kinds.setdefault(sample.correct, []).append(sample)
        turns = [(s.rank, i, s.key[2], s.key[0], s) for kind in kinds.values() for i, s in enumerate(kind)]
        chosen = [turn[-1] for turn in sorted(turns, key=lambda turn: turn[:-1])[:per_problem]]
        chosen_samples += sorted(chosen, key=lambda s: (s.key[2], s.key[0]))
    return chosen_samples


def _spread(problems: Collection[str], most: int) -> set[str]:
    """Takes problems evenly over their sorted ids."""
    ids = sorted(problems)
    if not ids or most < 1:
        return set()
    return {ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, min(most, len(ids))).astype(int))}
