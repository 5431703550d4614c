"""How often the intervals of `forkwise forks` hold the truth, on policies that can be enumerated.

    python benchmarks/forks_calibration.py                       # both families, 100, 400 and 1,000 states
    python benchmarks/forks_calibration.py --states 400 --way answer   # or further, sentence
    python benchmarks/forks_calibration.py --states 400 --student      # with Student's intervals, for comparison

Two families of policies, 400 of each, whose V and F are known at every prefix:

- `trees`: seven tokens with three ways each, some of which are nearly sure, and a verdict for each of the 2,187 texts.
  Seven of a hundred tokens hold half of what is decided.
- `chains`: 40 tokens with five ways each. At most places all ways lead to the same, whatever their entropy; at one of
  twenty they lead to other texts. One of a hundred tokens holds half of what is decided.

A table has 40 problems (chains: 60), each with a policy at random, and 12 samples each; every second sample chooses the
problem, states are drawn from the others by strata of entropy, marks, place and verdict, and continued 16 times. Tokens
are marked at random, so that marks do nothing at equal entropy. A sentence is a token (chains: five); it is reflective
if its first token is the first way, at every second prefix. The truth is that of the
chosen problems of all tables together.

A row says how often intervals of 95 % held it, how often it lay below and above them, and how wide they are (median)
against those of a normal estimate with the same spread over tables. Of 500 tables, a share is within .02 of what it is
in the long run. Rows with several intervals of a table pool them, and `least` is that of the worst.

Continuations are drawn and added up for all states at once, which is much faster; of each table a state is also
estimated by the package's own function, which must agree.

Suffixes: C answers, D tenths of a text, M states, N tokens or prefixes, P policies, Q problems, S samples, W ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from forks_policies import CONTINUATIONS, FAMILIES, POLICIES, Policies, continue_states
from scipy import stats

from forkwise.explore.contrast import BoolArray, FloatArray, IntArray, cluster_t
from forkwise.explore.findings import Estimate
from forkwise.forks import analysis, estimators
from forkwise.forks.bounded import Unseen
from forkwise.forks.estimators import budget, variance_of_outcome
from forkwise.forks.frame import CLASSES
from forkwise.forks.second import choose_again, combined, number_again
from forkwise.forks.sentence_results import SentenceRow
from forkwise.forks.sentences import effect_of, kinds_of
from forkwise.forks.states import draw, halves, parts, strata

SAMPLES, LEVEL = 12, 0.95


# -------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Table:
    """The estimates of a table, and how often each policy was chosen in it."""

    estimates: analysis.StateEstimates
    chosen_P: IntArray


def table(policies: Policies, seed: int, states: int, *, by_answer: bool = False, further: bool = False) -> Table:
    """Draws a table, and estimates what its tokens decide as `forkwise forks` does.

    It has more than 60 lines because it makes by hand what `prepare` reads from files.
    """
    family, rng = policies.family, np.random.default_rng([seed, states])
    policy_Q = rng.choice(POLICIES, family.problems, replace=False)
    node_SN, taken_SN = policies.texts(np.repeat(policy_Q, SAMPLES), rng)
    end_C = policies.value_NC[node_SN[:, -1]]
    outcome = end_C.argmax(axis=1)
    right = (outcome == 0).tolist()
    names = [str(q) for q in np.repeat(policy_Q, SAMPLES)]
    chosen, used = halves(names, outcome.tolist() if by_answer else right)
    number = {name: i for i, name in enumerate(chosen)}
    problem_S = np.array([number[names[i]] for i in used])
    length = family.length
    node_N, taken_N = node_SN[used, :-1].ravel(), taken_SN[used].ravel()
    problem_N, right_N = np.repeat(problem_S, length), np.repeat([right[i] for i in used], length)
    position_N, trace_N = np.tile(np.arange(length), len(used)), np.repeat(np.arange(len(used)), length)
    entropy_N, marked_N, count_Q = policies.entropy_N[node_N], policies.marked_N[node_N], np.bincount(problem_S)
    columns_SC = end_C[used] if by_answer else end_C[used, :1]
    counts_QC = np.stack([np.bincount(problem_S, weights=c, minlength=len(chosen)) for c in columns_SC.T], axis=1)
    available = [
        variance_of_outcome(c.round().astype(int).tolist(), int(n)) for c, n in zip(counts_QC, count_Q, strict=True)
    ]
    frame: Any = SimpleNamespace(
        table=SimpleNamespace(
            units=SimpleNamespace(value_N=entropy_N, problem_N=problem_N, trace_N=trace_N),
            decile_N=position_N * 10 // length,
            position_N=position_N,
        ),
        per_trace_N=1 / count_Q[problem_N],
        kind_N=np.where(marked_N, 0, 3),
        entropies="model",
        traces=[SimpleNamespace(correct=right[i]) for i in used],
    )
    pool: Any = SimpleNamespace(problems=chosen, available_Q=np.array(available))
    stratum_N, _ = strata(entropy_N, marked_N.astype(np.int64))
    part_N = parts(position_N, np.full(node_N.size, length), right_N.tolist())
    drawn = draw(stratum_N, entropy_N, problem_N, min(states, node_N.size), seed, part_N)
    node_M, taken_M = node_N[drawn.index], taken_N[drawn.index]
    weight_M = frame.per_trace_N[drawn.index] / drawn.chance
    decided_M, open_M = continue_states(policies, node_M, taken_M, rng, by_answer=by_answer)
    if further:  # the choice may follow anything but which token had which outcome
        doubt_M = np.abs(open_M) * (1 - (policies.probs_NW[node_M] ** 2).sum(axis=1))
        again = choose_again(doubt_M, weight_M, number_again(node_M.size, CONTINUATIONS), seed)
        more = continue_states(policies, node_M[again.index], taken_M[again.index], rng, by_answer=by_answer)
        decided_M, open_M = (combined(x, again, y, 0.5) for x, y in zip((decided_M, open_M), more, strict=True))
    estimates = analysis.StateEstimates(
        *(frame, pool, drawn, decided_M, open_M, weight_M, problem_N[drawn.index], entropy_N[drawn.index]),
        *(np.zeros((node_M.size, 1)), LEVEL, by_answer),
    )
    return Table(estimates, np.bincount([int(name) for name in chosen], minlength=POLICIES))


# --------------------------------------------------------------------------------------------------------------- truth


class Truth:
    """What holds of all chosen problems of some tables together, problems alike."""

    def __init__(self, policies: Policies, chosen_P: IntArray, *, by_answer: bool) -> None:
        nodes = policies.probs_NW.shape[0]
        weight_N = policies.reached_N[:nodes] * chosen_P[policies.policy_N]
        kept = weight_N > 1e-11 * weight_N.sum()  # of millions of prefixes most are never seen
        value_NC = policies.value_NC[:nodes][kept][:, slice(None) if by_answer else slice(0, 1)]
        self.chosen_P, self.weight_N = chosen_P, weight_N[kept]
        self.decided_N = policies.decided_NC[kept][:, : value_NC.shape[1]].sum(axis=1)
        self.open_N = (value_NC * (1 - value_NC)).sum(axis=1)
        self.right_N = policies.value_NC[:nodes][kept, 0]
        self.entropy_N, self.marked_N = policies.entropy_N[kept], policies.marked_N[kept]
        self.tenth_N = policies.place_N[kept] * 10 // policies.family.length
        self.sum = float(self.weight_N @ self.decided_N) / float(chosen_P.sum())

    def mean(self, x_N: FloatArray, of_N: FloatArray | BoolArray) -> float:
        """Returns a mean over tokens."""
        return float((self.weight_N * of_N) @ x_N / (self.weight_N @ of_N))

    def share(self, of_N: FloatArray | BoolArray) -> float:
        """Returns the share of all that is decided which tokens decide."""
        return float((self.weight_N * of_N) @ self.decided_N) / float(self.weight_N @ self.decided_N)

    def bin(self, name: str) -> BoolArray:
        """Returns the prefixes of a bin of entropy."""
        edges = zip(analysis.EDGES, analysis.EDGES[1:], strict=False)
        low, high = next((a, b) for a, b in edges if name in (f"{a:g}–{b:g}", f"above {a:g}"))
        inside: BoolArray = (self.entropy_N >= low) & (self.entropy_N < high)
        return inside


Rows = dict[str, list[tuple[str, Estimate, float]]]
"""For each row the intervals of a table: name, interval, truth."""


def token_rows(estimates: analysis.StateEstimates, truth: Truth) -> Rows:
    """Analyses a table as `forkwise forks` does, and puts the truth beside each interval."""
    budget, decided_N, open_N = analysis.check_budget(estimates), truth.decided_N, truth.open_N
    every = np.ones(decided_N.size)
    whole = analysis.part(estimates, "all", np.ones(estimates.frame.kind_N.size, dtype=np.bool_), shares=False)
    rows: Rows = {
        "sum of what is decided": [("", budget.decided, truth.sum)],
        "what there is to decide": [("", budget.available, truth.sum)],
        "difference of these": [("", budget.difference, 0.0)],
        "F of all tokens": [("", whole.decided, truth.mean(decided_N, every))],
        "open, all tokens": [("", whole.open, truth.mean(open_N, every))],
    }

    def add(kind: str, name: str, part: Any, of_N: FloatArray | BoolArray) -> None:
        rows.setdefault(f"F by {kind}", []).append((name, part.decided, truth.mean(decided_N, of_N)))
        rows.setdefault(f"open by {kind}", []).append((name, part.open, truth.mean(open_N, of_N)))
        rows.setdefault(f"share by {kind}", []).append((name, part.share, truth.share(of_N)))

    for part in analysis.by_entropy(estimates, shares=True):
        add("entropy", part.name, part, truth.bin(part.name))
    for part in analysis.by_class(estimates, shares=True):
        add("kind", part.name, part, truth.marked_N if part.name == CLASSES[0] else ~truth.marked_N)
        rows.setdefault("kinds at equal entropy", []).append((part.name, part.difference, 0.0))
    for i, part in enumerate(analysis.by_place(estimates, shares=True)):
        of_N = truth.tenth_N // 2 == i
        if of_N.any() and part.decided.value is not None:
            add("place", part.name, part, of_N)
    for part in analysis.by_verdict(estimates):
        add("verdict", part.name, part, truth.right_N if part.name == "right" else 1 - truth.right_N)
    for name, top in zip(analysis.TOPS, analysis.tops(estimates), strict=True):
        above = truth.entropy_N >= top.threshold
        rate_D = np.bincount(truth.tenth_N, truth.weight_N * above, 10) / np.maximum(
            np.bincount(truth.tenth_N, truth.weight_N, 10), 1e-300
        )
        share, matched = truth.share(above), truth.share(rate_D[truth.tenth_N])
        for row, interval, true in (
            ("share of the tops", top.share, share),
            ("others at these places", top.matched, matched),
            ("minus these", top.minus_matched, share - matched),
            ("minus random tokens", top.minus_random, share - truth.mean(above.astype(np.float64), every)),
        ):
            rows.setdefault(row, []).append((f"{100 * name:g} %", interval, true))
    return rows


class SentenceTruth:
    """What holds of sentences: what they decide, how V changes, and what a reflective one causes."""

    def __init__(self, policies: Policies, chosen_P: IntArray) -> None:
        nodes, length = policies.probs_NW.shape[0], policies.family.sentence
        value_N, after_NW = policies.value_NC[:, 0], policies.value_NC[policies.to_NW, 0]
        later_N = np.zeros(value_N.size)  # what the tokens behind the first one of a sentence decide
        for _ in range(length - 1):
            later_N[:nodes] = policies.decided_NC[:, 0] + (policies.probs_NW * later_N[policies.to_NW]).sum(axis=1)
        change_NW = after_NW - value_N[:nodes, None]
        square_NW = change_NW**2 + later_N[policies.to_NW]
        begins_N = policies.reached_N[:nodes] * chosen_P[policies.policy_N] * (policies.place_N % length == 0)
        weight_NW = begins_N[:, None] * policies.probs_NW
        first_NW = (np.arange(policies.family.ways) == 0) & policies.reflects_N[:, None]
        sides = [weight_NW * of for of in (first_NW, ~first_NW)]
        self.decided = [float((side * square_NW).sum() / side.sum()) for side in sides]
        self.change = [float((side * change_NW).sum() / side.sum()) for side in sides]
        self.share = [float((side * square_NW).sum() / (weight_NW * square_NW).sum()) for side in sides]
        chance_N = policies.probs_NW[:, 0] * policies.reflects_N
        rest_N = 1 - policies.probs_NW[:, 0]
        other_N = (value_N[:nodes] - policies.probs_NW[:, 0] * after_NW[:, 0]) / np.maximum(rest_N, 1e-300)
        self._size_N = begins_N * chance_N * (1 - chance_N)
        self._apart_N = after_NW[:, 0] - other_N
        self._start_N = policies.place_N == 0

    def effect(self, each: int) -> float:
        """Returns the effect of a reflective sentence where each problem has so many samples, and one start."""
        size_N = self._size_N * np.where(self._start_N, 1 / each, 1.0)
        return float(size_N @ self._apart_N / size_N.sum())


def sentence_rows(policies: Policies, seed: int, states: int, drawn: Table, truth: Truth, of: SentenceTruth) -> Rows:
    """Continues the samples of a table at the ends of sentences, and analyses them as `--unit sentence` does.

    It has more than 60 lines with its docstring because it makes by hand what `_rows` reads from texts.
    """
    rng, length = np.random.default_rng([seed, states, 1]), policies.family.sentence
    policy_Q = np.flatnonzero(drawn.chosen_P)
    count = policies.family.length // length
    each = min(int((states - policy_Q.size) / (policy_Q.size * (count - 1))), SAMPLES // 2)
    node_SN, taken_SN = policies.texts(np.repeat(policy_Q, each), rng)
    node_SK, taken_SK = node_SN[:, :-1:length], taken_SN[:, ::length]
    problem_S = np.repeat(np.arange(policy_Q.size), each)
    value = policies.value_NC[:, 0]
    chance_SK = policies.probs_NW[node_SK, 0] * policies.reflects_N[node_SK]
    after_SK = value[policies.to_NW[node_SK, 0]]
    other_SK = ((value[node_SK] - chance_SK * after_SK) / np.maximum(1 - chance_SK, 1e-12)).clip(0, 1)
    begins_SKR = rng.random((*node_SK.shape, CONTINUATIONS)) < chance_SK[..., None]
    right_SKR = rng.random(begins_SKR.shape) < np.where(begins_SKR, after_SK[..., None], other_SK[..., None])
    for q in range(policy_Q.size):  # the start of a problem is continued once
        begins_SKR[problem_S == q, 0], right_SKR[problem_S == q, 0] = begins_SKR[q * each, 0], right_SKR[q * each, 0]
    share_SK = np.concatenate([right_SKR.mean(axis=2), value[node_SN[:, -1:]]], axis=1)
    error_SK = share_SK * (1 - share_SK) / (CONTINUATIONS - 1)
    decided_SK = np.diff(share_SK, axis=1) ** 2 - error_SK[:, :-1] - error_SK[:, 1:]
    reflective_SK = (taken_SK == 0) & policies.reflects_N[node_SK]
    columns = zip(
        reflective_SK.ravel(), share_SK[:, :-1].ravel(), share_SK[:, 1:].ravel(), decided_SK.ravel(), strict=True
    )
    rows = [SentenceRow("", 0, 0, "", bool(r), float(b), float(a), float(d)) for r, b, a, d in columns]
    weight_S, sentence_S = np.full(decided_SK.size, 1 / each), np.repeat(problem_S, count)
    decided_Q = np.bincount(sentence_S, weights=weight_S * decided_SK.ravel()).astype(np.float64)
    compared = [
        (int(problem_S[s]), begins_SKR[s, k], right_SKR[s, k].astype(np.float64))
        for s in range(problem_S.size)
        for k in range(count)
        if k or s % each == 0
    ]
    sum_ = budget(decided_Q, drawn.estimates.pool.available_Q, LEVEL, weight_S).decided
    kinds = kinds_of(rows, weight_S, sentence_S, LEVEL, shares=True)
    effect = effect_of(compared, policy_Q.size, LEVEL).difference
    table_of = {"sum of what sentences decide": [("", sum_, truth.sum)]}
    for row, attribute, true in (
        ("decided by kind of sentence", "decided", of.decided),
        ("mean change of V", "change", of.change),
        ("share by kind of sentence", "share", of.share),
    ):
        table_of[row] = [(k.name, getattr(k, attribute), t) for k, t in zip(kinds, true, strict=True)]
    return {**table_of, "effect of a reflective sentence": [("", effect, of.effect(each))]}


# ------------------------------------------------------------------------------------------------------------- printed


def covered(of_tables: Sequence[Rows], band: str) -> list[tuple[str, list[float]]]:
    """Returns for each row how often its intervals held, the least of its members, below, above, and the width."""
    lines = []
    for row in dict.fromkeys(name for rows in of_tables for name in rows):
        members: dict[str, list[tuple[float, float, float, float]]] = {}
        at_once, several = [], max(len(rows.get(row, ())) for rows in of_tables)
        for rows in of_tables:
            inside = []
            for name, interval, true in rows.get(row, ()):
                if interval.value is None or interval.low is None or interval.high is None:
                    continue
                members.setdefault(name, []).append((interval.low, interval.high, interval.value, true))
                inside.append(interval.low <= true <= interval.high)
            at_once.append(all(inside))
        if not members:
            continue
        level = LEVEL ** (1 / several) if row == band else LEVEL
        each = {name: _sides(np.array(of), level) for name, of in members.items()}
        sides = np.concatenate([missed for missed, _ in each.values()])
        held = {name: 1 - float(missed.sum(axis=1).mean()) for name, (missed, _) in each.items()}
        usual = [name for name, (missed, _) in each.items() if len(missed) >= len(of_tables) / 2]
        width = float(np.median([width for _, width in each.values()]))
        least = min((held[name] for name in usual), default=np.nan) if len(each) > 1 else np.nan
        lines.append((row, [1 - float(sides.sum(axis=1).mean()), least, *sides.mean(axis=0).tolist(), width]))
        if row == band:
            lines += [(f"  {name}", [held[name], np.nan, *each[name][0].mean(axis=0), each[name][1]]) for name in usual]
            lines.append(("  all bins at once", [float(np.mean(at_once)), *[np.nan] * 4]))
    return lines


def _sides(intervals: FloatArray, level: float) -> tuple[BoolArray, float]:
    """Returns where the truth was below and above, and the width against that of a normal estimate."""
    low, high, value, true = intervals.T
    needed = 2 * float(stats.norm.isf((1 - level) / 2)) * float((value - true).std())
    return np.stack([true < low, true > high], axis=1), float(np.median(high - low)) / max(needed, 1e-300)


def student(
    part_Q: FloatArray, whole_Q: FloatArray, size_Q: FloatArray, least: Unseen, most: Unseen, level: float
) -> Estimate:
    """Gives Student's interval in the place of `bounded_ratio`."""
    value = float(part_Q.sum() / whole_Q.sum())
    score_Q = (part_Q - value * whole_Q) * (size_Q.sum() / whole_Q.sum())
    return cluster_t(value, score_Q, size_Q, level)[0]


