"""What a method is: a frozen config, a pure function on whole-batch tensors, and what it says about itself.

A method is given the tensors that it `requires` and nothing else. A function is global over the batch that
it is given, so that the engine alone decides what "the batch" is, and gathers it: one token or one completion at a
time, all tokens of an optimizer update, or all completions of a rollout (`Scope`), over every micro-batch and process,
in one order.

Nothing here imports torch when the module is loaded: `forkwise methods` lists methods where there is none.
"""

from __future__ import annotations

import dataclasses
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from forkwise.errors import InputError, nearest
from forkwise.methods.batches import Change, Condition, Need, Rollout, Scope, State, Tokens, given, wide
from forkwise.methods.schedules import OptionSchedule, read_plan, values_on_the_way

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

__all__ = [
    "Change",
    "Condition",
    "LossMethod",
    "Method",
    "Need",
    "RewardMethod",
    "Rollout",
    "Scope",
    "SettingsMethod",
    "State",
    "TokenMethod",
    "Tokens",
    "check_range",
    "given",
    "make",
    "option_names",
    "option_text",
    "wide",
]


_PACKAGES = {"ot": "POT", "sklearn": "scikit-learn"}  # as they are installed


@dataclass(frozen=True)
class Method(ABC):
    """One published method (or placebo). A subclass adds fields, checks them, and computes.

    Attributes:
        name: the name that `--method` takes.
        title: the paper's title, or what the method is.
        paper: arXiv number, or "" where there is none.
        formula: the formula in one line.
        scope: how much the method must see at once, see `Scope`.
        requires: the tensors that the method asks for, see `Need`.
        conditions: what must hold of a run, see `Condition`.
        packages: packages to be imported that not every installation has: those of the extra `methods`.
        required: fields that must be given, since nobody has published a value: their defaults stand for "not given".
        slot: two methods of one slot do the same job and cannot be combined; None for those that always can.
        plans: how options change in the course of a run, by their names; the fields hold what they begin with.
    """

    plans: Mapping[str, OptionSchedule] = dataclasses.field(default_factory=dict, kw_only=True, hash=False, repr=False)

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    formula: ClassVar[str]
    scope: ClassVar[Scope] = Scope.TOKEN
    requires: ClassVar[frozenset[Need]] = frozenset()
    conditions: ClassVar[frozenset[Condition]] = frozenset()
    packages: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[tuple[str, ...]] = ()
    slot: ClassVar[str | None] = None

    def needs(self) -> frozenset[Need]:
        """Returns `requires`, or what the method's fields make of it, and what its plans need."""
        return self.requires | self.needs_of_plans()

    def needs_of_plans(self) -> frozenset[Need]:
        """Returns what an engine must give for options that change: the run's progress, or a state."""
        return frozenset(Need.STATES if plan.steered else Need.PROGRESS for plan in self.plans.values())

    def holds_under(self) -> frozenset[Condition]:
        """Returns `conditions`, or what the method's fields make of them."""
        return self.conditions

    def check_group_size(self, size: int) -> None:
        """Raises `InputError` where the method could do nothing with groups of so many completions."""
        if size < 2 and Need.GROUPS in self.needs():
            raise InputError(
                f"The method '{self.name}' compares the completions of a prompt, and each prompt has {size}, so it "
                "would do nothing: draw 8 of each (num_generations; on verl actor_rollout_ref.rollout.n)."
            )

    def check_prompts(self, count: int) -> None:  # noqa: B027  (most methods have nothing to say)
        """Raises `InputError` where the method could do nothing with rollouts of so many prompts."""

    def check_longest(self, tokens: int) -> None:  # noqa: B027  (most methods have nothing to say)
        """Raises `InputError` where the method could do nothing with completions of at most so many tokens."""

    def first_rollout(self) -> int:
        """Returns the rollout of a run, counted from 1, before which the method does nothing."""
        return 1

    def label(self, value: object) -> int:
        """Returns what `Tokens.labels` hold for a value of the data set's column `self.column`."""
        raise NotImplementedError(f"The method '{self.name}' asks for a column and makes no labels of it.")

    def check_installed(self) -> None:
        """Raises `InputError` where a package that the method needs is not installed."""
        if missing := [package for package in self.packages if find_spec(package) is None]:
            name = _PACKAGES.get(missing[0], missing[0])
            raise InputError(f"The method '{self.name}' needs the package {name}: pip install {name}.")

    def outside(self) -> str:
        """Returns what the method takes from outside its options, from a file say; it must not change in a run."""
        return ""

    def columns(self) -> tuple[str, ...]:
        """Returns the columns of the data set that the method reads by itself, beside that of its `label`."""
        return ()

    def check_given(self) -> None:
        """Raises `InputError` where a field that must be given is not."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if missing := [name for name in self.required if getattr(self, name) == defaults[name]]:
            example = ",".join(f"{name}=..." for name in missing)
            raise InputError(
                f"The method '{self.name}' needs {' and '.join(missing)}, which its authors have not published: give "
                f"them, as in {self.name}:{example}."
            )

    def at(self, progress: float, states: Mapping[str, State]) -> Self:
        """Returns the method with the options that it has now: `progress` as in `Tokens`, and the methods' states."""
        if not self.plans:
            return self
        state = states.get(self.name, {})
        values = {name: plan.value(progress, state.get(name)) for name, plan in self.plans.items()}
        return dataclasses.replace(self, plans={}, **values)

    @property
    def steers(self) -> bool:
        """Tells whether the method steers the entropy to a value."""
        return any(plan.steered for plan in self.plans.values())

    def temperature_factor(self, states: Mapping[str, State]) -> float:
        """Returns what `Tokens.tempered_logprobs` need the sampling temperature multiplied by."""
        return 1.0

    def first_state(self) -> State:
        """Returns what the method remembers at first; nothing, for most. Each begins its first rollout with this."""
        return {name: plan.start for name, plan in self.plans.items() if plan.steered}

    def next_state(self, state: State, entropy: float, progress: float) -> State:
        """Returns what the method remembers in the next rollout.

        Args:
            state: what it remembered in this one.
            entropy: mean entropy of the tokens of this rollout's updates, in nats, over all processes.
            progress: as in `Tokens`.
        """
        return {name: self.plans[name].steer(value, entropy) for name, value in state.items() if name in self.plans}

    def __str__(self) -> str:
        """Returns the method as `--method` takes it, every field given."""
        values = {name: getattr(self, name) for name in option_names(type(self))}
        pairs = ",".join(f"{name}={self.plans.get(name) or option_text(value)}" for name, value in values.items())
        return f"{self.name}:{pairs}" if pairs else self.name


