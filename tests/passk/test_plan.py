"""Planned power: against the audit's published table, against exact enumeration, and against simulated studies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk.components import Components, Noise, estimate, mean_curve
from forkwise.passk.differences import CURVE
from forkwise.passk.estimator import k_grid, pass_at_k
from forkwise.passk.outcomes import Arm, make_arm
from forkwise.passk.plan import Costs, make_plan
from forkwise.passk.planning import plan_study
from forkwise.passk.power import (
    Size,
    Test,
    detectable,
    power_at,
    power_of,
    runs_needed,
    sparseness,
    standard_errors,
    variance_of,
)
from forkwise.passk.sampling_noise import noise_of
from forkwise.passk.two_way import vary

# Measured for the 100 problems of docs/evidence.md: the SD of a run's mean (.0215, .0277, .0345), and the standard
# error over problems of a difference of two runs (.0142, .0225, .0308), whose square times 100 / 2 is the variance per
# problem and run. What is left of the run variance is that of unlimited problems: .0215^2 - .0142^2 / 2, and so on. At
# K = 256 the SD of runs holds for 1,024 samples, whose variance per problem and run is .021.
MEASURED = {
    1: (0.0215**2 - 0.0142**2 / 2, {64: 50 * 0.0142**2, 256: 50 * 0.0142**2, 1024: 50 * 0.0142**2}),
    16: (0.0277**2 - 0.0225**2 / 2, {64: 50 * 0.0225**2, 256: 50 * 0.0225**2, 1024: 50 * 0.0225**2}),
    256: (0.0345**2 - 0.021 / 100, {256: 50 * 0.0308**2, 1024: 0.021}),
}


def stated(k: int, run: float, noise: dict[int, float], method_problem: float = 0.0) -> Components:
    """Components without run x problem variance beyond the noise."""
    rows = [Noise(n, variance) for n, variance in sorted(noise.items())]
    return Components(str(k), k, run, run, run, 0, 0.0, rows, method_problem)


EVIDENCE = {k: stated(k, *values) for k, values in MEASURED.items()}


# Copied by hand from the audit of forkwise's statistics, "Seeds per arm for 80 % power": at +.01, +.02 and +.03.
@pytest.mark.parametrize(
    ("contrasts", "problems", "n", "k", "seeds"),
    [
        *((1, 100, 256, *row) for row in ((1, [74, 20, 10]), (16, [122, 32, 15]), (256, [230, 59, 27]))),
        *((1, 100, 1024, *row) for row in ((1, [74, 20, 10]), (16, [122, 32, 15]), (256, [188, 48, 22]))),
        *((1, 300, 256, *row) for row in ((1, [63, 17, 8]), (16, [95, 25, 12]), (256, [180, 46, 21]))),
        *((1, 1000, 64, *row) for row in ((1, [60, 16, 8]), (16, [86, 23, 11]))),
        *((1, 1000, 256, *row) for row in ((1, [60, 16, 8]), (16, [86, 23, 11]), (256, [163, 42, 19]))),
        *((2, 100, 256, *row) for row in ((1, [89, 23, 11]), (16, [147, 38, 18]), (256, [278, 70, 32]))),
        *((2, 300, 256, *row) for row in ((1, [76, 20, 10]), (16, [115, 30, 14]), (256, [218, 55, 25]))),
    ],
)
def test_the_published_seeds_per_arm(contrasts: int, problems: int, n: int, k: int, seeds: list[int]) -> None:
    # The audit takes the runs of all arms for the degrees of freedom.
    test = Test(0.05 / contrasts, arms_pooled=contrasts + 1)
    size = Size(3, problems, n)
    assert [runs_needed(EVIDENCE[k], d, size, test) for d in (0.01, 0.02, 0.03)] == seeds


def test_the_published_figures_beside_the_table() -> None:
    """The audit's detectable differences of 5 against 5 runs, gains of paired seeds, and of halved run noise."""
    run_256 = replace(EVIDENCE[256], noise=[Noise(1024, 0.021)])
    detected = [detectable(c, Size(5, 100, 1024), Test(0.05)) for c in (EVIDENCE[1], EVIDENCE[16], run_256)]
    # The audit went up in steps of .0005 until the power sufficed, and rounded to .001.
    for published, exact in zip((0.044, 0.057, 0.070), detected, strict=True):
        assert exact <= published <= exact + 0.001
    size = Size(3, 300, 256)
    for rho, seeds in ((0.3, [14, 20, 36]), (0.5, [11, 16, 28])):
        test = Test(0.05, rho=rho)
        assert [runs_needed(EVIDENCE[k], 0.02, size, test) for k in (1, 16, 256)] == seeds
    halved = [replace(c, run=c.run / 4) for c in EVIDENCE.values()]
    assert [runs_needed(c, 0.02, size, Test(0.05)) for c in halved] == [6, 10, 17]


