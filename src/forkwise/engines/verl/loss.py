"""Entropy shaping of verl's jagged batches: of stored advantages, and inside verl's own policy loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding, response_to_nested

from forkwise.core import ShapingStats, shape_and_measure

TOTALS = ("n_pos", "n_neg", "psi_pos", "psi_neg", "psi_over_adv", "capped")
"""Names of `ShapingStats.totals`; none has max or min in it, of which verl takes the largest or smallest."""

PREFIX = "shaping_totals/"


def shape_jagged(
    advantages: Any, entropy: Any, response_mask: Any, *, alpha: float, kappa: float
) -> tuple[Tensor, ShapingStats]:
    """Shapes advantages of responses of different lengths, and measures what shaping did.

    Args:
        advantages: `(B, j)` jagged, or `(B, T)` padded.
        entropy: the same layout and lengths, nats.
        response_mask: the same; 0 at padding and at tokens that the policy did not choose (a tool's answer).
        alpha: weight of the entropy, see `forkwise.core.shape_advantages`.
        kappa: divisor of |A| in the cap, see there.

    Returns:
        A new tensor with the layout and dtype of the advantages, and the statistics.

    Raises:
        ValueError: lengths that differ, or a NaN, an infinity or a negative entropy at a response token.
    """
    tensors = {"advantages": advantages, "entropy": entropy, "response_mask": response_mask}
    if not advantages.is_nested:
        a, h, mask = tensors.values()
    else:
        lengths = advantages.offsets().diff()
        for name, tensor in tensors.items():
            if not tensor.is_nested or not torch.equal(tensor.offsets().diff(), lengths):
                raise ValueError(f"{name} has other response lengths than the advantages, {lengths.tolist()}.")
        a, h, mask = (tensor.values() for tensor in tensors.values())
    shaped, stats = shape_and_measure(a, h, alpha=alpha, kappa=kappa, mask=mask)
    if advantages.is_nested:
        shaped = torch.nested.as_nested_tensor(list(shaped.split(lengths.tolist())), layout=torch.jagged)
    return shaped, stats


def entropy_shaped_ppo_loss(
    config: Any, model_output: dict[str, Any], data: Any, dp_group: Any = None, *, alpha: float, kappa: float
) -> tuple[Tensor, dict[str, Any]]:
    """Computes verl's `ppo_loss` on advantages shaped with the entropy of the policy under update.

    The micro-batch stays as it is, so that further epochs shape the same advantages again, not shaped ones. The loss
    of the entropy bonus keeps its gradient if `config.entropy_coeff` is not 0.

    Args:
        config: verl's `ActorConfig`.
        model_output: `log_probs` and `entropy`, per token of prompts and responses, jagged.
        data: the micro-batch, a TensorDict.
        dp_group: passed on to verl's loss.
        alpha: weight of the entropy, see `forkwise.core.shape_advantages`.
        kappa: divisor of |A| in the cap, see there.

    Returns:
        Loss and metrics of verl, with the sums of `ShapingStats` under `shaping_totals/`.

    Raises:
        RuntimeError: the model computed no entropy.
    """
    entropy = model_output.get("entropy")
    if entropy is None:
        raise RuntimeError(
            "Advantages were not entropy-shaped: the actor computed no entropy. Set "
            "actor_rollout_ref.actor.calculate_entropy=True."
        )
    if config.entropy_coeff == 0:  # verl would send a gradient of zeros through a graph as large as the logits
        entropy = entropy.detach()
        model_output = {**model_output, "entropy": entropy}
    mask = data["response_mask"]
    of_responses = no_padding_2_padding(entropy.detach(), data)
    if mask.is_nested:
        of_responses = response_to_nested(of_responses, mask)
    advantages, stats = shape_jagged(data["advantages"], of_responses, mask, alpha=alpha, kappa=kappa)
    data = data.copy()
    data["advantages"] = advantages
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    totals = zip(TOTALS, stats.totals.tolist(), strict=True)
    return loss, metrics | {PREFIX + name: Metric(AggregationType.SUM, total) for name, total in totals}
