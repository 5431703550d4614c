"""The trainer of `forkwise grpo`, and the base of that of `forkwise ppo`."""

from __future__ import annotations

from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.training.behaviours import BehavioursMixin
from forkwise.training.health import FiniteMixin
from forkwise.training.resume import ExactResumeMixin


class RunTrainer(ExactResumeMixin, FiniteMixin, BehavioursMixin, EntropyShapedGRPOTrainer):
    """`EntropyShapedGRPOTrainer` that resumes exactly, stops at non-finite numbers, and may count behaviours."""
