"""verl's PPO trainers with the advantages that methods make; importing this module registers them (see `plugin`)."""

from __future__ import annotations

import logging
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import ray
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.losses import ppo_loss

from forkwise.engines.base import ActionLog, Host, needs
from forkwise.engines.verl.batch import PROGRESS, SEED, act_on_rollout, take_totals
from forkwise.engines.verl.guard import advantages_are_shaped, guard_trainer
from forkwise.engines.verl.loss import shaped_ppo_loss
from forkwise.engines.verl.reading import read_settings
from forkwise.engines.verl.settings import MODES, MethodStage
from forkwise.methods import Need

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer as _Trainer
else:
    _Trainer = object

_HOST = Host(
    name="verl",
    release=f"verl {version('verl')}",
    page="docs/verl.md",
    alpha="alpha (algorithm.entropy_shaping.alpha, or the method's)",
    without="set algorithm.entropy_shaping.alpha=0, or algorithm.forkwise.method=[]",
)
_ACTORS = (Role.Actor, Role.ActorRollout, Role.ActorRolloutRef)
_ON_WORKERS = (MethodStage.LOSS, MethodStage.UPDATE)
_FIELDS = ["advantages", "response_mask", "rm_scores", "old_log_probs", "entropy"]

logger = logging.getLogger(__name__)


class EntropyShapingMixin(_Trainer):
    """Gives a `PPOTrainer` the advantages that methods make: `class Mine(EntropyShapingMixin, MyTrainer)`.

    The methods are read from `algorithm.forkwise` or `algorithm.entropy_shaping` (see `settings`). Logged with verl's
    metrics, over all response tokens that the actor's updates of a step see: `shaping/psi_over_adv`,
    `shaping/capped_frac`, `shaping/psi_pos`, `shaping/psi_neg` (see `forkwise.core.ShapingStats`), and for each method
    `method/NAME/changed` and `method/NAME/shift` (see `forkwise.methods.chain.shares`). Methods that act on the driver
    are measured over the rollout, the others over its updates, all epochs and mini-batches of them.

    Raises:
        InputError: when it is constructed, for settings that cannot be honoured.
        RuntimeError: in the first step in which the actor would be updated without the methods' advantages.
    """

    mode = "sync"
    """The mode of verl that this trainer extends: verl reads the settings of a mode by its name."""

    _made: dict[str, Tensor] | None = None  # totals of the advantages in the queue, until they are learned from

    def __init__(self, config: Any) -> None:
        self.shaping = read_settings(config)
        self._action_log = ActionLog(_HOST.alpha)
        config.trainer.v1.trainer_mode = self.mode
        super().__init__(config)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if self.shaping.stage is MethodStage.UPDATE:
            from forkwise.engines.verl.worker import selecting

            for role in _ACTORS:
                if role in self.role_worker_mapping:
                    worker = self.role_worker_mapping[role].__ray_actor_class__
                    self.role_worker_mapping[role] = ray.remote(selecting(worker))

    def _setup(self) -> None:
        super()._setup()
        if self.shaping.stage not in _ON_WORKERS:
            return
        actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        late = tuple(self.shaping.late)
        if self.shaping.stage is MethodStage.LOSS:
            self.actor_rollout_wg.set_loss_fn(partial(shaped_ppo_loss, config=actor, methods=late))
        else:
            from forkwise.engines.verl.worker import WholeUpdates

            loss = partial(ppo_loss, config=actor)
            self.actor_rollout_wg.set_loss_fn(WholeUpdates(late, self.shaping.policy, loss))

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        with advantages_are_shaped():
            batch = super()._compute_advantage(batch, metrics)
        if not self.shaping.methods:
            return batch
        # Read back: the mask may have lost rejected tokens, and padding rows of other estimators are as verl left them.
        wanted = [*_FIELDS, *(["responses"] if Need.IDS in needs(self.shaping.methods) else [])]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted)
        real = [not tag.get("is_padding", False) for tag in batch.tags]
        try:
            acted = act_on_rollout(
                self.shaping, data, batch.keys, real, seed=self._method_seed(), progress=self._progress()
            )
        except KeyError as error:
            missing = sorted(set(wanted) - set(data.keys()))
            raise self._not_shaped(
                f"TransferQueue holds no {', '.join(map(repr, missing)) or error} after the advantage stage"
            ) from error
        self._made = acted.totals
        output = dict(acted.fields)
        if acted.advantages is not None:
            output["advantages"] = acted.advantages
        if not output:
            return batch
        fields = TensorDict(output, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        if self.shaping.methods:
            if self._made is None:
                raise self._not_shaped(
                    "the advantage stage of this batch bypassed the mixin; a method overridden without super()?"
                )
            self._action_log.add(self._made)
            self._made = None
            batch.extra_info |= {SEED: self._method_seed(), PROGRESS: self._progress()}
        batch = super()._update_actor(batch, metrics)
        if self.shaping.stage in _ON_WORKERS:
            totals = take_totals(metrics, self.shaping.late, "actor/")
            if totals is None:
                raise self._not_shaped("the actor's workers used another loss")
            self._action_log.add(totals)
        return batch

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> Any:
        """Runs verl's step (sample, advantages, updates) and adds the metrics of the methods."""
        self._action_log.totals, self._made = {}, None
        batch = super().step(metrics, timing_raw)
        shaping, warning = self._action_log.take()
        metrics.update(shaping | self._planned())
        if warning:
            logger.warning(warning)
        return batch

    def _planned(self) -> dict[str, float]:
        """Returns the options that change in the course of the run, as they are in this step."""
        now = zip(self.shaping.methods, self.shaping.at(self._progress()).methods, strict=True)
        return {f"method/{m.name}/{option}": getattr(acting, option) for m, acting in now for option in m.plans}

    def _method_seed(self) -> int:
        """Seeds the random choices of a rollout: another one for each round of a step of the separate mode."""
        rounds = int(getattr(self, "parameter_sync_step", 1))
        step = int(self.global_steps) * rounds + int(getattr(self, "local_trigger_step", 0))
        return self.shaping.seed * 2**24 + step

    def _progress(self) -> float:
        """Returns the share of the run's steps that is done; verl counts from 1."""
        steps = int(getattr(self, "total_training_steps", 0) or 0)
        return (int(self.global_steps) - 1) / steps if steps > 0 else 0.0

    def _not_shaped(self, fault: str) -> RuntimeError:
        return _HOST.not_shaped(fault, self.shaping.methods)


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
