"""Levels of sequential looks: against published boundaries, and against a simulated study."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk import compare, make_arm
from forkwise.passk.looks import nominal_alphas
from forkwise.report.passk_conclusion import conclusion
from forkwise.report.passk_notes import sentences


def test_published_boundaries() -> None:
    # Lan-DeMets with O'Brien-Fleming's spending, two-sided .05 (Reboussin et al. 2000, and every package since).
    assert nominal_alphas([1.0], 0.05) == pytest.approx([0.05])
    halves = nominal_alphas([0.5, 1.0], 0.05)
    assert stats.norm.isf(np.array(halves) / 2) == pytest.approx([2.963, 1.969], abs=0.001)
    fifths = nominal_alphas([0.2, 0.4, 0.6, 0.8, 1.0], 0.05)
    assert stats.norm.isf(np.array(fifths) / 2) == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=0.002)


def test_a_study_with_looks_errs_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    shares = [0.3, 0.5, 0.9, 1.0]
    steps = rng.normal(size=(400_000, 4)) * np.sqrt(np.diff(shares, prepend=0))
    z = np.abs(steps.cumsum(axis=1)) / np.sqrt(shares)
    crossed = (z > stats.norm.isf(np.array(nominal_alphas(shares, 0.05)) / 2)).any(axis=1)
    assert crossed.mean() == pytest.approx(0.05, abs=0.002)
    assert (z > 1.96).any(axis=1).mean() > 0.09


@pytest.mark.parametrize("shares", [[], [0.0, 1.0], [0.5, 0.5], [1.0, 0.5], [0.5, 1.1], [float("nan")]])
def test_looks_that_cannot_be(shares: list[float]) -> None:
    with pytest.raises(InputError, match="rise from above 0 to at most 1"):
        nominal_alphas(shares, 0.05)


def test_a_look_asks_for_more() -> None:
    rng = np.random.default_rng(1)
    rates = rng.beta(1, 2, 80)
    problem = np.repeat(np.arange(80), 8)
    arms = [
        make_arm(name, problem, (np.arange(8) < rng.binomial(8, np.minimum(rates + gain, 1))[:, None]).ravel())
        for name, gain in (("a", 0.0), ("b", 0.035))
    ]
    whole = compare(*arms, ks=[1])
    early = compare(*arms, ks=[1], look_shares=[0.5])
    assert early.level == pytest.approx(1 - 0.00305, abs=1e-5)
    assert (early.differences[0].band.low < whole.differences[0].band.low).all()
    np.testing.assert_allclose(early.differences[0].adjusted_p, whole.differences[0].adjusted_p)
    assert any(
        "look 1, at 0.5 of the study: a difference is claimed at p <= 0.00305" in note
        for note in sentences(early.notes)
    )
    assert whole.differences[0].adjusted_p[0] < 0.05
    assert "better" in conclusion(whole.arms, whole)
    assert "no difference that can be told" in conclusion(early.arms, early)