def test_the_variance_of_a_difference_has_its_parts() -> None:
    c = replace(stated(1, 0.0004, {64: 0.02}, method_problem=0.006), run_problem=0.01)
    variance = variance_of(c, Size(5, 100, 64), Test(0.05))
    # 2 x .0004 / 5, 2 x .01 / 500, 2 x .02 / 500, .006 / 100
    parts = (variance.runs, variance.run_problem, variance.sampling, variance.method_problem)
    assert parts == pytest.approx((0.00016, 0.00004, 0.00008, 0.00006))
    # Satterthwaite: .00028 by runs with 8 degrees of freedom, .00006 by problems with 99
    assert variance.freedom == pytest.approx(0.00034**2 / (0.00028**2 / 8 + 0.00006**2 / 99))
    fixed = variance_of(c, Size(5, 100, 64), Test(0.05, fixed=True))
    # A fixed reference is sampled once: .02 / 500 of the arm, .02 / 100 of the reference
    parts = (fixed.runs, fixed.run_problem, fixed.sampling, fixed.method_problem)
    assert parts == pytest.approx((0.00008, 0.00002, 0.00004 + 0.0002, 0.00006))
    assert variance_of(c, Size(5, 100, 64), Test(0.05, method_problem=0.01)).method_problem == pytest.approx(0.0001)
    paired = variance_of(c, Size(5, 100, 64), Test(0.05, rho=0.25))
    assert paired.runs == pytest.approx(0.00012)
    assert paired.freedom == pytest.approx(0.0003**2 / (0.00024**2 / 4 + 0.00006**2 / 99))
    these = variance_of(c, Size(1, 100, 64), Test(0.05))  # one run: the runs are what is compared
    assert these.runs == 0
    assert these.freedom == 99


def test_power_is_that_of_the_noncentral_t() -> None:
    # R's power.t.test(n = 20, delta = 1, sd = 1), from its manual page; it leaves out the other tail, some 2e-7.
    assert power_of(1.0, 2 / 20, 38, 0.05) == pytest.approx(0.8689528, abs=5e-7)
    rng = np.random.default_rng(0)
    draws = (rng.standard_normal(400_000) + 3.0) / np.sqrt(rng.chisquare(6, 400_000) / 6)
    assert power_of(3.0, 1.0, 6, 0.05) == pytest.approx((np.abs(draws) > stats.t.isf(0.025, 6)).mean(), abs=0.003)
    assert power_of(standard_errors(6, 0.05, 0.9), 1.0, 6, 0.05) == pytest.approx(0.9)


@pytest.mark.parametrize(("n", "ks"), [(32, [1]), (32, [8]), (32, [32]), (20, [16]), (32, [1, 2, 4, 8, 16, 32])])
def test_sampling_variance_is_that_of_all_outcomes(n: int, ks: list[int]) -> None:
    """Of every number of right samples, with its binomial chance."""
    p_Q = np.random.default_rng(0).beta(0.5, 2, 200)
    estimate_C = pass_at_k(np.full(n + 1, n), np.arange(n + 1), ks).mean(axis=1)
    chance_QC = stats.binom.pmf(np.arange(n + 1), n, p_Q[:, None])
    exact = (chance_QC @ estimate_C**2 - (chance_QC @ estimate_C) ** 2).mean()
    curve_T = 1 - ((1 - p_Q[:, None]) ** np.arange(2 * n + 1)).mean(axis=0)
    assert noise_of(1 - curve_T, ks, n) == pytest.approx(exact, rel=1e-9)


# ------------------------------------------------------------------------------------------------- simulated studies


@dataclass(frozen=True)
class Population:
    """Success rates that are sums of effects, so that the components at K = 1 are known exactly."""

    run: float = 0.03
    """Standard deviation of run effects, which are normal."""
    run_problem: float = 0.1
    """Effects of a run on a problem are uniform within this."""
    method_problem: float = 0.08
    """Effects of a method on a problem are uniform within this."""

    def rates(self, rng: np.random.Generator, arms: int, runs: int, problems: int, rho: float = 0.0) -> np.ndarray:
        """Success rates `(arms, runs, problems)`; run effects of a seed correlate between arms."""
        shared, own = rng.standard_normal((1, runs, 1)), rng.standard_normal((arms, runs, 1))
        effect = self.run * (np.sqrt(rho) * shared + np.sqrt(1 - rho) * own)
        effect = effect + rng.uniform(-self.run_problem, self.run_problem, (arms, runs, problems))
        effect = effect + rng.uniform(-self.method_problem, self.method_problem, (arms, 1, problems))
        return np.clip(rng.uniform(0.35, 0.65, problems) + effect, 0.0, 1.0)


