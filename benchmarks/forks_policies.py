"""Policies that can be enumerated, and continuations of all states of a table at once.

It serves `forks_calibration.py`, whose docstring describes the families.

Suffixes: C answers, M states, N prefixes, P policies, S samples, W ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forkwise.explore.contrast import BoolArray, FloatArray, IntArray
from forkwise.forks.branches import first_tokens
from forkwise.forks.estimators import Branches, state_value

POLICIES, CONTINUATIONS, ANSWERS = 400, 16, 4
Rng = np.random.Generator


@dataclass(frozen=True)
class Family:
    """How policies of one kind are made."""

    ways: int
    length: int
    problems: int
    width: int
    """Texts that differ in what comes of them; 0 where all do."""
    sentence: int
    """Tokens of a sentence."""


FAMILIES = {"trees": Family(3, 7, 40, 0, 1), "chains": Family(5, 40, 60, 12, 5)}


class Policies:
    """All prefixes of many policies, one after the other: by number of tokens, then policy."""

    def __init__(self, family: Family, seed: int) -> None:
        self.family, rng = family, np.random.default_rng(seed)
        levels = self._trees(rng) if not family.width else self._chains(rng)
        probs, to, self.answer_N = levels
        sizes = np.array([p.shape[1] for p in probs] + [self.answer_N.size // POLICIES])
        self.first_T = np.concatenate([[0], np.cumsum(POLICIES * sizes)])
        self.size_T = sizes
        level_of = np.repeat(np.arange(family.length), POLICIES * sizes[:-1])
        self.place_N = level_of
        self.policy_N = np.concatenate([np.repeat(np.arange(POLICIES), n) for n in sizes[:-1]])
        self.probs_NW = np.concatenate([p.reshape(-1, family.ways) for p in probs])
        self.to_NW = np.concatenate(
            [
                (self.first_T[t + 1] + np.arange(POLICIES)[:, None, None] * sizes[t + 1] + x).reshape(-1, family.ways)
                for t, x in enumerate(to)
            ]
        )
        nodes = self.probs_NW.shape[0]
        self.value_NC = np.zeros((nodes + self.answer_N.size, ANSWERS))
        self.value_NC[nodes:] = self.answer_N[:, None] == np.arange(ANSWERS)
        self.reached_N = np.zeros(nodes + self.answer_N.size)
        self.reached_N[:POLICIES] = 1.0
        for t in reversed(range(family.length)):
            here = self.level(t)
            self.value_NC[here] = np.einsum("nw,nwc->nc", self.probs_NW[here], self.value_NC[self.to_NW[here]])
        for t in range(family.length):
            here = self.level(t)
            np.add.at(self.reached_N, self.to_NW[here], self.reached_N[here][:, None] * self.probs_NW[here])
        self.entropy_N = -(self.probs_NW * np.log(self.probs_NW)).sum(axis=1)
        self.marked_N: BoolArray = rng.random((nodes,)) < 0.2
        self.reflects_N: BoolArray = rng.random((nodes,)) < 0.5
        """Whether a sentence that begins here with the first way is reflective."""
        after_NWC = self.value_NC[self.to_NW]
        self.decided_NC = np.einsum("nw,nwc->nc", self.probs_NW, after_NWC**2) - self.value_NC[:nodes] ** 2

    def level(self, t: int) -> slice:
        """Returns the prefixes of `t` tokens."""
        return slice(int(self.first_T[t]), int(self.first_T[t + 1]))

    def _trees(self, rng: Rng) -> tuple[list[FloatArray], list[IntArray], IntArray]:
        ways, probs, to, score = self.family.ways, [], [], rng.normal(-1, 1, (POLICIES, 1))
        for t in range(self.family.length):
            shape = (POLICIES, ways**t)
            spread = np.where(rng.random(shape) < 0.5, 0.03, np.where(rng.random(shape) < 0.5, 0.5, 3.0))
            probs.append(_probabilities(rng, spread, ways))
            to.append(np.broadcast_to(np.arange(ways ** (t + 1)).reshape(1, -1, ways), (*shape, ways)))
            matters = (rng.random(shape) < 0.25)[:, :, None]
            score = (score[:, :, None] + matters * rng.normal(0, 3, (*shape, ways))).reshape(POLICIES, -1)
        # The higher the score, the righter; wrong answers go by it too.
        return probs, to, np.digitize(-score.ravel(), [0.0, 2.0, 4.0])

    def _chains(self, rng: Rng) -> tuple[list[FloatArray], list[IntArray], IntArray]:
        ways, width, probs, to = self.family.ways, self.family.width, [], []
        for t in range(self.family.length):
            shape = (POLICIES, width if t else 1)
            spread = rng.choice([0.02, 0.3, 2.0], p=[0.65, 0.2, 0.15], size=shape)
            probs.append(_probabilities(rng, spread, ways))
            same = np.broadcast_to(np.arange(shape[1])[None, :, None], (*shape, ways))
            matters = (rng.random(shape) < 0.05)[:, :, None] | (t == 0)
            to.append(np.where(matters, rng.integers(width, size=(*shape, ways)), same))
        right = rng.random((POLICIES, width)) < rng.beta(1.5, 2.5, (POLICIES, 1))
        return probs, to, np.where(right, 0, rng.integers(1, ANSWERS, right.shape)).ravel()

    def texts(self, policy_S: IntArray, rng: Rng) -> tuple[IntArray, IntArray]:
        """Draws a text of each policy; returns its prefixes, the whole last, and the way taken at each."""
        nodes = [self.first_T[0] + policy_S]
        taken = []
        for _ in range(self.family.length):
            cdf = self.probs_NW[nodes[-1]].cumsum(axis=1)
            way = (rng.random(policy_S.size)[:, None] * cdf[:, -1:] > cdf[:, :-1]).sum(axis=1)
            taken.append(way)
            nodes.append(self.to_NW[nodes[-1], way])
        return np.stack(nodes, axis=1), np.stack(taken, axis=1)


def _probabilities(rng: Rng, spread: FloatArray, ways: int) -> FloatArray:
    weights = rng.gamma(np.repeat(spread[..., None], ways, axis=-1)) + 1e-12
    probs: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return probs


# ------------------------------------------------------------------------------------------------------- continuations


def design(probs_MW: FloatArray, taken_M: IntArray) -> tuple[BoolArray, IntArray, FloatArray]:
    """Gives each way its continuations as `first_tokens` does; returns which are forced, and the sizes, the tail last,
    and the weights, `(M, W + 1)`."""
    states, ways = probs_MW.shape
    forced = (probs_MW >= 0.5 / CONTINUATIONS) | (np.arange(ways) == taken_M[:, None])
    share = np.concatenate([np.where(forced, probs_MW, 0.0), np.where(forced, 0.0, probs_MW).sum(axis=1)[:, None]], 1)
    share[:, -1] *= share[:, -1] > 1e-9
    share /= share.sum(axis=1, keepdims=True)
    available = np.concatenate([forced, share[:, -1:] > 0], axis=1)
    size = np.where(available, 2, 0)
    size[:, -1] *= 2
    gain = (share * np.maximum(1 - share, 1e-12)) ** (2 / 3)
    step = np.array([1] * ways + [2])
    rows = np.arange(states)
    while (missing := CONTINUATIONS - size.sum(axis=1)).any():
        ratio = np.where(available & (step <= missing[:, None]), gain / np.maximum(size, 1), -1.0)
        best = ratio.argmax(axis=1)
        size[rows, best] += np.where(missing > 0, step[best], 0)
    return forced, size, share


def continue_states(
    policies: Policies, node_M: IntArray, taken_M: IntArray, rng: Rng, *, by_answer: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Continues states, and estimates F and V (1 - V), or what they sum to over answers."""
    probs, value = policies.probs_NW[node_M], policies.value_NC
    after = value[policies.to_NW[node_M]]
    forced, size, weight = design(probs, taken_M)
    drawn = size[:, -1] // 2
    most = max(int(drawn.max()), 1)
    rest = np.where(forced, 0.0, probs) + 1e-300
    cdf = rest.cumsum(axis=1)
    way = (rng.random((node_M.size, most))[:, :, None] * cdf[:, None, -1:] > cdf[:, None, :-1]).sum(axis=2)
    after_drawn = np.take_along_axis(after, way[:, :, None], axis=1)
    number = np.concatenate([size[:, :-1], np.where(np.arange(most) < drawn[:, None], 2, 0)], axis=1)
    chance = np.concatenate([after, after_drawn], axis=1)
    count = rng.multinomial(number, chance / chance.sum(axis=2, keepdims=True)).astype(np.float64)
    if not by_answer:
        count = count[:, :, :1]
    each = np.maximum(number, 1)[:, :, None]
    mean, squared = count / each, count * (count - 1) / (each * np.maximum(each - 1, 1))
    part_w = np.concatenate(
        [weight[:, :-1], np.where(number[:, -most:] > 0, (weight[:, -1] / np.maximum(drawn, 1))[:, None], 0.0)], axis=1
    )[:, :, None]
    part = part_w * mean
    ways = probs.shape[1]
    of_forced, of_tail = part[:, :ways].sum(axis=1), part[:, ways:].sum(axis=1)
    own = (part_w**2 * squared - part**2)[:, :ways].sum(axis=1)
    across = (of_tail**2 - (part[:, ways:] ** 2).sum(axis=1)) * (drawn / np.maximum(drawn - 1, 1))[:, None]
    square = of_forced**2 + own + 2 * of_forced * of_tail + across
    decided = ((part_w * squared).sum(axis=1) - square).sum(axis=1)
    _check(probs[0], int(taken_M[0]), number[0], part_w[0, :, 0], count[0], float(decided[0]))
    return decided, (of_forced + of_tail - square).sum(axis=1)


