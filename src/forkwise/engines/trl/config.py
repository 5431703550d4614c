"""The config of a GRPO trainer that shapes: two constants and a list of methods beside TRL's fields."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

from packaging.version import Version

from forkwise.constants import check_alpha, check_kappa, check_number
from forkwise.engines.base import rollout_methods, update_methods
from forkwise.engines.trl.clip import open_clip
from forkwise.engines.trl.methods_of_config import default
from forkwise.engines.trl.refusals import RolloutSettings, refuse
from forkwise.engines.trl.release import TRL
from forkwise.errors import InputError, nearest
from forkwise.methods import settings_of

ENTROPY_BACKENDS = ("forkwise", "trl")


@dataclass
class EntropyShapedGRPOConfig(RolloutSettings):
    """`GRPOConfig` with the two constants of the method; every other field is TRL's, defaults included.

    Args:
        alpha: weight of the entropy (nats), at least 0. Larger values favour uncertain tokens more, until the cap
            binds at `H = |A| / (alpha * kappa)`; 0 turns shaping off. The paper uses 0.4 for GRPO, 0.1 for PPO.
        kappa: cap of the added term as a fraction of the advantage, `|A| / kappa`, above 1 so that no advantage
            changes its sign. Larger values mean a smaller cap. The paper uses 2.
        method: methods as text, `NAME[:key=value,...]` (`forkwise methods` lists them). alpha and kappa are the
            shorthand of the one method `entropy_advantage:alpha=...,kappa=...`; where methods are named, exactly those
            act, and alpha becomes 0 unless that method is among them. Methods that TRL has itself set its fields.
        entropy_backend: `"forkwise"` or `"trl"`: who computes log-probs and entropies, of the policy and the reference.
            The first is exact and cheaper; where it cannot be proved for a model, TRL's head or the full logits take
            over, with a warning. The second with alpha 0 is TRL bit for bit, or refuses a model that TRL gets wrong.
        max_draws: how often a rollout may be drawn until every group has a spread of rewards (DAPO's dynamic sampling,
            see `forkwise.engines.trl.refill`); 1 is TRL's single draw.
        live_by: the reward function whose values must differ in a group, by its name; None: the weighted sum of all.

    Raises:
        InputError: for constants outside these ranges, for methods that do not exist or do not go together, and for
            settings under which TRL cannot shape.

    Warns:
        UserWarning: for losses whose ratio is per sequence; only the mean shaped advantage reaches their gradient.
    """

    max_draws: int = field(
        default=1, metadata={"help": "Draws of a rollout until every group has a spread of rewards; 1 is TRL's."}
    )
    live_by: str | None = field(
        default=None, metadata={"help": "The reward function whose values must differ in a group; default: the sum."}
    )
    trainer_class: ClassVar[str] = "EntropyShapedGRPOTrainer"
    trainer_mixin: ClassVar[str | None] = "EntropyShapingMixin"

    def __post_init__(self) -> None:
        self._check_numbers()
        self._resolve_methods()
        check_alpha(self.alpha)
        check_kappa(self.kappa)
        super().__post_init__()
        if Version("1.14") > TRL and self.use_liger_kernel:
            raise InputError(
                f"use_liger_kernel=True in trl {TRL} computes the loss without entropies, so advantages would not be "
                "shaped; set it to False or install trl>=1.16."
            )
        if Version("1.15.0") == TRL and self.device.type not in ("cuda", "xpu"):
            raise InputError(f"trl 1.15.0 cannot compute the GRPO loss on {self.device.type}; install trl>=1.16.")
        refuse(self, self._methods or self.methods)
        self._warn_of_idle()
        per_token = update_methods(self.methods) or rollout_methods(self.methods)
        if per_token and self.per_sequence:
            warnings.warn(
                f"With loss_type={self.loss_type!r} and importance_sampling_level={self.importance_sampling_level!r} "
                "the importance ratio or the weight is per sequence: the shaped advantages lose their token "
                "selectivity. Use importance_sampling_level='token' and another loss_type to keep it.",
                stacklevel=3,
            )

    def _warn_of_idle(self) -> None:
        """Warns of methods that begin later than the run ends: it would be the base method's run."""
        if self.max_steps <= 0:
            return  # how many rollouts epochs have, the data says
        updates = self.steps_per_generation * self.num_iterations
        rollouts = -(-self.max_steps * self.gradient_accumulation_steps // updates)
        for method in self.methods:
            if rollouts < method.first_rollout():
                warnings.warn(
                    f"The method '{method.name}' begins with rollout {method.first_rollout()}, and max_steps="
                    f"{self.max_steps} draws {rollouts}: it will do nothing. Train for more steps, or look at its "
                    "options (docs/papers.md).",
                    stacklevel=4,
                )

    def _check_numbers(self) -> None:
        """Refuses numbers that torch and TRL refuse late, with a traceback, or not at all."""
        if self.entropy_backend not in ENTROPY_BACKENDS:
            raise InputError(
                f"entropy_backend must be 'forkwise' or 'trl', got '{self.entropy_backend}'."
                f"{nearest(str(self.entropy_backend), ENTROPY_BACKENDS)}"
            )
        check_number("temperature", self.temperature, 0, above=True)
        for name in ("learning_rate", "weight_decay", "beta", "epsilon"):
            check_number(name, getattr(self, name), 0)
        if not all(math.isfinite(weight) for weight in self.reward_weights or []):
            raise InputError(f"reward_weights must be finite numbers, got {self.reward_weights}.")
        for name in ("num_iterations", "steps_per_generation", "gradient_accumulation_steps", "max_draws"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def _apply_settings(self) -> None:
        for name, value in settings_of(self._methods).items():
            by = next(m.name for m in self._methods if name in settings_of([m]))
            if not hasattr(self, name):
                raise InputError(f"The method '{by}' needs {name}, which trl {TRL} does not have: install trl>=1.16.")
            # TRL takes True and False, from before there were names.
            now = {True: "group", False: "none"}.get(getattr(self, name)) if name == "scale_rewards" else None
            now = now or getattr(self, name)
            if now not in (value, default(self, name)):
                raise InputError(
                    f"The method '{by}' sets {name} to {value}, but it is given as {now}: leave one of them out."
                )
            setattr(self, name, value)
        open_clip(self, self._methods, {name: default(self, name) for name in ("epsilon", "epsilon_high", "delta")})


def check_rollout(args: EntropyShapedGRPOConfig, prompts: int) -> None:
    """Refuses a number of prompts that does not fill one rollout: TRL leaves the rest out, and would train 0 steps."""
    assert args.generation_batch_size is not None  # TRL fills it in
    needed = args.generation_batch_size // args.num_generations
    if prompts < needed:
        raise InputError(
            f"A rollout takes {needed} prompts ({args.generation_batch_size} completions, {args.num_generations} of "
            f"each), and there are {prompts}, so that nothing would be trained: give more prompts, or make "
            "per_device_train_batch_size or steps_per_generation smaller."
        )


def require_config(args: object, *, critic: bool) -> None:
    if not isinstance(args, EntropyShapedGRPOConfig):
        raise TypeError(
            f"args is a {type(args).__name__}, which has no alpha and kappa; make it an EntropyShapedGRPOConfig (or a "
            "subclass of it), which takes every field of GRPOConfig."
        )
    if not args.has_groups and not critic:
        raise TypeError(
            f"args is a {type(args).__name__}, whose critic this trainer does not have: use {args.trainer_class}, or "
            "make it an EntropyShapedGRPOConfig."
        )
