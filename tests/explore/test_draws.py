"""Samples that a model's whole distributions did not bring forth are refused: by hand, from one distribution."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from forkwise.errors import InputError
from forkwise.explore.draws import refuse_other_draws, with_their_ends

ENTROPY = 1.5 * log(2)  # of the distribution 1/2, 1/4, 1/4, whose tokens have log 2, log 4 and log 4
EVEN, LIKELY, UNLIKELY = 6 * log(2), 5 * log(2), 7 * log(2)  # four tokens: two, three and one of the likeliest


def refuse(*surprisals: float, entropy: float = 4 * ENTROPY) -> None:
    refuse_other_draws(np.array(surprisals), np.full(len(surprisals), entropy), "M")


def test_draws_in_their_proportions_are_accepted() -> None:
    refuse(*[EVEN] * 20, *[LIKELY] * 10, *[UNLIKELY] * 10)


@pytest.mark.parametrize("only", [LIKELY, UNLIKELY])
def test_draws_that_lean_to_one_side_are_refused(only: float) -> None:
    said = rf"no draws of 'M' .*: they have {only:.1f} nats of surprisal in the mean and 4\.2 of entropy"
    with pytest.raises(InputError, match=said):
        refuse(*[only] * 40)
    refuse(*[only] * 39)  # too few


def test_what_leans_must_be_sure() -> None:
    # n of 3 n samples lean by log 2, and so the mean by sqrt((3 n - 1) / 2) standard errors.
    refuse(*[LIKELY, EVEN, EVEN] * 16)  # 4.85
    with pytest.raises(InputError, match="no draws"):
        refuse(*[LIKELY, EVEN, EVEN] * 18)  # 5.15


def test_what_leans_by_little_may_be_rounding() -> None:
    refuse(*[EVEN * 0.975] * 40)
    with pytest.raises(InputError, match="no draws"):
        refuse(*[EVEN * 0.965] * 40)


def test_samples_without_their_end_cannot_tell() -> None:
    stopped, cut = {"finish_reason": "stop", "token_ids": [5, 1]}, {"finish_reason": "length", "token_ids": [5, 6]}
    assert with_their_ends([stopped, cut], [1, 2])
    assert not with_their_ends([stopped, {**cut, "finish_reason": "stop"}], [1, 2])
