"""Does `forkwise compare` claim too much, and what does it find? Coverage, false claims and power, simulated.

    python benchmarks/calibration.py            # the tables of docs/statistics.md, about six minutes of CPU time
    python benchmarks/calibration.py --quick    # the same with few data sets, a quarter of a minute

Two populations of problems. "Countdown-like": success rates Beta(0.5, 1.41), and training runs that differ as those of
docs/evidence.md do (standard deviation of a run .023 at K = 1 and .03 to .035 above). "AIME-like": 40 % of the problems
are never solved, 45 % are hard, 15 % easy. 256 samples per problem. Every data set draws problems, runs, samples anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from forkwise.passk import k_grid, pass_at_k
from forkwise.passk.intervals import unseen
from forkwise.passk.sampling_noise import same_problems, sampling_variance
from forkwise.passk.two_way import Variation, joint_test, vary

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rng = np.random.Generator

N = 256
KS = k_grid(N)
SHOWN = [KS.index(k) for k in (1, 16, 256)]
OF_COUNT = pass_at_k(np.full(N + 1, N), np.arange(N + 1), KS)  # the curve of c right ones
LEVEL = 0.95
RESAMPLES = 1000


# ---------------------------------------------------------------------------------------------------------- populations


def countdown_like(rng: Rng, q: int) -> Floats:
    """Log odds of success."""
    return np.asarray(special.logit(np.clip(rng.beta(0.5, 1.41, q), 1e-9, 1 - 1e-9)))


def aime_like(rng: Rng, q: int) -> Floats:
    hard = rng.random(q) < 0.75
    odds = np.where(hard, rng.normal(-3.2, 1.8, q), rng.normal(1.5, 1.2, q))
    return np.where(rng.random(q) < 0.4, -np.inf, odds)


def rates(odds: Floats) -> Floats:
    return np.asarray(special.expit(odds))


def curve_of(odds: Floats) -> Floats:
    """Expected Pass@K over problems, `(K,)`."""
    log_wrong = np.log1p(-np.minimum(rates(odds), 1 - 1e-15))
    return np.array([-np.expm1(k * log_wrong).mean() for k in KS])


@dataclass(frozen=True)
class Cell:
    """A design and what differs in it.

    Attributes:
        reference, arm: runs of each; 0 is a fixed model.
        problems: their number.
        population: of the problems.
        method: SD over problems of what a method does to each, in log odds.
        gain: true shift of the arm, in log odds.
        shared: correlation of what runs of the same seed have in common; with `paired`, it is used.
        topics: number of topics into which problems fall, whose differences vary (SD .5); 0 is none.
        told: whether the topics are given as clusters.
        arms: how many arms are compared with the reference.
    """

    name: str
    reference: int
    arm: int
    problems: int = 100
    population: Callable[[Rng, int], Floats] = countdown_like
    method: float = 0.3
    gain: float = 0.0
    shared: float = 0.0
    paired: bool = False
    topics: int = 0
    told: bool = True
    arms: int = 1


def trained(rng: Rng, odds: Floats, runs: int, common: Floats, shared: float) -> Floats:
    """Log odds of `runs` trainings: a common shift, one that grows with difficulty, and one of each run and problem."""
    z = np.sqrt(shared) * common[:runs] + np.sqrt(1 - shared) * rng.normal(size=(runs, 2))
    hard = np.maximum(0, -3 - np.where(np.isfinite(odds), odds, 0))
    return np.asarray(odds + 0.17 * z[:, :1] + 0.4 * z[:, 1:] * hard + 0.7 * rng.normal(size=(runs, odds.size)))


def models(cell: Cell, rng: Rng, q: int) -> tuple[list[Floats], Ints | None]:
    """Log odds of the reference and of each arm, `(runs, Q)`, and the clusters."""
    odds = cell.population(rng, q)
    topic = np.arange(q) % cell.topics if cell.topics else None
    common = rng.normal(size=(max(cell.reference, cell.arm, 1), 2))
    made = []
    for i, runs in enumerate([cell.reference] + [cell.arm] * cell.arms):
        own = odds + rng.normal(0, cell.method, q) + (cell.gain if i else 0.0)
        if topic is not None:
            own = own + rng.normal(0, 0.35, cell.topics)[topic]
        if runs == 0:
            made.append((own - (1.2 if max(cell.reference, cell.arm) else 0.0))[None])  # a base model is worse
        else:
            made.append(trained(rng, own, runs, common, cell.shared))
    return made, topic if cell.told else None


def curves(rng: Rng, odds: Floats) -> Floats:
    """Estimated Pass@K of freshly drawn samples, `(S, Q, K)`."""
    return OF_COUNT[rng.binomial(N, rates(odds))]


def truth(cell: Cell) -> Floats:
    """The expected difference over problems and runs, `(K,)`; 0 where nothing differs."""
    fixed = 0 in (cell.reference, cell.arm) and cell.reference != cell.arm
    if not cell.gain and not fixed:
        return np.zeros(len(KS))
    many = replace(cell, topics=0, arms=1, reference=min(cell.reference, 1), arm=min(cell.arm, 1))
    rng = np.random.default_rng(99)
    total = np.zeros(len(KS))
    for _ in range(200):
        (reference, arm), _ = models(many, rng, 10_000)
        total += curve_of(arm) - curve_of(reference)
    return total / 200


# ------------------------------------------------------------------------------------------------------------- the test


def varied(cell: Cell, made: Sequence[Floats], clusters: Ints | None, shift: Floats) -> list[Variation]:
    """Returns the variation of each difference, less `shift`, as `compare` computes it; the curve's mean comes last."""
    reference, *arms = [np.concatenate([x, x.mean(axis=2, keepdims=True)], axis=2) for x in made]
    moved = np.append(shift, shift.mean())
    if cell.paired:
        zero = np.zeros_like(reference[:1])
        return [vary(arm - reference - moved, zero, cluster_Q=clusters, names=("seeds", "")) for arm in arms]
    return [vary(arm - moved, reference, cluster_Q=clusters, names=(f"{i}", "r")) for i, arm in enumerate(arms)]


