"""Whether the chance of a token helps beside its entropy, in a weight of GRPO's advantage that is best for credit.

    python benchmarks/credit_weights.py TABLE MODEL [TABLE MODEL ...] [--completions 256]

Weights are estimated on the first half of a table's problems and scored on the second, of the same table and of the
others. Tokens are parted by entropy H and by the chance p that they were drawn with. Of each kind of weight, g(H),
g(p) and g(H, p), the script takes the one whose update has the largest cosine with the true gradient,
`(M + C / n)^-1 s` (docs/credit.md, "A weight by entropy"), and prints the cosine on the second half minus GRPO's.

Suffixes: C cells of H and p, K kinds of cell that one weight holds for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from forkwise.credit.arms import Batches, advantages, update_slopes
from forkwise.credit.bank import half_of
from forkwise.credit.gradients import Products, numbers, products
from forkwise.credit.packing import completions_of, group_rows, make_groups, problem_of, temperature_of
from forkwise.credit.policy import Policy
from forkwise.engines.trl.stored import TokenLoss
from forkwise.explore.contrast import FloatArray, IntArray
from forkwise.explore.tokenisation import prompt_ids
from forkwise.methods import parse_method
from forkwise.report.formats import estimate

SIZE = 16
ENTROPIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
CHANCES = (0.0, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Lower edges of the bins of entropy (nats), and of the chance of the token."""
CELLS = len(ENTROPIES) * len(CHANCES)


@dataclass(frozen=True)
class Table:
    """What the updates of either half of a table's problems are, cell by cell, the true gradient last."""

    name: str
    first: Products
    second: Products


def read(path: Path, model: str) -> Table:
    """Reads a table, and computes the updates."""
    rows, _ = group_rows(path, SIZE)
    policy = Policy(model, temperature_of(rows, str(path)))
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    halves = []
    for half in ("first", "second"):
        kept = {problems[q] for q in half_of(len(problems), half)}
        halves.append(_products([row for row in rows if row["problem"] in kept], policy, path))
    return Table(path.name, *halves)


def _products(rows: list[dict[str, object]], policy: Policy, path: Path) -> Products:
    groups = make_groups(rows, policy, str(path))
    prompts = {str(row["problem_id"]): prompt_ids(policy.tokenizer, str(row["prompt"])) for row in rows}
    longest, grpo = int(groups.length_S.max()), parse_method("grpo")
    loss = TokenLoss(policy.model, policy.tokenizer, grpo, size=SIZE, longest=longest, temperature=policy.temperature)
    slope_N = update_slopes(Batches(groups), groups.ids_N.size, grpo, loss)[0]
    cell_N = np.searchsorted(ENTROPIES, groups.entropy_N, side="right") - 1
    cell_N = cell_N * len(CHANCES) + np.searchsorted(CHANCES, np.exp(groups.logprob_N), side="right") - 1
    raised = [slope_N * (cell_N == cell) for cell in range(CELLS)]
    raised_MN = torch.from_numpy(np.stack([*raised, advantages(groups, parse_method("rloo"))])).float()
    completions = completions_of(groups)
    ends = np.cumsum([sum(map(len, of_group)) for of_group in completions]).tolist()

    def update(raised_ML: Tensor, prompt: list[int], of_group: list[list[int]]) -> Tensor:
        scored = policy.score(prompt, of_group, hidden=True)
        assert scored.hidden_LD is not None
        along_LV = -scored.log_probs_LV.exp()
        ids = [i for completion in of_group for i in completion]
        along_LV[range(len(ids)), ids] += 1.0
        update_MF = torch.zeros(len(raised_ML), along_LV.shape[1] * scored.hidden_LD.shape[1])
        for m in torch.nonzero(raised_ML.any(1)).flatten().tolist():  # a cell has few of the tokens
            at = raised_ML[m] != 0
            update_MF[m] = ((raised_ML[m, at, None] * along_LV[at]).T @ scored.hidden_LD[at]).flatten()
        return update_MF

    def by_problem() -> Iterator[list[tuple[Tensor, list[int], list[list[int]]]]]:
        of: dict[str, list[int]] = {}
        for q, name in enumerate(groups.problems):
            of.setdefault(problem_of(name), []).append(q)
        for of_problem in of.values():
            yield [
                (raised_MN[:, 0 if q == 0 else ends[q - 1] : ends[q]], prompts[groups.problems[q]], completions[q])
                for q in of_problem
            ]

    return products(by_problem, CELLS, SIZE, update)


