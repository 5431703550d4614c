"""How often the intervals of `forkwise forks` hold the truth, on policies that can be enumerated.

    python benchmarks/forks_calibration.py [--states 400] [--tables 100]

Each problem has a policy of its own: a tree of seven tokens with three ways each, some of which are nearly sure, and a
verdict for each of the 2,187 texts, so that V and F of every prefix are known. A table is 40 such problems with 12
samples each; every second sample chooses the problem, states are drawn from the others by strata of entropy, marks,
place and verdict, and continued 16 times. Tokens are marked at random, so that marks do nothing at equal entropy. The
truth is that of all problems of all tables together. A share of 100 tables is within .05 of what it is in the long run.

Suffixes: N tokens, Q problems.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from forkwise.explore.contrast import FloatArray
from forkwise.explore.findings import Estimate
from forkwise.forks import analysis
from forkwise.forks.branches import first_tokens
from forkwise.forks.estimators import permuted_decided, state_value, variance_of_outcome
from forkwise.forks.states import draw, halves, parts, strata

WAYS, LENGTH, PROBLEMS, SAMPLES, CONTINUATIONS = 3, 7, 40, 12, 16


class Tree:
    """A policy with all that can be known of it, by number of tokens and prefix."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.next, score = [], rng.normal(-1, 1, 1)
        for t in range(LENGTH):
            prefixes = WAYS**t
            spread = np.where(rng.random(prefixes) < 0.5, 0.03, np.where(rng.random(prefixes) < 0.5, 0.5, 3.0))
            ways = rng.gamma(np.repeat(spread[:, None], WAYS, axis=1)) + 1e-12
            self.next.append(ways / ways.sum(axis=1, keepdims=True))
            matters = (rng.random(prefixes) < 0.25)[:, None]
            score = (score[:, None] + matters * rng.normal(0, 3, (prefixes, WAYS))).ravel()
        self.value = [(score > 0).astype(np.float64)]
        for probs in reversed(self.next):
            self.value.insert(0, (probs * self.value[0].reshape(-1, WAYS)).sum(axis=1))
        after = [value.reshape(-1, WAYS) for value in self.value[1:]]
        self.decided = [(p * q**2).sum(axis=1) - v**2 for p, q, v in zip(self.next, after, self.value, strict=False)]
        self.entropy = [-(p * np.log(p)).sum(axis=1) for p in self.next]
        self.marked = [rng.random(WAYS**t) < 0.2 for t in range(LENGTH)]
        self.reached = [np.ones(1)]
        for probs in self.next[:-1]:
            self.reached.append((self.reached[-1][:, None] * probs).ravel())

    def text(self, rng: np.random.Generator) -> list[int]:
        """Draws a text; returns its prefixes, the whole last."""
        places = [0]
        for probs in self.next:
            places.append(places[-1] * WAYS + int(rng.choice(WAYS, p=probs[places[-1]])))
        return places


@dataclass(frozen=True)
class Found:
    """What the analysis says of a table, and the policies that it is of."""

    trees: list[Tree]
    agrees: bool
    tops: list[Any]
    kinds: list[Any]
    by_entropy: list[Any]


