"""What a verl configuration says about entropy shaping, and what cannot be honoured. Imports neither verl nor torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from forkwise.constants import check_alpha, check_kappa
from forkwise.errors import InputError, nearest

MODES = {
    "entropy_sync": "sync",
    "entropy_colocate_async": "colocate_async",
    "entropy_separate_async": "separate_async",
}
"""Our trainer modes, and the mode of verl that each extends."""

HEAD = "forkwise"
"""The name of our head among verl's backends of fused kernels."""

IMPL_BACKEND = "actor_rollout_ref.model.fused_kernel_options.impl_backend"

_PAPER = "the paper has +algorithm.entropy_shaping.alpha=0.4 for GRPO and 0.1 for PPO"


@dataclass(frozen=True)
class EntropyShaping:
    """The keys under `algorithm.entropy_shaping`.

    Attributes:
        alpha: weight of the entropy (nats), at least 0. Larger values favour uncertain tokens more, until the cap
            binds at `H = |A| / (alpha * kappa)`; 0 is verl without shaping, bit for bit.
        kappa: cap of the added term as a fraction of the advantage, `|A| / kappa`, above 1. The paper has 2.
        entropy: whose entropy is taken. `"old"`: the policy's that verl recomputes old log-probabilities with, once per
            rollout; it needs no further forward pass. `"current"`: the policy's under update, at each micro-batch,
            as in the paper; needs `actor_rollout_ref.actor.calculate_entropy=True`. They agree in the first update
            after a rollout.
    """

    alpha: float
    kappa: float = 2.0
    entropy: str = "old"

    def __post_init__(self) -> None:
        for name in ("alpha", "kappa"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"algorithm.entropy_shaping.{name} must be a number, not {value!r}.")
        check_alpha(self.alpha, "algorithm.entropy_shaping.alpha")
        check_kappa(self.kappa, "algorithm.entropy_shaping.kappa")
        if self.entropy not in ("old", "current"):
            raise InputError(f"algorithm.entropy_shaping.entropy must be old or current, not {self.entropy!r}.")

    @property
    def at_advantages(self) -> bool:
        """Tells whether the advantage stage shapes."""
        return self.alpha > 0 and self.entropy == "old"

    @property
    def in_loss(self) -> bool:
        """Tells whether the loss shapes."""
        return self.alpha > 0 and self.entropy == "current"


def read_settings(config: Any) -> EntropyShaping:
    """Returns the settings in a whole verl configuration.

    Raises:
        InputError: keys that are missing, unknown or out of range; and other settings of verl under which shaping
            would not happen.
    """
    section = config.algorithm.get("entropy_shaping")
    if section is None or not hasattr(section, "get") or section.get("alpha") is None:
        raise InputError(f"This trainer mode needs an alpha: {_PAPER}.")
    known = [field.name for field in fields(EntropyShaping)]
    for place, part in (
        ("", config),
        ("algorithm.", config.algorithm),
        ("algorithm.entropy_shaping.", section),
    ):
        if "method" in part:
            raise InputError(
                f"{place}method={part['method']} has no effect under verl, where forkwise has the entropy-shaped "
                "advantage only: remove it, or train with forkwise grpo --method."
            )
    for key in section:
        if key not in known:
            raise InputError(
                f"algorithm.entropy_shaping.{key} does not exist: the keys are {', '.join(known)}.{nearest(key, known)}"
            )
    settings = EntropyShaping(**section)
    if settings.alpha > 0:
        _refuse(config, settings)
    return settings


def check_head(config: Any) -> None:
    """Refuses our head where verl would not use it.

    Raises:
        InputError: fused kernels are off, or the engine has none that can be chosen.
    """
    actor = getattr(config, "actor_rollout_ref", None)
    model = (actor.get("model") if actor is not None else None) or {}
    if (model.get("fused_kernel_options") or {}).get("impl_backend") != HEAD:
        return
    if not model.get("use_fused_kernels", False):
        raise InputError(
            f"{IMPL_BACKEND}={HEAD} does nothing without fused kernels: set "
            "actor_rollout_ref.model.use_fused_kernels=True."
        )
    strategy = actor.actor.get("strategy")
    if strategy not in ("fsdp", "fsdp2"):
        raise InputError(
            f"{IMPL_BACKEND}={HEAD} works with verl's FSDP engines, not with actor_rollout_ref.actor.strategy="
            f"{strategy}: set it to fsdp2, or use another backend."
        )


def _refuse(config: Any, settings: EntropyShaping) -> None:
    distillation = config.get("distillation")
    if distillation is not None and distillation.get("enabled", False):
        raise InputError(
            "distillation.enabled=True replaces the loss that advantages enter, so shaping would do nothing: set it to "
            "False, or use verl's own trainer mode."
        )
    correction = config.algorithm.get("rollout_correction")
    if settings.entropy == "old" and correction is not None and correction.get("bypass_mode", False):
        raise InputError(
            "algorithm.rollout_correction.bypass_mode=True skips the forward pass that the old policy's entropy comes "
            "from: set it to False, or +algorithm.entropy_shaping.entropy=current."
        )
    actor = config.actor_rollout_ref.actor
    if actor.policy_loss.get("loss_mode") == "geo_mean":
        raise InputError(
            "actor_rollout_ref.actor.policy_loss.loss_mode=geo_mean averages the advantages of a response, so shaping "
            "would not tell its tokens apart: use another loss, such as vanilla or gspo."
        )
    if settings.entropy == "current" and not actor.get("calculate_entropy", False) and not actor.get("entropy_coeff"):
        raise InputError(
            "algorithm.entropy_shaping.entropy=current needs the entropy of the policy under update: set "
            "actor_rollout_ref.actor.calculate_entropy=True, or +algorithm.entropy_shaping.entropy=old."
        )