def part(variation: Variation, columns: slice) -> Variation:
    rows = {name: rows[:, columns] for name, rows in variation.rows.items()}
    return Variation(variation.mean[columns], variation.se[columns], variation.freedom[columns], rows)


def claims(cell: Cell, shift: Floats, rng: Rng, seed: int) -> list[bool]:
    """Says what is claimed: at each of three K named beforehand, of the curve's mean, and anywhere in the band."""
    odds, clusters = models(cell, rng, cell.problems)
    variations = varied(cell, [curves(rng, x) for x in odds], clusters, shift)
    alone = variations[0].p() <= 1 - LEVEL
    whole = [part(v, slice(len(KS))) for v in variations]
    joint = joint_test(whole, resamples=RESAMPLES, seed=seed)
    anywhere = any((joint.p(v.scores()) <= 1 - LEVEL).any() for v in whole)
    return [*alone[SHOWN].tolist(), bool(alone[-1]), anywhere]


HEADER = ["K = 1", "K = 16", "K = 256", "curve mean", "any K"]


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def simulate(title: str, cells: Sequence[Cell], sets: int, *, find: bool = False) -> dict[str, Floats]:
    """Prints and returns the shares of data sets with a claim: a false one, or with `find` of the true difference."""
    shares = {}
    for number, cell in enumerate(cells):
        shift = np.zeros(len(KS)) if find else truth(cell)
        claimed = [claims(cell, shift, np.random.default_rng([number, i]), i) for i in range(sets)]
        shares[cell.name] = np.mean(np.array(claimed, dtype=float), axis=0)
    table(title, ["design", *HEADER], [[name, *(f"{x:.3f}" for x in row)] for name, row in shares.items()])
    return shares