class RewardMethod(Method):
    """A method that makes advantages from the rewards of groups."""

    scope = Scope.ROLLOUT
    slot = "advantages"

    @abstractmethod
    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages `(N,)` of all completions of the rollout."""

    def remember(self, rollout: Rollout) -> dict[str, Any]:
        """Returns what `Rollout.memory` holds in the next rollout: tuples of tensors on the CPU, by names."""
        return {}


class TokenMethod(Method):
    """A method that makes advantages per token; a token mask is advantages of 0."""

    @abstractmethod
    def advantages(self, tokens: Tokens) -> Tensor:
        """Computes the advantages `(B, T)`; where the mask is False, any finite number. The input stays as it is."""

    def change(self, tokens: Tokens) -> Change:
        """Computes `advantages`, with statistics where the method gets them for nothing."""
        return Change(self.advantages(tokens))


class LossMethod(TokenMethod):
    """A method that puts a loss term per token, `l(log pi)`, into advantages: `A - l'(log pi) / r`, `r = pi / pi_old`.

    A trainer's policy term `-w r A` has the gradient `-w r A grad(log pi)` whatever weights w it gives the tokens, so
    the folded advantages give exactly the gradient of `sum w (-r A + l)`: the trainer's own normalisation, with no loss
    of ours. Where the trainer clips a ratio it clips the combined direction, and its logged loss shows `-r A` only.
    """

    requires = frozenset({Need.LOGPROBS, Need.OLD_LOGPROBS})
    conditions = frozenset({Condition.OFF_POLICY})

    @abstractmethod
    def term(self, logprobs: Tensor, tokens: Tokens) -> Tensor:
        """Computes the term `(B, T)`, differentiable in `logprobs` `(B, T)`; 0 where the method does not act."""

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages with the term folded in, `(B, T)`."""
        import torch

        old = given(tokens.old_logprobs)
        with torch.enable_grad():
            logprobs = given(tokens.logprobs).detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.term(logprobs, tokens).sum(), logprobs)
        shift = slope * (old - logprobs.detach()).exp()
        return torch.where(tokens.mask & (slope != 0), tokens.advantages - shift, tokens.advantages)


