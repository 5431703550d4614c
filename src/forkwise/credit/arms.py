"""Lets methods act on groups, by the functions that training uses, as on the first update of a run.

Rewards are 1 for a right completion and 0 for another, cut-off ones included; old and current policy are the same, as
in the first update after each rollout. An update, and the rollout that it learns from, is `UPDATE` groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forkwise.core import group_advantages
from forkwise.credit.bank import Groups
from forkwise.engines.base import reward_methods, rollout_methods, update_methods
from forkwise.errors import InputError
from forkwise.explore.contrast import BoolArray, FloatArray
from forkwise.methods import (
    Condition,
    Method,
    Need,
    Rollout,
    SettingsMethod,
    TokenMethod,
    Tokens,
    all_methods,
    parse_method,
)
from forkwise.methods.chain import run_reward_methods, run_token_methods
from forkwise.methods.placebos import permuted

UPDATE = 16
"""Groups in an update."""
_OF_TOKENS = frozenset(
    {Need.ENTROPY, Need.OLD_ENTROPY, Need.LOGPROBS, Need.OLD_LOGPROBS, Need.TEMPERED_LOGPROBS, Need.SUM_P2_LOG}
)
"""What a method can learn of a token that is not of its completion; placebos get it permuted."""

_GIVEN = frozenset(
    {
        *(Need.ENTROPY, Need.OLD_ENTROPY, Need.LOGPROBS, Need.OLD_LOGPROBS, Need.SUM_P2_LOG, Need.IDS),
        *(Need.GROUPS, Need.CORRECT, Need.LENGTHS, Need.SEQUENCE_LOGPROBS),
        *(Need.ADVANTAGES, Need.PROGRESS, Need.STATES),
    }
)
"""What groups have for methods; one that needs anything else has no score."""


@dataclass(frozen=True)
class ScoredMethod:
    """A method that is scored."""

    method: Method

    @property
    def name(self) -> str:
        """Returns the method as `--method` takes it, without the options that have their defaults."""
        return short(self.method)

    @property
    def has_placebo(self) -> bool:
        """Whether the method looks at tokens one by one, so that a placebo can be given other tokens' numbers."""
        looks = isinstance(self.method, TokenMethod) and bool(self.method.needs() & _OF_TOKENS)
        return looks and not self.method.name.startswith("placebo_")


@dataclass(frozen=True)
class NotScored:
    """A method without a score here, and why."""

    name: str
    reason: str


def short(method: Method) -> str:
    """Writes a method with those of its options alone that are not the default."""
    default, full = str(type(method)()), str(method)
    name, _, pairs = full.partition(":")
    usual = set(default.partition(":")[2].split(","))
    changed = [pair for pair in pairs.split(",") if pair and pair not in usual]
    return f"{name}:{','.join(changed)}" if changed else name


def choose_arms(specs: Sequence[str], *, only: bool) -> tuple[list[ScoredMethod], list[NotScored]]:
    """Returns the methods that are scored, GRPO first, and those that cannot be.

    Args:
        specs: methods beside every registered one with its defaults; with `only`, instead of these.

    Raises:
        InputError: a spec names no method, or one that would do nothing here.
    """
    given = [parse_method(spec) for spec in specs]
    for method in given:
        if (reason := why_not(method)) is not None:
            raise InputError(f"The method '{method.name}' cannot be scored: {reason}.")
    known = [] if only else [kind() for kind in all_methods().values()]
    methods: dict[str, Method] = {"grpo": parse_method("grpo")}
    methods |= {short(method): method for method in [*known, *given] if why_not(method) is None}
    left = [NotScored(method.name, reason) for method in known if (reason := why_not(method)) is not None]
    return [ScoredMethod(method) for method in methods.values()], left


def why_not(method: Method) -> str | None:
    """Says why a method has no advantages of its own here; None where it has."""
    if isinstance(method, SettingsMethod) and "scale_rewards" not in method.settings():
        return "it sets the trainer's loss or sampling, and makes no advantages"
    if Condition.OFF_POLICY in method.holds_under():
        return "it acts only after a first update on the same rollout"
    if missing := sorted(need.value for need in method.needs() - _GIVEN):
        return f"it needs {' and '.join(missing)}, which banks do not hold"
    return None


