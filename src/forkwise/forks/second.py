"""A second stage: some states get further continuations, where the first stage leaves most in doubt; without bias.

The first stage continues every state and says how much F of each is in doubt: the spread that F has where outcomes are
dealt anew to first tokens. A state is continued again with a chance p in proportion to that and to the weight of the
state. With F1 from the first stage, F2 from the further continuations alone, I whether the state was chosen, and c the
further ones' share of all its continuations, F is `F1 + c (I / p) (F2 - F1)`. Given the first stage, I / p is 1 and F2
is F in the mean, whatever p is: so F is estimated without bias, `(1 - c) F1 + c F2` where p is 1. (To drop F1, or to
weigh the stages by what they showed, would not be.) And since p does not depend on which first token had which outcome,
outcomes dealt anew, in both stages, are the null of the whole.

Suffixes: N states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forkwise.explore.contrast import FloatArray, IntArray

SHARE = 4
"""One in so many states is continued again."""
_EVENLY = 0.05  # of the choice goes to all states alike, since a state without any doubt may have had luck


@dataclass(frozen=True)
class SecondStage:
    """The states that are continued again."""

    index: IntArray
    """Which of the drawn states, in their order."""
    chance: FloatArray
    """The chance with which each was chosen."""


def number_again(states: int, further: int) -> int:
    """Returns how many states are continued again, with `further` continuations each."""
    return max(1, states // SHARE) if further else 0


def choose_again(doubt_N: FloatArray, weight_N: FloatArray, number: int, seed: int) -> SecondStage:
    """Chooses states, with chances in proportion to `weight * doubt`, none above 1, that add up to `number`."""
    rng = np.random.default_rng([seed, 14])
    size_N = weight_N * doubt_N
    even_N = np.full(size_N.size, 1 / size_N.size)
    part_N = even_N if size_N.sum() <= 0 else (1 - _EVENLY) * size_N / size_N.sum() + _EVENLY * even_N
    chance_N = np.zeros(size_N.size)
    open_N = np.ones(size_N.size, dtype=np.bool_)
    while True:  # whoever would have more than 1 is taken, and the others share what is left
        missing = number - int((~open_N).sum())
        chance_N = np.where(open_N, missing * part_N / max(part_N[open_N].sum(), 1e-300), 1.0)
        if not (over_N := open_N & (chance_N >= 1)).any():
            break
        open_N &= ~over_N
    order = rng.permutation(size_N.size)
    edge_N = np.floor(np.cumsum(chance_N[order]) + rng.random() + 1e-9)
    index = np.sort(order[np.diff(edge_N, prepend=0.0) > 0])
    return SecondStage(index, chance_N[index])


def combined(first_N: FloatArray, again: SecondStage, second: FloatArray, share: float) -> FloatArray:
    """Combines estimates of both stages; of arrays `(N, ...)`, `second` has the states of `again` alone.

    Args:
        share: of all continuations of a state that is continued again, those of the second stage.
    """
    both: FloatArray = first_N.astype(np.float64).copy()
    factor = (share / again.chance).reshape(-1, *[1] * (first_N.ndim - 1))
    both[again.index] += factor * (second - first_N[again.index])
    return both
