"""The model recovers what generated the counts, per run, measures its own misfit, and refuses what fixes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from forkwise.errors import InputError
from forkwise.passk import evaluate, extrapolate, make_arm, pass_at_k
from forkwise.passk.extrapolation import SuccessRates
from forkwise.report.passk import details
from forkwise.report.table import Table


def test_recovers_the_distribution_it_assumes() -> None:
    rng = np.random.default_rng(0)
    c = rng.binomial(64, rng.beta(0.4, 2.0, size=4000))
    fit = extrapolate(64, c, [1, 64, 1024], resamples=20)
    (run,) = fit.runs
    assert run.alpha == pytest.approx(0.4, rel=0.1)
    assert run.beta == pytest.approx(2.0, rel=0.1)
    assert run.never < 0.05
    # P(solved within k) = 1 - E[(1-p)^k], by simulation of the true distribution
    truth = 1 - np.mean((1 - rng.beta(0.4, 2.0, size=2_000_000)) ** 1024)
    assert fit.pass_at_k.mean[2] == pytest.approx(truth, abs=0.02)
    assert fit.misfit.max() < 0.02
    assert (fit.pass_at_k.low < fit.pass_at_k.mean).all()
    assert (fit.pass_at_k.mean < fit.pass_at_k.high).all()


def test_problems_that_are_never_solved_are_told_from_hard_ones() -> None:
    rng = np.random.default_rng(1)
    rate = np.where(rng.random(4000) < 0.3, 0, rng.beta(1.0, 3.0, size=4000))
    fit = extrapolate(64, rng.binomial(64, rate), [4096], resamples=20)
    assert fit.runs[0].never == pytest.approx(0.3, abs=0.03)
    assert fit.pass_at_k.mean[0] == pytest.approx(0.7, abs=0.03)  # and not 1


def test_the_curve_is_an_integral() -> None:
    rates = SuccessRates(0.2, 0.7, 2.5)
    for k in (1, 7, 300):
        solved = integrate.quad(lambda p, k=k: (1 - (1 - p) ** k) * stats.beta.pdf(p, 0.7, 2.5), 0, 1, limit=200)[0]
        assert float(rates.pass_at_k(k)) == pytest.approx(0.8 * solved, rel=1e-6)


def test_maximises_scipys_likelihood() -> None:
    rng = np.random.default_rng(2)
    n, c = 20, rng.binomial(20, np.where(rng.random(300) < 0.4, 0, rng.beta(0.9, 1.5, size=300)))
    (run,) = extrapolate(n, c, [1], resamples=2).runs

    def loss(x: np.ndarray) -> float:
        never = 1 / (1 + np.exp(-x[2]))
        return -float(np.log(never * (c == 0) + (1 - never) * stats.betabinom.pmf(c, n, *np.exp(x[:2]))).sum())

    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 5000}
    best = optimize.minimize(loss, [0.0, 0.0, -1.0], method="Nelder-Mead", options=options)
    fitted = np.array([np.log(run.alpha), np.log(run.beta), np.log(run.never / (1 - run.never))])
    assert loss(fitted) == pytest.approx(best.fun, abs=1e-4)
    np.testing.assert_allclose(fitted, best.x, atol=0.02)


def test_runs_are_fitted_each_and_never_pooled() -> None:
    """A mixture of runs solves more than they do on average; the model of an arm must not."""
    rng = np.random.default_rng(3)
    c = rng.binomial(64, rng.beta(0.4, 1.4, (5, 300)))  # every run has its own hard problems
    arm = make_arm(
        "a",
        np.tile(np.repeat(np.arange(300), 64), 5),
        (np.arange(64) < c.ravel()[:, None]).ravel(),
        run=np.repeat(list("vwxyz"), 300 * 64),
    )
    fits = evaluate(arm, ks=[64], beyond=[64], resamples=100, caps=(), budgets=()).extrapolation
    assert fits is not None
    assert len(fits.runs) == 5
    of_runs = pass_at_k(64, c.ravel(), 64).mean()
    pooled = pass_at_k(320, c.sum(axis=0), 64).mean()
    assert pooled - of_runs > 0.05
    assert fits.pass_at_k.mean[0] == pytest.approx(of_runs, abs=0.02)
    alone = [extrapolate(64, row, [64], resamples=2).pass_at_k.mean[0] for row in c]
    assert fits.pass_at_k.mean[0] == pytest.approx(np.mean(alone))


def test_the_misfit_is_measured_over_the_factor_of_the_extrapolation() -> None:
    # Two kinds of problems, p = .5 and p = .01, which no beta distribution describes: few samples see nothing of the
    # second kind, and all of them are solved in the end.
    rng = np.random.default_rng(4)
    c = rng.binomial(256, np.where(np.arange(400) < 200, 0.5, 0.01))
    fit = extrapolate(256, c, [256, 1024, 100_000], resamples=10)
    assert fit.tried.tolist() == [1, 4, 256 / 8]
    assert (fit.misfit > 0.05).all()
    smooth = extrapolate(256, rng.binomial(256, rng.beta(0.5, 1.5, 2000)), [1024], resamples=10)
    assert smooth.misfit[0] < 0.02


def test_says_that_it_is_a_model() -> None:
    fit = extrapolate(8, [0, 1, 8, 3], [100], resamples=5)
    arm = make_arm("a", np.repeat([0, 1, 2, 3], 8), [i < c for c in (0, 1, 8, 3) for i in range(8)])
    tables = [block for block in details([evaluate(arm, beyond=[100])]) if isinstance(block, Table)]
    assert "not an estimate" in tables[-1].caption
    assert tables[-1].header == ["K", "Pass@K (model)", "misfit", "tried over"]
    assert fit.pass_at_k.mean[0] >= pass_at_k(8, [0, 1, 8, 3], 8).mean() - 0.05


@pytest.mark.parametrize(("c", "message"), [([0, 0, 0], "is wrong"), ([8, 8, 8], "is right"), ([3], "at least two")])
def test_refusals(c: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extrapolate(8, c, [16])
    if len(c) > 1:
        with pytest.raises(InputError, match=message):  # of one run among others
            extrapolate(8, [[1, 2, 3], c], [16])
