"""verl's workers with advantages that are made before each mini-batch, from all its tokens over all processes.

A method that selects among the tokens of an update cannot act in the loss, which sees one micro-batch of one process.
Importing this module loads verl's workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.distributed import ReduceOp, all_gather, all_reduce, get_world_size
from torch.nn.functional import pad
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.utils.padding import no_padding_2_padding

from forkwise.engines.base import needs, quoted
from forkwise.engines.verl.batch import PROGRESS, ROWS, SEED, like, name_totals, to_padded, tokens_of
from forkwise.engines.whole_update import run_on_whole_update
from forkwise.errors import InputError
from forkwise.methods import Need, TokenMethod

_MOST_UPDATES = 2**12  # of a step: the seeds of steps are that far apart


@dataclass(frozen=True)
class WholeUpdates:
    """What the driver hands to the workers in the place of a loss: verl's loss, and methods to act before it.

    Attributes:
        methods: in the order in which they act.
        policy: whose entropies and log-probabilities they get, see `Settings`.
        loss: verl's loss.
    """

    methods: tuple[TokenMethod, ...]
    policy: str
    loss: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuses to be taken for a loss, as by a worker that would leave the methods out."""
        raise RuntimeError(
            f"The methods {quoted(self.methods)} did not act: the actor's workers are not forkwise's. A trainer of "
            "your own must keep the role_worker_mapping of EntropyShapingMixin."
        )


@dataclass(frozen=True)
class DataParallel:
    """The processes that share a mini-batch; see `forkwise.engines.whole_update.Processes`."""

    group: Any

    def gather(self, tensor: Tensor) -> Tensor:
        """Returns the rows of all processes, in the order of the processes."""
        parts = [torch.empty_like(tensor) for _ in range(get_world_size(self.group))]
        all_gather(parts, tensor.contiguous(), group=self.group)
        return torch.cat(parts)

    def pad_across_processes(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Returns the tensor, with zeros behind it, as long in `dim` as the longest of all processes."""
        longest = torch.tensor(tensor.shape[dim], device=tensor.device)
        all_reduce(longest, op=ReduceOp.MAX, group=self.group)
        behind = [0, 0] * (tensor.dim() - dim - 1) + [0, int(longest) - tensor.shape[dim]]
        return pad(tensor, behind)


class SelectingTrainingWorker(TrainingWorker):
    """verl's training worker; before each mini-batch the methods of `WholeUpdates` make its advantages."""

    loss_fn: Any
    _updates = 0  # of this call of `train_mini_batch`

    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        """Trains on all mini-batches, as verl does."""
        self._updates = 0
        return super().train_mini_batch(data)

    def train_batch(self, data: TensorDict) -> TensorDict:
        """Makes the advantages of a mini-batch, and trains on it as verl does."""
        whole = self.loss_fn
        if not isinstance(whole, WholeUpdates):
            return super().train_batch(data)
        totals = self._make_advantages(whole, data)
        self._updates += 1
        self.loss_fn = whole.loss
        try:
            output = super().train_batch(data)
        finally:
            self.loss_fn = whole
        if output is not None:
            tu.get(output, "metrics").update(totals)
        return output

    @torch.no_grad()
    def _make_advantages(self, whole: WholeUpdates, data: TensorDict) -> dict[str, float]:
        """Puts the advantages that the methods make into the mini-batch; returns the totals over all processes."""
        wanted = needs(whole.methods)
        current = self._score(data) if whole.policy == "current" and wanted & {Need.ENTROPY, Need.LOGPROBS} else {}
        seed = int(tu.get_non_tensor_data(data, SEED, 0)) * _MOST_UPDATES + self._updates
        device = torch.device(get_device_id())
        progress = float(tu.get_non_tensor_data(data, PROGRESS, 0.0))
        here = {name: x.to(device) for name, x in current.items()}
        tokens = tokens_of(data.to(device), wanted, seed=seed, progress=progress, **here)
        rows = data[ROWS].to(device)
        processes = DataParallel(self.engine.get_data_parallel_group())
        methods = [method.at(progress, {}) for method in whole.methods]
        (advantages,), totals = run_on_whole_update(methods, [tokens], [rows], processes)
        data["advantages"] = like(advantages.to(data["advantages"].device), data["advantages"])
        return name_totals(totals, whole.methods)

    def _score(self, data: TensorDict) -> dict[str, Tensor]:
        """Returns log-probabilities and entropies `(B, T)` of the mini-batch under the policy as it is now."""
        scored = data.copy()
        tu.assign_non_tensor(
            scored,
            calculate_entropy=True,
            use_remove_padding=self.model_config.get("use_remove_padding", False),
            use_dynamic_bsz=self.engine_config.use_dynamic_bsz,
            max_token_len_per_gpu=self.engine_config.infer_max_token_len_per_gpu,
            micro_batch_size_per_gpu=self.engine_config.infer_micro_batch_size_per_gpu,
            use_fused_kernels=self.engine_config.use_fused_kernels,
        )
        with self.engine.eval_mode(disable_auto_offload=True):
            output = self.engine.infer_batch(scored, loss_function=None)["model_output"]
        width = to_padded(data["response_mask"]).shape[1]
        return {
            name: no_padding_2_padding(output[field], data)[:, :width].detach()
            for name, field in (("logprobs", "log_probs"), ("entropy", "entropy"))
        }


class SelectingActorWorker(ActorRolloutRefWorker):
    """verl's actor with `SelectingTrainingWorker`."""

    actor_worker_cls = SelectingTrainingWorker


class SelectingDetachedWorker(DetachActorWorker):
    """The detached worker of verl's separate mode, which selects as well."""

    actor_worker_cls = SelectingTrainingWorker


def selecting(worker: type) -> type:
    """Returns our form of a worker class of verl's.

    Raises:
        InputError: it is none of verl's.
    """
    for selector in (SelectingActorWorker, SelectingDetachedWorker):
        if worker is selector.__base__:
            return selector
    raise InputError(
        f"Methods that select among the tokens of an update have a worker of their own, and {worker.__name__} is none "
        "of verl's: set its actor_worker_cls to forkwise.engines.verl.worker.SelectingTrainingWorker."
    )
