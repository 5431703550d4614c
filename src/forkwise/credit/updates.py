"""Scores every method in gradients, on a samples table and the model that drew it.

Suffixes: A scored columns, L tokens of a group, M rows of advantages, Q problems.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forkwise.credit.agreement import judge_together
from forkwise.credit.arms import ScoredMethod, advantages, contrast_of
from forkwise.credit.bank import Groups, half_of
from forkwise.credit.gradients import Parts, Products, needed, numbers, products
from forkwise.credit.options import CreditOptions
from forkwise.credit.packing import make_groups
from forkwise.credit.policy import Policy
from forkwise.credit.results import GradientCredit, MethodGradient
from forkwise.credit.weights import BINS, best_weights
from forkwise.errors import InputError
from forkwise.explore.contrast import FEWEST_PROBLEMS, FloatArray
from forkwise.explore.findings import Estimate
from forkwise.explore.tokenisation import prompt_ids
from forkwise.methods import parse_method
from forkwise.progress import Meter
from forkwise.samples import read_samples

RESAMPLES = 10_000
_LARGEST = 1 << 22  # entries of an output layer whose gradients are multiplied without thinning
_COLUMNS = ("run", "problem_id", "sample_id", "prompt", "correct", "finish_reason", "sampling", "token_ids")
_NONE = Estimate(None)


def score_updates(table: Path, model: str, arms: Sequence[ScoredMethod], options: CreditOptions) -> GradientCredit:
    """Scores the methods' updates on the groups of a table.

    Args:
        table: of one run, drawn by `model`; its samples are cut into groups of `--group-size`.
        arms: GRPO first.

    Raises:
        InputError: something given cannot be used, or there are too few problems or no contrast.
    """
    rows = _rows(table, options.group_size)
    names = list(dict.fromkeys(map(_problem, rows)))
    kept = {names[q] for q in half_of(len(names), options.half)}
    rows = [row for row in rows if _problem(row) in kept]
    temperature = float((rows[0]["sampling"] or {}).get("temperature") or 1.0)
    policy = Policy(model, temperature)
    prompts = {_problem(row): prompt_ids(policy.tokenizer, row["prompt"]) for row in rows}
    groups = make_groups(rows, policy, str(table))
    _refuse_too_little(groups, kept, table)
    made_MN, placebo = _advantages(groups, arms, options)
    of_all = products(_problems(groups, made_MN, prompts, policy), made_MN.shape[0] - 1, options.group_size)
    bins = range(made_MN.shape[0] - 1 - len(BINS), made_MN.shape[0] - 1)
    return GradientCredit(
        name=rows[0]["run"],
        model=model,
        weights=policy.fingerprint,
        half=options.half,
        problems=len(kept),
        groups=len(groups.problems),
        with_contrast=groups.with_contrast(),
        completions=groups.problem_S.size,
        group_size=options.group_size,
        of=options.completions,
        methods=_methods(of_all, arms, placebo, options),
        bins=best_weights(of_all.of(list(bins)), options.completions, options.level),
    )


def _rows(table: Path, size: int) -> list[dict[str, Any]]:
    """Reads the samples, and names each group by its problem and its number."""
    stored = read_samples(table, [*_COLUMNS, "entropies"]).to_pylist()
    runs = {row["run"] for row in stored}
    if len(runs) != 1:
        raise InputError(f"'{table}' holds {len(runs)} runs: groups are of one model, so give a table of one.")
    count: dict[str, int] = {}
    rows = []
    for row in stored:
        n = count[row["problem_id"]] = count.get(row["problem_id"], -1) + 1
        rows.append({**row, "problem_id": f"{row['problem_id']}\0{n // size}"})
    sizes = {problem: n + 1 for problem, n in count.items()}
    whole = [row for row in rows if int(row["problem_id"].partition("\0")[2]) < sizes[_problem(row)] // size]
    if not whole:
        raise InputError(
            f"No problem in '{table}' has {size} samples, a group: draw more, or give a smaller --group-size."
        )
    return whole


def _problem(row: dict[str, Any]) -> str:
    return str(row["problem_id"].partition("\0")[0])


def _refuse_too_little(groups: Groups, kept: set[str], table: Path) -> None:
    if len(kept) < FEWEST_PROBLEMS or not contrast_of(groups).any():
        raise InputError(
            f"'{table}' has {len(kept)} problems, and {groups.with_contrast()} groups with right and wrong samples: "
            f"updates are compared over at least {FEWEST_PROBLEMS} problems, some of them with contrast."
        )


def _advantages(
    groups: Groups, arms: Sequence[ScoredMethod], options: CreditOptions
) -> tuple[FloatArray, dict[int, int]]:
    """Returns rows of advantages: methods, placebos, GRPO's by bin of entropy, RLOO's; and each method's placebo."""
    with Meter(len(arms), 0, what="letting methods act", unit="methods") as meter:
        rows = []
        for arm in arms:
            rows.append(advantages(groups, arm.method, options.seed))
            meter.add(samples=1)
    placebo = {}
    for i, arm in enumerate(arms):
        if arm.has_placebo:
            placebo[i] = len(rows)
            rows.append(advantages(groups, arm.method, options.seed, placebo=True))
    bin_N = np.searchsorted(BINS, groups.entropy_N, side="right") - 1
    rows += [rows[0] * (bin_N == b) for b in range(len(BINS))]
    return np.stack([*rows, advantages(groups, parse_method("rloo"))]), placebo


