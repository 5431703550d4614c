"""Scores every method on a bank.

Suffixes: K states, N tokens, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from forkwise.credit.agreement import (
    Jackknife,
    Truth,
    correlation,
    detectable,
    jackknife,
    judge_together,
    moments,
    signal,
    slope,
    worth,
)
from forkwise.credit.arms import ScoredMethod, contrast_of, draws
from forkwise.credit.bank import Bank, half_of
from forkwise.credit.options import CreditOptions
from forkwise.credit.results import Agreement, BankCredit, InStratum, MethodCredit, TokenStratum
from forkwise.errors import InputError
from forkwise.explore.contrast import FEWEST_MARKS, FEWEST_PROBLEMS, BoolArray, FloatArray, IntArray
from forkwise.explore.findings import Estimate
from forkwise.progress import Meter

EDGES = (0.0, 0.05, 0.5, 1.1, np.inf)
"""Bins of entropy, nats, of the strata."""
RESAMPLES = 10_000
"""Draws of the largest score, for the band."""
_NONE = Estimate(None)


@dataclass
class _Made:
    """A method's advantages at the states, and its placebo's."""

    arm: ScoredMethod
    x_RK: FloatArray
    placebo_RK: FloatArray | None
    alike: tuple[Jackknife, Jackknife | None] = field(init=False)
    sized: tuple[Jackknife, Jackknife | None] = field(init=False)


def score_bank(bank: Bank, arms: Sequence[ScoredMethod], options: CreditOptions) -> BankCredit:
    """Scores the methods on a bank, or on half of its problems.

    Args:
        arms: GRPO first.

    Raises:
        InputError: too few problems or states, groups without contrast, or continuations that say nothing.
    """
    bank = bank.of(half_of(len(bank.groups.problems), options.half))
    _refuse_too_little(bank)
    groups, truth = bank.groups, truth_of(bank)
    score_K = groups.score_N[bank.at_K]
    sized = truth.of(truth.weight_K * score_K)
    scores = []
    with Meter(len(arms), 0, phase=f"scoring methods on {bank.name}", unit="methods") as meter:
        for arm in arms:
            x_RK, placebo = draws(groups, arm, options.draws, options.seed)[:, bank.at_K], None
            if arm.has_placebo:
                placebo = draws(groups, arm, options.draws, options.seed, placebo=True)[:, bank.at_K]
            one = _Made(arm, x_RK, placebo)
            one.alike, one.sized = _correlations(one, truth), _correlations(one, sized)
            scores.append(one)
            meter.add(samples=1)
    alike_sums = moments(scores[0].x_RK, truth).sum(axis=0)
    sized_sums = moments(scores[0].x_RK, sized).sum(axis=0)
    if not np.isfinite(scores[0].sized[0].value):
        raise InputError(
            f"The continuations of '{bank.name}' do not tell its true advantages from their error: make it with more "
            "--states or --continuations."
        )
    strata = _strata_of(bank, scores[0].x_RK[0])
    alike, by_size = (_agreements(scores, name, options) for name in ("alike", "sized"))
    methods = [
        MethodCredit(
            method=one.arm.name,
            draws=len(one.x_RK),
            alike=alike[i],
            sized=by_size[i],
            slope=jackknife(moments(one.x_RK, truth), slope).estimate(options.level),
            strata=[_in_stratum(name, of, one, scores[0], sized, options.level) for name, of in _wide_strata(strata)],
        )
        for i, one in enumerate(scores)
    ]
    return BankCredit(
        name=bank.name,
        about=bank.about,
        problems=len(groups.problems),
        with_contrast=groups.with_contrast(),
        completions=groups.problem_S.size,
        cut=int(groups.cut_S.sum()),
        tokens=groups.ids_N.size,
        states=bank.at_K.size,
        signal=signal(alike_sums),
        signal_sized=signal(sized_sums),
        methods=[methods[0], *sorted(methods[1:], key=lambda m: -_or_least(m.sized.minus_grpo.value))],
        strata=[_stratum(name, of, scores[0].x_RK, truth, options.level) for name, of in strata if of.any()],
        detectable=detectable(
            [one.sized[0] - scores[0].sized[0] for one in scores[1:]], [a.band for a in by_size[1:]], options.level
        ),
    )


def truth_of(bank: Bank) -> Truth:
    """Returns the true advantages of a bank's states, every token of its groups alike."""
    return Truth(bank.advantage_K, bank.half_K2, 1 / bank.chance_K, bank.problem_K, len(bank.groups.problems))


def _or_least(value: float | None) -> float:
    return -np.inf if value is None else value


