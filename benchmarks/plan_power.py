"""Is the power that `forkwise plan` promises the power that studies have? Simulated, for several kinds of problems.

    python benchmarks/plan_power.py            # the table of docs/plan.md, five minutes on an idle core
    python benchmarks/plan_power.py --small    # the same with few studies, half a minute

A study draws problems, runs and samples anew, and is tested at one K by the two-way t-test over problems and runs,
which is written out here. Beside the share of studies that find the difference stand the power planned from the true
variances, and from small pilots, of which each knows its own three or six runs per arm alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from forkwise.passk import Arm, make_arm, pass_at_k
from forkwise.passk.components import Components, Noise, estimate
from forkwise.passk.power import Size, Test, power_at
from forkwise.passk.sampling_noise import noise_of

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

N = 64
KS = [1, 16, 64]
ENDS = (0.1, 0.5, 0.9)
"""Quantiles of what the pilots promise."""


@dataclass(frozen=True)
class Population:
    """Problems in log odds, and how far runs and methods move them.

    Attributes:
        unsolvable: share of problems that no model solves.
        run: standard deviation of a run's shift, the same for all problems.
        run_hard: of its shift of hard problems, per unit of log odds below -3.
        run_problem, method_problem: of shifts of single problems.
    """

    name: str
    unsolvable: float
    run: float
    run_hard: float
    run_problem: float
    method_problem: float

    def problems(self, rng: Rng, q: int) -> Floats:
        """Draws log odds of problems; -inf where none is ever solved."""
        drawn: Floats = special.logit(np.clip(rng.beta(0.5, 1.41, q), 1e-9, 1 - 1e-9))
        drawn[rng.random(q) < self.unsolvable] = -np.inf
        return drawn

    def rates(self, rng: Rng, odds_Q: Floats, runs: int, shift: float = 0.0) -> Floats:
        """Draws success rates of an arm, `(runs, Q)`."""
        finite_Q = np.where(np.isfinite(odds_Q), odds_Q, 0.0)
        moved = finite_Q + shift + self.method_problem * rng.standard_normal(odds_Q.size) / np.sqrt(2)
        moved = moved + self.run * rng.standard_normal((runs, 1))
        moved = moved + self.run_hard * rng.standard_normal((runs, 1)) * np.maximum(0.0, -3.0 - finite_Q)
        moved = moved + self.run_problem * rng.standard_normal((runs, odds_Q.size))
        rates: Floats = np.where(np.isfinite(odds_Q), special.expit(moved), 0.0)
        return rates


POPULATIONS = [
    Population("arithmetic", 0.0, 0.12, 0.15, 0.6, 0.0),
    Population("arithmetic, methods differ by problem", 0.0, 0.12, 0.15, 0.6, 0.6),
    Population("contest, 40 % never solved", 0.4, 0.12, 0.15, 0.6, 0.2),
]
DESIGNS = [Size(3, 100, N), Size(6, 100, N), Size(6, 30, N), Size(15, 300, N)]


def exact(rates: Floats, k: int) -> Floats:
    """Pass@k without sampling."""
    passes: Floats = -np.expm1(k * np.log1p(-np.minimum(rates, 1 - 1e-15)))
    return passes


def truth(population: Population, rng: Rng) -> list[Components]:
    """The components of the population, from many runs and problems without sampling."""
    odds = population.problems(rng, 3000)
    first, second = (population.rates(rng, odds, 300) for _ in "12")
    curve_T = np.array([exact(first, t).mean() for t in range(2 * N + 1)])
    components = []
    for k in KS:
        a, b = exact(first, k), exact(second, k)
        by_run, by_problem = a.mean(axis=1), a.mean(axis=0)
        interaction = (a - by_run[:, None] - by_problem + a.mean()).var()
        run = float(by_run.var(ddof=1) - interaction / odds.size)
        method_problem = float((by_problem - b.mean(axis=0)).var() - 2 * interaction / 300)
        noise = [Noise(N, float(noise_of(1 - curve_T, [k], N)))]
        components.append(Components(str(k), k, run, run, run, 0, float(interaction), noise, max(method_problem, 0.0)))
    return components


def effect(population: Population, shift: float) -> list[float]:
    """The true difference at each K that a shift makes: the same problems and runs, with it and without."""
    passes = []
    for by in (0.0, shift):
        rng = np.random.default_rng(1)
        rates = population.rates(rng, population.problems(rng, 2000), 100, by)
        passes.append([exact(rates, k).mean() for k in KS])
    return list(np.subtract(passes[1], passes[0]))


def shift_for(population: Population, components: Sequence[Components], size: Size, power: float) -> float:
    """The shift that a study is planned to find with this power at the middle K."""
    middle = len(KS) // 2

    def beyond(shift: float) -> float:
        return power_at(components[middle], effect(population, shift)[middle], size, Test(0.05)) - power

    return float(optimize.brentq(beyond, 0.01, 2, xtol=0.01))


def two_way_p(arm_SQ: Floats, reference_SQ: Floats) -> float:
    """The two-sided p of the mean difference, by Student t with the variance over problems and over runs.

    Cameron, Gelbach & Miller 2011, eq. 2.10, with the degrees of freedom of Satterthwaite.
    """
    s, q = arm_SQ.shape
    difference_Q = arm_SQ.mean(axis=0) - reference_SQ.mean(axis=0)
    problems = difference_Q.var(ddof=1) / q
    runs, overlap = [], 0.0
    for x in (arm_SQ, reference_SQ):
        runs.append(x.mean(axis=1).var(ddof=1) / s)
        residual = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()
        overlap += (residual**2).sum() / ((s - 1) * (q - 1)) / (s * q)
    total = max(problems + sum(runs) - overlap, overlap)
    spread = problems**2 / (q - 1) + sum(v**2 for v in runs) / (s - 1) + overlap**2 / (2 * (s - 1) * (q - 1))
    return float(2 * stats.t.sf(abs(difference_Q.mean()) / np.sqrt(total), total**2 / spread)) if total > 0 else 1.0


def drawn(rng: Rng, population: Population, size: Size, shift: float) -> list[npt.NDArray[np.int64]]:
    """Numbers of right samples of the reference and of the arm, `(runs, Q)` each."""
    odds = population.problems(rng, size.problems)
    return [rng.binomial(size.samples, population.rates(rng, odds, size.runs, by)) for by in (0.0, shift)]


def as_arm(name: str, right_SQ: npt.NDArray[np.int64]) -> Arm:
    """Turns numbers of right samples into an arm."""
    s, q = right_SQ.shape
    run, problem = np.repeat([f"{name}{i}" for i in range(s)], q * N), np.tile(np.repeat(np.arange(q), N), s)
    return make_arm(name, problem, (np.arange(N) < right_SQ[:, :, None]).ravel(), run=run)


def planned_from_pilots(
    rng: Rng, population: Population, runs: int, pilots: int, size: Size, differences: Sequence[float]
) -> Floats:
    """The power that each pilot promises at each K, `(pilots, K)`."""
    rows = []
    for _ in range(pilots):
        arms = [as_arm(n, x) for n, x in zip("ab", drawn(rng, population, Size(runs, 100, N), 0.0), strict=True)]
        components = estimate(arms, list(map(str, KS)), largest_k=N, ns=[N])
        rows.append([power_at(c, d, size, Test(0.05)) for c, d in zip(components, differences, strict=True)])
    return np.array(rows)


def row(name: str, size: Size, k: int, difference: float, simulated: float, planned: Sequence[float]) -> str:
    """A line of the table: the power planned from the truth, and the median and ends of what pilots promise."""
    true, *pilots = (f"{x:.2f}" for x in planned)
    three, six = (f"{middle} [{low}, {high}]" for low, middle, high in (pilots[:3], pilots[3:]))
    cells = [name, f"{size.runs} x {size.problems}", str(k), f"{difference:+.3f}", f"{simulated:.2f}", true, three, six]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few studies")
    given = parser.parse_args(argv)
    studies, pilots = (200, 20) if given.small else (1500, 100)
    rng = np.random.default_rng(0)
    print("| population | runs x problems | K | difference | simulated | planned | by pilots of 3 v 3 | of 6 v 6 |")
    print("|---|---|---|---|---|---|---|---|")
    for population in POPULATIONS:
        components = truth(population, rng)
        for size in DESIGNS:
            shift = shift_for(population, components, size, 0.7)
            differences = effect(population, shift)
            claims = np.zeros(len(KS))
            for _ in range(studies):
                estimates = [pass_at_k(np.full(x.size, N), x.ravel(), KS) for x in drawn(rng, population, size, shift)]
                reference, arm = (x.reshape(size.runs, size.problems, len(KS)) for x in estimates)
                claims += [two_way_p(arm[:, :, i], reference[:, :, i]) < 0.05 for i in range(len(KS))]
            small, large = (planned_from_pilots(rng, population, s, pilots, size, differences) for s in (3, 6))
            for i, (k, c, d) in enumerate(zip(KS, components, differences, strict=True)):
                planned = [
                    power_at(c, d, size, Test(0.05)),
                    *np.quantile(small[:, i], ENDS),
                    *np.quantile(large[:, i], ENDS),
                ]
                print(row(population.name, size, k, d, claims[i] / studies, planned), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