def found(seed: int, states: int) -> Found:
    """Draws a table, and analyses it as `forkwise forks` does."""
    rng = np.random.default_rng(seed)
    trees = [Tree(rng) for _ in range(PROBLEMS)]
    texts = [(q, trees[q].text(rng)) for q in range(PROBLEMS) for _ in range(SAMPLES)]
    right = [bool(trees[q].value[-1][places[-1]]) for q, places in texts]
    chosen, used = halves([str(q) for q, _ in texts], right)
    problem = {name: i for i, name in enumerate(chosen)}
    tokens = [(problem[str(texts[i][0])], trees[texts[i][0]], t, texts[i][1]) for i in used for t in range(LENGTH)]
    problem_N, position_N = np.array([q for q, *_ in tokens]), np.array([t for _, _, t, _ in tokens])
    entropy_N = np.array([tree.entropy[t][places[t]] for _, tree, t, places in tokens])
    marked_N = np.array([tree.marked[t][places[t]] for _, tree, t, places in tokens])
    right_N, trace_N = np.repeat([right[i] for i in used], LENGTH), np.repeat(np.arange(len(used)), LENGTH)
    count_Q = np.bincount(problem_N) / LENGTH
    solved_Q = np.bincount(problem_N, weights=right_N) / LENGTH
    units = SimpleNamespace(value_N=entropy_N, problem_N=problem_N, trace_N=trace_N)
    frame: Any = SimpleNamespace(
        table=SimpleNamespace(units=units, decile_N=position_N * 10 // LENGTH, position_N=position_N),
        per_trace_N=1 / count_Q[problem_N],
        kind_N=np.where(marked_N, 0, 3),
        entropies="model",
    )
    available = [variance_of_outcome([round(c)], round(n)) for c, n in zip(solved_Q, count_Q, strict=True)]
    pool: Any = SimpleNamespace(problems=chosen, available_Q=np.array(available))
    stratum_N, _ = strata(entropy_N, marked_N.astype(np.int64))
    part_N = parts(position_N, np.full(len(tokens), LENGTH), right_N.tolist())
    drawn = draw(stratum_N, entropy_N, problem_N, states, seed, part_N)
    values, null = [], []
    for i in drawn.index:
        _, tree, t, places = tokens[i]
        first = first_tokens(tree.next[t][places[t]], places[t + 1] % WAYS, CONTINUATIONS, rng)
        chance = tree.value[t + 1][places[t] * WAYS + np.array(first.rows)]
        outcome = (rng.random(CONTINUATIONS) < chance).astype(np.float64)[:, None]
        values.append(state_value(first.branches, outcome))
        null.append(permuted_decided(first.branches, outcome, 1, rng))
    estimates = analysis.StateEstimates(
        *(frame, pool, drawn, np.array([v.decided for v in values]), np.array([v.open for v in values])),
        *(frame.per_trace_N[drawn.index] / drawn.chance, problem_N[drawn.index], entropy_N[drawn.index]),
        *(np.array(null), 0.95),
    )
    return Found(
        [trees[int(name)] for name in chosen],
        analysis.check_budget(estimates).agrees,
        analysis.tops(estimates),
        analysis.by_class(estimates, shares=True),
        analysis.by_entropy(estimates, shares=True),
    )


def holds(interval: Estimate, truth: float) -> bool:
    """Whether the interval holds the truth."""
    return interval.low is not None and interval.high is not None and interval.low <= truth <= interval.high


def main() -> None:
    """Prints how often intervals held the truth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--states", type=int, nargs="+", default=[400])
    parser.add_argument("--tables", type=int, default=100)
    options = parser.parse_args()
    rows = ["budget agrees", *(f"share of the top {100 * top:g} %" for top in analysis.TOPS)]
    rows += ["marked, at equal entropy", "F by entropy, all bins at once"]
    columns: list[FloatArray] = []
    for states in options.states:
        tables = [found(seed, states) for seed in range(options.tables)]
        trees = [tree for table in tables for tree in table.trees]
        entropy, weight, decided = (
            np.concatenate([getattr(tree, name)[t] for tree in trees for t in range(LENGTH)])
            for name in ("entropy", "reached", "decided")
        )

        def mean(
            low: float, high: float, of: FloatArray = decided, by: FloatArray = entropy, w: FloatArray = weight
        ) -> float:
            inside = (by >= low) & (by < high)
            return float(np.average(of[inside], weights=w[inside]))

        def share(
            threshold: float, of: FloatArray = decided, by: FloatArray = entropy, w: FloatArray = weight
        ) -> float:
            return float((w * of)[by >= threshold].sum() / (w * of).sum())

        bins = {
            f"{a:g}–{b:g}" if b < np.inf else f"above {a:g}": (a, b)
            for a, b in zip(analysis.EDGES, analysis.EDGES[1:], strict=False)
        }
        held = [[table.agrees for table in tables]]
        held += [[holds(table.tops[i].share, share(table.tops[i].threshold)) for table in tables] for i in range(4)]
        held += [[holds(table.kinds[0].difference, 0.0) for table in tables]]
        held += [
            [
                all(holds(p.decided, mean(*bins[p.name])) for p in table.by_entropy if p.decided.low is not None)
                for table in tables
            ]
        ]
        columns.append(np.mean(held, axis=1))
    print(f"{'intervals of 95 % that hold the truth':40s}", *(f"{states:>8d} states" for states in options.states))
    for row, *values in zip(rows, *columns, strict=True):
        print(f"{row:40s}", *(f"{value:15.3f}" for value in values))


if __name__ == "__main__":
    main()
