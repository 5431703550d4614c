"""verl's PPO trainers with entropy-shaped advantages; importing this module registers them (see `plugin`)."""

from __future__ import annotations

import logging
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass

from forkwise.engines.base import ActionLog, Host
from forkwise.engines.verl.guard import advantages_are_shaped, guard_trainer
from forkwise.engines.verl.loss import PREFIX, TOTALS, entropy_shaped_ppo_loss, shape_jagged
from forkwise.engines.verl.settings import MODES, read_settings
from forkwise.methods.chain import SHAPING

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer as _Trainer
else:
    _Trainer = object

_HOST = Host(
    name="verl",
    release=f"verl {version('verl')}",
    page="docs/scaling.md",
    alpha="algorithm.entropy_shaping.alpha",
    without="set algorithm.entropy_shaping.alpha=0",
)
_FIELDS = ["advantages", "entropy", "response_mask"]

logger = logging.getLogger(__name__)


class EntropyShapingMixin(_Trainer):
    """Shapes the advantages of a `PPOTrainer`: `class Mine(EntropyShapingMixin, MyTrainer)`.

    The constants are read from `algorithm.entropy_shaping` (see `EntropyShaping`). Logged with verl's metrics, over
    all response tokens that the actor's updates of a step see: `shaping/psi_over_adv`, `shaping/capped_frac`,
    `shaping/psi_pos`, `shaping/psi_neg` (see `forkwise.core.ShapingStats`). With `entropy="old"` they describe the
    rollout, with `"current"` its updates, all epochs and mini-batches of them.

    Raises:
        InputError: when it is constructed, for settings that cannot be honoured.
        RuntimeError: in the first step in which the actor would be updated without shaped advantages.
    """

    mode = "sync"
    """The mode of verl that this trainer extends: verl reads the settings of a mode by its name."""

    _shaped: Tensor | None = None  # totals of the advantages in the queue that are shaped and not yet learned from

    def __init__(self, config: Any) -> None:
        self.shaping = read_settings(config)
        self._action_log = ActionLog(_HOST.alpha)
        config.trainer.v1.trainer_mode = self.mode
        super().__init__(config)

    def _setup(self) -> None:
        super()._setup()
        if self.shaping.in_loss:
            actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
            alpha, kappa = self.shaping.alpha, self.shaping.kappa
            self.actor_rollout_wg.set_loss_fn(partial(entropy_shaped_ppo_loss, config=actor, alpha=alpha, kappa=kappa))

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        with advantages_are_shaped():
            batch = super()._compute_advantage(batch, metrics)
        if not self.shaping.at_advantages:
            return batch
        # Read back: the mask may have lost rejected tokens, and padding rows of other estimators are as verl left them.
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=_FIELDS)
        for field in _FIELDS:
            if field not in data:
                raise _HOST.not_shaped(f"TransferQueue holds no {field!r} after the advantage stage")
        fields = (data[field] for field in _FIELDS)
        shaped, stats = shape_jagged(*fields, alpha=self.shaping.alpha, kappa=self.shaping.kappa)
        self._shaped = stats.totals
        output = TensorDict({"advantages": shaped}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=output)

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        if self.shaping.at_advantages:
            if self._shaped is None:
                raise _HOST.not_shaped(
                    "the advantage stage of this batch bypassed the mixin; a method overridden without super()?"
                )
            self._action_log.add({SHAPING: self._shaped})
            self._shaped = None
        batch = super()._update_actor(batch, metrics)
        if self.shaping.in_loss:
            totals = [metrics.pop(f"actor/{PREFIX}{name}", None) for name in TOTALS]
            if None in totals:
                raise _HOST.not_shaped("the actor's workers used another loss")
            self._action_log.add({SHAPING: torch.tensor(totals, dtype=torch.float64)})
        return batch

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> Any:
        """Runs verl's step (sample, advantages, updates) and adds the shaping metrics."""
        self._action_log.totals, self._shaped = {}, None
        batch = super().step(metrics, timing_raw)
        shaping, warning = self._action_log.take()
        metrics.update(shaping)
        if warning:
            logger.warning(warning)
        return batch


class EntropyShapedSync(EntropyShapingMixin, PPOTrainerSync):
    """The trainer of `trainer.v1.trainer_mode=entropy_sync`."""

    mode = "sync"


class EntropyShapedColocateAsync(EntropyShapingMixin, PPOTrainerColocateAsync):
    """The trainer of `trainer.v1.trainer_mode=entropy_colocate_async`."""

    mode = "colocate_async"


class EntropyShapedSeparateAsync(EntropyShapingMixin, PPOTrainerSeparateAsync):
    """The trainer of `trainer.v1.trainer_mode=entropy_separate_async`."""

    mode = "separate_async"


for _trainer in (EntropyShapedSync, EntropyShapedColocateAsync, EntropyShapedSeparateAsync):
    register_trainer(next(name for name, base in MODES.items() if base == _trainer.mode))(_trainer)
guard_trainer(PPOTrainer, EntropyShapingMixin)
