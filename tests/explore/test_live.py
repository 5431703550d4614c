from __future__ import annotations

import numpy as np
import pytest

from forkwise.explore.live import TOTALS, BehaviourCounter, metrics

WORDS = ["Wait", "that", "is", "wrong", ".", "So", "x", "<eos>"]


def decode(ids: list[int]) -> str:
    text = " ".join(WORDS[i] for i in ids if WORDS[i] != "<eos>")
    return text.replace(" .", ".")


@pytest.fixture
def counter() -> BehaviourCounter:
    return BehaviourCounter(decode, lambda i: WORDS[i])


def test_counts_and_entropies_of_one_completion_by_hand(counter: BehaviourCounter) -> None:
    # "Wait that is wrong. So x." with entropies 3 1 1 1 0 | 2 0 0, end token 0: reflective mean 6/5, pivotal "So" 2.
    ids = [0, 1, 2, 3, 4, 5, 6, 4, 7]
    counted = counter.count(ids, np.array([3, 1, 1, 1, 0, 2, 0, 0, 0.0]))
    total = dict(zip(TOTALS, counted, strict=True))
    assert (total["responses"], total["words"], total["sentences"]) == (1, 6, 2)
    assert (total["pivotal"], total["pivotal_tokens"], total["pivotal_entropy"]) == (1, 1, 2.0)
    assert (total["other_tokens"], total["other_entropy"]) == (8, 6.0)
    assert (total["reflective"], total["reflective_measured"]) == (1, 1)
    assert total["reflective_entropy"] == pytest.approx(6 / 5)
    logged = metrics(counted + counted)
    assert logged["pivotal_per_response"] == 1
    assert logged["reflective_share"] == 0.5
    assert logged["pivotal_entropy"] == 2.0
    assert logged["other_entropy"] == 0.75


def test_without_entropies_there_are_counts(counter: BehaviourCounter) -> None:
    logged = metrics(counter.count([5, 6, 4], None))
    assert logged["pivotal_per_response"] == 1
    assert "pivotal_entropy" not in logged


def test_tokens_that_do_not_join_give_counts_alone() -> None:
    counter = BehaviourCounter(decode, lambda i: "zzz")
    total = dict(zip(TOTALS, counter.count([5, 6], np.ones(2)), strict=True))
    assert (total["pivotal"], total["pivotal_tokens"]) == (1, 0)
