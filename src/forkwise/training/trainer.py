"""The trainer of `forkwise grpo`, and the base of that of `forkwise ppo`."""

from __future__ import annotations

from typing import Any

from forkwise.core import causal_model
from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.sampling.forward import no_generation_settings
from forkwise.training.behaviours import BehavioursMixin
from forkwise.training.health import FiniteMixin
from forkwise.training.resume import ExactResumeMixin


class RunTrainer(ExactResumeMixin, FiniteMixin, BehavioursMixin, EntropyShapedGRPOTrainer):
    """`EntropyShapedGRPOTrainer` that resumes exactly, stops at non-finite numbers, and may count behaviours.

    It draws from the policy as it is: TRL lets a checkpoint's generation config change the distribution.
    """

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        with no_generation_settings(causal_model(self.model)):
            return super()._generate(*args, **kwargs)
