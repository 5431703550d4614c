"""Diversity against nltk, against enumeration of subsets, and against the n x n definitions."""

from __future__ import annotations

from itertools import combinations
from math import e, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkwise.errors import InputError
from forkwise.passk import diversity, make_arm
from forkwise.passk.diversity import (
    answer_entropy,
    distinct_n,
    mean_pairwise_cosine,
    repetition_rate,
    self_bleu,
    vendi_score,
)

WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=12)


def nltk_self_bleu(samples: list[list[str]]) -> float:
    bleu = pytest.importorskip("nltk.translate.bleu_score", reason="nltk is the reference of self-BLEU")
    smooth = bleu.SmoothingFunction().method1
    scores = [
        bleu.sentence_bleu(samples[:i] + samples[i + 1 :], hypothesis, smoothing_function=smooth)
        for i, hypothesis in enumerate(samples)
    ]
    return float(np.mean(scores))


@given(st.lists(WORDS, min_size=2, max_size=6))
@settings(max_examples=200, deadline=None)  # the first call imports nltk
def test_self_bleu_equals_nltk(samples: list[list[str]]) -> None:
    assert self_bleu(samples) == pytest.approx(nltk_self_bleu(samples), abs=1e-12)


def test_self_bleu_equals_nltk_on_text_like_samples() -> None:
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(200)]
    weights = 1 / np.arange(1, 201)
    samples = [list(rng.choice(vocabulary, size=rng.integers(3, 120), p=weights / weights.sum())) for _ in range(40)]
    assert self_bleu(samples) == pytest.approx(nltk_self_bleu(samples), abs=1e-12)


def test_self_bleu_edges() -> None:
    same = ["a", "b", "c", "d", "e"]
    assert self_bleu([same, same, same]) == pytest.approx(1.0)
    assert self_bleu([["a", "b"], ["c", "d"]]) == 0.0
    assert self_bleu([[], ["a", "b", "c", "d"]]) == 0.0
    with pytest.raises(InputError, match="at least two"):
        self_bleu([["a"]])


def test_self_bleu_is_linear_in_the_number_of_samples() -> None:
    import time

    rng = np.random.default_rng(0)
    samples = [[str(w) for w in rng.integers(0, 300, size=200)] for _ in range(400)]
    start = time.process_time()
    self_bleu(samples)
    assert time.process_time() - start < 5  # 0.4 s when quiet; the quadratic form takes about 20 s


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_distinct_n_is_the_mean_over_all_subsets(samples: list[list[str]], data: st.DataObject) -> None:
    grams = [g for s in samples for g in s]
    budget = data.draw(st.integers(1, len(grams)))
    expected = np.mean([len(set(s)) / budget for s in combinations(grams, budget)])
    assert distinct_n(samples, 1, budget) == pytest.approx(expected, abs=1e-12)


def test_distinct_n_by_hand() -> None:
    # bigrams of "a b a b": ab ba ab; of "a b": ab. Plain distinct-2 = 2/4.
    assert distinct_n([["a", "b", "a", "b"], ["a", "b"]], 2) == pytest.approx(0.5)
    with pytest.raises(InputError, match="needs between 1 and the 4"):
        distinct_n([["a", "b", "a", "b"], ["a", "b"]], 2, 5)


def test_a_budget_makes_distinct_n_independent_of_the_amount_of_text() -> None:
    rng = np.random.default_rng(0)
    words = [str(w) for w in rng.integers(0, 50, size=4000)]
    plain = [distinct_n([words[:m]], 1) for m in (400, 4000)]
    fixed = [distinct_n([words[:m]], 1, 200) for m in (400, 4000)]
    assert plain[0] > 5 * plain[1]
    assert fixed[0] == pytest.approx(fixed[1], rel=0.03)


def test_repetition_by_hand() -> None:
    # "a b a b a": bigrams ab ba ab ba, two of four are repeats; "a": none.
    assert repetition_rate([["a", "b", "a", "b", "a"], ["a"]], n=2) == pytest.approx(0.25)


def test_answer_entropy_is_corrected_for_the_number_of_samples() -> None:
    # 2 x "1", 2 x "2": log 2 + (2 - 1) / (2 * 4); "1.0" is "1", and None does not count.
    assert answer_entropy(["1", "1.0", "2", "2", None]) == pytest.approx(log(2) + 1 / 8)
    assert answer_entropy(["7"] * 5) == 0.0
    assert np.isnan(answer_entropy([None]))
    # Against the truth: 8 equally likely answers, 24 samples. The plug-in entropy is biased by -(8-1)/48.
    rng = np.random.default_rng(0)
    got = np.mean([answer_entropy([f"x{i}" for i in rng.integers(0, 8, size=24)]) for _ in range(400)])
    assert got == pytest.approx(log(8), abs=0.03)


@pytest.mark.parametrize("shape", [(5, 3), (3, 7)], ids=["more rows than dimensions", "fewer"])
def test_embedding_measures_equal_their_definitions(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    gram = unit @ unit.T
    n = shape[0]
    assert mean_pairwise_cosine(rows) == pytest.approx((gram.sum() - n) / (n * (n - 1)))
    values = np.linalg.eigvalsh(gram / n)
    values = values[values > 1e-12]
    assert vendi_score(rows) == pytest.approx(e ** -(values * np.log(values)).sum())


def test_vendi_counts_distinct_rows() -> None:
    assert vendi_score(np.eye(4)) == pytest.approx(4)
    assert vendi_score(np.ones((6, 3))) == pytest.approx(1)
    assert vendi_score(np.repeat(np.eye(2), 5, axis=0)) == pytest.approx(2)
    for bad in (np.zeros((3, 2)), np.full((3, 2), np.nan)):
        with pytest.raises(InputError, match="no direction"):
            vendi_score(bad)
    with pytest.raises(InputError, match="one row per sample"):
        vendi_score(np.ones(4))


def test_arms_are_measured_alike() -> None:
    a = make_arm("a", list("ppqq"), [1, 1, 0, 1], answer=["3", "3.0", None, "4"], completion=["x y z"] * 4)
    b = make_arm(
        "b", list("pppqqq"), [1, 1, 0, 0, 0, 0], answer=["3", "5", None, "4", "4", "4"],
        completion=["x y z", "u v w", "x y z w", "a b c", "d e f", "g h i"],
    )  # fmt: skip
    first, second = diversity([a, b], embed=lambda texts: np.eye(len(texts)))
    assert first.samples == second.samples == 2  # b is cut to the first two samples of each problem
    assert first.budget == second.budget == 2  # trigrams in the poorest problem
    assert first.values["distinct correct answers"].tolist() == [1, 1]
    assert second.values["distinct correct answers"].tolist() == [2, 0]
    assert first.values["distinct correct texts"].tolist() == [1, 1]
    assert first.values["no answer (share)"].tolist() == [0, 0.5]
    assert first.values["distinct-3"].tolist() == [0.5, 0.5]
    assert second.values["distinct-3"].tolist() == [1.0, 1.0]
    assert first.values["Vendi score"] == pytest.approx([2, 2])


def test_refusals() -> None:
    with pytest.raises(InputError, match="lacks the texts"):
        diversity([make_arm("a", ["p", "p"], [1, 0])])
    with pytest.raises(InputError, match="at least two per problem"):
        diversity([make_arm("a", ["p", "q"], [1, 0], completion=["x", "y"])])
