"""Trainers over TRL whose loss reads advantages where they cannot be changed (Unsloth): shaping by weights.

Unsloth puts a compiled loss of its own in the place of TRL's. It asks the trainer for a mask of high-entropy tokens,
`get_high_entropy_mask(entropies, mask, threshold)`, with the entropies of the policy under update, and multiplies the
policy's loss with it. The mixin returns weights there:

    class Mine(WeightShapingMixin, GRPOTrainer): ...     # the GRPOTrainer that Unsloth has patched
    trainer = Mine(..., args=GRPOConfig(..., top_entropy_quantile=0.99, beta=0.0))
    trainer.shape(alpha=0.4, kappa=2.0)

Any `top_entropy_quantile` below 1 makes the loss ask; its value does not matter here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from forkwise.constants import KAPPA, check_alpha, check_kappa
from forkwise.core import shape_and_measure
from forkwise.engines.hooks.constants import log
from forkwise.engines.weights import check_weighable, shaping_weights
from forkwise.errors import InputError

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


class WeightShapingMixin(_Trainer):
    """Shapes advantages by weights of the loss, in every training loss; see the module.

    Raises:
        InputError: from `shape`, for settings under which weights would not shape.
        RuntimeError: in the first training step whose loss did not ask for them.
    """

    _constants: tuple[float, float] | None = None
    _advantages: torch.Tensor | None = None  # of the micro-batch whose loss is being computed
    _weighed = 0

    def shape(self, *, alpha: float, kappa: float = KAPPA) -> None:
        """Sets the constants; without them, or with alpha 0, the trainer is what it was."""
        check_alpha(alpha)
        check_kappa(kappa)
        self._constants = None
        if alpha == 0:
            return
        args: Any = self.args
        check_weighable(args.loss_type, kl=float(args.beta))
        if getattr(args, "importance_sampling_level", "token") != "token":
            raise InputError("Weights are per token: set importance_sampling_level='token'.")
        if not args.top_entropy_quantile < 1:
            raise InputError("The loss asks for weights only with top_entropy_quantile below 1: set it to 0.99.")
        if getattr(args, "entropy_coef", 0) or getattr(args, "use_adaptive_entropy", False):
            raise InputError("Weights would change the entropy bonus too: set entropy_coef=0.")
        self._constants = (alpha, kappa)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes the trainer's loss, whose advantages are kept at hand for the weights."""
        self._advantages = inputs["advantages"] if self._constants else None
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self._advantages = None

    def get_high_entropy_mask(self, entropies: torch.Tensor, mask: torch.Tensor, threshold: float) -> torch.Tensor:
        """Returns weights instead of a mask where the trainer shapes."""
        if self._constants is None or self._advantages is None:
            masked: torch.Tensor = super().get_high_entropy_mask(entropies, mask, threshold)
            return masked
        alpha, kappa = self._constants
        entropy = entropies.detach()
        self._weighed += 1
        log(shape_and_measure(self._advantages, entropy, alpha=alpha, kappa=kappa, mask=mask)[1], "micro-batch")
        return shaping_weights(self._advantages, entropy, alpha=alpha, kappa=kappa, mask=mask)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Runs the trainer's step; raises if its loss did not ask for weights."""
        before = self._weighed
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self._constants and self._weighed == before:
            raise RuntimeError(
                "Advantages were not entropy-shaped: the loss did not call get_high_entropy_mask. This trainer's "
                "release computes it otherwise; train with alpha=0 or with forkwise's own trainer."
            )
        return loss
