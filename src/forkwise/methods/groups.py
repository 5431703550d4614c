"""Sums and means over the completions of a prompt, for methods of the reward stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forkwise.methods.base import wide

if TYPE_CHECKING:
    from torch import Tensor


def group_sum(values: Tensor, groups: Tensor) -> Tensor:
    """Sums values `(N,)` over the group of each completion, `(N,)` float64: all of a group get the same."""
    ids = groups.unique(return_inverse=True)[1]
    totals = wide(values.new_zeros(int(ids.max()) + 1 if len(ids) else 0))
    return totals.index_add(0, ids, wide(values))[ids]


def group_mean(values: Tensor, groups: Tensor) -> Tensor:
    """Averages values `(N,)` over the group of each completion, `(N,)` float64."""
    import torch

    return group_sum(values, groups) / group_sum(torch.ones_like(groups), groups)
