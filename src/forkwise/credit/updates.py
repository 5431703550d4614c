"""Scores every method in gradients, on a samples table and the model that drew it.

Suffixes: A scored columns, L tokens of a group, M rows of advantages, Q problems.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forkwise.credit.agreement import ShownDifference, detectable, judge_together
from forkwise.credit.arms import (
    Batches,
    More,
    ScoredMethod,
    advantages,
    short,
    state_of,
    update_slopes,
)
from forkwise.credit.bank import Groups, half_of
from forkwise.credit.gradients import Products, needed, numbers, products, update
from forkwise.credit.moving import draw_anew, move
from forkwise.credit.options import CreditOptions
from forkwise.credit.packing import (
    completions_of,
    group_rows,
    make_groups,
    more_of,
    problem_of,
    refuse_too_little,
    renewed,
    temperature_of,
)
from forkwise.credit.policy import Policy
from forkwise.credit.results import GradientCredit, MethodGradient, Moved, NotScored
from forkwise.credit.weights import BINS, best_weights
from forkwise.engines.trl.stored import TokenLoss
from forkwise.errors import InputError
from forkwise.explore.contrast import FloatArray
from forkwise.explore.findings import Estimate
from forkwise.explore.tokenisation import prompt_ids
from forkwise.methods import Need, parse_method
from forkwise.progress import Meter

RESAMPLES = 10_000
_LARGEST = 1 << 22  # entries of an output layer, or of a model, whose gradients are multiplied without thinning
_CLIP = (0.8, 1.2)  # the range of ratios that PPO's clip leaves alone
_NONE = Estimate(None)


def score_updates(table: Path, model: str, arms: Sequence[ScoredMethod], options: CreditOptions) -> GradientCredit:
    """Scores the methods' updates on the groups of a table.

    Args:
        table: of one run, drawn by `model`; its samples are cut into groups of `--group-size`.
        arms: GRPO first.

    Raises:
        InputError: something given cannot be used, or there are too few problems or no contrast.
    """
    rows, drawn = group_rows(table, options.group_size)
    names = list(dict.fromkeys(row["problem"] for row in rows))
    scored = names[1::2] if options.updates else names
    kept = {scored[q] for q in half_of(len(scored), options.half)}
    of_kept = [row for row in rows if row["problem"] in kept]
    refuse_too_little(of_kept, kept, table)
    policy = Policy(model, temperature_of(rows, str(table)))
    _refuse_large(policy, options.gradients)
    prompts = {row["problem_id"]: prompt_ids(policy.tokenizer, row["prompt"]) for row in rows}
    groups = make_groups(of_kept, policy, str(table))
    arms, idle = _acting(arms, options, int(groups.length_S.max()))
    more = _more(groups, arms, policy, prompts)
    weights = policy.fingerprint
    now, fresh, moved = groups, None, None
    if options.updates:
        learned = [row for row in rows if row["problem"] in set(names[::2])]
        of = move(
            policy,
            make_groups(learned, policy, str(table)),
            prompts,
            updates=options.updates,
            size=options.group_size,
            learning_rate=options.learning_rate,
            seed=options.seed,
        )
        now, fresh = renewed(groups, policy, prompts), draw_anew(policy, groups, prompts, rows, table, options.seed)
        moved = _how_far(groups, now, fresh, options, of, len(names[::2]))
    rows_of_updates = _advantages(Batches(groups, now, more), groups, now, fresh, arms, options, policy)
    of_all = products(
        _problems(rows_of_updates, groups, fresh, prompts),
        rows_of_updates.reference,
        options.group_size,
        partial(_update, policy, options.gradients),
    )
    methods, smallest, fresh_one = _methods(of_all, arms, rows_of_updates, options)
    return GradientCredit(
        name=rows[0]["run"],
        model=model,
        weights=weights,
        half=options.half,
        problems=len(kept),
        groups=len(groups.problems),
        with_contrast=groups.with_contrast(),
        completions=groups.problem_S.size,
        group_size=options.group_size,
        of=options.completions,
        methods=methods,
        bins=best_weights(of_all.of(rows_of_updates.bins), options.completions, options.level),
        parameters=options.gradients,
        not_scored=idle,
        detectable=smallest,
        moved=None if moved is None else replace(moved, **fresh_one),
        in_no_group=drawn - len(rows),
    )


def _acting(
    arms: Sequence[ScoredMethod], options: CreditOptions, longest: int
) -> tuple[list[ScoredMethod], list[NotScored]]:
    """Returns the methods that can do something with such groups, and the others, which must not have been asked for.

    Raises:
        InputError: one of `--method` can do nothing.
    """
    asked = {short(parse_method(spec)) for spec in options.method}
    acting, idle = [], []
    for arm in arms:
        try:
            arm.method.check_group_size(options.group_size)
            arm.method.check_longest(longest)
        except InputError as error:
            if arm.name in asked:
                raise
            idle.append(NotScored(arm.name, f"{error}".removeprefix(f"The method '{arm.method.name}' ").rstrip(".")))
        else:
            acting.append(arm)
    return acting, idle


def _more(groups: Groups, arms: Sequence[ScoredMethod], policy: Policy, prompts: Mapping[str, Sequence[int]]) -> More:
    """Asks the policy that drew the groups for what some of the methods want."""
    wanting = [arm.method for arm in arms if Need.TEMPERED_LOGPROBS in arm.method.needs()]
    factors = {method.temperature_factor({method.name: state_of(method, groups)}) for method in wanting}
    hidden = any(Need.HIDDEN in arm.method.needs() for arm in arms)
    if not factors and not hidden:
        return More()
    return more_of(groups, policy, prompts, sorted(factors), hidden=hidden)


def _how_far(groups: Groups, now: Groups, fresh: Groups, options: CreditOptions, of: int, problems: int) -> Moved:
    log_ratio_N = now.logprob_N - groups.logprob_N
    starts = np.cumsum(groups.length_S) - groups.length_S
    log_weight_S = np.add.reduceat(log_ratio_N, starts)
    weight_S = np.exp(log_weight_S - log_weight_S.max())
    outside_N = (log_ratio_N < np.log(_CLIP[0])) | (log_ratio_N > np.log(_CLIP[1]))
    return Moved(
        updates=options.updates,
        of=of,
        problems=problems,
        learning_rate=options.learning_rate,
        log_ratio=float(np.abs(log_ratio_N).mean()),
        outside=float(outside_N.mean()),
        effective=float(weight_S.sum() ** 2 / (weight_S**2).sum() / weight_S.size),
        right_before=float(groups.correct_S.mean()),
        right_after=float(fresh.correct_S.mean()),
        fresh=_NONE,
        fresh_minus_grpo=_NONE,
    )


@dataclass(frozen=True)
class _UpdateRows:
    """What updates are made of: how much each raises log-probs and entropies, of the groups' tokens and of fresh ones.

    The rows are methods, placebos, GRPO's by bin of entropy; of fresh groups GRPO's; and the true gradient.

    Attributes:
        raised_M2N: of the groups' tokens; 0 in rows of fresh groups.
        fresh_M2N: of the tokens that the moved policy drew; None where the policy is the one that drew the groups.
        placebo: row of each method's placebo.
        bins: rows of the bins.
        fresh: row of GRPO on fresh groups, if there are any.
    """

    raised_M2N: FloatArray
    fresh_M2N: FloatArray | None
    placebo: dict[int, int]
    bins: list[int]
    fresh: int | None

    @property
    def reference(self) -> int:
        """Returns the row of the true gradient, which is the last."""
        return len(self.raised_M2N) - 1


def _advantages(
    batches: Batches,
    groups: Groups,
    now: Groups,
    fresh: Groups | None,
    arms: Sequence[ScoredMethod],
    options: CreditOptions,
    policy: Policy,
) -> _UpdateRows:
    size, longest = groups.ids_N.size, int(groups.length_S.max())
    raised, placebo, losses = [], {}, {}
    with Meter(len(arms), 0, phase="letting methods act", unit="methods") as meter:
        for i, arm in enumerate(arms):
            losses[i] = TokenLoss(
                *(policy.model, policy.tokenizer, arm.method),
                size=options.group_size,
                longest=longest,
                temperature=policy.temperature,
            )
            raised.append(update_slopes(batches, size, arm.method, losses[i], options.seed))
            meter.add(samples=1)
    for i, arm in enumerate(arms):
        if arm.has_placebo:
            placebo[i] = len(raised)
            raised.append(update_slopes(batches, size, arm.method, losses[i], options.seed, placebo=True))
    bin_N = np.searchsorted(BINS, now.entropy_N, side="right") - 1
    bins = list(range(len(raised), len(raised) + len(BINS)))
    raised += [raised[0] * (bin_N == b) for b in range(len(BINS))]
    rloo = parse_method("rloo")
    if fresh is None:
        return _UpdateRows(np.stack([*raised, _as_rows(advantages(groups, rloo))]), None, placebo, bins, None)
    anew = np.zeros((len(raised) + 2, 2, fresh.ids_N.size))
    anew[-2] = update_slopes(Batches(fresh), fresh.ids_N.size, arms[0].method, losses[0], options.seed)
    anew[-1] = _as_rows(advantages(fresh, rloo))
    nothing = np.zeros((2, 2, size))
    return _UpdateRows(np.concatenate([np.stack(raised), nothing]), anew, placebo, bins, len(raised))


def _as_rows(advantages_N: FloatArray) -> FloatArray:
    return np.stack([advantages_N, np.zeros_like(advantages_N)])


@dataclass(frozen=True)
class _Part:
    """The tokens of a group that one policy drew, and what each row makes of them.

    Attributes:
        raised_ML, spread_ML: by how much log-probs and entropies are raised.
    """

    prompt: list[int]
    completions: list[list[int]]
    raised_ML: Tensor
    spread_ML: Tensor


def _update(policy: Policy, parameters: str, *parts: _Part) -> Tensor:
    """Computes the updates of a group, `(M, F)`: sums over its parts, each of the rows that have any in it."""
    update_MF: Tensor | None = None
    for part in parts:
        rows = part.raised_ML.any(1) | part.spread_ML.any(1)
        if update_MF is not None and not bool(rows.any()):
            continue
        raised_ML, spread_ML = part.raised_ML[rows], part.spread_ML[rows]
        scored = policy.score(part.prompt, part.completions, hidden=parameters == "head")
        p_LV = scored.log_probs_LV.exp()
        ids = [i for completion in part.completions for i in completion]
        # Directions in the logits: those of log-probs, e_a - p, and, where a row asks for them, those of entropies.
        along_LV = -p_LV
        along_LV[range(len(ids)), ids] += 1.0
        entropy_LV = -p_LV * (scored.log_probs_LV - (p_LV * scored.log_probs_LV).sum(1, keepdim=True))
        if scored.hidden_LD is None:
            both = torch.cat([raised_ML, spread_ML], dim=1).to(p_LV)
            updates = policy.update(part.prompt, part.completions, both, torch.cat([along_LV, entropy_LV]))
        else:
            updates = update(raised_ML.to(p_LV), along_LV, scored.hidden_LD)
            of = spread_ML.any(1)
            if bool(of.any()):
                updates[of] += update(spread_ML[of].to(p_LV), entropy_LV, scored.hidden_LD)
        if update_MF is None:
            update_MF = torch.zeros(len(rows), updates.shape[1])
        update_MF[rows] += updates.cpu()
    assert update_MF is not None
    return update_MF


def _problems(
    rows_of_updates: _UpdateRows,
    groups: Groups,
    fresh: Groups | None,
    prompts: dict[str, list[int]],
) -> Any:
    """Returns what `products` calls."""
    sets = [(rows_of_updates.raised_M2N, groups, completions_of(groups))]
    if fresh is not None and rows_of_updates.fresh_M2N is not None:
        sets.append((rows_of_updates.fresh_M2N, fresh, completions_of(fresh)))
    ends = [np.cumsum(np.bincount(of.problem_N, minlength=len(of.problems))) for _, of, _ in sets]

    def parts(q: int) -> list[_Part]:
        of_group = []
        for end, (raised_M2N, _, completions) in zip(ends, sets, strict=True):
            both = torch.from_numpy(raised_M2N[:, :, 0 if q == 0 else int(end[q - 1]) : int(end[q])])
            of_group.append(_Part(prompts[groups.problems[q]], completions[q], both[:, 0], both[:, 1]))
        return of_group

    def problems() -> Iterator[list[list[_Part]]]:
        by_problem: dict[str, list[int]] = {}
        for q, name in enumerate(groups.problems):
            by_problem.setdefault(problem_of(name), []).append(q)
        with Meter(len(by_problem), 0, phase="computing updates", unit="problems") as meter:
            for of_problem in by_problem.values():
                yield [parts(q) for q in of_problem]
                meter.add(samples=1)

    return problems


def _refuse_large(policy: Policy, parameters: str) -> None:
    if parameters == "all":
        entries, part, remedy = sum(w.numel() for w in policy.model.parameters()), "The model", "give --gradients head"
    else:
        layer = policy.model.get_output_embeddings()
        entries = 0 if layer is None else layer.weight.numel()
        part, remedy = "The output layer of", "give a smaller model"
    if entries > _LARGEST:
        raise InputError(
            f"{part} '{policy.name}' has {entries:,} entries; gradients of more than {_LARGEST:,} are not computed: "
            f"{remedy}."
        )


def _methods(
    of_all: Products, arms: Sequence[ScoredMethod], rows: _UpdateRows, options: CreditOptions
) -> tuple[list[MethodGradient], ShownDifference | None, dict[str, Any]]:
    """Returns the numbers of every method, which difference can be shown, and GRPO's on fresh groups as in `Moved`."""
    level, n, placebo = options.level, options.completions, rows.placebo
    of_methods = [numbers(of_all, m, n) for m in range(len(arms))]
    if not np.isfinite(of_methods[0].cosine.value):
        raise InputError(
            "These groups do not tell GRPO's update from noise: draw more problems, or more samples of each."
        )
    differences = [one.cosine - of_methods[0].cosine for one in of_methods]
    family = judge_together(differences[1:], level=level, resamples=RESAMPLES, seed=options.seed)
    bands, adjusted = [_NONE, *family.band], [None, *family.adjusted_p]
    scores = []
    for i, (arm, one) in enumerate(zip(arms, of_methods, strict=True)):
        beside = numbers(of_all, placebo[i], n).cosine if i in placebo else None
        ratio = needed(of_all, i, 0, n).estimate(level)
        scores.append(
            MethodGradient(
                method=arm.name,
                direction=one.direction.estimate(level),
                signal=one.signal.estimate(level),
                cosine=one.cosine.estimate(level),
                minus_grpo=_NONE if i == 0 else differences[i].estimate(level),
                band=bands[i],
                adjusted_p=adjusted[i],
                placebo_minus_grpo=_NONE if beside is None else (beside - of_methods[0].cosine).estimate(level),
                minus_placebo=_NONE if beside is None else (one.cosine - beside).estimate(level),
                needed=Estimate(
                    *(x if x is None else float(n * np.exp(x)) for x in (ratio.value, ratio.low, ratio.high))
                ),
            )
        )
    fresh = {}
    if rows.fresh is not None:
        anew = numbers(of_all, rows.fresh, n).cosine
        fresh = {"fresh": anew.estimate(level), "fresh_minus_grpo": (anew - of_methods[0].cosine).estimate(level)}
    ranked = sorted(scores[1:], key=lambda m: -(m.cosine.value if m.cosine.value is not None else -np.inf))
    return [scores[0], *ranked], detectable(differences[1:], family.band, level), fresh
