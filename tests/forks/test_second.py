"""The second stage: chances by hand, no bias on a policy that can be enumerated, the null, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
from test_estimators import TOKENS, Tabular

from forkwise.forks.branches import first_tokens
from forkwise.forks.estimators import permuted_decided, state_value
from forkwise.forks.second import SecondStage, choose_again, combined, number_again


def test_chances_go_with_doubt_and_weight_and_none_is_above_one() -> None:
    # weight * doubt is 1, 1, 2, 0; a twentieth of the choice is even, so parts are .25, .25, .4875, .0125, and of 2
    # states chances are .5, .5, .975, .025. Of 3 they would be .75, .75, 1.46, .04: the third is taken, and 2 are left
    # for parts of .25, .25, .0125, which makes .5, .5, .025 over .5125.
    doubt, weight = np.array([1.0, 0.5, 1.0, 0.0]), np.array([1.0, 2.0, 2.0, 5.0])
    for number, expected in ((2, [0.5, 0.5, 0.975, 0.025]), (3, [0.5 / 0.5125, 0.5 / 0.5125, 1.0, 0.025 / 0.5125])):
        times = np.zeros(4)
        for seed in range(3000):
            again = choose_again(doubt, weight, number, seed)
            assert again.index.size == number
            assert again.chance == pytest.approx(np.array(expected)[again.index])
            times[again.index] += 1
        assert times / 3000 == pytest.approx(expected, abs=0.04)
    assert choose_again(np.zeros(4), weight, 2, 0).chance == pytest.approx([0.5, 0.5])
    assert choose_again(doubt, weight, 4, 0).chance == pytest.approx([1.0] * 4)
    assert [number_again(n, f) for n, f in ((40, 0), (40, 16), (3, 16))] == [0, 10, 1]


def test_stages_are_combined_by_hand() -> None:
    # c = 3/4. The first is chosen for sure: .25 * .1 + .75 * .3; the second with .5: .2 + .75 / .5 * (.4 - .2).
    first, again = np.array([0.1, 0.2, 0.6]), SecondStage(np.array([0, 1]), np.array([1.0, 0.5]))
    assert combined(first, again, np.array([0.3, 0.4]), 0.75) == pytest.approx([0.25, 0.5, 0.6])
    both = combined(np.stack([first, first], axis=1), again, np.array([[0.3, 0.1], [0.4, 0.2]]), 0.75)
    assert both == pytest.approx(np.array([[0.25, 0.1], [0.5, 0.2], [0.6, 0.6]]))


def whole(rng: np.random.Generator, policy: Tabular, prefixes: list[tuple[int, ...]], n: int) -> tuple[np.ndarray, ...]:
    """F of each prefix from `n` continuations, and the null of each."""
    decided, null = [], []
    for prefix in prefixes:
        chance = policy.next[prefix]
        first = first_tokens(chance, int(rng.choice(TOKENS, p=chance)), n, rng)
        outcome = np.array([[policy.roll(rng, (*prefix, a))] for a in first.rows])
        decided.append(state_value(first.branches, outcome).decided)
        null.append(permuted_decided(first.branches, outcome, 20, rng))
    return np.array(decided), np.array(null)


def test_both_stages_together_have_no_bias() -> None:
    policy, rng = Tabular(3), np.random.default_rng(0)
    prefixes = list(policy.next)
    weight = np.array([policy.chance(prefix) for prefix in prefixes])
    truth = float(weight @ np.array([policy.decided(prefix) for prefix in prefixes]))
    assert truth == pytest.approx(policy.value(()) * (1 - policy.value(())))
    sums = []
    for seed in range(700):
        first, null = whole(rng, policy, prefixes, 8)
        again = choose_again(null.std(axis=1), weight, number_again(len(prefixes), 16), seed)
        second, _ = whole(rng, policy, [prefixes[i] for i in again.index], 16)
        sums.append(weight @ combined(first, again, second, 16 / 24))
    assert np.mean(sums) == pytest.approx(truth, abs=3.5 * np.std(sums) / np.sqrt(700))
    assert truth > 0.1


def test_further_continuations_go_where_they_lower_the_error_most() -> None:
    # Nine of ten states are decided already: their outcomes are all alike. As many continuations, in one stage and in
    # two; three ways that decide nothing in the open states.
    rng = np.random.default_rng(0)
    probs = np.array([0.6, 0.3, 0.1])
    open_N = np.arange(40) % 10 == 0

    def stage(n: int, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        decided, null = [], []
        for is_open in states:
            branches = first_tokens(probs, 0, n, rng).branches
            outcome = (rng.random((n, 1)) < (0.5 if is_open else 0.0)).astype(float)
            decided.append(state_value(branches, outcome).decided)
            null.append(permuted_decided(branches, outcome, 20, rng))
        return np.array(decided), np.array(null)

    one, two, small = [], [], 0
    for seed in range(150):
        one.append(stage(32, open_N)[0].sum())
        first, null = stage(16, open_N)
        again = choose_again(null.std(axis=1), np.ones(40), 10, seed)
        second, null_again = stage(64, open_N[again.index])
        two.append(combined(first, again, second, 0.8).sum())
        null_D = combined(null, again, null_again, 0.8).sum(axis=0)
        small += (null_D >= two[-1]).mean() < 0.1
    assert np.std(two) < 0.75 * np.std(one)
    assert np.mean(two) == pytest.approx(0, abs=4 * np.std(two) / np.sqrt(150))
    assert small <= 26  # 15 expected where nothing is decided; more than 26 in one of 400 runs
