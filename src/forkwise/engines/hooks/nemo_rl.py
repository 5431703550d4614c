"""NeMo-RL: the entropy-shaped advantage as a loss around its own, in a copy of `examples/run_grpo.py`.

    from forkwise.engines.hooks.nemo_rl import shaped
    ..., loss_fn, ... = setup(...)
    grpo_train(..., shaped(loss_fn, alpha=0.4, kappa=2.0, generation=config.policy["generation"]), ...)

NeMo-RL hands a loss the log-probs of the drawn tokens, or logits. The wrapper asks for logits, which NeMo-RL has
divided by the temperature, takes entropies and log-probs from them, and calls the loss. The vocabulary must not be cut
into pieces (tensor parallel size 1), and its fused log-probs must be off, since then there are no logits. Rollouts must
be drawn from the whole distribution (`top_p` 1, no `top_k`): else NeMo-RL filters the old log-probs, and not the logits
that it hands to a loss, and every ratio would be wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from forkwise.constants import KAPPA, check_alpha, check_kappa
from forkwise.core import shape_and_measure, token_entropy
from forkwise.engines.hooks.levels import warn_of_sequences
from forkwise.engines.hooks.totals import named
from forkwise.errors import InputError


class ShapedLoss:
    """NeMo-RL's `LossFunction`: the loss that it wraps, on shaped advantages.

    Raises:
        InputError: at the first micro-batch, where a process has a piece of the vocabulary only.
        RuntimeError: in a loss to which no logits or advantages come.
    """

    def __init__(self, loss_fn: Any, alpha: float, kappa: float) -> None:
        """Wraps a loss that takes `next_token_logprobs`, as `ClippedPGLossFn` does."""
        from nemo_rl.algorithms.loss.interfaces import LossInputType

        if getattr(loss_fn, "input_type", None) is not LossInputType.LOGPROB:
            raise InputError(f"{type(loss_fn).__name__} does not take log-probs: give the loss that setup() returns.")
        if getattr(loss_fn, "use_fused_linear_logprobs", False):
            raise InputError("NeMo-RL's fused log-probs leave no logits to take entropies from: switch them off.")
        self.input_type = LossInputType.LOGIT
        self._loss_fn, self.alpha, self.kappa = loss_fn, alpha, kappa

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while it is being unpickled there is no loss to ask
            raise AttributeError(name)
        return getattr(self._loss_fn, name)

    def __call__(self, *, data: Any, logits: Tensor | None = None, **more: Any) -> tuple[Tensor, dict[str, Any]]:
        """Computes loss and metrics; the micro-batch stays as it is."""
        from nemo_rl.distributed.model_utils import get_next_token_logprobs_from_logits

        if logits is None or "advantages" not in data:
            missing = "logits" if logits is None else "advantages"
            raise RuntimeError(f"Advantages were not entropy-shaped: NeMo-RL's loss was given no {missing}.")
        if _cut(logits):
            raise InputError("Each process has a piece of the vocabulary only: set the tensor parallel size to 1.")
        with torch.no_grad():
            entropy = token_entropy(logits[:, :-1].float())
        mask = data["token_mask"] * data["sample_mask"].unsqueeze(-1)
        advantages = data["advantages"].clone()
        advantages[:, 1:], stats = shape_and_measure(
            data["advantages"][:, 1:], entropy, alpha=self.alpha, kappa=self.kappa, mask=mask[:, 1:]
        )
        logprobs = get_next_token_logprobs_from_logits(
            input_ids=data["input_ids"], next_token_logits=logits, seq_index=data.get("seq_index", None)
        )
        batch = type(data)(data)
        batch["advantages"] = advantages
        loss, metrics = self._loss_fn(next_token_logprobs=logprobs, data=batch, **more)
        return loss, {**metrics, **named(stats)}


def shaped(loss_fn: Any, *, alpha: float, kappa: float = KAPPA, generation: Mapping[str, Any] | None = None) -> Any:
    """Returns the loss on advantages shaped with the entropy of the policy under update; with alpha 0, the loss itself.

    Args:
        loss_fn: the loss that NeMo-RL's `setup` returns.
        alpha: as in `forkwise.core.shape_advantages`.
        kappa: the same.
        generation: NeMo-RL's settings of generation, `config.policy["generation"]`.

    Raises:
        InputError: a constant is out of range, the loss shapes already or takes something else than log-probs, or
            rollouts are not drawn from the whole distribution.
    """
    check_alpha(alpha)
    check_kappa(kappa)
    if isinstance(loss_fn, ShapedLoss):
        raise InputError("This loss shapes advantages already, and twice would break the cap: call shaped() once.")
    if alpha == 0:
        return loss_fn
    if generation is None or "top_p" not in generation:
        raise InputError('Shaping must know how rollouts are drawn: give generation=config.policy["generation"].')
    top_p, top_k = generation["top_p"], generation.get("top_k")
    if top_p != 1 or top_k not in (None, -1):
        raise InputError(
            f"Rollouts are drawn with top_p={top_p} and top_k={top_k}, by which NeMo-RL filters the old log-probs and "
            "not the logits that a loss is given: set policy.generation.top_p=1.0 and policy.generation.top_k=null."
        )
    level = getattr(loss_fn, "sequence_level_importance_ratios", False)
    warn_of_sequences("loss_fn.sequence_level_importance_ratios=true", per_sequence=bool(level))
    return ShapedLoss(loss_fn, alpha, kappa)


def _cut(logits: Tensor) -> bool:
    """Tells whether these are the logits of a part of the vocabulary."""
    state: Any = sys.modules.get("megatron.core.parallel_state")
    parallel = state is not None and state.model_parallel_is_initialized()
    return hasattr(logits, "full_tensor") or (parallel and state.get_tensor_model_parallel_world_size() > 1)
