"""Halving finds the token at which the chance changes: on samples whose chances are known at every token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from forkwise.forks.bisection import Place, TokenInterval, bisected, worth_halving

N = 16


def exact(values: Sequence[float]) -> tuple[TokenInterval, list[list[int]]]:
    """The interval over all of a sample with these chances after so many tokens, and a list for the places asked."""
    ends = (round(N * values[0]), round(N * values[-1]))
    return TokenInterval(0, 0, 0, len(values) - 1, *ends, N), []


@pytest.mark.parametrize("step", range(11))
def test_a_change_at_one_token_is_found(step: int) -> None:
    values = [0.25] * (step + 1) + [1.0] * (11 - step)  # the token number `step`, of 11, changes it
    interval, asked = exact(values)

    def measure(stage: str, places: Sequence[Place]) -> list[int]:
        asked.append([at for _, at in places])
        return [round(N * values[at]) for _, at in places]

    result = bisected([interval], measure)
    assert [(i.start, i.end, i.before, i.after) for i in result.tokens] == [(step, step + 1, 4, 16)]
    assert asked[0] == [5]
    assert len(asked) + 2 <= interval.cost  # of 11 tokens four halvings at most, and two ends
    assert [(place, right) for place, right in result.points] == [((0, at), round(N * values[at])) for (at,) in asked]


def test_a_change_over_several_tokens_is_not_pinned_on_one() -> None:
    values = np.linspace(0.1, 0.9, 9)
    interval, _ = exact(values.tolist())
    result = bisected([interval], lambda stage, places: [round(N * values[at]) for _, at in places])
    assert (result.searched, result.tokens) == (1, [])
    assert result.points[0] == ((0, 4), 8)


def test_the_surest_changes_are_halved_first_and_no_more_than_suffice() -> None:
    def sentence(row: int, length: int, before: int, after: int) -> TokenInterval:
        return TokenInterval(row, row, 0, length, before, after, N)

    # Costs: one token 2, two tokens 1 + 2, five to eight 3 + 2. By hand of 16 each: 0 and 16 is 2 / C(32, 16).
    assert [sentence(0, n, 0, 16).cost for n in (1, 2, 5, 8, 9)] == [2, 3, 5, 5, 6]
    assert sentence(0, 1, 0, 16).p == pytest.approx(2 / stats.binom(32, 0.5).pmf(16) / 2**32)
    weak, strong, sure = sentence(0, 8, 8, 9), sentence(1, 8, 4, 14), sentence(2, 5, 0, 16)
    assert weak.p > 0.05
    assert worth_halving([weak, strong, sure], 100) == [sure, strong]
    assert worth_halving([weak, strong, sure], 9) == [sure]
    assert worth_halving([weak, strong, sure], 4) == []


def test_what_is_measured_again_is_the_truth_and_what_found_it_overstates() -> None:
    # The chance rises from .4 to .7 at the fourth of 8 tokens. What halving finds is chosen for being large.
    values = [0.4] * 4 + [0.7] * 5
    rng = np.random.default_rng(0)

    def measure(stage: str, places: Sequence[Place]) -> list[int]:
        return [int(rng.binomial(N, values[at])) for _, at in places]

    chosen, again, of_fourth = [], [], 0
    for _ in range(4000):
        interval = TokenInterval(0, 0, 0, 8, *(int(rng.binomial(N, v)) for v in (values[0], values[-1])), N)
        for token in bisected(worth_halving([interval], 10), measure).tokens:
            true = values[token.end] - values[token.start]
            chosen.append(abs(token.after - token.before) / N - abs(true))
            before, after = measure("again", [(0, token.start), (0, token.end)])
            again.append((after - before) / N - true)
            of_fourth += token.start == 3
    assert len(again) > 100
    assert of_fourth / len(again) > 0.7
    assert np.mean(chosen) > 0.1
    assert np.mean(again) == pytest.approx(0, abs=4 * np.std(again) / np.sqrt(len(again)))