def drawn(rng: np.random.Generator, rates: np.ndarray, n: int) -> list[Arm]:
    """Arms with n samples per problem."""
    arms = []
    for a, rates_SQ in enumerate(rates):
        runs, problems = rates_SQ.shape
        correct = rng.random((runs, problems, n)) < rates_SQ[:, :, None]
        run = np.repeat([f"{a}-seed{s}" for s in range(runs)], problems * n)
        problem = np.tile(np.repeat([f"q{q:03d}" for q in range(problems)], n), runs)
        arms.append(make_arm(f"arm{a}", problem, correct.ravel(), run=run))
    return arms


def test_the_components_of_simulated_pilots_are_the_population_s() -> None:
    population, rng = Population(), np.random.default_rng(1)
    pilots = []
    for _ in range(60):
        arms = drawn(rng, population.rates(rng, arms=2, runs=4, problems=40, rho=0.5), 16)
        pilots.append(estimate(arms, ["1", "4", CURVE], largest_k=16, ns=[16, 64], paired=True))
    at_1 = [components[0] for components in pilots]

    def mean(name: str) -> float:
        return float(np.mean([getattr(c, name) for c in at_1]))

    # Variances of uniform effects within w are w^2 / 3; a difference of two methods has twice that; 1 - p(1-p) by hand:
    # p is uniform on .35 to .65 plus effects, so E p(1-p) = .25 - var p.
    assert mean("run") == pytest.approx(0.03**2, rel=0.25)
    assert mean("run_problem") == pytest.approx(0.1**2 / 3, rel=0.15)
    assert mean("method_problem") == pytest.approx(2 * 0.08**2 / 3, rel=0.25)
    of_rates = 0.3**2 / 12 + 0.1**2 / 3 + 0.08**2 / 3 + 0.03**2
    assert mean("problem") == pytest.approx(0.3**2 / 12 + 0.08**2 / 3, rel=0.15)
    assert np.mean([c.noise[0].variance for c in at_1]) == pytest.approx((0.25 - of_rates) / 16, rel=0.02)
    assert np.mean([c.noise[1].variance for c in at_1]) == pytest.approx((0.25 - of_rates) / 64, rel=0.02)
    assert np.median([c.rho or 0.0 for c in at_1]) == pytest.approx(0.5, abs=0.2)

    # At larger K the truth is that of many runs without sampling.
    rates = np.random.default_rng(2)
    many = population.rates(rates, arms=1, runs=400, problems=2000)[0]
    for column, ks in ((1, [4]), (2, k_grid(16))):
        passes = np.mean([1 - (1 - many) ** k for k in ks], axis=0)
        by_run, by_problem = passes.mean(axis=1), passes.mean(axis=0)
        residual = passes - by_run[:, None] - by_problem + passes.mean()
        estimates = [components[column] for components in pilots]
        assert np.mean([c.run for c in estimates]) == pytest.approx(by_run.var(ddof=1), rel=0.25)
        assert np.mean([c.run_problem for c in estimates]) == pytest.approx(residual.var(), rel=0.25)


def test_the_interval_of_the_run_variance_covers_it() -> None:
    population, rng = Population(method_problem=0.0), np.random.default_rng(3)
    covered = 0
    for _ in range(120):
        arms = drawn(rng, population.rates(rng, arms=2, runs=3, problems=30), 8)
        [c] = estimate(arms, ["1"], largest_k=8, ns=[8])
        assert c.run_freedom == 4
        covered += c.run_low <= 0.03**2 <= c.run_high
    assert 0.88 <= covered / 120 <= 1.0  # 95 %; .88 is three standard errors and a half below


