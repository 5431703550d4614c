"""Entropy from top-k log-probs: the bounds hold for every tail, and are reached by the extreme ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from forkwise.explore.bounds import LogprobError, candidate_logprobs, entropy_bounds, written_rounding


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


@st.composite
def _written(draw: st.DrawFn) -> tuple[list[np.ndarray], list[list[dict[str, Any]]], list[float | None]]:
    """Distributions over 24 tokens, and what a tool writes about one drawn token of each: candidates, and its log-prob.

    Tools: `openai` the k likeliest; `vllm` the drawn token and the k - 1 likeliest; `appended` the k likeliest and the
    drawn token; `again` the same, though it may be among them; `object` like `appended`, keyed by text, so that
    candidates of one text collapse.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tool = draw(st.sampled_from(["openai", "vllm", "appended", "again", "object"]))
    k = draw(st.integers(1, 8))
    flat = draw(st.sampled_from([0.05, 0.3, 2.0]))
    decimals = draw(st.sampled_from([None, 2, 3, 5]))
    broken, placeholder = draw(st.sampled_from([0.0, 0.2])), draw(st.sampled_from([None, 1e-3, 0.05]))
    texts = [chr(97 + i) for i in range(24)]
    alike = rng.choice(24, draw(st.sampled_from([0, 6, 12])), replace=False)
    readable = draw(st.booleans())
    for i in alike:
        texts[i] = "the" if readable else str(rng.choice(["\ufffd", ""]))

    def written(p: float, whole: bool) -> float | None:
        if not whole and rng.random() < broken:
            return None
        if not whole and placeholder is not None and p < placeholder:
            return -9999.0
        value = math.log(p) if decimals is None else round(math.log(p), decimals)
        return float(np.float32(value))

    truth, lists, sampled = [], [], []
    for t in range(draw(st.integers(1, 12))):
        p = np.maximum(rng.dirichlet(np.full(24, flat)), 1e-9)
        whole = readable and t == 0  # texts that look fine give themselves away by other lists being longer
        p[alike] *= 1e-6 if whole else 1.0
        p = p / p.sum()
        values = [written(x, whole) for x in p]
        order = np.argsort(-p, kind="stable").tolist()
        own = order[0] if whole else int(rng.choice(24, p=p if rng.random() < 0.7 else None))
        if tool == "vllm":
            ranked = [own, *(i for i in order if i != own)][:k] if own not in order[:k] else order[:k]
        else:
            ranked = order[:k]
            if tool == "again" or (tool in ("appended", "object") and own not in ranked):
                ranked = [*ranked, own]
        places = [{"token": texts[i], "logprob": values[i]} for i in ranked]
        if tool == "object":
            places = list({place["token"]: place for place in places}.values())
        truth.append(p)
        lists.append(places)
        sampled.append(values[own])
    return truth, lists, sampled


def test_candidates_that_one_entry_may_stand_for_are_unknown() -> None:
    def place(*pairs: tuple[str, float]) -> list[dict[str, Any]]:
        return [{"token": token, "logprob": value} for token, value in pairs]

    # Keyed by text, two parts of characters leave one entry, so there may be another; a list with both shows both.
    assert candidate_logprobs(place((" x", -0.5), ("\ufffd", -1.5))) == [-0.5, -1.5, None]
    assert candidate_logprobs(place((" x", -0.5), ("\ufffd", -1.5), ("\ufffd", -2.0))) == [-0.5, -1.5, -2.0]
    assert candidate_logprobs(place((" x", -0.5), ("a", -1.5))) == [-0.5, -1.5]
    assert candidate_logprobs(place(("a", -0.5), ("a", -0.5))) == [-0.5, None]
    assert candidate_logprobs(None) == []


def test_a_shorter_list_costs_precision_there_alone() -> None:
    whole = [math.log(0.5), math.log(0.2), math.log(0.1)]
    bounds = entropy_bounds([whole, whole[:1], []], 1000, [whole[0], whole[0], None])
    alone = entropy_bounds([whole], 1000, [whole[0]])
    assert (bounds.low[0], bounds.high[0]) == (alone.low[0], alone.high[0])
    # .5 told: the other half may be one token, which is the least, or all 999 others.
    assert bounds.low[1] == pytest.approx(math.log(2), abs=1e-12)
    assert bounds.high[1] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(999 / 0.5), abs=1e-12)
    assert (bounds.low[2], bounds.high[2]) == (0, pytest.approx(math.log(1000), abs=1e-12))
    assert bounds.missing.tolist() == pytest.approx([0.2, 0.5, 1.0])
    beside = entropy_bounds([whole, [*whole, None]], 1000, [whole[0], whole[0]])
    assert (beside.low[0], beside.high[0]) == (alone.low[0], alone.high[0])
    assert beside.low[1] < beside.low[0]


def test_the_decimals_tell_the_rounding() -> None:
    assert written_rounding([-0.12, -3.5, None, -9999.0]) == pytest.approx(0.005, abs=2e-6)
    assert written_rounding([-0.1234, -3.5]) == pytest.approx(0.00005, abs=2e-6)
    assert written_rounding([math.log(0.3), math.log(0.01)]) == pytest.approx(1e-6)


@settings(max_examples=400, deadline=None)
@given(_written())
def test_bounds_hold_for_lists_as_tools_write_them(
    written: tuple[list[np.ndarray], list[list[dict[str, Any]]], list[float | None]],
) -> None:
    truth, lists, sampled = written
    known = [[c["logprob"] for c in place if c["logprob"] is not None] for place in lists]
    assume(sum(map(bool, known)) < 2 or max(map(max, filter(None, known))) > -math.log(24))
    values = [candidate_logprobs(place) for place in lists]
    rounding = written_rounding([*sampled, *(v for place in values for v in place)])
    bounds = entropy_bounds(values, 24, sampled, rounding)
    exact = np.array([entropy(p) for p in truth])
    assert (bounds.low <= exact).all(), (bounds.low - exact).max()
    assert (bounds.high >= exact).all(), (exact - bounds.high).max()
    # Who asks without the vocabulary gets a wider upper bound, and the same lower one wherever that used it not.
    assert (entropy_bounds(values, sampled=sampled, rounding=rounding).high >= bounds.high - 1e-12).all()


@pytest.mark.parametrize(
    ("top", "sampled", "message"),
    [
        ([[2.5, 1.0]], None, "above 0: these are raw logits"),
        ([[-0.1, -0.2]], None, "probability of 1.72: these are raw logits"),
        ([[-33.1, -34.0, -35.2]], None, "no distribution over 262,144 tokens allows: these are raw logits"),
        ([[-1.0]], [-1.0, -2.0], "2 tokens but 1 lists of candidates"),
    ],
)
def test_what_cannot_be_log_probs_is_refused(top: list[list[float]], sampled: list[float] | None, message: str) -> None:
    with pytest.raises(LogprobError, match=message):
        entropy_bounds(top, sampled=sampled)