def main() -> None:
    """Prints how often intervals held the truth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--family", choices=FAMILIES, nargs="+", default=list(FAMILIES))
    parser.add_argument("--states", type=int, nargs="+", default=[100, 400, 1000])
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--way", choices=["plain", "further", "answer", "sentence"], default="plain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--student", action="store_true")
    options = parser.parse_args()
    if options.student:
        estimators.bounded_ratio = student
    by_answer, further = options.way == "answer", options.way == "further"
    for family in options.family:
        policies = Policies(FAMILIES[family], options.seed)
        columns = []
        for states in options.states:
            tables = [
                table(policies, options.seed + n, states, by_answer=by_answer, further=further)
                for n in range(options.tables)
            ]
            chosen_P = np.sum([drawn.chosen_P for drawn in tables], axis=0)
            truth = Truth(policies, chosen_P, by_answer=by_answer)
            if options.way == "sentence":
                of = SentenceTruth(policies, chosen_P)
                rows = [sentence_rows(policies, n, states, drawn, truth, of) for n, drawn in enumerate(tables)]
            else:
                rows = [token_rows(drawn.estimates, truth) for drawn in tables]
            columns.append(covered(rows, "F by entropy"))
        print(f"\n{family}, {options.way}" + "".join(f"{states:>26d} states" for states in options.states))
        print(f"{'intervals of 95 %':36s}" + " held least below above width |" * len(columns))
        for row in dict.fromkeys(row for column in columns for row, _ in column):
            print(f"{row:36s}", *(_shown(dict(column).get(row)) for column in columns), flush=True)


def _shown(numbers: Sequence[float] | None) -> str:
    if numbers is None:
        return " " * 31 + "|"
    return "".join(" " * 6 if np.isnan(x) else f"{x:6.3f}" for x in numbers[:4]) + f"{numbers[4]:6.2f} |".replace(
        "nan", "   "
    )


if __name__ == "__main__":
    main()
