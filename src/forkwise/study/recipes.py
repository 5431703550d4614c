"""Recipes by name: settings of training that a study takes with `recipe: {like: NAME}` and may change."""

from __future__ import annotations

import math
from typing import Any

_QUICKSTART: dict[str, Any] = {
    "reward": ["correct"],
    "loss_type": "dapo",
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "beta": 0.0,
    "scale_rewards": "group",
    "importance_sampling_level": "token",
    "num_generations": 16,
    # 256 completions per rollout, used for 2 updates of 128.
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "num_iterations": 1,
    "max_completion_length": 104,
    "temperature": 1.0,
    "attn_implementation": "eager",  # the fastest for a model of this size on a CPU
    "learning_rate": 3e-4,
    "lr_scheduler_type": "constant",
    "adam_beta2": 0.95,
    "max_grad_norm": 1.0,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 10,
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "max_steps": 70,
}
_CRITIC: dict[str, Any] = {
    "critic_learning_rate": 1e-3,
    "critic_lr_scheduler_type": "constant",
    "critic_warmup_steps": 10,
    "critic_epochs": 3,
}
RECIPES: dict[str, dict[str, Any]] = {"quickstart": _QUICKSTART, "quickstart-ppo": {**_QUICKSTART, **_CRITIC}}
"""`quickstart` was found by hand on the embedded model: it learns in minutes on one core, and does not collapse."""


def problems_for(name: str, steps: int) -> int:
    """Counts the problems of `steps` steps of a recipe, none met twice, rounded up to whole rollouts."""
    recipe = RECIPES[name]
    size, groups = int(recipe["per_device_train_batch_size"]), int(recipe["num_generations"])
    completions = steps * size * int(recipe["gradient_accumulation_steps"])
    rollout = size * int(recipe["steps_per_generation"])
    return math.ceil(completions / rollout) * rollout // groups
