"""What scorio is asked: intervals under the prior that was fitted, places, and refusals. Most tests need scorio."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk import Arm, make_arm
from forkwise.passk.bayesian import RANKERS, by_scorio, fit_prior


def arm(name: str, counts: list[int], n: int = 8) -> Arm:
    rows = [(f"p{q}", i < c) for q, c in enumerate(counts) for i in range(n)]
    problems, correct = zip(*rows, strict=True)
    return make_arm(name, problems, correct)


def test_the_prior_is_the_likeliest_beta_distribution() -> None:
    rng = np.random.default_rng(0)
    c_Q = rng.binomial(32, rng.beta(0.5, 2.0, 2000))
    a, b = fit_prior(32, c_Q)
    assert a == pytest.approx(0.5, rel=0.1)
    assert b == pytest.approx(2.0, rel=0.1)
    likelihood = stats.betabinom.logpmf(c_Q, 32, a, b).sum()
    for x, y in ((a * 1.02, b), (a / 1.02, b), (a, b * 1.02), (a, b / 1.02)):
        assert stats.betabinom.logpmf(c_Q, 32, x, y).sum() < likelihood


def test_without_scorio_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scorio", None)
    with pytest.raises(InputError, match=r'pip install "forkwise\[scorio\]"'):
        by_scorio([arm("a", [1, 2]), arm("b", [1, 2])], [1])


def test_the_interval_at_one_is_that_of_the_fitted_prior() -> None:
    """Conjugate: each problem's rate is Beta(a + c, b + n - c), and their mean is the number."""
    pytest.importorskip("scorio")
    counts, n = [0, 0, 1, 3, 8, 5, 0, 2], 8
    posterior = by_scorio([arm("a", counts), arm("b", [1] * 8)], [1, 4]).posteriors[0]
    a, b = posterior.prior
    each = [stats.beta(a + c, b + n - c) for c in counts]
    assert posterior.interval.mean[0] == pytest.approx(np.mean([x.mean() for x in each]))
    half = 1.959964 * np.sqrt(sum(x.var() for x in each)) / len(counts)
    assert posterior.interval.high[0] - posterior.interval.mean[0] == pytest.approx(half, rel=1e-5)
    # Pass@4 of a rate p is 1 - (1 - p)^4.
    by_hand = np.mean([x.expect(lambda p: 1 - (1 - p) ** 4) for x in each])
    assert posterior.interval.mean[1] == pytest.approx(by_hand, abs=1e-6)


def test_every_ranking_model_sees_a_clear_order_and_unsolved_problems_do_no_harm() -> None:
    pytest.importorskip("scorio")
    arms = [arm("worst", [0, 1, 0, 2, 1, 0]), arm("best", [7, 6, 8, 7, 5, 0]), arm("middle", [4, 3, 4, 5, 3, 0])]
    posterior = by_scorio(arms, [1])
    assert set(posterior.places) == set(RANKERS)
    assert all(places == [3, 1, 2] for places in posterior.places.values()), posterior.places
    assert by_scorio([arm("a", [0, 0]), arm("b", [0, 0])], [1]).places == {}


def test_unequal_numbers_of_samples_are_refused() -> None:
    pytest.importorskip("scorio")
    with pytest.raises(InputError, match="equally many samples .* 4 to 8"):
        by_scorio([arm("a", [1, 2]), arm("b", [1, 2], n=4)], [1])
