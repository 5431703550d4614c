"""Shares, matched differences and bands where what every token decides is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from forkwise.forks import analysis
from forkwise.forks.states import DrawnStates, draw, strata

PROBLEMS, TRACES, TOKENS = 20, 4, 30


def planted(seed: int, states: int | None = None, noise: float = 0.0) -> tuple[Any, np.ndarray]:
    """A frame whose tokens decide H^2 / 100, operators twice that; all tokens, or states that were drawn with noise."""
    rng = np.random.default_rng(seed)
    n = PROBLEMS * TRACES * TOKENS
    entropy = rng.exponential(0.5, n) * (rng.random(n) < 0.5)
    trace = np.repeat(np.arange(PROBLEMS * TRACES), TOKENS)
    place = np.tile(np.arange(TOKENS), PROBLEMS * TRACES)
    kind = np.where(rng.random(n) < 0.2, 2, 3)
    decided = entropy**2 / 100 * np.where(kind == 2, 2, 1)
    units = SimpleNamespace(value_N=entropy, problem_N=trace // TRACES, trace_N=trace)
    frame = SimpleNamespace(
        table=SimpleNamespace(units=units, decile_N=place * 10 // TOKENS, position_N=place),
        per_trace_N=np.full(n, 1 / TRACES),
        kind_N=kind,
        entropies="model",
        traces=[SimpleNamespace(correct=bool(t % 2)) for t in range(PROBLEMS * TRACES)],
    )
    drawn = DrawnStates(np.arange(n), np.ones(n))
    if states is not None:
        stratum, _ = strata(entropy, np.zeros(n, dtype=np.int64))
        drawn = draw(stratum, entropy, units.problem_N, states, seed)
    seen = decided[drawn.index] + noise * rng.standard_normal(drawn.index.size) * (entropy[drawn.index] > 0)
    estimates = analysis.StateEstimates(
        frame=frame,  # type: ignore[arg-type]
        pool=SimpleNamespace(problems=list(range(PROBLEMS)), available_Q=np.full(PROBLEMS, 0.2)),  # type: ignore[arg-type]
        drawn=drawn,
        decided_N=seen,
        open_N=np.full(seen.size, 0.25),
        weight_N=frame.per_trace_N[drawn.index] / drawn.chance,
        problem_N=units.problem_N[drawn.index],
        entropy_N=entropy[drawn.index],
        null_ND=noise * rng.standard_normal((seen.size, 200)),
        level=0.95,
    )
    return estimates, decided


def test_shares_of_all_tokens_are_those_that_one_counts() -> None:
    estimates, decided = planted(0)
    entropy, decile = estimates.frame.table.units.value_N, estimates.frame.table.decile_N
    top = analysis.tops(estimates)[2]
    highest = np.argsort(-entropy)[: int(top.of_tokens * entropy.size + 0.5)]
    assert top.of_tokens == pytest.approx(0.2, abs=0.001)
    assert top.share.value == pytest.approx(decided[highest].sum() / decided.sum())
    # As many tokens of each tenth, drawn at random there, decide the tenth's mean.
    matched = sum((decile[highest] == d).sum() * decided[decile == d].mean() for d in range(10))
    assert top.matched.value == pytest.approx(matched / decided.sum())
    assert top.minus_matched.value == pytest.approx(top.share.value - top.matched.value)
    assert top.minus_random.value == pytest.approx(top.share.value - top.of_tokens)
    budget = analysis.check_budget(estimates)
    assert budget.decided.value == pytest.approx(decided.sum() / (PROBLEMS * TRACES))
    assert budget.available.value == pytest.approx(0.2)
    assert not budget.agrees
    by_entropy = analysis.by_entropy(estimates, shares=True)
    assert sum(p.of_tokens for p in by_entropy) == pytest.approx(1)
    assert sum(p.share.value for p in by_entropy if p.share.value is not None) == pytest.approx(1, abs=0.02)
    assert analysis.by_entropy(estimates, shares=False)[1].share.value is None


def test_what_others_at_these_places_decide_varies_with_their_number_too() -> None:
    # The reference is the jackknife: everything is computed anew without each problem, above the same threshold.
    estimates, decided = planted(0)
    units, decile = estimates.frame.table.units, estimates.frame.table.decile_N
    top = analysis.tops(estimates)[1]
    above = units.value_N >= top.threshold

    def matched(left: np.ndarray) -> float:
        at = [left & (decile == d) for d in range(10)]
        return float(sum(above[a].mean() * decided[a].sum() for a in at) / decided[left].sum())

    without = np.array([matched(units.problem_N != q) for q in range(PROBLEMS)])
    error = np.sqrt((PROBLEMS - 1) / PROBLEMS * ((without - without.mean()) ** 2).sum())
    half = (top.matched.high - top.matched.low) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, PROBLEMS - 1) * error, rel=0.15)


def test_intervals_of_drawn_states_cover_what_all_tokens_decide() -> None:
    share, difference, band = [], [], []
    for seed in range(60):
        estimates, decided = planted(seed, states=300, noise=0.003)
        entropy, kind = estimates.frame.table.units.value_N, estimates.frame.kind_N
        top = analysis.tops(estimates)[2]
        true = decided[entropy >= top.threshold].sum() / decided.sum()
        share.append(top.share.low <= true <= top.share.high)
        operators = next(p for p in analysis.by_class(estimates, shares=True) if p.name == "operator")
        at = np.searchsorted(analysis.EDGES, entropy, side="right")
        apart = (
            sum(
                decided[(at == b) & (kind == 2)].sum()
                - (kind[at == b] == 2).sum() * decided[(at == b) & (kind != 2)].mean()
                for b in np.unique(at)
            )
            / (kind == 2).sum()
        )
        difference.append(operators.difference.low <= apart <= operators.difference.high)
        parts = [p for p in analysis.by_entropy(estimates, shares=True) if p.decided.low is not None]
        means = {
            f"{low:g}–{high:g}": decided[(entropy >= low) & (entropy < high)].mean()
            for low, high in zip(analysis.EDGES, analysis.EDGES[1:], strict=False)
            if ((entropy >= low) & (entropy < high)).any()
        }
        band.append(all(p.decided.low <= means[p.name] <= p.decided.high for p in parts if p.name in means))
    # 57 of 60 expected; fewer than 52 in one of 100 such tests.
    assert sum(share) >= 52
    assert sum(difference) >= 52
    assert sum(band) >= 52


def test_kinds_at_equal_entropy_by_hand() -> None:
    # Twelve states of either side have .3 nats, in a problem each: .1 and .3, 0 and .2 in turn, so .1 apart. Twelve
    # marked ones and a single other one have .6 nats: of that one's error nothing is known, so these do not count.
    entropy = np.repeat([0.3, 0.3, 0.6, 0.6], [12, 12, 12, 1])
    marked = np.repeat([True, False, True, False], [12, 12, 12, 1])
    decided = np.concatenate([[0.1, 0.3] * 6, [0.0, 0.2] * 6, [5.0] * 12, [-5.0]])
    problem = np.arange(37)
    units = SimpleNamespace(value_N=entropy, problem_N=problem, trace_N=problem)
    estimates = analysis.StateEstimates(
        frame=SimpleNamespace(table=SimpleNamespace(units=units), per_trace_N=np.ones(37)),  # type: ignore[arg-type]
        pool=SimpleNamespace(problems=list(range(37))),  # type: ignore[arg-type]
        drawn=DrawnStates(np.arange(37), np.ones(37)),
        decided_N=decided,
        open_N=decided,
        weight_N=np.ones(37),
        problem_N=problem,
        entropy_N=entropy,
        null_ND=np.zeros((37, 1)),
        level=0.95,
    )
    difference, p, supported = analysis.equal_entropy(estimates, marked)
    assert difference.value == pytest.approx(0.1)
    assert supported == 0.5
    # Each deviates by .1 from a mean of twelve: 12 (.1 / 12)^2 12 / 11, and once more 12 / 11 for twelve problems.
    error = np.sqrt(0.01 / 12 * (12 / 11) ** 2 + 0.01 / 12 * 12 / 11)
    assert difference.high == pytest.approx(0.1 + stats.t.ppf(0.975, 11) * error)
    assert p == pytest.approx(2 * stats.t.sf(0.1 / error, 11))
    few = marked & (problem % 2 == 0)  # six of .3 nats
    assert analysis.equal_entropy(estimates, few)[0].value is not None  # with the odd twelve of .6 nats, all compared
    assert analysis.equal_entropy(estimates, few & (entropy < 0.5))[0].value is None


def test_nothing_is_said_of_few_states_and_the_null_is_that_of_the_part() -> None:
    estimates, _ = planted(0, states=300, noise=0.003)
    everything = np.ones(estimates.frame.kind_N.size, dtype=bool)
    nothing = np.zeros_like(everything)
    nothing[estimates.drawn.index[:4]] = True
    assert analysis.part(estimates, "few", nothing, shares=True).decided.value is None
    assert analysis.part(estimates, "all", everything, shares=True).p == pytest.approx(1 / 201)


def test_outcomes_are_verdicts_or_answers() -> None:
    answers, correct = ["1/2", "3", None, "0.5", None], [True, False, None, True, False]
    assert analysis.outcomes(answers, correct, by_answer=False)[:, 0].tolist() == [1, 0, 0, 1, 0]
    by_answer = analysis.outcomes(answers, correct, by_answer=True)
    assert by_answer.shape == (5, 3)
    assert by_answer.sum(axis=1).tolist() == [1] * 5
    assert by_answer[0].tolist() == by_answer[3].tolist()
    assert by_answer[2].tolist() == by_answer[4].tolist()
