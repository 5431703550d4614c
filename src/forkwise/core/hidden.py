"""Hidden states of tokens: the last ones without the product of the head, or that product after each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from forkwise.core.in_place import HeadError, causal_model, in_place_of_head, no_logits

__all__ = ["last_hidden_states", "layer_logits"]


def last_hidden_states(model: Any, inputs: Mapping[str, Any], rows: Tensor, columns: Tensor) -> Tensor:
    """Runs the model and returns what its head would get at some positions, `(N, d)`, in bfloat16.

    Args:
        model: a causal language model of transformers; adapters and sharding may be wrapped around it.
        inputs: what the model is called with.
        rows: `(N,)` int64.
        columns: `(N,)` int64, negative: positions counted from the end of the row.

    Raises:
        HeadError: the model has no linear last layer.
    """

    def keep(_: Any, hidden: Tensor) -> Tensor:
        if hidden.dim() != 3:
            raise HeadError(f"its head gets a tensor of shape {tuple(hidden.shape)}, not one of rows of tokens")
        return hidden[rows, hidden.shape[1] + columns].to(torch.bfloat16)

    with torch.no_grad(), in_place_of_head(causal_model(model), keep, no_logits) as answer:
        answer.use(lambda kept, _: {"hidden": kept})
        states: Tensor = model(**inputs)["hidden"]
    return states


@torch.no_grad()
def layer_logits(model: Any, inputs: Mapping[str, Any], rows: Tensor, columns: Tensor, targets: Tensor) -> Tensor:
    """Runs the model and returns the logit of a token after each layer, `(N, layers)` float32: the logit lens.

    The head multiplies what leaves each layer as it is; before the last one's product stands the model's final norm.

    Args:
        model: a causal language model of transformers; the head must be whole on this device.
        inputs: what the model is called with.
        rows: `(N,)` int64.
        columns: `(N,)` int64, negative: positions counted from the end of the row, at which the token is predicted.
        targets: `(N,)` int64, the tokens.

    Raises:
        HeadError: the model has no linear last layer.
    """
    head = causal_model(model).get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight.dim() != 2:
        raise HeadError("it does not say which layer makes its logits")
    states = model(**inputs, output_hidden_states=True).hidden_states[1:]
    kept = torch.stack([layer[rows, layer.shape[1] + columns] for layer in states], dim=1).float()
    logits: Tensor = (kept * weight[targets].float()[:, None]).sum(dim=2)
    bias: Tensor | None = getattr(head, "bias", None)
    return logits if bias is None else logits + bias[targets].float()[:, None]