class SettingsMethod(Method):
    """A method that the trainer's settings make.

    Attributes:
        of_trl: whether TRL has the method itself, so that only fields of TRL are set.
    """

    of_trl: ClassVar[bool] = True

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Returns the values of the config's fields, by name."""


def check_range(method: Method, field: str, low: float, high: float, *, open_low: bool = False) -> None:
    """Refuses a field outside [low, high], or (low, high] with `open_low`; infinite bounds are never reached.

    Raises:
        InputError: the field is out of range; the sentence names method, field and value.
    """
    value = getattr(method, field)
    inside = (low < value if open_low else low <= value) and value <= high and abs(value) != float("inf")
    if not inside:
        bounds = f"greater than {low:g}" if open_low else f"at least {low:g}"
        bounds += f" and at most {high:g}" if high != float("inf") else ""
        raise InputError(f"{field} of the method '{method.name}' must be {bounds}, got {value}.")


# ------------------------------------------------------------------------------------------- NAME[:key=value,...]


def make(kind: type[Method], options: Mapping[str, str], defaults: Mapping[str, Any] | None = None) -> Method:
    """Makes a method from options given as text.

    `defaults` are values of alpha and kappa for what the options leave out, and for methods that have a kappa: in
    others alpha is another number.

    Raises:
        InputError: an unknown key (naming the nearest), a value of the wrong kind, or one that the method refuses.
    """
    kinds = _field_types(kind)
    for key in options:
        if key not in kinds:
            known = f" It takes {', '.join(kinds)}." if kinds else " It takes no options."
            raise InputError(f"The method '{kind.name}' has no option '{key}'.{nearest(key, kinds)}{known}")
    shared = defaults if defaults and "kappa" in kinds else {}
    plans = {key: plan for key, text in options.items() if (plan := read_plan(kind.name, key, text)) is not None}
    values: dict[str, Any] = {key: value for key, value in shared.items() if key in kinds and key not in plans}
    values.update({key: _value(kind.name, key, text, kinds[key]) for key, text in options.items() if key not in plans})
    if not plans:
        return kind(**values)
    for key in plans:
        if issubclass(kind, SettingsMethod) or kinds[key] is not float:
            once = "the trainer reads it once" if issubclass(kind, SettingsMethod) else "only fractional numbers can"
            raise InputError(f"{key} of the method '{kind.name}' cannot change in the course of a run: {once}.")
    for taken in values_on_the_way(plans):
        kind(**{**values, **taken})  # refuses what it cannot be
    return kind(**values, **{key: plan.start for key, plan in plans.items()}, plans=plans)


def option_names(kind: type[Method]) -> list[str]:
    """Returns the names of the options that a method takes."""
    return [field.name for field in dataclasses.fields(kind) if field.name != "plans"]


@cache
def _field_types(kind: type[Method]) -> dict[str, Any]:
    names = option_names(kind)
    if not names:
        return {}
    hints = typing.get_type_hints(kind)
    return {name: hints[name] for name in names}


def _value(method: str, key: str, text: str, kind: Any) -> Any:
    choices = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        if text not in choices:
            raise InputError(f"{key} of the method '{method}' must be one of {', '.join(choices)}, got '{text}'.")
        return text
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise InputError(f"{key} of the method '{method}' must be true or false, got '{text}'.")
        return words[text.lower()]
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise InputError(f"{key} of the method '{method}' must be {noun}, got '{text}'.") from None


def option_text(value: object) -> str:
    """Writes the value of an option as `NAME:key=value` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