def kinds() -> dict[str, IntArray]:
    """Says of each cell which weight holds for it, `(C,)`, by what weights depend on."""
    cell = np.arange(CELLS)
    return {"g(H)": cell // len(CHANCES), "g(p)": cell % len(CHANCES), "g(H, p)": cell}


def best(of: Products, kind_C: IntArray, completions: int) -> FloatArray:
    """Computes the weight of each cell, `(C,)`, that is best on these problems; 1 where no token is."""
    parts = int(kind_C.max()) + 1
    weight = np.zeros((CELLS + 1, parts + 1))
    weight[np.arange(CELLS), kind_C] = 1.0
    weight[CELLS, parts] = 1.0
    summed = of.combined(weight, parts)
    n, pairs, square = summed.problems, summed.all_pairs(), summed.square_QMM.sum(axis=0)
    expected = (pairs + pairs.T) / (2 * n * (n - 1))
    moment_KK = expected[:parts, :parts]
    noise_KK = summed.size * (square[:parts, :parts] / n - moment_KK)
    filled = np.diag(square)[:parts] > 0
    both = (moment_KK + noise_KK / completions)[np.ix_(filled, filled)]
    g_K = np.ones(parts)
    g_K[filled] = linalg.lstsq(both, expected[:parts, parts][filled])[0]
    g_C: FloatArray = g_K[kind_C]
    return g_C


def gain(of: Products, g_C: FloatArray, completions: int) -> str:
    """Writes by how much weights bring the cosine above GRPO's."""
    weight = np.zeros((CELLS + 1, 3))
    weight[:CELLS, 0], weight[:CELLS, 1], weight[CELLS, 2] = 1.0, g_C, 1.0
    two = of.combined(weight, 2)
    difference = numbers(two, 1, completions).cosine - numbers(two, 0, completions).cosine
    return estimate(difference.estimate(0.95), 3, "+")


def below(of: Products, chance: float) -> str:
    """Writes the share of GRPO's squared update, cells taken by themselves, of tokens below a chance, in per cent."""
    square_C = np.diag(of.square_QMM.sum(axis=0))[:CELLS]
    unlikely = np.array(CHANCES)[np.arange(CELLS) % len(CHANCES)] < chance
    return f"{100 * square_C[unlikely].sum() / square_C.sum():.0f}"


def main() -> None:
    """Prints a table, and how much of an update unlikely tokens are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", nargs="+", metavar="TABLE MODEL")
    parser.add_argument("--completions", type=int, default=256)
    given = parser.parse_args()
    tables = [read(Path(path), model) for path, model in zip(given.pairs[::2], given.pairs[1::2], strict=True)]
    print("| estimated on the first half of | weight | " + " | ".join(f"{t.name}, second half" for t in tables) + " |")
    print("|---|---|" + "---|" * len(tables))
    for table in tables:
        for name, kind_C in kinds().items():
            g_C = best(table.first, kind_C, given.completions)
            cells = [gain(other.second, g_C, given.completions) for other in tables]
            print(f"| {table.name} | `{name}` | " + " | ".join(cells) + " |", flush=True)
    for chance in CHANCES[1:3]:
        shares = ", ".join(f"{table.name} {below(table.first, chance)}" for table in tables)
        print(f"% of GRPO's squared update from tokens below {chance:g}: {shares}")


if __name__ == "__main__":
    main()
