"""Which prefixes are continued: a stratified draw over all tokens, with the chance that each was drawn.

Strata are levels of entropy, marked tokens apart; thirds of the samples and their verdicts where states suffice.

Problems are chosen by every second sample of theirs, those that are neither always nor never solved; states, and V0,
come from the other samples. So the choice says nothing about these, and sums over states are not biased by it.

Suffixes: N tokens of the frame.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from forkwise.explore.contrast import FloatArray, IntArray

LEVELS = ("low", "middle", "high", "top")
"""Strata of entropy: up to `LOW` nats, up to a quantile of the frame, up to that of a quarter of what lies above."""
LOW = 0.05  # nats: below, hardly any token can decide anything
PLACES = ("early", "middle", "late")
VERDICTS = ("wrong", "right", "unscored")
_FEWEST = 2  # states that each part of a stratum must get, for it to be parted


@dataclass(frozen=True)
class StateStratum:
    """Tokens with the same chance of being drawn."""

    name: str
    tokens: int
    states: int
    """How many of them were drawn."""


@dataclass(frozen=True)
class DrawnStates:
    """States that were drawn from the frame, in the frame's order."""

    index: IntArray
    """Which tokens of the frame."""
    chance: FloatArray
    """The chance with which each was drawn."""
    strata: list[StateStratum] = field(default_factory=list)


def strata(entropy_N: FloatArray, marked_N: IntArray, quantile: float = 0.8) -> tuple[IntArray, float]:
    """Returns each token's stratum, its level of entropy and whether it is marked, and the threshold of `high`."""
    threshold, top = (float(np.quantile(entropy_N, q)) for q in (quantile, 1 - (1 - quantile) / 4))
    level_N = (entropy_N > LOW).astype(np.int64) + (entropy_N > threshold) + (entropy_N > top)
    return 2 * level_N + (marked_N > 0), threshold


def parts(position_N: IntArray, length_N: IntArray, correct_N: Sequence[bool | None]) -> IntArray:
    """Returns which part of its stratum each token is in: a third of its sample, and the sample's verdict."""
    verdict_N = np.array([2 if correct is None else int(correct) for correct in correct_N], dtype=np.int64)
    part_N: IntArray = len(VERDICTS) * (len(PLACES) * position_N // length_N) + verdict_N
    return part_N


def draw(
    stratum_N: IntArray,
    entropy_N: FloatArray,
    problem_N: IntArray,
    states: int,
    seed: int,
    part_N: IntArray | None = None,
    share_low: float = 0.05,
) -> DrawnStates:
    """Draws states without replacement: most where tokens may decide most, and some of every stratum.

    A stratum gets states in proportion to its mean entropy and the root of its size; those of low entropy together get
    the share `share_low`. One that has fewer is taken whole, and the others get what is left. Its states are dealt to
    its parts (`part_N`, see `parts`) by the same rule, if two for each can be had; else to thirds of the samples, or to
    the stratum undivided. In a part every token has the same chance, and problems get their due: a systematic draw,
    problem by problem, in random order within each.
    """
    rng = np.random.default_rng([seed, 11])
    sizes = np.bincount(stratum_N)
    kinds = np.flatnonzero(sizes)
    low = kinds < 2
    need = _need(stratum_N, entropy_N)[kinds]
    part = np.where(low, share_low, 1 - share_low) * need / np.where(low, need[low].sum(), need[~low].sum())
    count = _fit(part, sizes[kinds], states)
    index, chance, designed = [], [], []
    for kind, n in zip(kinds.tolist(), count.tolist(), strict=True):
        whole = np.flatnonzero(stratum_N == kind)
        for name, members, number in _parted(whole, None if part_N is None else part_N[whole], entropy_N[whole], n):
            ordered = members[np.lexsort((rng.random(members.size), problem_N[members]))]
            step = members.size / number
            index.append(ordered[np.floor((rng.random() + np.arange(number)) * step).astype(np.int64)])
            chance.append(np.full(number, number / members.size))
            marked = "marked" if kind % 2 else "not marked"
            designed.append(StateStratum(", ".join([LEVELS[kind // 2], marked, *name]), members.size, number))
    picked = np.concatenate(index)
    order = np.argsort(picked)
    return DrawnStates(picked[order], np.concatenate(chance)[order], designed)


def _need(stratum_N: IntArray, entropy_N: FloatArray) -> FloatArray:
    """Returns the mean entropy of each stratum times the root of its size; 0 of an empty one."""
    sizes = np.bincount(stratum_N)
    need: FloatArray = np.bincount(stratum_N, weights=np.maximum(entropy_N, 1e-6)) / np.sqrt(np.maximum(sizes, 1))
    return need


def _parted(
    members: IntArray, part_N: IntArray | None, entropy_N: FloatArray, states: int
) -> Iterator[tuple[list[str], IntArray, int]]:
    """Parts a stratum as finely as its states allow; yields the words for each part, its tokens, and its states."""
    if part_N is not None:
        for divisor, names in ((1, [[p, v] for p in PLACES for v in VERDICTS]), (len(VERDICTS), [[p] for p in PLACES])):
            code_N = part_N // divisor
            sizes = np.bincount(code_N)
            filled = np.flatnonzero(sizes)
            if filled.size > 1 and states >= _FEWEST * filled.size:
                need = _need(code_N, entropy_N)[filled]
                for code, n in zip(filled.tolist(), _fit(need, sizes[filled], states).tolist(), strict=True):
                    yield names[code], members[code_N == code], n
                return
    yield [], members, states


def _fit(part: FloatArray, sizes: IntArray, states: int) -> IntArray:
    """Deals states to strata one by one, each to the one that has fewest for its part; every stratum gets one."""
    count = np.ones(sizes.size, dtype=np.int64)
    while count.sum() < min(states, sizes.sum()):
        count[int(np.where(count < sizes, part / count, -1.0).argmax())] += 1
    return count


def halves(problem_ids: Sequence[str], outcomes: Sequence[Hashable]) -> tuple[list[str], list[int]]:
    """Splits the samples of each problem: every second one chooses the problem, the others are used.

    Args:
        problem_ids, outcomes: of all samples, in the table's order; outcomes are verdicts, or answers.

    Returns:
        The problems whose choosing half has more than one outcome (neither always nor never solved), and the samples
        of these that are used.
    """
    counted: dict[str, int] = {}
    chooses: dict[str, set[Hashable]] = {}
    used: dict[str, list[int]] = {}
    for i, (problem, outcome) in enumerate(zip(problem_ids, outcomes, strict=True)):
        counted[problem] = counted.get(problem, -1) + 1
        if counted[problem] % 2 == 0:
            chooses.setdefault(problem, set()).add(outcome)
        else:
            used.setdefault(problem, []).append(i)
    chosen = [p for p, choices in chooses.items() if len(choices) > 1 and len(used.get(p, ())) >= 2]
    return chosen, [i for problem in chosen for i in used[problem]]
