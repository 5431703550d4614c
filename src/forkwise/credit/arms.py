"""Which methods are scored, and lets them act on groups, by the functions that training uses.

Rewards are 1 for a right completion and 0 for another, cut-off ones included. On the first update after a rollout old
and current policy are the same; after several, the current one is given beside the groups. An update, and the rollout
that it learns from, is `UPDATE` groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from forkwise.core import group_advantages
from forkwise.credit.bank import Groups
from forkwise.credit.results import NotScored
from forkwise.engines.base import entropy_terms, reward_methods, rollout_methods, update_methods
from forkwise.errors import InputError
from forkwise.explore.contrast import BoolArray, FloatArray
from forkwise.methods import (
    Condition,
    EntropyTermMethod,
    Method,
    Need,
    Rollout,
    SettingsMethod,
    State,
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

_OF_GROUPS = frozenset(
    {
        *(Need.ENTROPY, Need.OLD_ENTROPY, Need.LOGPROBS, Need.OLD_LOGPROBS, Need.SUM_P2_LOG, Need.IDS),
        *(Need.GROUPS, Need.CORRECT, Need.LENGTHS, Need.SEQUENCE_LOGPROBS),
        *(Need.ADVANTAGES, Need.PROGRESS, Need.STATES),
    }
)
"""What groups have for methods."""


@dataclass(frozen=True)
class Given:
    """What there is to score methods with; a method that needs anything else has no score.

    Attributes:
        name: of what holds the groups, for messages.
        needs: the tensors.
        loss: whether advantages go through the trainer's loss, so that its settings count.
        several: whether the policy has moved since it drew the groups.
    """

    name: str = "banks"
    needs: frozenset[Need] = _OF_GROUPS
    loss: bool = False
    several: bool = False


def with_model(*, several: bool) -> Given:
    """Returns what there is where the model that drew the groups is at hand."""
    return Given("groups", _OF_GROUPS | {Need.TEMPERED_LOGPROBS, Need.HIDDEN}, loss=True, several=several)


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


def short(method: Method) -> str:
    """Writes a method with those of its options alone that are not the default."""
    default, full = str(type(method)()), str(method)
    name, _, pairs = full.partition(":")
    usual = set(default.partition(":")[2].split(","))
    changed = [pair for pair in pairs.split(",") if pair and pair not in usual]
    return f"{name}:{','.join(changed)}" if changed else name


def choose_arms(specs: Sequence[str], given: Given, *, only: bool) -> tuple[list[ScoredMethod], list[NotScored]]:
    """Returns the methods that are scored, GRPO first, and those that cannot be.

    Args:
        specs: methods beside every registered one with its defaults; with `only`, instead of these.
        given: what there is to score them with.

    Raises:
        InputError: a spec names no method, or one that would do nothing here.
    """
    asked = [parse_method(spec) for spec in specs]
    for method in asked:
        if (reason := why_not(method, given)) is not None:
            raise InputError(f"The method '{method.name}' cannot be scored: {reason}.")
    known = [] if only else [kind() for kind in all_methods().values()]
    slow = [method for method in known if Need.HIDDEN in method.needs() & given.needs]
    known = [method for method in known if method not in slow]
    methods: dict[str, Method] = {"grpo": parse_method("grpo")}
    methods |= {short(method): method for method in [*known, *asked] if why_not(method, given) is None}
    not_scored = [NotScored(method.name, reason) for method in known if (reason := why_not(method, given)) is not None]
    of = {method.name for method in asked}
    not_scored += [NotScored(m.name, f"it takes many minutes: --method {m.name}") for m in slow if m.name not in of]
    return [ScoredMethod(method) for method in methods.values()], not_scored


def why_not(method: Method, given: Given) -> str | None:
    """Says why a method has no score of its own with what is given; None where it has."""
    if isinstance(method, SettingsMethod) and (reason := _why_no_settings(method, given)) is not None:
        return reason
    if isinstance(method, EntropyTermMethod) and not given.loss:
        return "it adds a term to the loss, and makes no advantages"
    if Condition.OFF_POLICY in method.holds_under() and not given.several:
        return "it acts only after a first update on the same rollout"
    if missing := sorted(need.value for need in method.needs() - given.needs):
        return f"it needs {' and '.join(missing)}, which {given.name} do not hold"
    try:
        method.check_installed()
    except InputError as error:
        return f"{error}".removeprefix(f"The method '{method.name}' ").rstrip(".")
    return None


def _why_no_settings(method: SettingsMethod, given: Given) -> str | None:
    settings = method.settings()
    if not given.loss:
        return (
            None if "scale_rewards" in settings else "it sets the trainer's loss or sampling, and makes no advantages"
        )
    if "max_draws" in settings:
        return "it draws groups without contrast again, and these have no part in an update"
    if "use_adaptive_entropy" in settings:
        return "its bonus is 0 at first and grows in the course of a run"
    return None


@dataclass(frozen=True)
class More:
    """What the model that drew the groups says beyond `Groups`.

    Attributes:
        tempered: log-probs of the tokens at multiples of the sampling temperature, by these, `(N,)` each.
        hidden_ND: what the output layer got at each token; None where no method asks for it.
    """

    tempered: dict[float, FloatArray] = field(default_factory=dict)
    hidden_ND: Tensor | None = None


class Loss(Protocol):
    """The loss of a trainer; `forkwise.engines.trl.stored.TokenLoss` is one."""

    def slopes(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Returns by how much an update raises each log-prob and each entropy, `(B, T)` each."""


