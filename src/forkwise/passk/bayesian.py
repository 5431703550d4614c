"""What scorio says about arms: Bayesian intervals of Pass@K, and places by several ranking models.

scorio 0.2 (MIT; Hariri et al. 2026, arXiv 2510.04265) takes all problems of an interval for draws of one beta
distribution, by default the uniform one, under which a problem that was never solved counts as solved one time in
n + 2. Here that distribution is fitted to the arm's counts first. Suffixes: S runs, Q problems, N samples, A arms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from forkwise.errors import InputError
from forkwise.passk.estimator import FloatArray, IntArray
from forkwise.passk.intervals import Interval, Row, bounds_at
from forkwise.passk.outcomes import Arm

_BOUND = 8.0  # of the logarithms of the prior's parameters

RANKERS: dict[str, Callable[[Any, npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "mean": lambda rank, r_AQN: rank.avg(r_AQN),
    "Bayes@N, lower 5 %": lambda rank, r_AQN: rank.bayes(r_AQN, quantile=0.05),
    "Bradley-Terry": lambda rank, r_AQN: rank.bradley_terry_map(r_AQN),
    "Plackett-Luce": lambda rank, r_AQN: rank.plackett_luce_map(r_AQN),
    "HodgeRank": lambda rank, r_AQN: rank.hodge_rank(r_AQN),
    "Rasch": lambda rank, r_AQN: rank.rasch_map(r_AQN[:, _telling(r_AQN)]),
}
"""Ways to put arms in order by their samples, by name; each returns the place of every arm."""


def _telling(r_AQN: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Returns which problems have both right and wrong samples: the others fit no difficulty."""
    rate_Q = r_AQN.mean(axis=(0, 2))
    telling: npt.NDArray[np.bool_] = (rate_Q > 0) & (rate_Q < 1)
    return telling


@dataclass(frozen=True)
class Posterior:
    """Pass@K of an arm on these problems, with credible intervals at `ks`.

    Attributes:
        prior: parameters of the beta distribution that was fitted to the counts; of several runs those of the first.
    """

    arm: str
    ks: list[int]
    interval: Interval
    prior: tuple[float, float]


@dataclass(frozen=True)
class Bayesian:
    """What scorio says; `places` are those of the arms, in order, by the name of the ranking model."""

    version: str
    posteriors: list[Posterior]
    places: dict[str, list[int]]

    def rows(self) -> list[Row]:
        """Returns every number as a tidy row."""
        rows: list[Row] = []
        for p in self.posteriors:
            names = {"arm": p.arm, "metric": "pass@k, these problems, scorio"}
            rows += [{**names, "k": k, **bounds_at(p.interval, i)} for i, k in enumerate(p.ks)]
        for name, places in self.places.items():
            arms = [p.arm for p in self.posteriors]
            metric = f"place by scorio, {name}"
            rows += [{"arm": a, "metric": metric, "value": n} for a, n in zip(arms, places, strict=True)]
        return rows


def fit_prior(n: int, c_Q: IntArray) -> tuple[float, float]:
    """Fits the beta distribution that success rates were drawn from, by maximum likelihood of the counts."""

    def loss(log: FloatArray) -> float:
        return -float(stats.betabinom.logpmf(c_Q, n, *np.exp(log)).sum())

    start = np.log([0.5, 1.5])
    logs = optimize.minimize(loss, start, method="L-BFGS-B", bounds=[(-_BOUND, _BOUND)] * 2).x
    return float(np.exp(logs[0])), float(np.exp(logs[1]))


def by_scorio(arms: Sequence[Arm], ks: Sequence[int], *, level: float = 0.95, seed: int = 0) -> Bayesian:
    """Asks scorio about arms over the same problems: intervals at `ks`, and places.

    The models of pairs and orders compare samples of one problem at random, as `seed` says. Runs of an arm are judged
    one by one, and averaged; for the places their samples are put together.

    Raises:
        InputError: scorio is not installed, or problems have different numbers of samples.
    """
    try:
        import scorio
        from scorio import eval as evaluation
        from scorio import rank
    except ImportError as error:
        raise InputError('--scorio needs the package scorio: pip install "forkwise[scorio]".') from error
    arm_counts = [arm.counts() for arm in arms]
    sizes = sorted({int(n) for n_SQ, _ in arm_counts for n in np.unique(n_SQ.sum(axis=0))})
    if len(sizes) > 1 or any(np.ptp(n_SQ) for n_SQ, _ in arm_counts):
        raise InputError(
            f"scorio needs equally many samples of every problem in every arm, and there are {sizes[0]} to "
            f"{sizes[-1]}: leave out --scorio, or draw the rest."
        )
    posteriors = [
        _posterior(evaluation, arm.name, n_SQ, c_SQ, list(ks), level)
        for arm, (n_SQ, c_SQ) in zip(arms, arm_counts, strict=True)
    ]
    rng = np.random.default_rng(seed)
    r_AQN = np.array([rng.permuted(_outcomes(sizes[0], c_SQ.sum(axis=0)), axis=1) for _, c_SQ in arm_counts])
    places = {}
    if len(arms) > 1 and _telling(r_AQN).any():
        places = {name: [int(position) for position in ranker(rank, r_AQN)] for name, ranker in RANKERS.items()}
    return Bayesian(str(scorio.__version__), posteriors, places)


def _outcomes(n: int, c_Q: IntArray) -> npt.NDArray[np.int64]:
    outcomes: npt.NDArray[np.int64] = (np.arange(n) < c_Q[:, None]).astype(np.int64)
    return outcomes


def _posterior(evaluation: Any, arm: str, n_SQ: IntArray, c_SQ: IntArray, ks: list[int], level: float) -> Posterior:
    n, priors, means, variances = int(n_SQ[0, 0]), [], [], []
    for c_Q in c_SQ:
        a, b = fit_prior(n, c_Q)
        moments = [evaluation.pass_at_k_ci(_outcomes(n, c_Q), k, alpha0=a, beta0=b) for k in ks]
        priors.append((a, b))
        means.append([mean for mean, *_ in moments])
        variances.append([deviation**2 for _, deviation, *_ in moments])
    mean = np.mean(means, axis=0)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(np.sum(variances, axis=0)) / len(c_SQ)
    interval = Interval(mean, np.maximum(mean - half, 0.0), np.minimum(mean + half, 1.0), level)
    return Posterior(arm, ks, interval, priors[0])
