"""The beta-binomial model recovers what generated the counts, and refuses what fixes no distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from forkwise.errors import InputError
from forkwise.passk import evaluate, extrapolate, make_arm, pass_at_k
from forkwise.report.passk import details
from forkwise.report.table import Table


def test_recovers_the_distribution_it_assumes() -> None:
    rng = np.random.default_rng(0)
    c = rng.binomial(64, rng.beta(0.4, 2.0, size=4000))
    fit = extrapolate(64, c, [1, 64, 1024], resamples=20)
    assert fit.alpha == pytest.approx(0.4, rel=0.1)
    assert fit.beta == pytest.approx(2.0, rel=0.1)
    # P(solved within k) = 1 - E[(1-p)^k], by numerical integration over the true distribution
    truth = 1 - np.mean((1 - rng.beta(0.4, 2.0, size=2_000_000)) ** 1024)
    assert fit.pass_at_k.mean[2] == pytest.approx(truth, abs=0.02)
    assert fit.misfit < 0.02
    assert (fit.pass_at_k.low < fit.pass_at_k.mean).all()
    assert (fit.pass_at_k.mean < fit.pass_at_k.high).all()


def test_maximises_scipys_likelihood() -> None:
    rng = np.random.default_rng(2)
    n, c = 20, rng.binomial(20, rng.beta(0.7, 1.5, size=80))
    fit = extrapolate(n, c, [1], resamples=2)

    def loss(x: np.ndarray) -> float:
        return -float(stats.betabinom.logpmf(c, n, *np.exp(x)).sum())

    best = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    np.testing.assert_allclose([fit.alpha, fit.beta], np.exp(best.x), rtol=1e-3)


def test_says_that_it_is_a_model() -> None:
    fit = extrapolate(8, [0, 1, 8, 3], [100], resamples=5)
    arm = make_arm("a", np.repeat([0, 1, 2, 3], 8), [i < c for c in (0, 1, 8, 3) for i in range(8)])
    captions = [block.caption for block in details([evaluate(arm, beyond=[100])]) if isinstance(block, Table)]
    assert "not an estimate" in captions[-1]
    assert fit.pass_at_k.mean[0] > pass_at_k(8, [0, 1, 8, 3], 8).mean()


@pytest.mark.parametrize(("c", "message"), [([0, 0, 0], "is wrong"), ([8, 8, 8], "is right"), ([3], "at least two")])
def test_refusals(c: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extrapolate(8, c, [16])
