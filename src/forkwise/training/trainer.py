"""The trainer of `forkwise grpo`, and the base of that of `forkwise ppo`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from forkwise.core import causal_model
from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.sampling.forward import no_generation_settings
from forkwise.training.behaviours import BehavioursMixin
from forkwise.training.health import FiniteMixin
from forkwise.training.heartbeat import HEARTBEAT
from forkwise.training.resume import ExactResumeMixin


class RunTrainer(ExactResumeMixin, FiniteMixin, BehavioursMixin, EntropyShapedGRPOTrainer):
    """`EntropyShapedGRPOTrainer` that resumes exactly, stops at non-finite numbers, and may count behaviours.

    It draws from the policy as it is: TRL lets a checkpoint's generation config change the distribution.
    """

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        drawing = "drawing completions" if self.model.training else "drawing completions of validation problems"
        with no_generation_settings(causal_model(self.model)), HEARTBEAT.part(drawing):
            return super()._generate(*args, **kwargs)

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with HEARTBEAT.part("scoring completions"):
            return super()._generate_and_score_completions(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the trainer's step, of which a run says that the model is updated."""
        with HEARTBEAT.part("updating the model"):
            return super().training_step(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with HEARTBEAT.part("saving a checkpoint"):
            super()._save_checkpoint(*args, **kwargs)
