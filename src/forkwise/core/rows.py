"""Entropy from logits that exist already, in blocks of rows. `forkwise.core.entropy` has the formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forkwise.core.tiles import accumulation_dtype, to_bits

__all__ = ["RowEntropy"]


def _row_budget(device: torch.device) -> int:
    """Returns the elements of a row block: it stays in cache on a CPU, and hides the kernel launches elsewhere."""
    return 1 << 20 if device.type == "cpu" else 1 << 24


def _row_blocks(*tensors: Tensor, start: int = 0) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yields blocks `(rows, V)` of tensors of a shape `(..., V)`, as views: `reshape` would copy `logits[:, :-1]`."""
    shape = tensors[0].shape
    rows = max(1, _row_budget(tensors[0].device) // shape[-1])
    try:
        flat = [tensor.view(-1, shape[-1]) for tensor in tensors]
    except RuntimeError:  # no single stride steps through all rows
        step = shape[1:-1].numel()
        for i in range(shape[0]):
            yield from _row_blocks(*(tensor[i] for tensor in tensors), start=start + i * step)
        return
    for lo in range(0, flat[0].shape[0], rows):
        block = [tensor[lo : lo + rows] for tensor in flat]
        yield slice(start + lo, start + lo + block[0].shape[0]), block


def _row_scratch(logits: Tensor, dtype: torch.dtype) -> list[Tensor]:
    size = min(logits.numel(), max(_row_budget(logits.device), logits.shape[-1]))
    return [logits.new_empty(size, dtype=dtype) for _ in range(2)]


class RowEntropy(torch.autograd.Function):
    """The entropy of each row of logits `(..., V)`, of one 1 / temperature or one per row."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, inv_t: float | Tensor) -> Tensor:
        dtype = accumulation_dtype(logits.dtype)
        m, s, mean = (logits.new_empty(logits.shape[:-1].numel(), dtype=dtype) for _ in range(3))
        scratch = _row_scratch(logits, dtype)
        for rows, (block,) in _row_blocks(logits):
            z, e = (buffer[: block.numel()].view_as(block) for buffer in scratch)
            m[rows] = z.copy_(block).amax(-1).clamp_(min=torch.finfo(dtype).min)
            u = to_bits(z, m[rows, None], inv_t, rows)
            torch.exp2(u, out=e)
            s[rows] = e.sum(-1)
            mean[rows] = e.mul_(u).sum(-1).div_(s[rows])
        entropy = s.log() - math.log(2) * mean
        dead = s == 0
        ctx.save_for_backward(logits, m, s.masked_fill_(dead, 1), mean.masked_fill_(dead, 0))
        ctx.inv_t = inv_t
        return entropy.view(logits.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, m, s, mean = ctx.saved_tensors
        inv_t = ctx.inv_t
        slope = -math.log(2) * grad.reshape(-1) * inv_t / s
        grad_logits = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        scratch = _row_scratch(logits, m.dtype)
        for rows, (block, grad_block) in _row_blocks(logits, grad_logits):
            z, e = (buffer[: block.numel()].view_as(block) for buffer in scratch)
            u = to_bits(z.copy_(block), m[rows, None], inv_t, rows)
            torch.exp2(u, out=e)
            # log p + H = log(2) (u - T / S)
            grad_block.copy_(u.sub_(mean[rows, None]).mul_(e).mul_(slope[rows, None]))
        return grad_logits, None
