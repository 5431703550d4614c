"""Entropy from top-k log-probs: the bounds hold for every tail, and are reached by the extreme ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkwise.explore.bounds import LogprobError, entropy_bounds


def entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=40),
    st.integers(1, 40),
    st.floats(0.2, 8.0),
)
def test_bounds_hold_for_every_distribution(weights: list[float], k: int, power: float) -> None:
    p = np.sort(np.array(weights) ** power / np.sum(np.array(weights) ** power))[::-1]
    k = min(k, p.size)
    bounds = entropy_bounds([np.log(p[:k]).tolist()], vocabulary=p.size)
    assert bounds.low[0] <= entropy(p) + 1e-9
    assert bounds.high[0] >= entropy(p) - 1e-9


def test_bounds_are_reached_by_the_extreme_tails() -> None:
    # Top two .4 and .2; the missing .4 on tokens of at most .2 each: least spread is two of .2, most is even over 8.
    spread = np.array([0.4, 0.2] + [0.05] * 8)
    packed = np.array([0.4, 0.2, 0.2, 0.2])
    bounds = entropy_bounds([[math.log(0.4), math.log(0.2)]], vocabulary=10)
    assert bounds.low[0] == pytest.approx(entropy(packed), abs=1e-12)
    assert bounds.high[0] == pytest.approx(entropy(spread), abs=1e-12)
    assert bounds.missing[0] == pytest.approx(0.4)


def test_a_complete_list_gives_the_entropy_itself() -> None:
    p = np.array([0.7, 0.2, 0.1])
    bounds = entropy_bounds([np.log(p).tolist()], vocabulary=50_000)
    assert bounds.low[0] == pytest.approx(entropy(p), abs=1e-12)
    assert bounds.high[0] == pytest.approx(entropy(p), abs=1e-9)


def test_openai_s_very_unlikely_is_no_probability() -> None:
    bounds = entropy_bounds([[math.log(0.9), -9999.0]], vocabulary=1000)
    # The tail of .1 may be one token: -.9 log .9 - .1 log .1.
    assert bounds.low[0] == pytest.approx(entropy(np.array([0.9, 0.1])), abs=1e-12)


def test_a_sampled_token_added_to_the_list_does_not_cap_the_tail() -> None:
    # vLLM's top 2 plus the sampled token of .01; unseen tokens may have up to .2 each: .19 of mass is one token.
    lists = [
        [math.log(0.6), math.log(0.2)],
        [math.log(0.6), math.log(0.2), math.log(0.01)],
        [math.log(0.6), math.log(0.2)],
    ]
    bounds = entropy_bounds(lists, 1000, [math.log(0.6), math.log(0.01), math.log(0.2)])
    assert bounds.low[1] == pytest.approx(entropy(np.array([0.6, 0.2, 0.01, 0.19])), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0.05, 2.0), st.integers(1, 30))
def test_bounds_hold_where_a_server_adds_sampled_tokens_to_most_lists(seed: int, k: int, flat: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    top, sampled, exact = [], [], []
    weights = np.maximum(rng.dirichlet(np.full(12, flat), size=n), 1e-9)
    for p in weights / weights.sum(axis=1, keepdims=True):
        best, drawn = np.argsort(-p)[:k].tolist(), int(rng.choice(12, p=p))
        top.append(np.log(p[best if drawn in best else [*best, drawn]]).tolist())
        sampled.append(math.log(p[drawn]))
        exact.append(entropy(p))
    bounds = entropy_bounds(top, 12, sampled)  # none is called truncated
    assert (bounds.low <= np.array(exact) + 1e-9).all()
    assert (bounds.high >= np.array(exact) - 1e-9).all()


@pytest.mark.parametrize(
    ("top", "sampled", "message"),
    [
        ([[2.5, 1.0]], None, "above 0: these are raw logits"),
        ([[-0.1, -0.2]], None, "probability of 1.72: these are raw logits"),
        ([[-33.1, -34.0, -35.2]], None, "no distribution over 262,144 tokens allows: these are raw logits"),
        ([[-0.1, -3.0], []], None, "position 2 has no candidates: the lists are truncated"),
        ([[-1.0, -1.5, -2.0], [-1.0, -1.5, -2.0], [-1.0]], None, "position 3 has 1 candidates where 3 are usual"),
        ([[-1.0]], [-1.0, -2.0], "2 tokens but 1 lists of candidates"),
        ([[math.nan]], None, "not a number"),
    ],
)
def test_what_cannot_be_log_probs_is_refused(top: list[list[float]], sampled: list[float] | None, message: str) -> None:
    with pytest.raises(LogprobError, match=message):
        entropy_bounds(top, sampled=sampled)
