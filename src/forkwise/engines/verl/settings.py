"""What forkwise adds to a verl configuration. verl loads this in every process: it imports next to nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from forkwise.errors import InputError

if TYPE_CHECKING:
    from forkwise.methods import Method, TokenMethod

MODES = {
    "entropy_sync": "sync",
    "entropy_colocate_async": "colocate_async",
    "entropy_separate_async": "separate_async",
}
"""Our trainer modes, and the mode of verl that each extends."""

HEAD = "forkwise"
"""The name of our head among verl's backends of fused kernels."""

IMPL_BACKEND = "actor_rollout_ref.model.fused_kernel_options.impl_backend"

SECTIONS = {"forkwise": ("method", "policy", "seed"), "entropy_shaping": ("alpha", "kappa", "entropy")}
"""Our sections of `algorithm`, and their keys. The second is the shorthand of one method."""


class MethodStage(str, Enum):
    """The place where the methods act that TRL runs just before the loss."""

    NOWHERE = "nowhere"  # there are none
    DRIVER = "driver"  # after the advantage stage, with the old policy's quantities
    LOSS = "loss"  # in each micro-batch's loss, on the workers
    UPDATE = "update"  # before each mini-batch, on the workers, which gather its tokens


@dataclass(frozen=True)
class VerlSettings:
    """The methods of a run, and what they need to know.

    Attributes:
        methods: in the order in which they act; those that only set keys of verl are left out.
        policy: whose entropies and log-probabilities the methods get that TRL runs just before the loss. `"old"`: the
            policy's that verl recomputes old log-probabilities with, once per rollout. `"current"`: the policy's under
            update, as on TRL. They agree in the first update after a rollout.
        seed: of random choices.
    """

    methods: tuple[Method, ...] = ()
    policy: str = "old"
    seed: int = 0

    def at(self, progress: float) -> VerlSettings:
        """Returns the settings with the options that the methods have after this share of the run."""
        return replace(self, methods=tuple(method.at(progress, {}) for method in self.methods))

    @property
    def late(self) -> list[TokenMethod]:
        """Returns the methods that TRL runs just before the loss."""
        from forkwise.engines.base import update_methods

        return update_methods(self.methods)

    @property
    def stage(self) -> MethodStage:
        """Tells where these methods act."""
        from forkwise.methods import Scope

        if not self.late:
            return MethodStage.NOWHERE
        if any(method.scope is Scope.UPDATE for method in self.late):
            return MethodStage.UPDATE
        return MethodStage.DRIVER if self.policy == "old" else MethodStage.LOSS


def asked_section(algorithm: Any) -> str | None:
    """Returns the name of our section in a configuration's `algorithm`, None where there is none."""
    get = getattr(algorithm, "get", None)
    return next((name for name in SECTIONS if get(name) is not None), None) if callable(get) else None


def check_head(config: Any) -> None:
    """Refuses our head where verl would not use it.

    Raises:
        InputError: fused kernels are off, the engine has none that can be chosen, or the loss needs logits.
    """
    actor = getattr(config, "actor_rollout_ref", None)
    model = (actor.get("model") if actor is not None else None) or {}
    if actor is None or (model.get("fused_kernel_options") or {}).get("impl_backend") != HEAD:
        return
    if not model.get("use_fused_kernels", False):
        raise InputError(
            f"{IMPL_BACKEND}={HEAD} does nothing without fused kernels: set "
            "actor_rollout_ref.model.use_fused_kernels=True."
        )
    check_temperature(config)
    distillation = config.get("distillation") or {}
    loss = (distillation.get("distillation_loss") or {}).get("loss_mode", "")
    if distillation.get("enabled", False) and loss.endswith("_topk"):
        raise InputError(
            f"{IMPL_BACKEND}={HEAD} makes no logits, of which distillation.distillation_loss.loss_mode={loss} takes "
            "the likeliest: set actor_rollout_ref.model.use_fused_kernels=False, or another loss_mode, such as k3."
        )
    strategy = actor.actor.get("strategy")
    if strategy not in ("fsdp", "fsdp2"):
        raise InputError(
            f"{IMPL_BACKEND}={HEAD} works with verl's FSDP engines, not with actor_rollout_ref.actor.strategy="
            f"{strategy}: set it to fsdp2, or use another backend."
        )


def check_temperature(config: Any) -> None:
    """Refuses rollouts without chance, of which there are no entropies.

    Raises:
        InputError: the temperature of rollouts is not positive.
    """
    actor = getattr(config, "actor_rollout_ref", None)
    temperature = ((actor.get("rollout") if actor is not None else None) or {}).get("temperature")
    if temperature is not None and not temperature > 0:
        raise InputError(
            f"actor_rollout_ref.rollout.temperature={temperature} leaves nothing to chance, so that there are no "
            "entropies and nothing to learn from: set it to a positive number, such as 1.0."
        )
