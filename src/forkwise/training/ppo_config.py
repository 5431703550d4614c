"""The settings of PPO with a critic: TRL's for rollouts and policy loss, ours for the critic and its advantages."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from transformers import SchedulerType

from forkwise.constants import check_number
from forkwise.engines.trl import EntropyShapedGRPOConfig
from forkwise.errors import InputError
from forkwise.training.settings import CriticSettings

TRUNCATED = ("score", "bootstrap", "mask")


@dataclass
class EntropyShapedPPOConfig(CriticSettings, EntropyShapedGRPOConfig):
    """`EntropyShapedGRPOConfig` with a critic; `alpha` defaults to the paper's 0.1 for PPO, and 0 is plain PPO.

    TRL's fields keep their meaning where PPO has the same thing: `epsilon` and `epsilon_high` clip the policy's ratio,
    `beta` weighs the KL to the reference, `loss_type` normalises the token losses, `reward_weights` add up several
    rewards. `num_generations` may be 1. `scale_rewards` has no effect: advantages are whitened instead.

    Args:
        gamma: discount per token, in [0, 1].
        lam: lambda of generalized advantage estimation, in [0, 1]. Smaller values trust the critic more.
        cliprange_value: a value that has moved further than this from the rollout's, in reward units, stops learning
            from it. Larger values clip less.
        value_model: hub id or folder of the critic; None starts it as a copy of the policy with a head of zeros.
        critic_shares_base: with LoRA: the critic is an adapter and a head of its own over the policy's frozen base.
        critic_learning_rate: that of the critic's optimizer, of the kind `optim`.
        critic_lr_scheduler_type: schedule of the critic; None takes the policy's `lr_scheduler_type`.
        critic_lr_warmup_steps: optimizer steps in which the critic's learning rate rises from 0.
        critic_warmup_steps: optimizer steps in which only the critic learns.
        critic_epochs: steps of the critic for each of the policy's, on the same completions. More follow the policy
            faster, and overfit sooner.
        truncated_completions: what becomes of a completion that reached `max_completion_length`. `"score"`: its reward
            counts like any other; `"bootstrap"`: the critic's value after the last token stands in for its reward;
            `"mask"`: it is left out of both losses (TRL's `mask_truncated_completions`).

    Raises:
        InputError: for values out of range and for settings under which advantages per token mean nothing.
    """

    has_groups: ClassVar[bool] = False
    trainer_class: ClassVar[str] = "EntropyShapedPPOTrainer"

    def __post_init__(self) -> None:
        self._resolve_methods()  # before the checks, because methods may set the fields that are checked
        self._check_numbers()
        self._check()
        if self.truncated_completions == "mask":
            self.mask_truncated_completions = True
        elif self.mask_truncated_completions:
            if self.truncated_completions == "bootstrap":
                raise InputError("truncated_completions='bootstrap' contradicts mask_truncated_completions=True.")
            self.truncated_completions = "mask"
        of_one = self.num_generations == 1
        if of_one:
            # TRL refuses groups of one because they have no baseline; ours is the critic. Its other checks see one
            # group as large as the generation batch, which passes whatever a group of one would.
            steps = self.steps_per_generation or self.gradient_accumulation_steps
            per_process = self.per_device_train_batch_size * steps
            self.num_generations: int = self.generation_batch_size or per_process * int(
                os.environ.get("WORLD_SIZE", "1")
            )
            self.num_generations_eval: int | None = self.num_generations_eval or 1
            if self.num_generations < 2:
                raise InputError(
                    "A rollout of a single completion leaves nothing to whiten its advantages with; raise "
                    "per_device_train_batch_size or steps_per_generation."
                )
        super().__post_init__()
        if of_one:
            self.num_generations = 1
        if self.fp16:
            raise InputError("fp16 would need a loss scaler for each of the two models; use bf16=True instead.")

    def _check(self) -> None:
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {getattr(self, name)}; the paper uses 1.")
        for name in ("cliprange_value", "critic_learning_rate"):
            check_number(name, getattr(self, name), 0, above=True)
        for name in ("critic_warmup_steps", "critic_lr_warmup_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if self.num_generations < 1:
            raise InputError(f"num_generations must be at least 1, got {self.num_generations}.")
        policy_schedule = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        if "reduce_lr_on_plateau" in (self.critic_lr_scheduler_type, policy_schedule):
            raise InputError("lr_scheduler_type 'reduce_lr_on_plateau' follows one model's metric; PPO trains two.")
        if self.critic_epochs < 1:
            raise InputError(f"critic_epochs must be at least 1, got {self.critic_epochs}.")
        if self.truncated_completions not in TRUNCATED:
            raise InputError(
                f"truncated_completions must be one of {', '.join(TRUNCATED)}, got '{self.truncated_completions}'."
            )
        schedules = [schedule.value for schedule in SchedulerType]
        if self.critic_lr_scheduler_type not in (None, *schedules):
            raise InputError(
                f"critic_lr_scheduler_type must be one of {', '.join(schedules)}, "
                f"got '{self.critic_lr_scheduler_type}'."
            )
        if self.critic_shares_base and self.value_model:
            raise InputError("critic_shares_base=True uses the policy's base model; leave out value_model.")
        if self.importance_sampling_level != "token" or self.loss_type == "luspo":
            raise InputError(
                "PPO's advantages are per token, so the importance ratio must be too: set "
                "importance_sampling_level='token' and a loss_type other than 'luspo' (e.g. 'dapo')."
            )
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise InputError(
                "multi_objective_aggregation='normalize_then_sum' normalises by group; PPO adds up the weighted "
                "rewards: leave it at 'sum_then_normalize'."
            )