FALSE_CLAIMS = [
    Cell("1 v 1, these models, Countdown-like, 100 problems", 0, 0, method=0.5),
    Cell("1 v 1, AIME-like, 30 problems", 0, 0, 30, aime_like, method=0.5),
    Cell("1 v 1, AIME-like, 100 problems", 0, 0, 100, aime_like, method=0.5),
    Cell("1 v 1, AIME-like, 500 problems", 0, 0, 500, aime_like, method=0.5),
    Cell("3 v 3", 3, 3),
    Cell("3 v 10", 3, 10),
    Cell("5 v 5", 5, 5),
    Cell("10 v 10", 10, 10),
    Cell("20 v 20", 20, 20),
    Cell("3 v 3, 50 problems, method x problem .6", 3, 3, 50, method=0.6),
    Cell("10 v 10, 50 problems, method x problem .6", 10, 10, 50, method=0.6),
    Cell("20 v 20, method x problem .6", 20, 20, method=0.6),
    Cell("3 v 3, AIME-like, 100 problems", 3, 3, 100, aime_like),
    Cell("5 v 5, AIME-like, 30 problems", 5, 5, 30, aime_like),
    Cell("5 v 5, AIME-like, 100 problems", 5, 5, 100, aime_like),
    Cell("10 v 10, AIME-like, 100 problems", 10, 10, 100, aime_like),
    Cell("fixed base v 3", 0, 3),
    Cell("fixed base v 5", 0, 5),
    Cell("fixed base v 10", 0, 10),
    Cell("5 v 5, paired seeds, correlation .5", 5, 5, shared=0.5, paired=True),
    Cell("10 v 10, paired seeds, correlation .5", 10, 10, shared=0.5, paired=True),
    Cell("three arms, 5 runs each", 5, 5, arms=3),
    Cell("1 v 1, 10 topics x 10, given", 0, 0, topics=10),
    Cell("1 v 1, 30 topics x 10, given", 0, 0, 300, topics=30),
    Cell("5 v 5, 20 topics x 10, given", 5, 5, 200, topics=20),
    Cell("1 v 1, 10 topics x 10, not given", 0, 0, topics=10, told=False),
    Cell("3 v 3, paired seeds, correlation .5", 3, 3, shared=0.5, paired=True),
    Cell("3 v 3, paired seeds that share nothing", 3, 3, paired=True),
]
TOO_MANY = ("not given", "fixed base", "3 v 3, paired")
"""Parts of the names of designs whose claims are false in more than 6 %; docs/statistics.md says so of each."""

POWER = [
    Cell("3 v 3", 3, 3, gain=0.25, method=0.2),
    Cell("5 v 5", 5, 5, gain=0.25, method=0.2),
    Cell("10 v 10", 10, 10, gain=0.25, method=0.2),
    Cell("20 v 20", 20, 20, gain=0.25, method=0.2),
    Cell("10 v 10, 500 problems", 10, 10, 500, gain=0.25, method=0.2),
    Cell("5 v 5, seeds share .5, not paired", 5, 5, gain=0.25, method=0.2, shared=0.5),
    Cell("5 v 5, seeds share .5, paired", 5, 5, gain=0.25, method=0.2, shared=0.5, paired=True),
    Cell("10 v 10, seeds share .5, not paired", 10, 10, gain=0.25, method=0.2, shared=0.5),
    Cell("10 v 10, seeds share .5, paired", 10, 10, gain=0.25, method=0.2, shared=0.5, paired=True),
    Cell("5 v 5, seeds share nothing, paired", 5, 5, gain=0.25, method=0.2, paired=True),
]


# ------------------------------------------------------------------------------------ effects on few problems, one pair


