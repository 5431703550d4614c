"""OpenRLHF: the entropy-shaped advantage by a launcher that takes OpenRLHF's own arguments.

    FORKWISE_ALPHA=0.4 python -m forkwise.engines.hooks.openrlhf --actor.entropy_coef 0 ...

instead of `python -m openrlhf.cli.train_ppo_ray ...`. Each of Ray's workers puts `EntropyShapedStep` before OpenRLHF's
trainer of the actor. `--actor.entropy_coef 0` makes it compute entropies, at the sampling temperature since 0.11, and
gives them no weight in the loss.

Nothing of torch, DeepSpeed or OpenRLHF is imported here: Ray calls `install` when a worker starts, before it has a
device.
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import TYPE_CHECKING, Any

from forkwise.engines.hooks.constants import constants
from forkwise.engines.on_import import after_import
from forkwise.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    _Trainer = Any
else:
    _Trainer = object

_TRAINER = "openrlhf.trainer.ray.ppo_actor"


class EntropyShapedStep(_Trainer):
    """Shapes the advantages of each micro-batch between OpenRLHF's forward pass and its loss.

    Raises:
        InputError: OpenRLHF computes no entropies, as its arguments stand.
        RuntimeError: in a step whose loss was computed without shaped advantages.
    """

    actor_loss_fn: Any

    def training_step(self, experience: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs OpenRLHF's step with a loss that takes shaped advantages."""
        from forkwise.core import shape_and_measure
        from forkwise.engines.hooks.levels import warn_of_sequences
        from forkwise.engines.hooks.totals import named

        alpha, kappa = constants(self.args)
        if alpha == 0:
            return super().training_step(experience, *args, **kwargs)
        if self.args.actor.entropy_coef is None:
            raise InputError("Advantages need entropies: add --actor.entropy_coef 0.")
        actor, loss_fn = self.actor, self.actor_loss_fn
        kind = getattr(loss_fn, "policy_loss_type", None)
        warn_of_sequences("--actor.policy_loss_type gspo", per_sequence=kind == "gspo")
        entropies: list[Tensor] = []
        numbers: dict[str, float] = {}

        def keep(_: Any, __: Any, outputs: Any) -> None:
            entropies.append(outputs[1].entropy.detach())

        def of_shaped(log_probs: Tensor, old: Tensor, advantages: Tensor, *more: Any, **options: Any) -> Any:
            if not entropies:
                raise RuntimeError("Advantages were not entropy-shaped: the actor's forward pass gave no entropies.")
            mask = options.get("action_mask")
            entropy = entropies[-1][:, -advantages.shape[1] :]
            shaped, stats = shape_and_measure(advantages, entropy, alpha=alpha, kappa=kappa, mask=mask)
            tokens = shaped.numel() if mask is None else int(mask.sum())
            numbers.update(named(stats, per=max(tokens, 1)))
            return loss_fn(log_probs, old, shaped, *more, **options)

        handle = actor.register_forward_hook(keep)
        self.actor_loss_fn = of_shaped
        try:
            status = super().training_step(experience, *args, **kwargs)
        finally:
            handle.remove()
            self.actor_loss_fn = loss_fn
        if not numbers:
            raise RuntimeError("Advantages were not entropy-shaped: OpenRLHF's step did not call actor_loss_fn.")
        _report(status, numbers)
        return status


def _report(status: Any, numbers: dict[str, float]) -> None:
    """Adds sums per token to what OpenRLHF's step reports, which it multiplies by tokens, adds up and divides."""
    if isinstance(status, dict) and "metrics" in status and "weights" in status:
        import torch

        status["metrics"].update({name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()})
        status["weights"].update(dict.fromkeys(numbers, "token"))


def install() -> None:
    """Puts the shaping step before OpenRLHF's trainer of the actor, in this process, as soon as that is imported."""
    after_import(_TRAINER, _put_step)


def _put_step() -> None:
    module: Any = sys.modules[_TRAINER]
    if not issubclass(module.ActorPPOTrainer, EntropyShapedStep):
        module.ActorPPOTrainer = type("EntropyShapedActorPPOTrainer", (EntropyShapedStep, module.ActorPPOTrainer), {})


def main() -> None:
    """Starts Ray so that its workers shape, and OpenRLHF's command line in this process."""
    import ray

    constants()  # an alpha that is missing or wrong is said before anything starts
    kept = {name: os.environ[name] for name in ("FORKWISE_ALPHA", "FORKWISE_KAPPA") if name in os.environ}
    defaults = {"TOKENIZERS_PARALLELISM": "true", "NCCL_DEBUG": "WARN", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
    variables = {name: os.environ.get(name, value) for name, value in defaults.items()} | kept
    ray.init(runtime_env={"env_vars": variables, "worker_process_setup_hook": f"{__spec__.name}.install"})
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
