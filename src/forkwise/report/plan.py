"""A plan in words: what a study can find, what that takes, and what it cannot claim at all."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt

from forkwise.passk.components import Components, chi_square_interval, name_of
from forkwise.passk.differences import CURVE
from forkwise.passk.notes import Note
from forkwise.passk.plan import Needed, Plan, PricedStudy
from forkwise.passk.power import MOST_RUNS, Size, sparseness
from forkwise.report.formats import count, coverage, interval, number, share
from forkwise.report.passk_notes import sentences
from forkwise.report.table import Table, filled
from forkwise.terminal import counted

_MANY = 500  # runs, beyond which no p is too small for a permutation test
_ROUGH = 20  # degrees of freedom below which a standard deviation may be a third off


def conclusion(plan: Plan) -> str:
    """Says what the study finds, and what the differences asked for take."""
    test = plan.tests[plan.detectable[0].endpoint]
    detectable = ", ".join(f"{d.difference:.3f} at {name_of(d.endpoint)}" for d in plan.detectable if d.difference < 1)
    none = ", ".join(name_of(d.endpoint) for d in plan.detectable if d.difference >= 1)
    differences_found = f"a difference of {detectable}" if detectable else "no difference"
    if none:
        differences_found += f", and none at {none}" if detectable else f" at {none}"
    about = "other trainings" if plan.trained else "these very models, not other trainings"
    differences = list(dict.fromkeys(n.difference for n in plan.needed))
    finds = "finds" if plan.size.runs == 1 else "find"
    takes = [_takes(plan, endpoint) for endpoint in dict.fromkeys(n.endpoint for n in plan.needed)]
    return (
        f"{_size(plan.size)} {finds} {differences_found} ({test.power:.0%} power, about {about}). To find "
        f"{_listed([f'+{d:g}' for d in differences])} takes {'; '.join(takes)}."
    )


def _takes(plan: Plan, endpoint: str) -> str:
    """Says how many runs the differences take at an endpoint."""
    runs = [
        f"more than {count(MOST_RUNS)}" if n.runs is None else count(n.runs)
        for n in plan.needed
        if n.endpoint == endpoint
    ]
    return f"{_listed(runs)} runs per arm at {name_of(endpoint)}"


def _found(difference: float) -> str:
    """Writes a smallest difference; no two values of Pass@K differ by 1 or more."""
    return f"{difference:.3f}" if difference < 1 else "none"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]


def _size(size: Size) -> str:
    runs = f"{counted(size.runs, 'run')} per arm"
    return f"{runs} on {counted(size.problems, 'problem')} x {counted(size.samples, 'sample')}"


def tables(plan: Plan) -> list[Table]:
    """Makes every table of a plan."""
    return [*_components(plan), *_detectable(plan), *_needed(plan), *_cheapest(plan), *_affordable(plan)]


def _components(plan: Plan) -> list[Table]:
    n = plan.size.samples
    rows = [
        [
            _endpoint(c),
            number(c.mean),
            _sd(c.problem),
            _spread(c),
            _sd(c.run_problem),
            _sd(c.noise_at(n)) if c.largest_k <= n else "",
            _sd(c.method_problem),
            interval(c.rho, c.rho_low, c.rho_high, 2),
        ]
        for c in plan.components
    ]
    header = ["", "Pass@K", "problems", "runs", "run x problem", f"sampling, n = {n}", "method x problem", "seeds' rho"]
    known = any(c.run_freedom for c in plan.components)
    caption = "Pass@K, and its standard deviation over problems, runs, ..."
    return filled(caption + (f" [{coverage(plan.level)} chi-square interval]" if known else ""), header, rows)


def _endpoint(c: Components) -> str:
    return f"curve, K = 1–{c.largest_k}" if c.endpoint == CURVE else name_of(c.endpoint)


def _sd(variance: float | None) -> str:
    return "" if variance is None else number(sqrt(variance), 4)


def _spread(c: Components) -> str:
    if not c.run_freedom:
        return _sd(c.run)
    return interval(sqrt(c.run), sqrt(c.run_low), sqrt(c.run_high), 4)


def _detectable(plan: Plan) -> list[Table]:
    rows = []
    for d in plan.detectable:
        shares = [share(x, 0) for x in (d.runs, d.run_problem, d.sampling, d.method_problem)]
        ends = f" [{_found(d.low)}, {_found(d.high)}]" if plan.trained and d.low < min(d.high, 1) else ""
        rows.append([name_of(d.endpoint), f"{_found(d.difference)}{ends}", *shares])
    header = ["", "difference", "% runs", "% run x problem", "% sampling", "% method x problem"]
    caption = f"Smallest difference found, {_size(plan.size)}; {_test(plan)}{_ends(plan)}; what its variance comes from"
    return filled(caption, header, rows)


def _test(plan: Plan) -> str:
    """Says how a difference is tested."""
    test = next(iter(plan.tests.values()))
    text = f"{test.power:.0%} power, alpha {test.alpha:.2g}"
    split = [f"{x} {word}" for x, word in ((plan.contrasts, "contrasts"), (plan.endpoints, "endpoints")) if x > 1]
    if split:
        text += f" ({1 - plan.level:.2g} over {' x '.join(split)})"
    return text + (", paired seeds" if test.rho is not None else ", fixed reference" if test.fixed else "")


def _ends(plan: Plan) -> str:
    return " [at the ends of the runs' interval]" if any(c.run_freedom for c in plan.components) else ""


def _needed(plan: Plan) -> list[Table]:
    by_endpoint: dict[str, list[Needed]] = {}
    for n in plan.needed:
        by_endpoint.setdefault(n.endpoint, []).append(n)
    rows = [[name_of(endpoint), *map(_runs, row)] for endpoint, row in by_endpoint.items()]
    differences = [f"+{n.difference:g}" for n in next(iter(by_endpoint.values()))]
    size = f"{count(plan.size.problems)} problems x {count(plan.size.samples)} samples"
    cost = "; cost" if plan.costs is not None else ""
    return filled(f"Runs per arm for {_test(plan)}, {size}{_ends(plan)}{cost}", ["", *differences], rows)


def _runs(n: Needed) -> str:
    if n.runs is None:
        return "none"
    text = str(n.runs)
    if n.low != n.high:
        text += f" [{n.low or MOST_RUNS}, {f'> {MOST_RUNS}' if n.high is None else n.high}]"
    return text if n.cost is None else f"{text}; {_cost(n.cost)}"


def _cost(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def _cheapest(plan: Plan) -> list[Table]:
    rows = [[f"+{c.difference:g} at {name_of(c.endpoint)}", *_choice(c), f"{c.power:.2f}"] for c in plan.cheapest]
    header = ["", "runs per arm", "problems", "samples", "cost", "power"]
    return filled("Cheapest study that finds a difference", header, rows)


def _affordable(plan: Plan) -> list[Table]:
    rows = [[name_of(c.endpoint), *_choice(c), _found(c.difference)] for c in plan.affordable]
    header = ["", "runs per arm", "problems", "samples", "cost", "difference"]
    budget = plan.costs.budget if plan.costs is not None else None
    return filled(f"Smallest difference found for a cost of {_cost(budget or 0.0)}", header, rows)


def _choice(c: PricedStudy) -> list[str]:
    return [*map(count, (c.size.runs, c.size.problems, c.size.samples)), _cost(c.cost)]


# ------------------------------------------------------------------------------------------------------------- limits


def limits(plan: Plan, notes: Sequence[Note] = ()) -> list[str]:
    """Says what the study cannot claim, and what its figures rest on."""
    return [*_claims(plan), *_floors(plan), *_foundations(plan), *sentences(notes)]


def _claims(plan: Plan) -> list[str]:
    runs = plan.size.runs
    sentences = []
    if runs == 1:
        sentences.append(
            "Cannot be claimed: anything about other trainings. One run per arm compares these very models, and what "
            "differs may be the seed."
        )
    else:
        sentences += _relabelling(plan)
    for endpoint in plan.out_of_reach:
        c = next(c for c in plan.components if c.endpoint == endpoint)
        sentences.append(
            f"Cannot be claimed: anything at {name_of(endpoint)}, which needs {c.largest_k} samples of a problem; the "
            f"study has {plan.size.samples}."
        )
    return sentences + _shorter_curve(plan)


def _shorter_curve(plan: Plan) -> list[str]:
    """Says where the curve that is planned for ends before that of the study."""
    n = plan.size.samples
    return [
        f"The curve's mean is planned over K = 1, 2, 4, ..., {c.largest_k}, as far as the variances are known; with "
        f"{n} samples that of compare and of a study goes on to K = {n}, and nothing here is about that one."
        for c in plan.components
        if c.endpoint == CURVE and c.largest_k < n
    ]


def _relabelling(plan: Plan) -> list[str]:
    """Says where a permutation test over runs could never reject."""
    test, runs = next(iter(plan.tests.values())), plan.size.runs
    if test.fixed:
        return []
    paired = test.rho is not None
    counted = min(runs, _MANY)
    floor = 2 / (2**counted if paired else comb(2 * counted, counted))
    if floor <= test.alpha:
        return []
    how = f"Exchanging the arms in {runs} pairs of runs" if paired else f"Dealing {runs} runs and {runs} to the arms"
    return [
        f"{how} in all ways cannot give a p below {floor:.2g}, so no such test can claim anything at "
        f"alpha = {test.alpha:.2g}; the t-test that is planned here can, and leans on the normal shape of run effects."
    ]


def _sparse(plan: Plan) -> bool:
    """Says whether the test would hold its standard error up, since so few problems or clusters may differ."""
    units = plan.size.problems / plan.components[0].cluster_size
    return sparseness(units, next(iter(plan.tests.values())).power) > 0


def _floors(plan: Plan) -> list[str]:
    sentences = []
    if plan.trained:
        least = ", ".join(f"{min(d.any_problems, 1):.3f} at {name_of(d.endpoint)}" for d in plan.detectable)
        sentences.append(
            f"With {plan.size.runs} runs per arm, no number of problems or samples brings the smallest difference "
            f"below {least}."
        )
    bounded = [d for d in plan.detectable if d.any_runs > 0.1 * d.difference]
    if bounded:
        least = ", ".join(f"{min(d.any_runs, 1):.3f} at {name_of(d.endpoint)}" for d in bounded)
        clusters = plan.components[0].cluster_size
        units = "cluster to cluster" if clusters > 1 else "problem to problem"
        units += ", or these are few" if clusters > 1 or _sparse(plan) else ""
        sentences.append(
            f"On {count(plan.size.problems)} problems, no number of runs brings it below {least}: there the arms "
            f"differ from {units} (--method-problem-sd plans with another SD)."
        )
    never = [f"+{n.difference:g} at {name_of(n.endpoint)}" for n in plan.needed if n.runs is None]
    if never:
        sentences.append(f"Out of reach with up to {count(MOST_RUNS)} runs per arm: {', '.join(never)}.")
    return sentences


def _foundations(plan: Plan) -> list[str]:
    """Says how much the components themselves are worth."""
    first = plan.components[0]
    sentences = []
    if not first.run_freedom:
        sentences.append("The variances are stated, and how well they are known is not: nothing here has a range.")
    elif first.run_freedom < _ROUGH:
        low, high = (sqrt(x) for x in chi_square_interval(1.0, first.run_freedom, plan.level))
        sentences.append(
            f"The SD of the runs' means rests on {counted(first.run_freedom, 'degree')} of freedom "
            "(runs beyond the first of each arm): "
            f"the true one is {low:.2g} to {high:.2g} times the estimate ({coverage(plan.level)} chi-square interval, "
            "for normal run effects)."
        )
    if first.cluster_size > 1:
        clusters = plan.size.problems / first.cluster_size
        sentences.append(
            f"Problems come in clusters, of {first.cluster_size:.3g} by Kish's count: the study's {plan.size.problems} "
            f"are taken to come in {clusters:.3g} as large, and claims are about other clusters."
        )
    if _sparse(plan):
        unit, more = ("problems", "more") if first.cluster_size <= 1 else ("clusters", "problems of more clusters")
        sentences.append(
            f"So few {unit} say little about others, whatever runs and samples there are, and the test allows for "
            f"those that were not drawn: take {more}."
        )
    assumed = next(iter(plan.tests.values())).method_problem
    if assumed is not None:
        sentences.append(
            f"The arms' difference is taken to vary over problems by an SD of {sqrt(assumed):g}, as stated."
        )
    elif any(c.method_problem is None for c in plan.components):
        sentences.append(
            "How much the arms' difference varies over problems is not known, and is left out: state "
            "--method-problem-sd, or give two arms."
        )
    alike = [name_of(c.endpoint) for c in plan.components if c.run == 0]
    if alike:
        sentences.append(
            f"At {', '.join(alike)} the runs differ no more than their noise makes them, and the plan counts on no "
            "variance over runs: plan with the upper end of its range."
        )
    tests = list(plan.tests.values())
    if tests[0].rho is not None and first.rho_low is not None and first.rho_high is not None:
        sentences.append(
            f"The correlation of paired seeds lies between {first.rho_low:.2f} and {first.rho_high:.2f} at "
            f"{name_of(first.endpoint)}: --rho plans with another."
        )
    if not plan.trained:
        sentences.append("The runs of the study are taken as they are, so the variance over runs is left out.")
    return sentences
