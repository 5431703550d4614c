"""Completions of earlier rollouts, kept on the CPU in few bytes, for any engine that learns from them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ROW = "row"
"""The column of the numbers by which completions are known, ascending."""


@dataclass(frozen=True)
class Rows:
    """Completions as columns: `(N,)`, or `(N, W)` padded with zeros, prompts in front and all else behind.

    Attributes:
        columns: by their names. Those of prompts begin with `prompt_`, masks end with `mask`.
    """

    columns: Mapping[str, Tensor]

    def __len__(self) -> int:
        """Counts the completions."""
        return len(self.columns[ROW])

    def numbers(self) -> Tensor:
        """Returns the numbers of the completions."""
        return self.columns[ROW]

    def joined(self, behind: Rows) -> Rows:
        """Returns these completions and behind them the others, whose columns must be the same."""
        if self.columns.keys() != behind.columns.keys():
            raise RuntimeError(
                f"Rows of {sorted(self.columns)} cannot be joined with rows of {sorted(behind.columns)}."
            )
        both = {}
        for name, column in self.columns.items():
            theirs = behind.columns[name]
            width = max(column.shape[1], theirs.shape[1]) if column.dim() == 2 else 0
            both[name] = torch.cat([padded(part, width, front=name.startswith("prompt_")) for part in (column, theirs)])
        return Rows(both)

    def of(self, numbers: Tensor) -> Rows:
        """Returns the completions of these numbers, in their order."""
        places = torch.searchsorted(self.numbers(), numbers).clamp(max=max(len(self) - 1, 0))
        if len(numbers) and not (len(self) and torch.equal(self.numbers()[places], numbers)):
            raise RuntimeError("A method wants to learn from completions that were not kept.")
        return Rows({name: column[places] for name, column in self.columns.items()})

    def only(self, numbers: Tensor) -> Rows:
        """Returns the completions whose numbers are among these, in the order in which they stand."""
        kept = torch.isin(self.numbers(), numbers)
        return Rows({name: column[kept] for name, column in self.columns.items()})

    def trimmed(self) -> Rows:
        """Returns the completions without columns in which no mask has anything; one stays."""
        columns = dict(self.columns)
        for front, mask in ((True, columns["prompt_mask"]), (False, columns["completion_mask"])):
            used = (mask != 0).any(dim=0).nonzero()
            full = mask.shape[1]
            width = max(1, (full - int(used.min()) if front else int(used.max()) + 1) if len(used) else 1)
            for name, column in self.columns.items():
                if column.dim() == 2 and column.shape[1] == full and name.startswith("prompt_") == front:
                    columns[name] = column[:, full - width :] if front else column[:, :width]
        return Rows(columns)


def small(name: str, column: Tensor) -> Tensor:
    """Returns a column on the CPU, masks as bool and numbers of tokens in 32 bits."""
    column = column.detach().cpu()
    if name.endswith("mask"):
        return column != 0
    return column.to(torch.int32) if column.dtype == torch.int64 and column.dim() == 2 else column


def padded(column: Tensor, width: int, *, front: bool) -> Tensor:
    """Pads a column `(N, W)` with zeros to a width; one `(N,)` stays as it is."""
    missing = width - column.shape[1] if column.dim() == 2 else 0
    return torch.nn.functional.pad(column, (missing, 0) if front else (0, missing)) if missing > 0 else column
