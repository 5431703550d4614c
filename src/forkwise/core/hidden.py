"""The last hidden states of tokens: what a model's last layer would multiply, without the product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from forkwise.core.heads import HeadError, causal_model, in_place_of_head, no_logits

__all__ = ["last_hidden_states"]


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