class Batches:
    """Groups cut into updates, as methods see them; float64.

    Args:
        groups: with the numbers of the policy that drew them.
        now: the same completions with the numbers of the policy under update; None where it is the same.
        more: what methods may ask for besides.
    """

    def __init__(self, groups: Groups, now: Groups | None = None, more: More | None = None) -> None:
        self._groups, self._now, self._more = groups, now or groups, more or More()
        self._starts_S = np.cumsum(groups.length_S) - groups.length_S

    def cut(self, size: int = UPDATE) -> Iterator[tuple[slice, slice]]:
        """Yields the completions and the tokens of each update of so many groups."""
        problem_S = self._groups.problem_S
        for first in range(0, len(self._groups.problems), size):
            begin, end = np.searchsorted(problem_S, [first, first + size])
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
        """Presents tokens as methods of the token stage see them."""
        groups, now, more = self._groups, self._now, self._more
        lengths = torch.from_numpy(groups.length_S[rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]

        def padded(values_N: Any) -> Tensor:
            values = torch.from_numpy(values_N[flat])
            return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)

        states = {method.name: state_of(method, groups)}
        tempered = more.tempered.get(method.temperature_factor(states))
        hidden = None
        if Need.HIDDEN in method.needs() and more.hidden_ND is not None:
            hidden = torch.zeros(*mask.shape, more.hidden_ND.shape[1], dtype=more.hidden_ND.dtype)
            hidden[mask] = more.hidden_ND[flat]
        tokens = Tokens(
            per_completion[:, None].expand(mask.shape),
            mask,
            entropy=padded(now.entropy_N),
            old_entropy=padded(groups.entropy_N),
            logprobs=padded(now.logprob_N),
            old_logprobs=padded(groups.logprob_N),
            tempered_logprobs=None if tempered is None else padded(tempered),
            sum_p2_log=padded(now.sum_p2_log_N),
            hidden=hidden,
            ids=padded(groups.ids_N),
            groups=torch.from_numpy(groups.problem_S[rows]),
            correct=torch.from_numpy(groups.correct_S[rows]),
            progress=0.0,
            states=states,
            seed=seed,
        )
        for term in entropy_terms([method]):  # it remembers the first rollout, which these groups are
            remembered = term.first_seen(given_entropy(tokens), tokens)
            tokens = replace(tokens, states={method.name: {**states[method.name], **remembered}})
        return tokens

    def acted(self, method: Method, seed: int = 0, *, placebo: bool = False) -> Iterator[tuple[slice, Tokens]]:
        """Lets a method act, update by update; yields the tokens of each with the advantages that it made.

        Args:
            seed: of random choices, and of the placebo's permutation.
            placebo: give the method entropies and log-probs of other tokens of the update, dealt anew; the completions'
                rewards, lengths and token ids stay.
        """
        scale = method.settings().get("scale_rewards", "group") if isinstance(method, SettingsMethod) else "group"
        method = method.at(0.0, {method.name: state_of(method, self._groups)})
        for update, (rows, flat) in enumerate(self.cut()):
            per_completion, _ = run_reward_methods(reward_methods([method]), self.rollout(rows, scale))
            tokens = self.tokens(rows, flat, per_completion, seed * 2**16 + update, method)
            parts = [tokens]
            if Need.HIDDEN in method.needs():  # which exist for one group at a time
                ids = torch.from_numpy(self._groups.problem_S[rows])
                parts = [_rows(tokens, ids == group) for group in ids.unique()]
            handed = [_dealt_anew(part) if placebo else part for part in parts]
            chain = [*rollout_methods([method]), *update_methods([method])]
            changed = [run_token_methods(chain, part)[0] for part in handed]
            yield flat, replace(tokens, advantages=torch.cat(changed))


