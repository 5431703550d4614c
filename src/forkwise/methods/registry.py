"""All methods by name, ours and those that other packages add, and reading them from text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from forkwise.errors import InputError, nearest
from forkwise.methods.aepo_agentic import EntropyBalancedAdvantage, EntropyBalancedClip
from forkwise.methods.aepo_arbitrary import AepoArbitrary
from forkwise.methods.asym_grpo import AsymGrpo
from forkwise.methods.base import LossMethod, Method, Need, RewardMethod, Scope, SettingsMethod, TokenMethod, make
from forkwise.methods.ce_gppo import CeGppo, Gppo
from forkwise.methods.clip_cov import ClipCov
from forkwise.methods.clips import CLIP
from forkwise.methods.credit_weight import CreditWeight, PlaceboWeight
from forkwise.methods.dcpo import Dcpo
from forkwise.methods.dppo import Dppo
from forkwise.methods.eapo import Eapo
from forkwise.methods.edge_grpo import EdgeGrpo
from forkwise.methods.empg import Empg
from forkwise.methods.entropy_advantage import EntropyAdvantage
from forkwise.methods.erc import Erc
from forkwise.methods.fipo import Fipo
from forkwise.methods.flexible_clip import FlexibleClip
from forkwise.methods.forking_tokens import ForkingTokens
from forkwise.methods.gpg import Gpg
from forkwise.methods.gtpo import GrpoS, Gtpo
from forkwise.methods.gtpo_trajectory import GtpoTrajectory
from forkwise.methods.heal import Heal
from forkwise.methods.kl_cov import KlCov
from forkwise.methods.m2po import M2po
from forkwise.methods.maspo import Maspo
from forkwise.methods.maxrl import MaxRl
from forkwise.methods.meds import Meds
from forkwise.methods.miner import Miner
from forkwise.methods.minerva import Minerva
from forkwise.methods.opefo import Opefo
from forkwise.methods.opo import Opo
from forkwise.methods.overlong import Overlong
from forkwise.methods.passk_training import PasskTraining
from forkwise.methods.pipo import Pipo
from forkwise.methods.placebos import PlaceboConstant, PlaceboPermuted, PlaceboScaling
from forkwise.methods.policy_split import PolicySplit
from forkwise.methods.presets import (
    AdaptiveEntropyBonus,
    Cispo,
    ClipHigher,
    DrGrpo,
    DynamicSampling,
    EntropyBonus,
    Grpo,
    Gspo,
    TokenLevelLoss,
)
from forkwise.methods.qae import Qae
from forkwise.methods.reinforce import Nsr, Psr, WeightedReinforce
from forkwise.methods.replay import ReplayMethod
from forkwise.methods.repo_r import RepoR
from forkwise.methods.rloo import Rloo
from forkwise.methods.shear import Shear
from forkwise.methods.siren import Siren
from forkwise.methods.steer import Steer
from forkwise.methods.terms import EntropyTermMethod
from forkwise.methods.ucpo import Ucpo
from forkwise.methods.uec_rl import UecRl
from forkwise.methods.unlikeliness import Unlikeliness
from forkwise.methods.vgpo import Vgpo
from forkwise.plugins import with_plugins

ENTRY_POINTS = "forkwise.methods"
"""Group of entry points by which another package adds methods; each names a subclass of `Method`."""

_OURS: tuple[type[Method], ...] = (
    Grpo,
    DrGrpo,
    ClipHigher,
    TokenLevelLoss,
    DynamicSampling,
    Overlong,
    Gspo,
    Cispo,
    EntropyBonus,
    AdaptiveEntropyBonus,
    Rloo,
    EntropyAdvantage,
    PlaceboPermuted,
    PlaceboConstant,
    PlaceboScaling,
    CreditWeight,
    PlaceboWeight,
    ForkingTokens,
    ClipCov,
    KlCov,
    Gtpo,
    GrpoS,
    Erc,
    PasskTraining,
    Ucpo,
    AsymGrpo,
    Qae,
    Steer,
    Eapo,
    EdgeGrpo,
    WeightedReinforce,
    Psr,
    Nsr,
    Unlikeliness,
    MaxRl,
    Miner,
    Gpg,
    Opo,
    M2po,
    Fipo,
    CeGppo,
    Gppo,
    Maspo,
    Dppo,
    FlexibleClip,
    RepoR,
    Opefo,
    Dcpo,
    EntropyBalancedClip,
    EntropyBalancedAdvantage,
    GtpoTrajectory,
    Empg,
    Siren,
    Shear,
    Heal,
    AepoArbitrary,
    Meds,
    Pipo,
    UecRl,
    PolicySplit,
    Minerva,
    Vgpo,
)
"""Our methods, in the order in which they are listed."""

_STAGES: dict[str, type[Method]] = {
    "settings": SettingsMethod,
    "reward": RewardMethod,
    "replay": ReplayMethod,
    "loss": LossMethod,
    "entropy": EntropyTermMethod,
    "token": TokenMethod,
}
"""Where in a training step a method acts, by its class; the first that fits."""


@lru_cache(maxsize=1)
def all_methods() -> dict[str, type[Method]]:
    """Returns all methods by name.

    Raises:
        InputError: another package brings something that is no method, or a name that is taken.
    """
    return with_plugins(
        {kind.name: kind for kind in _OURS}, ENTRY_POINTS, "method", _wrong_method, lambda _, kind: kind.name
    )


def _wrong_method(kind: Any) -> str | None:
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        return "is no subclass of forkwise.methods.Method"
    if not issubclass(kind, tuple(_STAGES.values())):
        stages = ", ".join(stage.__name__ for stage in _STAGES.values())
        return f"brings a method that would never act: derive it from one of {stages}"
    missing = [name for name in ("name", "title", "formula") if not hasattr(kind, name)]
    return f"brings a method without {' and '.join(missing)}" if missing else None


def parse_method(spec: str, defaults: Mapping[str, Any] | None = None) -> Method:
    """Returns the method that `NAME[:key=value,...]` names; `defaults` are for fields that the text leaves out.

    Raises:
        InputError: unknown names or keys (naming the nearest), values that do not fit.
    """
    name, _, pairs = str(spec).partition(":")
    name = name.strip()
    kinds = all_methods()
    if name not in kinds:
        plain = {key.replace("_", "").replace("-", ""): key for key in kinds}
        alike = plain.get(name.lower().replace("_", "").replace("-", ""))
        hint = f" Did you mean '{alike}'?" if alike else nearest(name.lower(), kinds)
        raise InputError(f"There is no method '{name}'.{hint} 'forkwise methods' lists them.")
    options: dict[str, str] = {}
    for pair in filter(None, pairs.split(",")):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key or not value:
            raise InputError(f"'{pair}' in the method '{spec}' is not of the form key=value.")
        if key in options:
            raise InputError(f"The method '{spec}' gives '{key}' twice.")
        options[key] = value
    return make(kinds[name], options, defaults)


def parse_methods(specs: Iterable[str | Method], defaults: Mapping[str, Any] | None = None) -> tuple[Method, ...]:
    """Returns the methods of one run, in the order in which they act: rollout before update, and else as given.

    Raises:
        InputError: what `parse_method` raises, and methods that cannot be combined.
    """
    methods = [spec if isinstance(spec, Method) else parse_method(spec, defaults) for spec in specs]
    _check_together(methods)
    return tuple(sorted(methods, key=_turn))


def settings_of(methods: Sequence[Method]) -> dict[str, Any]:
    """Returns the trainer's fields that the methods set.

    Raises:
        InputError: two of them set one field differently.
    """
    fields: dict[str, tuple[Any, str]] = {}
    for method in methods:
        if isinstance(method, SettingsMethod):
            for key, value in method.settings().items():
                before, by = fields.setdefault(key, (value, method.name))
                if before != value:
                    raise InputError(
                        f"The methods '{by}' and '{method.name}' set {key} differently ({before}, {value}); use one."
                    )
    return {key: value for key, (value, _) in fields.items()}


def describe(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Describes all methods, or those named, for tables and JSON.

    Raises:
        InputError: a name that no method has.
    """
    known = all_methods()
    for name in names:
        if name not in known:
            raise InputError(f"There is no method '{name}'.{nearest(name, list(known))}")
    return [
        {
            "name": kind.name,
            "title": kind.title,
            "paper": kind.paper,
            "formula": kind.formula,
            "of_trl": bool(getattr(kind, "of_trl", False)),
            "stage": next(stage for stage, base in _STAGES.items() if issubclass(kind, base)),
            "scope": kind.scope.value,
            "requires": sorted(need.value for need in (kind.requires if kind.required else kind().needs())),
            "conditions": sorted(condition.value for condition in kind.conditions),
            "required_options": list(kind.required),
            "defaults": {field.name: field.default for field in dataclasses.fields(kind) if field.name != "plans"},
        }
        for kind in known.values()
        if not names or kind.name in names
    ]