def _check(
    probs_W: FloatArray, taken: int, number: IntArray, weight: FloatArray, count_C: FloatArray, decided: float
) -> None:
    """Compares a state with what the package makes of it."""
    first = first_tokens(probs_W, taken, CONTINUATIONS, np.random.default_rng(0))
    kept = number > 0
    ways = probs_W.size
    forced = np.flatnonzero(kept[:ways])
    assert sorted(first.tokens[: first.forced]) == forced.tolist()
    assert sorted(first.sizes[: first.forced]) == sorted(number[forced].tolist())  # of two ways either has one more
    assert len(first.tokens) - first.forced == int(kept[ways:].sum())
    outcome = np.concatenate([_dealt(c, int(n)) for n, c in zip(number[kept], count_C[kept], strict=True)])
    branches = Branches(weight[kept], np.arange(number.size)[kept] < ways, number[kept])
    assert abs(state_value(branches, outcome.astype(np.float64)).decided - decided) < 1e-9


def _dealt(count_C: FloatArray, number: int) -> FloatArray:
    """Says of each continuation which answer it has, `(number, C)`; those left over have one that does not count."""
    each = np.repeat(np.arange(count_C.size), count_C.astype(np.int64))
    dealt = np.zeros((number, count_C.size))
    dealt[np.arange(each.size), each] = 1.0
    return dealt