@pytest.mark.parametrize("rho", [None, 0.5])
def test_planned_power_is_that_of_simulated_studies(rho: float | None) -> None:
    """Studies are drawn and tested by t-tests of the runs' means, which know nothing of the plan."""
    population, rng = Population(method_problem=0.0), np.random.default_rng(4)
    size, studies = Size(6, 40, 16), 1500
    effect = 0.05
    # Components at K = 1 by hand, as above.
    variance_p = 0.3**2 / 12 + 0.1**2 / 3 + 0.03**2
    c = replace(stated(1, 0.03**2, {16: (0.25 - variance_p) / 16}), run_problem=0.1**2 / 3)
    claims = 0
    for _ in range(studies):
        rates = population.rates(rng, 2, size.runs, size.problems, rho or 0.0)
        rates = rates + np.array([0.0, effect])[:, None, None]
        first, second = (rng.binomial(size.samples, rates) / size.samples).mean(axis=2)
        p = stats.ttest_ind(first, second).pvalue if rho is None else stats.ttest_rel(first, second).pvalue
        claims += p < 0.05
    planned = power_at(c, effect, size, Test(0.05, rho=rho))
    assert 0.5 < planned < 0.9
    assert claims / studies == pytest.approx(planned, abs=0.04)  # three standard errors


def test_the_curve_beyond_n_rises_by_less_and_less() -> None:
    rng = np.random.default_rng(5)
    [arm] = drawn(rng, rng.beta(0.4, 3, (1, 1, 400)), 32)
    curve_T = mean_curve([arm])
    assert curve_T.size == 65
    assert curve_T[0] == 0
    assert curve_T[1:33] == pytest.approx(arm.curves(list(range(1, 33))).mean(axis=(0, 1)))
    assert (np.diff(curve_T) >= 0).all()
    assert curve_T[64] - curve_T[32] <= curve_T[32] - curve_T[16] + 1e-12


# --------------------------------------------------------------------------------------------------- the plan itself


def test_the_cheapest_study_is_the_cheapest_of_all() -> None:
    """Against trying every number of runs, problems and samples."""
    c = stated(1, 0.0003, {4: 0.06, 16: 0.02, 64: 0.008}, method_problem=0.01)
    costs = Costs(run=10.0, sample=0.002, budget=600.0, arms=2, fixed=False)
    test = Test(0.05)
    plan = make_plan([c], Size(5, 100, 16), {"1": test}, detect=[0.03], costs=costs, max_problems=500)
    tried = []
    for problems in (10, 20, 30, 50, 75, 100, 150, 200, 300, 500):
        for n in (4, 16, 64):
            for runs in range(3, 60):
                size = Size(runs, problems, n)
                cost = 2 * runs * (10.0 + 0.002 * problems * n)
                if cost <= 600:
                    tried.append((cost, size, power_at(c, 0.03, size, test), detectable(c, size, test)))
    cheapest = min(row[:3] for row in tried if row[2] >= 0.8)
    [choice] = plan.cheapest
    assert (choice.cost, choice.size) == (pytest.approx(cheapest[0]), cheapest[1])
    [within] = plan.affordable
    best = min((row[3], row[1]) for row in tried)
    assert (within.difference, within.size) == (pytest.approx(best[0]), best[1])
    assert within.cost <= 600


def test_no_plan_has_fewer_pairs_than_are_tested() -> None:
    c = stated(1, 0.0003, {16: 0.02})
    size = Size(8, 100, 16)
    for rho, fewest in ((None, 3), (0.5, 5)):
        test = Test(0.05, rho=rho)
        assert runs_needed(c, 0.5, size, test) == fewest  # a difference that any study finds
        plan = make_plan([c], size, {"1": test}, detect=[0.5], costs=Costs(1.0, 0.0, 100.0, 2, False))
        assert [choice.size.runs for choice in plan.cheapest] == [fewest]
        assert plan.curves[0].runs[0] == fewest
        poor = make_plan([c], size, {"1": test}, detect=[0.5], costs=Costs(1.0, 0.0, 8.0, 2, False))
        assert bool(poor.affordable) == (rho is None)  # 8 pays for four runs of two arms


def test_more_runs_do_not_help_where_methods_differ_by_problem() -> None:
    c = stated(1, 0.0003, {16: 0.02}, method_problem=0.04)
    plan = make_plan([c], Size(5, 100, 16), {"1": Test(0.05)}, detect=[0.02, 0.2])
    # Half of it cannot be reached: .02 is one standard error of .04 / 100.
    assert [n.runs for n in plan.needed] == [None, 3]
    [d] = plan.detectable
    assert d.any_runs == pytest.approx(standard_errors(99, 0.05, 0.8) * 0.02, rel=1e-3)
    assert d.any_problems == pytest.approx(standard_errors(8, 0.05, 0.8) * np.sqrt(2 * 0.0003 / 5), rel=1e-3)