def _turn(method: Method) -> int:
    """Ranks the stages: rewards first, then the rest of the rollout, then the update: tokens, their clip, the loss."""
    if isinstance(method, SettingsMethod | RewardMethod | ReplayMethod):
        return 0
    if method.scope is Scope.ROLLOUT:
        return 1
    return 4 if isinstance(method, LossMethod) else 3 if method.slot == CLIP else 2


def _draws_otherwise(method: ReplayMethod) -> bool:
    """Tells whether a method learns from completions that are not the rollout's, or not under its prompts."""
    return bool(method.needs() & {Need.REDRAWN, Need.OTHER_LOGPROBS})


_OF_GROUPS = {Need.GROUPS, Need.CORRECT, Need.LABELS}


def _check_together(methods: Sequence[Method]) -> None:
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"The method '{name}' is given twice.")
    slots: dict[str, str] = {}
    for method in methods:
        if method.slot is not None and slots.setdefault(method.slot, method.name) != method.name:
            raise InputError(
                f"The methods '{slots[method.slot]}' and '{method.name}' cannot be combined: both decide the "
                f"{method.slot}."
            )
    steering = [method.name for method in methods if method.steers]
    if len(steering) > 1:
        raise InputError(
            f"The methods '{steering[0]}' and '{steering[1]}' cannot be combined: both steer the entropy, and could "
            "undo what the other does."
        )
    for again in (m for m in methods if Need.REDRAWN in m.needs()):
        for other in methods:
            if other is not again and other.needs() & _OF_GROUPS:
                raise InputError(
                    f"The methods '{again.name}' and '{other.name}' cannot be combined: the first replaces "
                    "completions, so that groups are no longer those of one prompt."
                )
    for replay in (m for m in methods if isinstance(m, ReplayMethod)):
        for other in methods:
            late = other.scope is not Scope.ROLLOUT
            if other is not replay and (late or _draws_otherwise(replay)) and other.needs() & _OF_GROUPS:
                raise InputError(
                    f"The methods '{replay.name}' and '{other.name}' cannot be combined: the first learns from "
                    "completions of several rollouts, of which the second knows neither groups nor verdicts."
                )
            if (
                other is not replay
                and _draws_otherwise(replay)
                and isinstance(other, TokenMethod | RewardMethod)
                and not late
            ):
                raise InputError(
                    f"The methods '{replay.name}' and '{other.name}' cannot be combined: the second changes the "
                    "advantages of a rollout, and not those of what the first draws or reads in another way."
                )
    makers = [m.name for m in methods if m.slot == "advantages" and Need.ADVANTAGES not in m.needs()]
    presets = [m.name for m in methods if "scale_rewards" in settings_of([m])]
    if makers and presets:
        raise InputError(
            f"The methods '{presets[0]}' and '{makers[0]}' cannot be combined: both decide the advantages. For the "
            "loss of a preset alone, set loss_type."
        )
