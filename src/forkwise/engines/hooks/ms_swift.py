"""ms-swift 4: the entropy-shaped advantage as one of its external plugins, a file of two lines.

    # shaping.py
    from forkwise.engines.hooks.ms_swift import install
    install()

    FORKWISE_ALPHA=0.4 swift rlhf --rlhf_type grpo --external_plugins shaping.py --log_entropy true ...

ms-swift needs trl < 1.0 and forkwise's trainers need trl >= 1.9: this module imports neither. `--log_entropy true`
makes ms-swift compute entropies, of the policy under update and at the sampling temperature. Megatron's trainers
(`megatron rlhf`, under Ray too) and every other `--rlhf_type` raise.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from forkwise.core import shape_and_measure
from forkwise.engines.base import ActionLog
from forkwise.engines.hooks.constants import constants
from forkwise.engines.hooks.levels import warn_of_sequences
from forkwise.engines.hooks.totals import report
from forkwise.engines.on_import import after_import
from forkwise.errors import InputError
from forkwise.methods.chain import SHAPING

if TYPE_CHECKING:
    _Trainer = Any
else:
    _Trainer = object

_NAME = "EntropyShapedGRPOTrainer"
_UNSHAPED = "UnshapedTrainer_"
_OTHERS = {"swift.megatron.trainers.base": "BaseMegatronTrainer", "swift.ray.megatron.base_trainer": "BaseRayTrainer"}
"""Trainers that ms-swift does not take from its table: of Megatron, and of Megatron under Ray."""


class SwiftShapedLoss(_Trainer):
    """Shapes the advantages of each micro-batch between ms-swift's entropies and its loss.

    Raises:
        InputError: ms-swift computes no entropies, as its arguments stand, or has a loss without them or that reads
            the signs of advantages alone.
        RuntimeError: in a training loss to which shaped advantages did not come.
    """

    _pending: Any = None  # the micro-batch whose loss is being computed
    _shaped = 0
    _counted: Any = None  # of this loss; the engine computes one again where other processes have more of them
    _action_log: ActionLog | None = None

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes ms-swift's loss; raises where it went past the shaping."""
        if self._acts() and getattr(self, "use_liger_loss", False):
            raise InputError("Liger's loss has no entropies: set --use_liger_kernel false.")
        if self._acts() and not self.compute_entropy:
            raise InputError("Advantages need entropies: add --log_entropy true.")
        if self._acts() and getattr(self, "loss_type", None) == "real":
            raise InputError("--loss_type real reads only the signs of advantages, which shaping keeps: take another.")
        level = getattr(self, "importance_sampling_level", "token")
        warn_of_sequences("--importance_sampling_level sequence", per_sequence=self._acts() and level == "sequence")
        self._counted = None
        before = self._shaped
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self._acts() and self._shaped == before:
            raise RuntimeError("Advantages were not entropy-shaped: this loss has none of ms-swift's micro-batches.")
        return loss

    def _acts(self) -> bool:
        return bool(self.model.training) and constants(self.args)[0] > 0

    def _compute_loss_and_metrics(self, model: Any, model_inputs: Any, grpo_batch: Any) -> Any:
        if not self._acts():
            return super()._compute_loss_and_metrics(model, model_inputs, grpo_batch)
        before, self._pending = grpo_batch.advantages, grpo_batch
        try:
            result = super()._compute_loss_and_metrics(model, model_inputs, grpo_batch)
            if self._pending is not None:
                raise RuntimeError("Advantages were not entropy-shaped: the loss computed no entropies.")
            return result
        finally:
            grpo_batch.advantages, self._pending = before, None

    def _get_per_token_logps_and_entropies(self, model: Any, model_inputs: Any, grpo_batch: Any, **more: Any) -> Any:
        logps, entropies = super()._get_per_token_logps_and_entropies(model, model_inputs, grpo_batch, **more)
        if self._pending is grpo_batch and grpo_batch is not None and entropies is not None:
            alpha, kappa = constants(self.args)
            mask = grpo_batch.completion_mask
            if getattr(self, "overlong_filter", False):  # the loss leaves out answers that were cut off
                mask = mask & ~grpo_batch.truncated_mask[:, None]
            grpo_batch.advantages, stats = shape_and_measure(
                grpo_batch.advantages, entropies.detach(), alpha=alpha, kappa=kappa, mask=mask
            )
            self._pending = None
            self._shaped += 1
            self._action_log = self._action_log or ActionLog("FORKWISE_ALPHA")
            if self._counted is not grpo_batch:
                self._action_log.add({SHAPING: stats.totals})
            self._counted = grpo_batch
        return logps, entropies

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Logs as ms-swift does and adds, in training, what shaping did since the last log."""
        if self.model.training and self._action_log is not None:
            report(self, self._action_log)
        super().log(*args, **kwargs)


def install() -> None:
    """Puts the shaping trainer into the place of ms-swift's GRPO trainer; every other trainer of its raises.

    Once is enough, and again does nothing.
    """
    from swift.trainers.trainer_factory import TrainerFactory

    mapping = TrainerFactory.TRAINER_MAPPING
    mapping.update({method: f"{__name__}.{_UNSHAPED}{method}" for method in mapping})
    mapping["grpo"] = f"{__name__}.{_NAME}"
    for module, name in _OTHERS.items():
        after_import(module, functools.partial(_close, module, name))


def _close(module: str, name: str) -> None:
    """Makes a trainer class raise before anything of it is made; subclasses too, and ms-swift's `__new__` of them."""

    def refuse(cls: type, *_: Any, **__: Any) -> NoReturn:
        raise _not_shaped(f"{cls.__module__}.{cls.__name__}")

    getattr(sys.modules[module], name).__new__ = refuse


def _not_shaped(trainer: str) -> InputError:
    return InputError(
        f"Advantages would not be entropy-shaped by {trainer}: forkwise's plugin is for `swift rlhf --rlhf_type grpo` "
        "without Megatron; train so, or leave the plugin out of --external_plugins."
    )


def __getattr__(name: str) -> Any:
    """Makes the trainer class when ms-swift asks for it by its path."""
    if name.startswith(_UNSHAPED):
        raise _not_shaped(f"ms-swift's trainer of '{name.removeprefix(_UNSHAPED)}'")
    if name != _NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from swift.rlhf_trainers import GRPOTrainer

    trainer = type(name, (SwiftShapedLoss, GRPOTrainer), {"__module__": __name__, "__doc__": SwiftShapedLoss.__doc__})
    globals()[name] = trainer
    return trainer
