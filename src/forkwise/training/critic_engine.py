"""The critic next to a sharded policy: made whole, prepared, stepped, and kept in checkpoints.

FSDP2 shards each model of a process, and torch's optimizers step them. DeepSpeed wants an engine for each model, and
steps in the engine's backward pass; accelerate knows one engine per `Accelerator`, which is the policy's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import (
    DistributedType,
    load_fsdp_model,
    load_fsdp_optimizer,
    save_fsdp_model,
    save_fsdp_optimizer,
)
from accelerate.utils.deepspeed import (
    DeepSpeedEngineWrapper,
    DeepSpeedOptimizerWrapper,
    map_pytorch_optim_to_deepspeed,
)
from torch import Tensor, nn
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from forkwise.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer

ENGINE = "critic_engine"  # folder of DeepSpeed's own checkpoint of the critic


class _NoEngine:
    """Stands in for the policy's engine while the policy must not move."""

    def backward(self, loss: Tensor, **_: Any) -> None:
        """Does nothing: DeepSpeed's would step, with weight decay and moments, even without a gradient."""

    def get_global_grad_norm(self) -> None:
        """Returns nothing: without a gradient there is no norm."""


def uses_deepspeed(accelerator: Accelerator) -> bool:
    """Tells whether each model is to have a DeepSpeed engine."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


def check(accelerator: Accelerator, *, shares_base: bool) -> None:
    """Refuses what cannot hold two models.

    Raises:
        InputError: FSDP1; weights that two shardings would share; DeepSpeed configurations for one model.
    """
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InputError(
            "PPO trains two models, which FSDP1 is not prepared for here: launch with FSDP2 "
            "(examples/accelerate/fsdp2.yaml), DeepSpeed, or without sharding."
        )
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if sharded and shares_base:
        raise InputError(
            "critic_shares_base=True holds weights that FSDP2 or DeepSpeed would shard twice; leave one of both out."
        )
    if not uses_deepspeed(accelerator):
        return
    plugin = accelerator.state.deepspeed_plugin
    if parts := {"optimizer", "scheduler"} & {*plugin.deepspeed_config}:
        raise InputError(
            f"The DeepSpeed configuration has {' and '.join(sorted(parts))} of its own, for one model; leave it out: "
            "PPO makes one for each."
        )
    if plugin.zero_stage == 3 and not plugin.zero3_save_16bit_model:
        raise InputError("Under ZeRO-3 the critic is saved only with zero3_save_16bit_model: true; set it.")


@contextmanager
def whole(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Marks a block in which every process has the weights of `model`, and new models are not sharded."""
    plugin = accelerator.state.deepspeed_plugin if uses_deepspeed(accelerator) else None
    if plugin is None or plugin.zero_stage != 3:
        yield
        return
    import deepspeed

    unset_hf_deepspeed_config()  # which transformers goes by
    try:
        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            yield
    finally:
        set_hf_deepspeed_config(plugin.hf_ds_config)


def prepare(accelerator: Accelerator, critic: nn.Module, optimizer: Optimizer) -> tuple[Any, Any]:
    """Makes the critic and its optimizer ready as the policy has been; under DeepSpeed with an engine of its own."""
    if not uses_deepspeed(accelerator):
        prepared: tuple[Any, Any] = accelerator.prepare(critic, optimizer)
        return prepared
    import deepspeed

    config = copy.deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
    offload = config["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
    if offload != "none" and config.get("zero_force_ds_cpu_optimizer", True):
        optimizer = map_pytorch_optim_to_deepspeed(optimizer)
    config["zero_allow_untested_optimizer"] = True
    engine, sharded, *_ = deepspeed.initialize(model=critic, optimizer=optimizer, config=config)
    return engine, DeepSpeedOptimizerWrapper(sharded)


def unwrapped(accelerator: Accelerator, critic: Any) -> Any:
    """Returns the critic for passes without gradient, which need no averaging over processes; engines average."""
    return critic if uses_deepspeed(accelerator) else accelerator.unwrap_model(critic)


def policy_stands_still(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Marks a block in which backward passes leave the policy's engine alone; only DeepSpeed needs it."""
    return _without_engine(accelerator) if uses_deepspeed(accelerator) else nullcontext()


@contextmanager
def _without_engine(accelerator: Accelerator) -> Iterator[None]:
    engine = accelerator.deepspeed_engine_wrapped
    accelerator.deepspeed_engine_wrapped = _NoEngine()
    try:
        yield
    finally:
        accelerator.deepspeed_engine_wrapped = engine


def accumulating(accelerator: Accelerator, critic: Any) -> AbstractContextManager[None]:
    """Marks a block in which gradients are not averaged over processes yet: all micro-batches but an update's last."""
    return nullcontext() if uses_deepspeed(accelerator) else accelerator.no_sync(critic)


def backward(accelerator: Accelerator, critic: Any, loss: Tensor, *, last: bool) -> None:
    """Adds a micro-batch's gradient; under DeepSpeed the last of an update clips and steps, too."""
    if uses_deepspeed(accelerator):
        DeepSpeedEngineWrapper(critic).backward(loss, sync_gradients=last, scale_wrt_gas=False)
    else:
        accelerator.backward(loss)


def clip(accelerator: Accelerator, critic: Any, max_norm: float) -> float | None:
    """Clips the gradient, unless the engine has; returns its norm before, None where DeepSpeed computes none."""
    if uses_deepspeed(accelerator):
        norm = critic.get_global_grad_norm()
    else:
        norm = accelerator.clip_grad_norm_(critic.parameters(), max_norm)
    if norm is None:
        return None
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def save_shards(accelerator: Accelerator, critic: Any, optimizer: Any, folder: str) -> bool:
    """Writes each process's part of weights and optimizer; False where nothing is sharded. Every process calls it."""
    if uses_deepspeed(accelerator):
        critic.save_checkpoint(str(Path(folder) / ENGINE))
    elif accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        save_fsdp_model(plugin, accelerator, critic, folder, model_index=1)
        save_fsdp_optimizer(plugin, accelerator, optimizer, critic, folder, optimizer_index=1)
    else:
        return False
    return True


def load_shards(accelerator: Accelerator, critic: Any, optimizer: Any, folder: str) -> bool:
    """Reads what `save_shards` wrote; False where nothing is sharded.

    Raises:
        InputError: nothing of DeepSpeed in the checkpoint.
    """
    if uses_deepspeed(accelerator):
        where = Path(folder) / ENGINE
        if not where.is_dir() or critic.load_checkpoint(str(where))[0] is None:
            raise InputError(f"The checkpoint '{folder}' holds no critic of a DeepSpeed run.")
    elif accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        load_fsdp_model(plugin, accelerator, critic, folder, model_index=1)
        load_fsdp_optimizer(plugin, accelerator, optimizer, critic, folder, optimizer_index=1)
    else:
        return False
    return True