def _refuse_too_little(bank: Bank) -> None:
    problems = int(np.unique(bank.problem_K[contrast_of(bank.groups)[_completion_K(bank)]]).size)
    if problems < FEWEST_PROBLEMS:
        raise InputError(
            f"'{bank.name}' has states in {problems} groups with right and wrong completions, of "
            f"{len(bank.groups.problems)}, and intervals over problems need {FEWEST_PROBLEMS}: without contrast every "
            "advantage is 0, so make the bank of more problems, or of more samples of each."
        )


def _completion_K(bank: Bank) -> IntArray:
    completion_N: IntArray = np.repeat(np.arange(bank.groups.length_S.size), bank.groups.length_S)
    at_K: IntArray = completion_N[bank.at_K]
    return at_K


def _correlations(score: _Made, truth: Truth) -> tuple[Jackknife, Jackknife | None]:
    real = jackknife(moments(score.x_RK, truth), correlation)
    return real, None if score.placebo_RK is None else jackknife(moments(score.placebo_RK, truth), correlation)


def _agreements(scores: Sequence[_Made], name: str, options: CreditOptions) -> list[Agreement]:
    pairs: list[tuple[Jackknife, Jackknife | None]] = [getattr(one, name) for one in scores]
    reference = pairs[0][0]
    differences = [real - reference for real, _ in pairs]
    family = judge_together(differences[1:], level=options.level, resamples=RESAMPLES, seed=options.seed)
    bands, adjusted = [_NONE, *family.band], [None, *family.adjusted_p]
    level = options.level
    return [
        Agreement(
            r=real.estimate(level),
            minus_grpo=_NONE if i == 0 else differences[i].estimate(level),
            band=bands[i],
            adjusted_p=adjusted[i],
            placebo_minus_grpo=_NONE if placebo is None else (placebo - reference).estimate(level),
            minus_placebo=_NONE if placebo is None else (real - placebo).estimate(level),
        )
        for i, (real, placebo) in enumerate(pairs)
    ]


def _strata_of(bank: Bank, grpo_K: FloatArray) -> list[tuple[str, BoolArray]]:
    """Cuts the states by the sign of GRPO's advantage, and by entropy."""
    entropy_K = bank.groups.entropy_N[bank.at_K]
    names = ("A > 0", "A < 0")
    return [
        (f"{sign}, {_bin_name(i)}", side & (entropy_K >= EDGES[i]) & (entropy_K < EDGES[i + 1]))
        for sign, side in zip(names, (grpo_K > 0, grpo_K < 0), strict=True)
        for i in range(len(EDGES) - 1)
    ]


def _bin_name(i: int) -> str:
    return f"H above {EDGES[i]:g}" if EDGES[i + 1] == np.inf else f"H {EDGES[i]:g}–{EDGES[i + 1]:g}"


def _wide_strata(strata: Sequence[tuple[str, BoolArray]]) -> list[tuple[str, BoolArray]]:
    """Joins strata to both signs with any entropy, and to bins of entropy with any sign."""
    joined: dict[str, BoolArray] = {}
    for name, of in strata:
        for part in name.split(", "):
            joined[part] = joined.get(part, np.zeros_like(of)) | of
    return list(joined.items())


def _in_stratum(name: str, of_K: BoolArray, score: _Made, reference: _Made, truth: Truth, level: float) -> InStratum:
    inside = truth.of(truth.weight_K * of_K)
    if int(of_K.sum()) < FEWEST_MARKS:
        return InStratum(name, _NONE, _NONE)
    real, base = (jackknife(moments(m.x_RK, inside), correlation) for m in (score, reference))
    return InStratum(name, real.estimate(level), _NONE if score is reference else (real - base).estimate(level))


def _stratum(name: str, of_K: BoolArray, x_RK: FloatArray, truth: Truth, level: float) -> TokenStratum:
    inside = truth.of(truth.weight_K * of_K)
    sums_Q = moments(x_RK, inside)
    w, product = sums_Q.sum(axis=0)[[0, 5]]
    enough = int(of_K.sum()) >= FEWEST_MARKS
    return TokenStratum(
        name=name,
        states=int(of_K.sum()),
        of_tokens=float(w / truth.weight_K.sum()),
        mean=jackknife(sums_Q, lambda s: s[..., 2] / s[..., 0]).estimate(level) if enough else _NONE,
        spread=float(np.sqrt(product / w)) if enough and product > 0 else None,
        factor=jackknife(sums_Q, worth).estimate(level) if enough else _NONE,
    )