class Batches:
    """Groups cut into updates, as methods see them; float64."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._starts_S = np.cumsum(groups.length_S) - groups.length_S

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Yields the completions and the tokens of each update."""
        problem_S = self._groups.problem_S
        for first in range(0, len(self._groups.problems), UPDATE):
            begin, end = np.searchsorted(problem_S, [first, first + UPDATE])
            last = self._starts_S[end - 1] + self._groups.length_S[end - 1]
            yield slice(int(begin), int(end)), slice(int(self._starts_S[begin]), int(last))

    def rollout(self, rows: slice, scale: Any = "group") -> Rollout:
        """Presents completions as methods of the reward stage see them, with the trainer's own advantages."""
        groups = self._groups
        correct = torch.from_numpy(groups.correct_S[rows])
        ids = torch.from_numpy(groups.problem_S[rows])
        rewards = correct.double()
        lengths = torch.from_numpy(groups.length_S[rows])
        sums = [groups.logprob_N[i : i + n].sum() for i, n in zip(self._starts_S[rows], lengths.tolist(), strict=True)]
        return Rollout(
            rewards,
            ids,
            correct,
            group_advantages(rewards, group_ids=ids, scale=scale),
            torch.tensor(sums, dtype=torch.float64) / lengths,
            lengths,
        )

    def tokens(self, rows: slice, flat: slice, per_completion: Tensor, seed: int, method: Method) -> Tokens:
        """Presents tokens as methods of the token stage see them, in the first update of a run."""
        groups = self._groups
        lengths = torch.from_numpy(groups.length_S[rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]

        def padded(values_N: Any) -> Tensor:
            values = torch.from_numpy(values_N[flat])
            return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)

        entropy, logprobs = padded(groups.entropy_N), padded(groups.logprob_N)
        return Tokens(
            per_completion[:, None].expand_as(entropy),
            mask,
            entropy=entropy,
            old_entropy=entropy,
            logprobs=logprobs,
            old_logprobs=logprobs,
            sum_p2_log=padded(groups.sum_p2_log_N),
            ids=padded(groups.ids_N),
            groups=torch.from_numpy(groups.problem_S[rows]),
            correct=torch.from_numpy(groups.correct_S[rows]),
            progress=0.0,
            states={method.name: method.first_state()},
            seed=seed,
        )


def advantages(groups: Groups, method: Method, seed: int = 0, *, placebo: bool = False) -> FloatArray:
    """Computes the advantage that a method gives each token of the groups, `(N,)`.

    Args:
        seed: of random choices, and of the placebo's permutation.
        placebo: give the method entropies and log-probs of other tokens of the update, dealt anew; the completions'
            rewards, lengths and token ids stay.
    """
    batches = Batches(groups)
    method = method.at(0.0, {method.name: method.first_state()})
    scale = method.settings().get("scale_rewards", "group") if isinstance(method, SettingsMethod) else "group"
    advantage_N = np.empty(groups.ids_N.size)
    for update, (rows, flat) in enumerate(batches):
        rollout = batches.rollout(rows, scale)
        per_completion, _ = run_reward_methods(reward_methods([method]), rollout)
        tokens = batches.tokens(rows, flat, per_completion, seed * 2**16 + update, method)
        if placebo:
            tokens = _dealt_anew(tokens)
        result, _ = run_token_methods([*rollout_methods([method]), *update_methods([method])], tokens)
        advantage_N[flat] = result[tokens.mask].numpy()
    return advantage_N


def _dealt_anew(tokens: Tokens) -> Tokens:
    names = [need.name.lower() for need in _OF_TOKENS if getattr(tokens, need.name.lower()) is not None]
    moved: dict[str, Any] = {
        name: permuted(getattr(tokens, name), tokens.mask, tokens.generator("placebo")) for name in names
    }
    return replace(tokens, **moved)


def draws(groups: Groups, arm: ScoredMethod, number: int, seed: int, *, placebo: bool = False) -> FloatArray:
    """Computes advantages `(R, N)`: once, or `number` times where chance has a part in them."""
    first = advantages(groups, arm.method, seed, placebo=placebo)
    second = advantages(groups, arm.method, seed + 1, placebo=placebo)
    if np.array_equal(first, second):
        return first[None]
    others = [advantages(groups, arm.method, seed + r, placebo=placebo) for r in range(2, number)]
    return np.stack([first, second, *others])


def contrast_of(groups: Groups) -> BoolArray:
    """Tells of each completion whether its group has both right and wrong ones."""
    right_Q = np.bincount(groups.problem_S, weights=groups.correct_S, minlength=len(groups.problems))
    size_Q = np.bincount(groups.problem_S, minlength=len(groups.problems))
    with_contrast_Q = (right_Q > 0) & (right_Q < size_Q)
    contrast_S: BoolArray = with_contrast_Q[groups.problem_S]
    return contrast_S