def test_samples_below_k_put_an_endpoint_out_of_reach() -> None:
    cs = [EVIDENCE[1], EVIDENCE[256]]
    tests = {c.endpoint: Test(0.05) for c in cs}
    plan = make_plan(cs, Size(5, 100, 64), tests, detect=[0.02])
    assert plan.out_of_reach == ["256"]
    assert [d.endpoint for d in plan.detectable] == ["1"]
    with pytest.raises(InputError, match="exceeds the 64 samples"):
        make_plan(cs[1:], Size(5, 100, 64), tests, detect=[0.02])


def test_seeds_are_paired_by_the_number_in_the_name_of_the_run() -> None:
    """Run effects that are the same for equal seeds and opposite in order correlate by +1, not -1."""
    effect = {0: 0.2, 1: 0.5, 2: 0.8, 3: 0.35}
    rng = np.random.default_rng(6)

    def arm(name: str, label: str) -> Arm:
        rows = [
            (label.format(s), f"q{q}", rng.random() < e) for s, e in effect.items() for q in range(200) for _ in "12"
        ]
        run, problem, correct = zip(*rows, strict=True)
        return make_arm(name, problem, correct, run=run)

    # The last number counts; in the order of these names, the seeds of the second arm go backwards.
    arms = [arm("a", "a-seed{}"), arm("b", "{}")]
    backwards = make_arm(
        "c",
        *(
            zip(
                *[(f"q{q}", rng.random() < e) for s, e in effect.items() for q in range(200) for _ in "12"], strict=True
            )
        ),
        run=[f"{9 - s}-seed{s}" for s in effect for q in range(200) for _ in "12"],
    )
    for pilot in (arms, [arms[0], backwards]):
        plan, _, _ = plan_study(pilot, ks=["1"], paired_seeds=True, runs=5)
        assert plan.tests["1"].rho == pytest.approx(0.99, abs=0.03)


def test_refusals_are_sentences() -> None:
    rng = np.random.default_rng(7)
    one = drawn(rng, rng.uniform(0.2, 0.8, (2, 1, 10)), 4)
    several = drawn(rng, rng.uniform(0.2, 0.8, (2, 3, 10)), 4)
    for pilot, arguments, sentence in (
        (one, {}, "No arm of the pilot has two runs"),
        (several, {"ks": ["8"]}, "Pass@8 needs 8 samples of every problem, but one in the pilot has 4"),
        (several, {"rho": 1.5}, "a correlation lies between -1 and 1"),
        (several, {"power": 0.04}, "between 0.05, which luck alone gives, and 1"),
        (several, {"level": 1.0}, "level is 1.0"),
        (several, {"detect": [0.0]}, "lies above 0 and below 1"),
        (several, {"fixed": True, "paired_seeds": True}, "shares no seeds"),
        (several, {"budget": 5.0}, "nothing costs"),
        (several, {"cost_run": float("nan")}, "a cost is a number from 0 on"),
        (several, {"method_problem_sd": -1.0}, "between 0 and 1"),
        (several[:1], {"paired_seeds": True}, "One arm says nothing"),
        ([], {}, "give one of the two"),
        ([several[0], several[0]], {}, "the same name"),
        ([several[0], several[1].keep(["q000", "q001", "q002"])], {}, "--intersect"),
        ([arm.keep(["q000"]) for arm in several], {}, "one problem"),
    ):
        with pytest.raises(InputError, match=sentence):
            plan_study(pilot, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("problems", [2, 5, 7, 9])
def test_what_is_promised_on_few_problems_is_kept_by_the_test(problems: int) -> None:
    """Studies of five runs a side, simulated and tested: the planned difference is found in four of five at least."""
    c = Components("1", 1, 0.02**2, 0.02**2, 0.02**2, 0, 0.0, [Noise(64, 0.2 / 64)], method_problem=0.0)
    planned = detectable(c, Size(5, problems, 64), Test(0.05))
    rng, claims, studies = np.random.default_rng(problems), 0, 600
    for _ in range(studies):
        plain, better = (
            0.4 + rng.normal(0, 0.02, (5, 1)) + rng.normal(0, np.sqrt(0.2 / 64), (5, problems)) for _ in range(2)
        )
        claims += bool(vary((better + planned)[:, :, None], plain[:, :, None]).p()[0] <= 0.05)
    assert claims / studies >= 0.8 - 3 * np.sqrt(0.16 / studies)
    # Kish's count of two units that differ is 2 (each deviates as much from their median), of the 6 that are needed.
    assert (sparseness(2, 0.999), sparseness(100, 0.8)) == (pytest.approx(1 - 2 / 6), 0)
