"""Input dependence: identities by hand, and a healthy and a collapsed model that the measure tells apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from forkwise.errors import InputError
from forkwise.explore.contrast import Resampling
from forkwise.explore.dependence import CrossLogprobs, from_cross, from_texts, read_cross, write_cross

FEW = Resampling(resamples=500)


def test_information_and_entropies_by_hand() -> None:
    # Two prompts, one response each. p(z1|x) = .5, .25 and p(z2|x) = .1, .3:
    # I = mean(log .5 - log .375, log .3 - log .2), H(Z|X) = -mean(log .5, log .3), H(Z) = -mean(log .375, log .2).
    cross = CrossLogprobs(np.log([[0.5, 0.25], [0.1, 0.3]]), np.array([0, 1]))
    dependence = from_cross(cross, FEW)
    assert dependence.information.value == pytest.approx((math.log(0.5 / 0.375) + math.log(0.3 / 0.2)) / 2)
    assert dependence.conditional_entropy == pytest.approx(-(math.log(0.5) + math.log(0.3)) / 2)
    assert dependence.entropy == pytest.approx(-(math.log(0.375) + math.log(0.2)) / 2)
    assert dependence.ceiling == pytest.approx(math.log(2))
    assert dependence.retrieval[0].accuracy.value == 1.0
    # Of the two ways to deal two prompts one is the own one: p is at least about 1/2.
    assert dependence.p == pytest.approx(0.5, abs=0.08)


def synthetic(strength: float, *, n: int = 12, each: int = 4, length: int = 60, seed: int = 0) -> CrossLogprobs:
    """Responses of `length` tokens from the prompt's distribution over 20 tokens; `strength` 0 ignores the prompt."""
    rng = np.random.default_rng(seed)
    logits = strength * rng.normal(size=(n, 20))
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    own = np.repeat(np.arange(n), each)
    tokens = np.stack([rng.choice(20, size=length, p=np.exp(logp[j])) for j in own])
    return CrossLogprobs(np.stack([logp[j][tokens].sum(axis=1) for j in range(n)], axis=1), own)


def test_a_collapsed_model_shows_no_information_though_its_entropy_is_high() -> None:
    collapsed, healthy, strong = (from_cross(synthetic(s), FEW) for s in (0.0, 0.12, 2.0))
    assert collapsed.entropy / 60 == pytest.approx(math.log(20), rel=1e-6)  # as varied as can be
    assert collapsed.information.value == pytest.approx(0, abs=1e-9)
    assert collapsed.p > 0.9
    assert collapsed.retrieval_p > 0.05
    assert healthy.information.low > 0.1
    assert healthy.p < 0.01
    assert not healthy.saturated
    assert strong.saturated
    assert strong.information.value <= math.log(12) + 1e-12


def test_ties_count_as_any_order_of_them_in_retrieval() -> None:
    # All four prompts fit equally well: in a random order the own one is first, or among two, as often as chance.
    cross = CrossLogprobs(np.full((8, 4), -5.0), np.arange(8) % 4)
    dependence = from_cross(cross, FEW)
    assert [r.accuracy.value for r in dependence.retrieval] == [0.25, 0.5]
    assert [r.chance for r in dependence.retrieval] == [0.25, 0.5]
    assert dependence.p > 0.9
    # One prompt fits better, and the own one as well as one other: never first, second in half of the orders.
    dependence = from_cross(CrossLogprobs(np.tile([-5.0, -5.0, -1.0, -9.0], (2, 1)), np.array([0, 1])), FEW)
    assert [r.accuracy.value for r in dependence.retrieval] == [0.0, 0.5]


def test_text_tells_a_healthy_run_from_a_collapsed_one() -> None:
    rng = np.random.default_rng(0)
    prompts, healthy, collapsed = [], [], []
    for i in range(20):
        numbers = [int(x) for x in rng.integers(1, 100, 4)]
        prompt = f"use {' '.join(map(str, numbers))} to make {i + 100} :"
        for _ in range(3):
            prompts.append(prompt)
            shuffled = [int(x) for x in rng.permutation(numbers)]
            healthy.append(f"try {shuffled[0]} + {shuffled[1]} , check no , wait {shuffled[2]} * 2")
            other = rng.integers(1, 100, 3)
            collapsed.append(f"try {other[0]} + {other[1]} , check no , wait {other[2]} * 2")
    good, bad = from_texts(prompts, healthy, FEW), from_texts(prompts, collapsed, FEW)
    assert good.prompts == 20
    assert good.retrieval[0].accuracy.low > 0.5
    assert good.p < 0.01
    assert good.information.value > 1.0
    assert bad.retrieval[0].accuracy.value < 0.25
    assert bad.p > 0.01
    assert bad.information.value < 0.3
    assert good.information.value <= good.ceiling


def test_word_problems_saturate_and_say_so() -> None:
    nouns = ["apples", "trains", "ducks", "coins", "books", "circles", "dice", "ropes", "jars", "stamps"]
    prompts = [f"How many {noun} are in the {noun} box?" for noun in nouns]
    dependence = from_texts(prompts, [f"We count the {noun}. There are 3 {noun}." for noun in nouns], FEW)
    assert dependence.saturated
    assert dependence.retrieval[0].accuracy.value == 1.0


def test_equal_prompts_are_one() -> None:
    assert from_texts(["a 1", "a 1", "b 2"], ["1", "1", "2"], FEW).prompts == 2
    with pytest.raises(InputError, match="at least two different ones"):
        from_texts(["a", "a"], ["x", "y"])


def test_a_matrix_of_another_trainer_is_read_back(tmp_path: Path) -> None:
    cross = synthetic(0.5)
    write_cross(tmp_path / "cross.npz", cross)
    again = read_cross(tmp_path / "cross.npz")
    np.testing.assert_array_equal(again.logprob_MN, cross.logprob_MN)
    assert from_cross(again, FEW) == from_cross(cross, FEW)


@pytest.mark.parametrize(
    ("logprobs", "own", "message"),
    [
        (np.zeros((3, 1)), [0, 0, 0], "at least two"),
        (np.full((2, 2), -1.0), [0, 2], "index of its prompt, 0 to 1"),
        (np.array([[1.0, -1], [-1, -1]]), [0, 1], "above 0"),
        (np.array([[-np.inf, -1], [-1, -1]]), [0, 1], "impossible under its own prompt"),
    ],
)
def test_wrong_matrices(tmp_path: Path, logprobs: np.ndarray, own: list[int], message: str) -> None:
    np.savez(tmp_path / "x.npz", logprobs=logprobs, own=np.array(own))
    with pytest.raises(InputError, match=message):
        read_cross(tmp_path / "x.npz")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("no")
    with pytest.raises(InputError, match="cannot be read"):
        read_cross(tmp_path / "x.npz")
