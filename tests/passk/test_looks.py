"""Levels of sequential looks: against published boundaries, and against a simulated study."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk import compare, make_arm
from forkwise.passk.looks import nominal_alphas
from forkwise.report.formats import coverage
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


def test_an_early_look_says_one_thing() -> None:
    """At a fifth of a study p must be below 1.1e-6, which no 10,000 draws can tell: sentence and certified K agree."""
    rng = np.random.default_rng(7)
    rates, problem = rng.beta(2, 4, 80), np.repeat(np.arange(80), 16)
    for gain, claimed in ((0.05, False), (0.25, True)):
        arms = [
            make_arm(name, problem, (np.arange(16) < rng.binomial(16, np.minimum(rates + more, 1))[:, None]).ravel())
            for name, more in (("a", 0.0), ("b", gain))
        ]
        early = compare(*arms, ks=[1, 4, 16], look_shares=[0.2])
        assert 1 - early.level == pytest.approx(4 * stats.norm.sf(stats.norm.isf(0.0125) / np.sqrt(0.2)), rel=1e-6)
        [difference] = early.differences
        assert bool(difference.certified.gains) == difference.claimed(1 - early.level).any() == claimed
        assert ("no difference that can be told" in conclusion(early.arms, early)) != claimed


def test_a_look_at_which_nothing_can_be_shown_is_refused() -> None:
    arms = [make_arm(name, [0, 1, 2], [1, 0, 1]) for name in "ab"]
    with pytest.raises(InputError, match=r"At 0.01 of the study .* at p <= 6e-111, which no data can show: make the"):
        compare(*arms, look_shares=[0.01])
    assert compare(*arms, look_shares=[0.01, 1]).level == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("level", "text"),
    [(0.95, "95%"), (0.9969, "99.69%"), (0.99999, "99.999%"), (1 - 1.03e-6, "99.9999%"), (1 - 1e-9, "99.9999999%")],
)
def test_no_level_below_1_is_written_as_100_per_cent(level: float, text: str) -> None:
    assert coverage(level) == text
