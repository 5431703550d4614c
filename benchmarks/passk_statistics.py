"""Do the intervals and tests of `forkwise.passk` keep what they promise? Coverage, false alarms and power, simulated.

    python benchmarks/passk_statistics.py            # the tables of docs/statistics.md, some minutes on one core
    python benchmarks/passk_statistics.py --small    # the same with few runs, half a minute
    python benchmarks/passk_statistics.py --speed    # 10,000 problems x 10,000 samples, timed

The population: success rates of problems follow Beta(0.32, 1.95), which is what `forkwise passk --extrapolate` fits to
the AMC23 samples in docs/passk.md; 256 samples per problem. Each run draws problems and samples anew, so the truth is
the expectation over problems.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from forkwise.passk import bootstrap_interval, k_grid, paired_difference, pass_at_k
from forkwise.passk.crossing import find_crossing
from forkwise.passk.intervals import Interval, bootstrap_means, student_interval
from forkwise.passk.two_way import Variation, joint_test, vary

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

N = 256
KS = k_grid(N)
SHOWN = [1, 4, 16, 64, 256]
COLUMNS = [KS.index(k) for k in SHOWN]
ALPHA, BETA = 0.32, 1.95
LEVEL = 0.95


def population(rng: Rng, q: int) -> Floats:
    return rng.beta(ALPHA, BETA, size=q)


def curves(rng: Rng, rates_Q: Floats) -> Floats:
    """Estimated Pass@K of freshly drawn samples, `(Q, K)`."""
    return pass_at_k(N, rng.binomial(N, rates_Q), KS)


def truth(rates: Floats) -> Floats:
    """Expected Pass@K over problems, `(K,)`."""
    return np.array([-np.expm1(k * np.log1p(-np.minimum(rates, 1 - 1e-15))).mean() for k in KS])


def shifted(rates: Floats, shift: float, noise: Floats, slope: float = 1.0) -> Floats:
    """Rates moved in log odds: `slope * logit(p) + shift + noise`."""
    moved: Floats = special.expit(slope * special.logit(np.clip(rates, 1e-12, 1 - 1e-12)) + shift + noise)
    return moved


def judged(varied: Variation, resamples: int, seed: int) -> tuple[Interval, Interval, Floats]:
    """Pointwise interval, band and adjusted p, as `forkwise compare` gives them."""
    joint = joint_test([varied], resamples=resamples, seed=seed)
    return varied.pointwise(LEVEL), varied.interval(joint.critical(LEVEL), LEVEL), joint.p(varied.scores())


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def shares(hits: Floats) -> list[str]:
    return [f"{x:.3f}" for x in hits]


def percentile_interval(values_QK: Floats, resamples: int, seed: int) -> tuple[Floats, Floats]:
    low, high = np.quantile(bootstrap_means(values_QK, resamples, seed), [0.025, 0.975], axis=0)
    return low, high


def hierarchical_interval(rng: Rng, c_Q: npt.NDArray[np.int64], resamples: int) -> tuple[Floats, Floats]:
    """Resamples problems and then samples of each: what we do not do."""
    q = c_Q.size
    draws = np.empty((resamples, len(KS)))
    for r in range(resamples):
        c = c_Q[rng.integers(0, q, q)]
        draws[r] = pass_at_k(N, rng.binomial(N, c / N), KS).mean(axis=0)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return low, high


def coverage_of_one_arm(runs: int, resamples: int, sizes: Sequence[int]) -> None:
    goal = truth(population(np.random.default_rng(10**6), 4_000_000))
    rows = []
    for q in sizes:
        names = ["BCa (ours)", "percentile", "Student t", "hierarchical"]
        hits = {name: np.zeros(len(KS)) for name in names}
        few = max(runs // 5, 25)  # the hierarchical bootstrap is slow
        for i in range(runs):
            rng = np.random.default_rng([1, q, i])
            c = rng.binomial(N, population(rng, q))
            values = pass_at_k(N, c, KS)
            ours = bootstrap_interval(values, resamples=resamples, seed=i)
            half = stats.t.ppf(0.975, q - 1) * stats.sem(values)
            bounds = {
                "BCa (ours)": (ours.low, ours.high),
                "percentile": percentile_interval(values, resamples, i),
                "Student t": (ours.mean - half, ours.mean + half),
            }
            if i < few:
                bounds["hierarchical"] = hierarchical_interval(rng, c, 300)
            for name, (low, high) in bounds.items():
                hits[name] += (low <= goal) & (goal <= high)
        for name in names:
            done = few if name == "hierarchical" else runs
            rows.append([str(q), name, *shares(hits[name][COLUMNS] / done)])
    table(
        f"Coverage of nominal 95 % intervals of Pass@K, one arm, n = {N} ({runs} runs; hierarchical {few})",
        ["problems", "interval", *(f"K = {k}" for k in SHOWN)],
        rows,
    )


Pair = Callable[[Rng, int], tuple[Floats, Floats]]


def exchangeable(rng: Rng, q: int) -> tuple[Floats, Floats]:
    """Two models that differ problem by problem, but not in distribution: the true difference is 0 at every K."""
    base = population(rng, q)
    return shifted(base, 0, rng.normal(0, 0.5, q)), shifted(base, 0, rng.normal(0, 0.5, q))


def better(rng: Rng, q: int) -> tuple[Floats, Floats]:
    """The second model is a little better: +0.25 in log odds."""
    a, b = exchangeable(rng, q)
    return a, shifted(b, 0.25, np.zeros(q))


def crossing(rng: Rng, q: int) -> tuple[Floats, Floats]:
    """The second model is flatter: worse at K = 1 and better at large K."""
    a, b = exchangeable(rng, q)
    return a, shifted(b, -1.35, np.zeros(q), slope=0.6)


def pair_truth(pair: Pair) -> Floats:
    a, b = pair(np.random.default_rng(10**6), 4_000_000)
    return truth(b) - truth(a)


def coverage_of_the_difference(runs: int, resamples: int, sizes: Sequence[int]) -> None:
    rows = []
    for name, pair in (("none", exchangeable), ("small", better), ("crossing", crossing)):
        goal = pair_truth(pair)
        for q in sizes:
            names = ["Student t (ours)", "BCa", "percentile"]
            pointwise = {name: np.zeros(len(KS)) for name in names}
            whole = dict.fromkeys(names, 0)
            band_whole = 0
            for i in range(runs):
                rng = np.random.default_rng([2, q, i])
                a, b = (curves(rng, rates) for rates in pair(rng, q))
                interval, band, _ = judged(vary(b[None], a[None]), resamples, i)
                bca = paired_difference(b, a, resamples=resamples, seed=i)
                bounds = [(interval.low, interval.high), (bca.low, bca.high), percentile_interval(b - a, resamples, i)]
                for kind, (low, high) in zip(names, bounds, strict=True):
                    inside = (low <= goal) & (goal <= high)
                    pointwise[kind] += inside
                    whole[kind] += bool(inside.all())
                band_whole += bool(((band.low <= goal) & (goal <= band.high)).all())
            for kind in names:
                rows.append([name, str(q), kind, *shares(pointwise[kind][COLUMNS] / runs), f"{whole[kind] / runs:.3f}"])
            rows.append([name, str(q), "band over K (ours)", *[""] * len(SHOWN), f"{band_whole / runs:.3f}"])
    table(
        f"Coverage of nominal 95 % intervals of the paired difference ({runs} runs)",
        ["true difference", "problems", "interval", *(f"K = {k}" for k in SHOWN), "all K at once"],
        rows,
    )


def power(runs: int, resamples: int, sizes: Sequence[int]) -> None:
    for title, pair in (("False alarms: no true difference", exchangeable), ("Power: a small true difference", better)):
        goal = pair_truth(pair)
        rows = []
        for q in sizes:
            names = ["paired t interval excludes 0", "adjusted p (the band excludes 0)", "unpaired z"]
            hits = {name: np.zeros(len(KS)) for name in names}
            anywhere = dict.fromkeys(names, 0)
            for i in range(runs):
                rng = np.random.default_rng([3, q, i])
                a, b = (curves(rng, rates) for rates in pair(rng, q))
                interval, _, adjusted = judged(vary(b[None], a[None]), resamples, i)
                gap = np.abs(b.mean(axis=0) - a.mean(axis=0))
                z = gap / np.hypot(stats.sem(a), stats.sem(b))
                claims = [(interval.low > 0) | (interval.high < 0), adjusted <= 0.05, z > 1.96]
                for name, by_k in zip(names, claims, strict=True):
                    hits[name] += by_k
                    anywhere[name] += bool(by_k.any())
            for name in names:
                rows.append([str(q), name, *shares(hits[name][COLUMNS] / runs), f"{anywhere[name] / runs:.3f}"])
        differences = ", ".join(f"{goal[i]:+.3f}" for i in COLUMNS)
        table(
            f"{title} (true difference {differences}; {runs} runs)",
            ["problems", "rejects when", *(f"K = {k}" for k in SHOWN), "at any K"],
            rows,
        )


def crossing_interval(runs: int, resamples: int, sizes: Sequence[int]) -> None:
    goal = pair_truth(crossing)
    log_k = np.log2(KS)
    i = int(np.flatnonzero(np.sign(goal[1:]) != np.sign(goal[:-1]))[0])
    place = 2 ** float(log_k[i] + goal[i] / (goal[i] - goal[i + 1]))
    rows = []
    for q in sizes:
        seen, covered, bounded, widths, false = 0, 0, 0, [], 0
        for r in range(runs):
            rng = np.random.default_rng([4, q, r])
            a, b = (curves(rng, rates) for rates in crossing(rng, q))
            varied = vary(b[None], a[None])
            estimate = find_crossing(KS, varied.mean, varied.mean + varied.draws(resamples, r))
            if estimate.k is not None:
                seen += 1
                low, high = (np.inf if end is None else end for end in (estimate.low, estimate.high))
                covered += low <= place <= high
                if low > 0 and np.isfinite(high):
                    bounded += 1
                    widths.append(np.log2(high / low))
            rng = np.random.default_rng([5, q, r])
            a, b = (curves(rng, rates) for rates in exchangeable(rng, q))
            d = (b - a).mean(axis=0)
            false += bool((np.sign(d) != np.sign(d[0])).any())
        width = f"{np.median(widths):.1f}" if widths else "-"
        shown = [f"{seen / runs:.3f}", f"{covered / max(seen, 1):.3f}", f"{bounded / max(seen, 1):.3f}", width]
        rows.append([str(q), *shown, f"{false / runs:.3f}"])
    table(
        f"Interval of the crossing K, true crossing at K = {place:.1f} ({runs} runs)",
        [
            *("problems", "a crossing is seen", "its interval covers the true K", "its interval ends within 1..n"),
            *("median width of those (doublings of K)", "a crossing is seen where there is none"),
        ],
        rows,
    )


def training_runs(runs: int, q: int) -> None:
    rows = []
    for s in (2, 3, 5, 10):
        fixed, both = np.zeros(len(KS)), np.zeros(len(KS))
        for i in range(runs):
            rng = np.random.default_rng([6, s, i])
            base = population(rng, q)

            def arm(rng: Rng = rng, base: Floats = base, s: int = s) -> Floats:
                own = rng.normal(0, 0.3, q)  # what the method does to each problem
                return np.stack(
                    [curves(rng, shifted(base, rng.normal(0, 0.2), own + rng.normal(0, 0.4, q))) for _ in range(s)]
                )

            a, b = arm(), arm()
            d = student_interval(b.mean(axis=0) - a.mean(axis=0))
            fixed += (d.low <= 0) & (d.high >= 0)
            interval = vary(b, a).pointwise(LEVEL)
            both += (interval.low <= 0) & (interval.high >= 0)
        rows.append([str(s), "problems only", *shares(fixed[COLUMNS] / runs)])
        rows.append([str(s), "problems and runs (ours)", *shares(both[COLUMNS] / runs)])
    table(
        f"Coverage with several training runs per arm that differ by 0.2 in log odds, {q} problems ({runs} runs)",
        ["training runs per arm", "interval over", *(f"K = {k}" for k in SHOWN)],
        rows,
    )


def speed() -> None:
    """Pass@K and intervals of 10,000 problems x 10,000 samples at 100 values of K."""
    rng = np.random.default_rng(0)
    n = q = 10_000
    c = rng.binomial(n, population(rng, q))
    ks = np.linspace(1, n, 100).astype(int).tolist()
    start = time.process_time()
    values = pass_at_k(n, c, ks)
    middle = time.process_time()
    interval = bootstrap_interval(values)
    end = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{len(ks)} values of K: estimates {middle - start:.2f} s, intervals {end - middle:.2f} s of CPU time", end=""
    )
    print(f" ({interval.resamples} resamples), peak memory {peak:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few runs: half a minute")
    parser.add_argument("--runs", type=int, help="simulated data sets per cell (default 500, or 40 with --small)")
    parser.add_argument("--speed", action="store_true", help="only time the estimator and its intervals")
    options = parser.parse_args()
    if options.speed:
        speed()
        return
    runs = options.runs or (40 if options.small else 500)
    resamples, sizes = (300, (30, 128)) if options.small else (2000, (30, 128, 500))
    error = np.sqrt(0.05 * 0.95 / runs)
    print(f"Standard error of a share near 0.95 or 0.05 with {runs} runs: {error:.3f}.")
    coverage_of_one_arm(runs, resamples, sizes)
    coverage_of_the_difference(runs, resamples, sizes)
    power(runs, resamples, sizes)
    crossing_interval(runs, resamples, sizes)
    training_runs(runs, 128)


if __name__ == "__main__":
    main()
