"""Samples that a model's whole distributions did not bring forth are refused: by hand, from one distribution."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from forkwise.errors import InputError
from forkwise.explore.draws import refuse_other_draws, with_their_ends

# Samples of four tokens from the distribution 1/2, 1/4, 1/4, whose surprisals are log 2, log 4 and log 4.
A, B = log(2), log(4)
EVEN, LIKELY, UNLIKELY = [A, A, B, B], [A, A, A, B], [A, B, B, B]


def refuse(*samples: list[float], entropy: float = 1.5 * log(2)) -> None:
    surprisal_N = np.concatenate(samples)
    refuse_other_draws(surprisal_N, np.full(surprisal_N.size, entropy), [4] * len(samples), "M")


def test_draws_in_their_proportions_are_accepted() -> None:
    refuse(*[EVEN] * 60, *[LIKELY] * 30, *[UNLIKELY] * 30)


@pytest.mark.parametrize(("only", "surprisal"), [(LIKELY, r"3\.47"), (UNLIKELY, r"4\.85")])
def test_draws_that_lean_to_one_side_are_refused(only: list[float], surprisal: str) -> None:
    said = rf"no draws of 'M' .*: they have {surprisal} nats of surprisal in the mean over samples and 4\.16 of entropy"
    with pytest.raises(InputError, match=said):
        refuse(*[only] * 100)
    refuse(*[only] * 99)  # too few


def test_what_leans_must_be_sure() -> None:
    # n of S samples lean by log 2, and so the mean by sqrt(n (S - 1) / (S - n)) standard errors, here 4.95 and 5.07.
    refuse(*[LIKELY] * 20, *[EVEN] * 84)
    with pytest.raises(InputError, match="no draws"):
        refuse(*[LIKELY] * 21, *[EVEN] * 90)


def test_what_leans_by_little_may_be_rounding() -> None:
    refuse(*[EVEN] * 100, entropy=1.5 * log(2) / 0.985)
    with pytest.raises(InputError, match="no draws"):
        refuse(*[EVEN] * 100, entropy=1.5 * log(2) / 0.975)


def test_what_cancels_between_low_and_high_entropies_is_refused() -> None:
    entropy_N = np.tile([0.5, 1.0], 100)
    alternating_N = np.repeat(np.tile([0.01, -0.01], 50), 2)  # samples differ
    refuse_other_draws(entropy_N + alternating_N, entropy_N, [2] * 100, "M")
    with pytest.raises(InputError, match=r"with 1\.00 nats and more have 0\.9 nats .* and 1 of entropy"):
        refuse_other_draws(entropy_N + alternating_N + np.tile([0.1, -0.1], 100), entropy_N, [2] * 100, "M")


def test_samples_without_a_rare_token_may_be_so_by_chance() -> None:
    # A coin and 20 tokens that are sure but for 0.0005: one surprise, of 7.6 nats, is due in 100 samples. None came.
    sure = -0.0005 * log(0.0005) - 0.9995 * log(0.9995)
    surprisal_N = np.tile([A, *[-log(0.9995)] * 20], 100)
    refuse_other_draws(surprisal_N, np.tile([A, *[sure] * 20], 100), [21] * 100, "M")
    with pytest.raises(InputError, match="no draws"):  # 26 were due
        refuse_other_draws(np.tile(surprisal_N, 26), np.tile([A, *[sure] * 20], 2600), [21] * 2600, "M")


def test_samples_may_differ_in_length() -> None:
    # Each leans by 0.2 nats, one of a token, one of three; cut elsewhere, they would differ by far more than they lean.
    surprisal_N = 1.5 * log(2) + np.tile([-0.2, 1.0, 0.0, -1.2], 50)
    with pytest.raises(InputError, match="no draws"):
        refuse_other_draws(surprisal_N, np.full(200, 1.5 * log(2)), [1, 3] * 50, "M")
    refuse_other_draws(surprisal_N, np.full(200, 1.5 * log(2)), [2, 2] * 50, "M")


def test_certain_tokens_are_draws() -> None:
    refuse(*[[0.0] * 4] * 100, entropy=0.0)


def test_samples_without_their_end_cannot_tell() -> None:
    stopped, cut = {"finish_reason": "stop", "token_ids": [5, 1]}, {"finish_reason": "length", "token_ids": [5, 6]}
    assert with_their_ends([stopped, cut], [1, 2])
    assert not with_their_ends([stopped, {**cut, "finish_reason": "stop"}], [1, 2])