def skewed(rng: Rng, q: int, loss: float) -> Floats:
    """Differences at K = 1: 10 % of the problems gain a lot, the others lose a little."""
    base = rates(np.where(rng.random(q) < 0.75, rng.normal(-3.2, 1.8, q), rng.normal(1.5, 1.2, q)))
    other = np.where(rng.random(q) < 0.1, base + (1 - base) * 0.6, base * (1 - loss))
    return (rng.binomial(N, other) - rng.binomial(N, base)) / N


def rare(rng: Rng, q: int) -> Floats:
    """3 % of the problems are solved by one model alone, nine in ten of them by the second."""
    small = rng.choice([0, 0, 0, 1 / N, -1 / N], q)
    return np.where(rng.random(q) < 0.03, np.where(rng.random(q) < 0.9, 1.0, -1.0), small)


def few_problems(sets: int) -> None:
    low, high = 0.0, 1.0
    for _ in range(30):  # the loss at which the mean effect is 0
        loss = (low + high) / 2
        low, high = (loss, high) if skewed(np.random.default_rng(5), 400_000, loss).mean() > 0 else (low, loss)
    rows = []
    for name, draw, goal, margin in (
        ("skewed effect", lambda rng, q: skewed(rng, q, loss), 0.0, 0.05),
        ("rare large differences", rare, 0.03 * 0.8, 0.02),
    ):
        for q in (30, 100, 500):
            missed, equal = 0, 0
            for i in range(sets):
                rng = np.random.default_rng([50, q, i])
                variation = vary(draw(rng, q)[None, :, None], np.zeros((1, q, 1)))
                pointwise = variation.pointwise(LEVEL)
                missed += not pointwise.low[0] <= goal <= pointwise.high[0]
                equal += pointwise.low[0] >= -margin and pointwise.high[0] <= margin and unseen(q, LEVEL) <= margin
            wrong = f"{equal / sets:.3f}" if abs(goal) > margin else ""
            rows.append([name, str(q), f"{missed / sets:.3f}", wrong])
    title = f"Effects on few problems, one model against one, K = 1 ({sets} data sets)"
    table(title, ["effect", "problems", "the interval misses the truth", "called equivalent, wrongly"], rows)


# -------------------------------------------------------------------------------------------- these very problems alone


def fixed_benchmark(sets: int) -> None:
    n, ks = 64, [1, 8, 64]
    rows = []
    for name, population in (("Countdown-like", countdown_like), ("AIME-like", aime_like)):
        for q in (30, 100, 500):
            hits = np.zeros(len(ks))
            for i in range(sets):
                rng = np.random.default_rng([60, q, i])
                rate = rates(population(rng, q))
                c = rng.binomial(n, rate)[None]
                goal = np.array([(1 - (1 - rate) ** k).mean() for k in ks])
                counts = np.full_like(c, n)
                variance = sampling_variance(counts, c, ks)
                mean = pass_at_k(counts[0], c[0], ks).mean(axis=0)
                interval = same_problems(mean, variance, counts, c, ks, LEVEL)
                hits += (interval.low <= goal) & (goal <= interval.high)
            rows.append([name, str(q), *(f"{x:.3f}" for x in hits / sets)])
    title = f"Coverage of the interval for these very problems, {n} samples ({sets} data sets)"
    table(title, ["population", "problems", *(f"K = {k}" for k in ks)], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few data sets: a quarter of a minute")
    options = parser.parse_args(arguments)
    sets, some, few = (60, 60, 20) if options.quick else (2000, 1000, 400)
    error = np.sqrt(0.05 * 0.95 / sets)
    print(f"Standard error of a share near .05 with {sets} data sets: {error:.4f}.")
    simulate(f"False claims at a nominal 5 % ({sets} data sets)", FALSE_CLAIMS, sets)
    gain = ", ".join(f"{x:+.3f}" for x in truth(POWER[0])[SHOWN])
    simulate(f"Power; true differences {gain} at K = 1, 16, 256 ({some} data sets)", POWER, some, find=True)
    few_problems(some)
    fixed_benchmark(few)


if __name__ == "__main__":
    main()
