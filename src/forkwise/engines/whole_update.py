"""The batch of a whole optimizer update, gathered over micro-batches and processes in one order.

A method that selects among tokens must see all tokens of an update before its first micro-batch is computed, in an
order that does not depend on how the update was cut up. That order is the rollout's: row i is its i-th completion, over
all processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from forkwise.methods import TokenMethod, Tokens
from forkwise.methods.chain import run_token_methods

_PER_TOKEN = (
    *("advantages", "mask", "entropy", "old_entropy", "logprobs", "old_logprobs"),
    *("tempered_logprobs", "other_logprobs", "sum_p2_log", "nucleus_entropy", "image_similarity", "ids"),
)


class Processes(Protocol):
    """What is asked of the processes that share an update; `accelerate.Accelerator` is one."""

    def gather(self, tensor: Any) -> Any:
        """Returns the rows of all processes, in the order of the processes."""

    def pad_across_processes(self, tensor: Any, dim: int = 0) -> Any:
        """Returns the tensor, with zeros behind it, as long in `dim` as the longest of all processes."""


def run_on_whole_update(
    methods: Sequence[TokenMethod], parts: Sequence[Tokens], rows: Sequence[Tensor], processes: Processes
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Runs the methods on a whole update, or a whole rollout.

    Args:
        methods: the methods, in the order in which they act.
        parts: this process's micro-batches, `(B, T)` each.
        rows: for each micro-batch, the positions of its completions in the rollout, `(B,)`.
        processes: gathers over processes, all of which must call this.

    Returns:
        The advantages of each part, and the totals of `run_token_methods`, over all processes.
    """
    whole = gather_update(parts, rows, processes)
    advantages, totals = run_token_methods(methods, whole.tokens)
    return whole.shares(advantages), totals


@dataclass(frozen=True)
class WholeUpdate:
    """A whole update, and how this process's micro-batches get their shares of what is made of it.

    Attributes:
        tokens: of all micro-batches and processes, in the order of the rollout.
        mine: where this process's rows stand in it, `(B,)`.
        sizes: the rows of each micro-batch.
        width: the tokens of a row on this process.
    """

    tokens: Tokens
    mine: Tensor
    sizes: list[int]
    width: int

    def shares(self, values: Tensor) -> list[Tensor]:
        """Returns the rows of each micro-batch of values `(B, T)` of the whole update."""
        return list(values[self.mine, : self.width].split(self.sizes))


def gather_update(parts: Sequence[Tokens], rows: Sequence[Tensor], processes: Processes) -> WholeUpdate:
    """Gathers an update, or a rollout; the arguments are those of `run_on_whole_update`."""
    columns = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in fields(Tokens)
        if isinstance(getattr(parts[0], field.name), Tensor)
    }
    local = torch.cat(list(rows))
    everyone: Tensor = processes.gather(local)
    order = everyone.argsort()
    whole: dict[str, Any] = {
        name: _gather(tensor, name in _PER_TOKEN, processes)[order] for name, tensor in columns.items()
    }
    tokens = replace(parts[0], **whole)  # what is no tensor is the same in all parts
    mine = torch.searchsorted(everyone[order], local)
    return WholeUpdate(tokens, mine, [len(part.mask) for part in parts], parts[0].mask.shape[1])


def _gather(tensor: Tensor, padded: bool, processes: Processes) -> Tensor:
    """Gathers a tensor over processes, padded with zeros to one length; a mask reads those as False."""
    boolean = tensor.dtype == torch.bool
    values = tensor.to(torch.uint8) if boolean else tensor.contiguous()
    if padded:
        values = processes.pad_across_processes(values, dim=1)
    gathered: Tensor = processes.gather(values)
    return gathered.bool() if boolean else gathered
