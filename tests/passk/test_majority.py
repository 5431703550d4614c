"""maj@K against enumeration of all K-subsets, on both sides of the switch from exact to simulated."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkwise.passk import maj_at_k, majority, pass_at_k
from forkwise.passk.majority import count_votes


def brute(answers: list[str | None], right: set[str], k: int) -> float:
    total, subsets = 0.0, list(combinations(answers, k))
    for subset in subsets:
        votes = Counter(a for a in subset if a is not None)
        if votes:
            top = max(votes.values())
            leaders = [a for a, v in votes.items() if v == top]
            total += sum(a in right for a in leaders) / len(leaders)
    return total / len(subsets)


def verdicts(answers: list[str | None], right: set[str]) -> list[bool]:
    return [a in right for a in answers]


def test_by_hand() -> None:
    # a a b, a correct. K = 1: 2/3. K = 2: {aa} 1, {ab} twice a tie, 1/2 each: (1 + 1/2 + 1/2) / 3. K = 3: a leads.
    votes = count_votes(["a", "a", "b"], [True, True, False])
    value, error = maj_at_k(votes, [1, 2, 3])
    np.testing.assert_allclose(value, [2 / 3, 2 / 3, 1.0])
    assert not error.any()


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=8), st.sets(st.sampled_from("ab")))
def test_equals_the_average_over_all_subsets(answers: list[str | None], right: set[str]) -> None:
    votes = count_votes(answers, verdicts(answers, right))
    ks = list(range(1, len(answers) + 1))
    value, error = maj_at_k(votes, ks)
    np.testing.assert_allclose(value, [brute(answers, right, k) for k in ks], atol=1e-12)
    assert not error.any()


def test_simulated_agrees_with_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["a"] * 12 + ["b"] * 14 + ["c"] * 3 + ["d"] * 3 + [None] * 8
    votes = count_votes(answers, verdicts(answers, {"a"}))
    exact, _ = maj_at_k(votes, [1, 5, 16, 39])
    monkeypatch.setattr(majority, "EXACT_UP_TO", 0)
    value, error = maj_at_k(votes, [1, 5, 16, 39], draws=20_000)
    assert (error[:3] > 0).all()  # at K = 39 "b" leads whatever is left out
    assert (np.abs(value - exact) <= 4 * error).all()


def test_many_samples_keep_to_numbers_without_overflow() -> None:
    answers = [str(i % 7) for i in range(64)]
    value, _ = maj_at_k(count_votes(answers, verdicts(answers, {"0"})), [1, 32, 64])
    assert np.isfinite(value).all()
    assert value[0] == pytest.approx(10 / 64)


def test_one_vote_is_pass_at_1_when_all_answered() -> None:
    answers = ["a"] * 3 + ["b"] * 7
    value, _ = maj_at_k(count_votes(answers, verdicts(answers, {"a"})), [1])
    assert value[0] == pytest.approx(pass_at_k(10, [3], 1)[0])


def test_silence_does_not_vote_and_does_not_win() -> None:
    # None None a, a correct: K = 1 is right once in three; K = 2 and 3 whenever a is drawn.
    value, _ = maj_at_k(count_votes([None, None, "a"], [False, False, True]), [1, 2, 3])
    np.testing.assert_allclose(value, [1 / 3, 2 / 3, 1.0])
    value, _ = maj_at_k(count_votes([None, None], [False, False]), [1, 2])
    assert value.tolist() == [0.0, 0.0]


def test_equal_answers_vote_together() -> None:
    # Three spellings of one half against two of one third: the majority is right, whatever its spelling.
    votes = count_votes([r"\frac12", "0.5", "1/2", "1/3", r"\frac{1}{3}"], [True, True, True, False, False])
    assert sorted(votes.counts.tolist()) == [2, 3]
    assert maj_at_k(votes, [5])[0].tolist() == [1.0]
