"""Trainers over TRL whose loss reads advantages where they cannot be changed (Unsloth): shaping by weights.

Unsloth puts a compiled loss of its own in the place of TRL's. It asks the trainer for a mask of high-entropy tokens,
`get_high_entropy_mask(entropies, mask, threshold)`, with the entropies of the policy under update, and multiplies the
policy's loss with it. The mixin returns weights there:

    class Mine(WeightShapingMixin, GRPOTrainer): ...     # the GRPOTrainer that Unsloth has patched
    trainer = Mine(..., args=GRPOConfig(..., top_entropy_quantile=0.99, beta=0.0))
    trainer.shape(alpha=0.4, kappa=2.0)
    trainer.train()

Any `top_entropy_quantile` below 1 makes the loss ask; its value does not matter, since no token is ever masked: with
alpha 0 and in evaluation all weights are 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from forkwise.constants import KAPPA, check_alpha, check_kappa
from forkwise.core import shape_and_measure
from forkwise.engines.base import ActionLog
from forkwise.engines.hooks.totals import report
from forkwise.engines.weights import check_weighable, shaping_weights
from forkwise.errors import InputError
from forkwise.methods.chain import SHAPING

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


_OURS = ("compute_loss", "get_high_entropy_mask", "training_step", "log")


class WeightShapingMixin(_Trainer):
    """Shapes advantages by weights of the loss, in every training loss; see the module.

    Logged are `shaping/...` as by `EntropyShapedGRPOTrainer`, over all processes since the last log.

    Raises:
        TypeError: when the class is defined, where the mixin stands behind the trainer, or before one that shapes.
        InputError: from `shape`, for settings under which weights would not shape.
        RuntimeError: in the first training step, without a call of `shape`, or if its loss did not ask for weights.
    """

    _constants: tuple[float, float] | None = None  # None before `shape`
    _advantages: torch.Tensor | None = None  # of the micro-batch whose loss is being computed
    _weighed = 0
    _action_log: ActionLog

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _OURS:
            first = next(base for base in cls.__mro__ if name in vars(base))
            if not issubclass(first, WeightShapingMixin):
                raise TypeError(f"{cls.__name__}: name WeightShapingMixin before the trainer, or it would do nothing.")
        if any(base.__module__.startswith("forkwise.engines.trl") for base in cls.__mro__):
            raise TypeError(f"{cls.__name__}: this trainer shapes advantages itself: drop WeightShapingMixin.")

    def shape(self, *, alpha: float, kappa: float = KAPPA) -> None:
        """Sets the constants, before training; alpha 0 trains without shaping."""
        check_alpha(alpha)
        check_kappa(kappa)
        self._action_log = ActionLog("alpha")
        self._constants = (alpha, kappa)
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

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes the trainer's loss, whose advantages are kept at hand for the weights."""
        self._advantages = inputs["advantages"] if self.model.training else None
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self._advantages = None

    def get_high_entropy_mask(self, entropies: torch.Tensor, mask: torch.Tensor, threshold: float) -> torch.Tensor:
        """Returns weights instead of a mask: 1 at every token where nothing is shaped."""
        alpha, kappa = self._constants or (0.0, KAPPA)
        if self._advantages is None or alpha == 0:
            return torch.ones_like(entropies)
        entropy = entropies.detach()
        self._weighed += 1
        _, stats = shape_and_measure(self._advantages, entropy, alpha=alpha, kappa=kappa, mask=mask)
        self._action_log.add({SHAPING: stats.totals})
        return shaping_weights(self._advantages, entropy, alpha=alpha, kappa=kappa, mask=mask)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Runs the trainer's step; raises without constants, or if its loss did not ask for weights."""
        if self._constants is None:
            raise RuntimeError(
                "Advantages were not entropy-shaped: call trainer.shape(alpha=0.4, kappa=2.0) before training, or "
                "trainer.shape(alpha=0) to train without shaping."
            )
        before = self._weighed
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self._constants[0] and self._weighed == before:
            raise RuntimeError(
                "Advantages were not entropy-shaped: the loss did not call get_high_entropy_mask. This trainer's "
                "release computes it otherwise; train with alpha=0 or with forkwise's own trainer."
            )
        return loss

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Logs as the trainer does and adds, in training, what shaping did since the last log."""
        if self._constants and self.model.training:
            report(self, self._action_log)
        super().log(*args, **kwargs)
