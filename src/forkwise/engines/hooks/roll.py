"""ROLL's RLVR pipeline: the entropy-shaped advantage by the class of its actor's worker, in the run's YAML.

    actor_train:
      worker_cls: forkwise.engines.hooks.roll.EntropyShapedActorWorker

alpha and kappa come from the environment, FORKWISE_ALPHA and FORKWISE_KAPPA. Entropies are those of the policy under
update that ROLL's `op_compute_entropy` computes: at temperature 1, as its log-probs are. ROLL's other pipelines
(agentic ones among them) have other losses, and are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from forkwise.core import shape_and_measure
from forkwise.engines.hooks.constants import constants
from forkwise.engines.hooks.levels import warn_of_sequences
from forkwise.engines.hooks.totals import named
from forkwise.errors import InputError

if TYPE_CHECKING:
    _Worker = Any
else:
    _Worker = object


class RollShapedLoss(_Worker):
    """Shapes the advantages of each micro-batch before the loss of the worker class that stands behind it.

    Raises:
        InputError: in a loss of another pipeline than RLVR, whatever alpha is, or one over packed sequences.
        RuntimeError: in a loss to which no entropies or advantages come.
    """

    def loss_func(self, data: Any, output_tensor: torch.Tensor) -> Any:
        """Computes ROLL's loss on shaped advantages; the micro-batch has its own again afterwards."""
        _check_pipeline(self.pipeline_config)
        alpha, kappa = constants(self.pipeline_config)
        if alpha == 0:
            return super().loss_func(data, output_tensor)
        level = getattr(self.pipeline_config, "importance_sampling", "token")
        warn_of_sequences("importance_sampling: seq", per_sequence=level == "seq")
        before = data.batch.get("advantages")
        with torch.no_grad():
            entropy = self.strategy.op_compute_entropy(logits=output_tensor, attention_mask=data.batch["response_mask"])
        if before is None or entropy is None:
            missing = "advantages" if before is None else "entropies"
            raise RuntimeError(f"Advantages were not entropy-shaped: ROLL's loss was given no {missing}.")
        if before.shape != entropy.shape:
            raise InputError(
                f"ROLL gives advantages {tuple(before.shape)} and entropies {tuple(entropy.shape)}: shaping needs one "
                "of each per token, so train without sequence packing."
            )
        mask = data.batch.get("final_response_mask", None)  # what ROLL's loss counts, where it is not all responses
        mask = data.batch["response_mask"][:, 1:] if mask is None else mask
        shaped, stats = shape_and_measure(before, entropy, alpha=alpha, kappa=kappa, mask=mask)
        data.batch["advantages"] = shaped
        try:
            loss, metrics = super().loss_func(data, output_tensor)
        finally:
            data.batch["advantages"] = before
        return loss, metrics | named(stats)


def _check_pipeline(config: Any) -> None:
    """Refuses a configuration of ROLL's that is not one of its RLVR pipeline: the worker has that pipeline's loss."""
    modules = [kind.__module__ for kind in type(config).__mro__]
    of_roll = [module for module in modules if module.startswith("roll.")]
    if of_roll and not any(module.startswith("roll.pipeline.rlvr.") for module in of_roll):
        raise InputError(
            f"This worker has the loss of ROLL's RLVR pipeline, and the run has a {type(config).__name__}: take "
            "worker_cls out of its YAML, or train with the RLVR pipeline."
        )


def __getattr__(name: str) -> Any:
    """Makes the worker class when ROLL asks for it by its path."""
    if name != "EntropyShapedActorWorker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from roll.pipeline.rlvr.actor_worker import ActorWorker

    worker = type(name, (RollShapedLoss, ActorWorker), {"__module__": __name__, "__doc__": RollShapedLoss.__doc__})
    globals()[name] = worker
    return worker