def _problems(groups: Groups, made_MN: FloatArray, prompts: dict[str, list[int]], policy: Policy) -> Any:
    """Returns what `products` calls."""
    layer = policy.model.get_output_embeddings()
    entries = 0 if layer is None else layer.weight.numel()
    if entries > _LARGEST:
        raise InputError(
            f"The output layer of '{policy.name}' has {entries:,} entries; gradients of more than {_LARGEST:,} are not "
            "computed: give a smaller model."
        )
    ends_S = np.cumsum(groups.length_S)

    def parts(q: int) -> Parts:
        of = np.flatnonzero(groups.problem_S == q)
        first, last = int(ends_S[of[0]] - groups.length_S[of[0]]), int(ends_S[of[-1]])
        completions = [groups.ids_N[int(ends_S[s] - groups.length_S[s]) : int(ends_S[s])].tolist() for s in of]
        scored = policy.score(prompts[groups.problems[q].partition("\0")[0]], completions, hidden=True)
        residual_LV = -scored.log_probs_LV.exp()
        residual_LV[range(last - first), groups.ids_N[first:last]] += 1.0
        assert scored.hidden_LD is not None
        made_ML = torch.from_numpy(made_MN[:, first:last]).to(residual_LV)
        return made_ML, residual_LV, scored.hidden_LD

    def problems() -> Iterator[list[Parts]]:
        by_problem: dict[str, list[int]] = {}
        for q, name in enumerate(groups.problems):
            by_problem.setdefault(name.partition("\0")[0], []).append(q)
        with Meter(len(by_problem), 0, what="computing updates", unit="problems") as meter:
            for of_problem in by_problem.values():
                yield [parts(q) for q in of_problem]
                meter.add(samples=1)

    return problems


def _methods(
    of_all: Products, arms: Sequence[ScoredMethod], placebo: dict[int, int], options: CreditOptions
) -> list[MethodGradient]:
    level, n = options.level, options.completions
    updates = [numbers(of_all, m, n) for m in range(len(arms))]
    if not np.isfinite(updates[0].cosine.value):
        raise InputError(
            "These groups do not tell GRPO's update from noise: draw more problems, or more samples of each."
        )
    differences = [one.cosine - updates[0].cosine for one in updates]
    family = judge_together(differences[1:], level=level, resamples=RESAMPLES, seed=options.seed)
    bands, adjusted = [_NONE, *family.band], [None, *family.adjusted_p]
    method_credits = []
    for i, (arm, one) in enumerate(zip(arms, updates, strict=True)):
        beside = numbers(of_all, placebo[i], n).cosine if i in placebo else None
        ratio = needed(of_all, i, 0, n).estimate(level)
        method_credits.append(
            MethodGradient(
                method=arm.name,
                direction=one.direction.estimate(level),
                signal=one.signal.estimate(level),
                cosine=one.cosine.estimate(level),
                minus_grpo=_NONE if i == 0 else differences[i].estimate(level),
                band=bands[i],
                adjusted_p=adjusted[i],
                placebo_minus_grpo=_NONE if beside is None else (beside - updates[0].cosine).estimate(level),
                minus_placebo=_NONE if beside is None else (one.cosine - beside).estimate(level),
                needed=Estimate(*(None if x is None else float(n * np.exp(x)) for x in _ends(ratio))),
            )
        )
    return [
        method_credits[0],
        *sorted(method_credits[1:], key=lambda m: -(m.cosine.value if m.cosine.value is not None else -np.inf)),
    ]


def _ends(value: Estimate) -> tuple[float | None, float | None, float | None]:
    return value.value, value.low, value.high
