"""verl's own policy loss on the advantages that methods make of the policy under update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

from forkwise.engines.base import needs
from forkwise.engines.verl.batch import PROGRESS, SEED, like, name_totals, to_padded, tokens_of
from forkwise.methods import Need, TokenMethod
from forkwise.methods.chain import run_token_methods


def shaped_ppo_loss(
    config: Any, model_output: dict[str, Any], data: Any, dp_group: Any = None, *, methods: Sequence[TokenMethod]
) -> tuple[Tensor, dict[str, Any]]:
    """Computes verl's `ppo_loss` on the advantages that the methods make with the policy under update.

    The micro-batch stays as it is, so that further epochs start from the same advantages again. The loss of the entropy
    bonus keeps its gradient if `config.entropy_coeff` is not 0.

    Args:
        config: verl's `ActorConfig`.
        model_output: `log_probs` and `entropy`, per token of prompts and responses, jagged.
        data: the micro-batch, a TensorDict.
        dp_group: passed on to verl's loss.
        methods: in the order in which they act; each looks at one token at a time.

    Returns:
        Loss and metrics of verl, with the sums of `run_token_methods` under `forkwise_totals/`.

    Raises:
        RuntimeError: a method needs entropies, and the model computed none.
    """
    entropy, wanted = model_output.get("entropy"), needs(methods)
    if entropy is None and Need.ENTROPY in wanted:
        raise RuntimeError(
            "Advantages were not entropy-shaped: the actor computed no entropy. Set "
            "actor_rollout_ref.actor.calculate_entropy=True."
        )
    if entropy is not None and config.entropy_coeff == 0:
        # verl would send a gradient of zeros through a graph as large as the logits
        entropy = entropy.detach()
        model_output = {**model_output, "entropy": entropy}
    width = to_padded(data["response_mask"]).shape[1]
    current: dict[str, Tensor] = {}
    for need, name, values in (
        (Need.LOGPROBS, "logprobs", model_output["log_probs"]),
        (Need.ENTROPY, "entropy", entropy),
    ):
        if need in wanted and values is not None:
            current[name] = no_padding_2_padding(values.detach(), data)[:, :width]
    progress = float(tu.get_non_tensor_data(data, PROGRESS, 0.0))
    tokens = tokens_of(data, wanted, seed=tu.get_non_tensor_data(data, SEED, 0), progress=progress, **current)
    advantages, totals = run_token_methods([method.at(progress, {}) for method in methods], tokens)
    data = data.copy()
    data["advantages"] = like(advantages, data["advantages"])
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    sums = name_totals(totals, methods)
    return loss, metrics | {name: Metric(AggregationType.SUM, total) for name, total in sums.items()}
