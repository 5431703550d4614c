"""`forkwise doctor verl`: whether verl finds our trainer modes here, and why not.

Nearly all that it says are refusals, so the sentences stay beside what is checked.
"""

from __future__ import annotations

import importlib
import os
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec

from forkwise.constants import ALPHA, KAPPA
from forkwise.engines.verl import plugin
from forkwise.engines.verl.settings import MODES
from forkwise.errors import InputError

_GROUP = "verl.plugins"
_POLICY = "VERL_USE_EXTERNAL_PLUGINS"
_VALUE_HEAD = "AutoModelForCausalLMWithValueHead"  # of TRL: verl patches it in every actor if TRL is installed


def report() -> str:
    """Says in text what works. It imports verl's trainers, which takes seconds.

    Raises:
        InputError: the first thing that stands in the way, and what to do about it.
    """
    installed = _verl_version()
    point = _entry_point()
    _check_policy(point)
    try:
        point.load()
    except Exception as error:
        raise InputError(f"verl {installed} finds the plugin {point.value} but cannot load it: {error!r}.") from error
    _check_trainers(installed)
    _check_trl(installed)
    return "\n".join(
        [
            f"verl {installed}: the plugin {point.value} of forkwise {version('forkwise')} is loaded.",
            *_missing_parts(),
            f"Trainer modes: {', '.join(MODES)}.",
            f"Use: trainer.v1.trainer_mode=entropy_sync +algorithm.entropy_shaping.alpha={ALPHA} "
            f"+algorithm.entropy_shaping.kappa={KAPPA}",
            "Or any methods: trainer.v1.trainer_mode=entropy_sync "
            "'+algorithm.forkwise.method=[\"forking_tokens:share=0.2\"]'",
            "Refused with these keys, since they shape nothing: verl's own modes, trainer.use_v1=False, "
            "verl.experimental (fully async, one step off), trainers derived from verl's or using its "
            "compute_advantage.",
            "Not noticed: trainers that compute advantages by themselves.",
        ]
    )


def _missing_parts() -> list[str]:
    """Says which parts of verl are not installed that a run with its default settings needs."""
    sentences = []
    if not any(find_spec(name) for name in ("vllm", "sglang")):
        sentences.append(
            "! Neither vllm nor sglang is installed, so verl cannot generate here: install one as verl's pages say, "
            'such as pip install "verl[vllm]".'
        )
    if not find_spec("flash_attn"):
        sentences.append(
            "! flash_attn is not installed, which verl's default actor_rollout_ref.model.use_remove_padding=True needs "
            "(and its critics): pip install flash-attn --no-build-isolation once torch is there, or set that to False."
        )
    return sentences


def _verl_version() -> str:
    try:
        installed = version("verl")
    except PackageNotFoundError:
        raise InputError(
            "verl is not installed in this environment: install verl as its own pages say, and then forkwise beside it "
            "(docs/verl.md)."
        ) from None
    major, minor = (int(part) for part in installed.split(".")[:2])
    if (major, minor) < (0, 9):
        raise InputError(f"verl {installed} has no plugins: install verl 0.9.")
    return installed


def _entry_point() -> EntryPoint:
    for point in entry_points(group=_GROUP):
        if point.name == "forkwise":
            return point
    raise InputError(
        f"the installed forkwise declares no entry point in {_GROUP}, so verl cannot find it: install forkwise again "
        "in this environment."
    )


def _check_policy(point: EntryPoint) -> None:
    policy = os.environ.get(_POLICY, "auto").strip().lower()
    if policy != "auto" and point.name not in [name.strip() for name in policy.split(",")]:
        raise InputError(f"{_POLICY}={policy} keeps verl from loading the plugin: unset it, or add {point.name} to it.")


def _check_trainers(installed: str) -> None:
    try:
        registry = importlib.import_module("verl.trainer.ppo.v1.trainer_base").TRAINER_REGISTRY
    except Exception as error:
        raise InputError(
            f"verl {installed} cannot import its own V1 trainers here: {error!r}; install what it misses (verl's extra "
            "verl-core has it)."
        ) from error
    missing = [mode for mode in MODES if mode not in registry]
    if missing:
        raise InputError(
            f"verl {installed} loaded the plugin, but {', '.join(missing)} could not be registered: "
            f"{plugin.registration_errors[0]!r}; install verl 0.9."
        )
    if plugin.registration_errors:
        raise InputError(
            f"verl {installed} has the trainer modes, but trainers that do not shape would ignore the keys without a "
            f"word: {plugin.registration_errors[0]!r}; install verl 0.9."
        )


def _check_trl(installed: str) -> None:
    for module in ("trl.experimental.ppo", "trl"):
        try:
            if hasattr(importlib.import_module(module), _VALUE_HEAD):
                return
        except ImportError:
            continue
    try:
        beside = version("trl")
    except PackageNotFoundError:
        return
    raise InputError(
        f"verl {installed} cannot build actors beside trl {beside}, which has no {_VALUE_HEAD}: "
        "pip install trl==0.27.0 in verl's environment, or uninstall trl there."
    )