def state_of(method: Method, groups: Groups) -> State:
    """Returns what a method remembers: as after a first rollout that was like this one; steered options begin."""
    first = method.first_state()
    return first if method.plans else method.next_state(first, float(groups.entropy_N.mean()), 0.0)


def given_entropy(tokens: Tokens) -> Tensor:
    """Returns the entropies of the policy that drew, 0 outside the mask."""
    assert tokens.old_entropy is not None
    return torch.where(tokens.mask, tokens.old_entropy, 0.0)


def _rows(tokens: Tokens, kept: Any) -> Tokens:
    """Returns some of the completions."""
    of: dict[str, Any] = {name: value[kept] for name, value in vars(tokens).items() if isinstance(value, Tensor)}
    return replace(tokens, **of)


def advantages(
    groups: Groups, method: Method, seed: int = 0, *, placebo: bool = False, now: Groups | None = None
) -> FloatArray:
    """Computes the advantage that a method gives each token of the groups, `(N,)`; `Batches` says how."""
    advantage_N = np.empty(groups.ids_N.size)
    for flat, tokens in Batches(groups, now).acted(method, seed, placebo=placebo):
        advantage_N[flat] = tokens.advantages[tokens.mask].numpy()
    return advantage_N


def update_slopes(
    batches: Batches, size: int, method: Method, loss: Loss, seed: int = 0, *, placebo: bool = False
) -> FloatArray:
    """Computes by how much a method's update raises each log-prob and each entropy, `(2, N)`.

    Args:
        size: N.
        loss: the trainer's, under the method's settings.
    """
    slope_2N = np.empty((2, size))
    for flat, tokens in batches.acted(method, seed, placebo=placebo):
        assert tokens.groups is not None
        share = len(tokens.groups.unique()) / UPDATE  # the last update may be small, and losses are means over updates
        for i, slopes in enumerate(loss.slopes(tokens)):
            slope_2N[i, flat] = share * slopes[tokens.mask].numpy()
    return slope_2N


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
    further = [advantages(groups, arm.method, seed + r, placebo=placebo) for r in range(2, number)]
    return np.stack([first, second, *further])


def contrast_of(groups: Groups) -> BoolArray:
    """Tells of each completion whether its group has both right and wrong ones."""
    right_Q = np.bincount(groups.problem_S, weights=groups.correct_S, minlength=len(groups.problems))
    size_Q = np.bincount(groups.problem_S, minlength=len(groups.problems))
    with_contrast_Q = (right_Q > 0) & (right_Q < size_Q)
    contrast_S: BoolArray = with_contrast_Q[groups.problem_S]
    return contrast_S
