"""The fold of a tile and its gradient in Triton: each reads a tile of products once and keeps the rest in registers.

The arithmetic is that of `forkwise.core.tiles.TorchPasses`, in float32. Import it where Triton is to be used only.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from forkwise.core.tiles import Coefficients, LogitCurve, Sums, Tiles

__all__ = ["TritonPasses"]

_FOLD_WORDS = 2048  # of a row, at a time
_GRADIENT_WORDS = 1024
_FLOOR = tl.constexpr(-1e4)  # as in tiles.py; comparisons are written so that NaN stays NaN


@triton.jit
def _bits(y, m, scale):
    u = (y - m) * scale
    return tl.where(u < _FLOOR, _FLOOR, u)


@triton.jit
def _curve(z, b, inner, HAS_CAP: tl.constexpr):
    """Gives y, and what the gradient is multiplied by under a soft cap."""
    y = z + b
    slope = y
    if HAS_CAP:
        y = 1.0 / (1.0 + tl.exp2(-inner * y))
        slope = y * (y - 1.0)
        y = tl.where(b == -float("inf"), -float("inf"), y)  # a removed word stays removed
    return y, slope


@triton.jit(do_not_specialize=["start"])
def _fold(
    z_ptr,
    bias_ptr,
    target_ptr,
    outer_ptr,
    m_ptr,
    s_ptr,
    t_ptr,
    y_ptr,
    s2_ptr,
    t2_ptr,
    v_ptr,
    outer,
    inner,
    start,
    words,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    EXTRAS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Folds one token's row of a tile: lanes have sums of their own, about one maximum, and are added up at the end."""
    row = tl.program_id(0).to(tl.int64)
    z_ptr += row * words
    scale = outer
    if PER_TOKEN:
        scale = tl.load(outer_ptr + row)
    target = tl.load(target_ptr + row) - start
    old_m = tl.load(m_ptr + row)
    m = old_m
    s = tl.zeros((WORDS,), tl.float32)
    t = tl.zeros((WORDS,), tl.float32)
    hit = tl.full((WORDS,), -float("inf"), tl.float32)
    if EXTRAS:
        s2 = tl.zeros((WORDS,), tl.float32)
        t2 = tl.zeros((WORDS,), tl.float32)
        v = tl.zeros((WORDS,), tl.float32)
    for lo in range(0, words, WORDS):
        column = lo + tl.arange(0, WORDS)
        inside = column < words
        b = 0.0
        if HAS_BIAS:
            b = tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
        y, _ = _curve(tl.load(z_ptr + column, mask=inside, other=0.0).to(tl.float32), b, inner, HAS_CAP)
        y = tl.where(inside, y, -float("inf"))
        hit = tl.where(column == target, y, hit)
        new_m = tl.maximum(m, tl.max(y, axis=0))
        u = _bits(y, new_m, scale)
        e = tl.exp2(u)
        delta = _bits(m, new_m, scale)
        r = tl.exp2(delta)
        if EXTRAS:
            v = r * (v + delta * (2.0 * t + delta * s)) + e * u * u
            t2 = r * r * (t2 + delta * s2) + e * e * u
            s2 = r * r * s2 + e * e
        t = r * (t + delta * s) + e * u
        s = r * s + e
        m = new_m
    # The tile's sums are complete; those of earlier tiles move to the new maximum and are added.
    delta = _bits(old_m, m, scale)
    r = tl.exp2(delta)
    old_s = tl.load(s_ptr + row)
    old_t = tl.load(t_ptr + row)
    if EXTRAS:
        old_s2 = tl.load(s2_ptr + row)
        old_t2 = tl.load(t2_ptr + row)
        old_v = tl.load(v_ptr + row)
        tl.store(v_ptr + row, r * (old_v + delta * (2.0 * old_t + delta * old_s)) + tl.sum(v, axis=0))
        tl.store(t2_ptr + row, r * r * (old_t2 + delta * old_s2) + tl.sum(t2, axis=0))
        tl.store(s2_ptr + row, r * r * old_s2 + tl.sum(s2, axis=0))
    tl.store(t_ptr + row, r * (old_t + delta * old_s) + tl.sum(t, axis=0))
    tl.store(s_ptr + row, r * old_s + tl.sum(s, axis=0))
    tl.store(m_ptr + row, m)
    old_y = tl.load(y_ptr + row)
    tl.store(y_ptr + row, tl.where((target >= 0) & (target < words), tl.max(hit, axis=0), old_y))


@triton.jit(do_not_specialize=["start"])
def _gradient(
    z_ptr,
    out_ptr,
    bias_ptr,
    target_ptr,
    outer_ptr,
    m_ptr,
    at_y_ptr,
    constant_ptr,
    slope_ptr,
    outer,
    inner,
    start,
    words,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    HAS_SLOPE: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Turns some words of one token from products into the gradient of products; `out_ptr` may be `z_ptr`."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    inside = column < words
    scale = outer
    if PER_TOKEN:
        scale = tl.load(outer_ptr + row)
    b = 0.0
    if HAS_BIAS:
        b = tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + row * words + column, mask=inside, other=0.0).to(tl.float32)
    y, curve_slope = _curve(z, b, inner, HAS_CAP)
    u = _bits(y, tl.load(m_ptr + row), scale)
    factor = tl.load(constant_ptr + row)
    if HAS_SLOPE:
        factor = factor + tl.load(slope_ptr + row) * u
    dz = tl.exp2(u) * factor
    dz = tl.where(column == tl.load(target_ptr + row) - start, dz + tl.load(at_y_ptr + row), dz)
    if HAS_CAP:
        dz = dz * curve_slope
    tl.store(out_ptr + row * words + column, dz.to(out_ptr.dtype.element_ty), mask=inside)


class TritonPasses:
    """The passes in Triton, one per tile."""

    def __init__(self, tiles: Tiles, bias: Tensor | None, targets: Tensor, curve: LogitCurve, *, third: bool) -> None:
        """Takes what all tiles share; no kernel needs a buffer."""
        if tiles.dtype != torch.float32:
            raise TypeError("Triton's passes compute in float32: use backend='torch' for float64.")
        self.targets, self.bias = targets.contiguous(), bias if bias is None else bias.detach().contiguous()
        outer = math.log2(math.e) * curve.outer  # of y to bits
        self.outer = outer.contiguous() if isinstance(outer, Tensor) else None
        self.curve = {
            "outer": 1.0 if isinstance(outer, Tensor) else outer,
            "inner": math.log2(math.e) * (curve.inner or 1.0),  # of exp2
            "HAS_BIAS": bias is not None,
            "HAS_CAP": curve.inner is not None,
            "PER_TOKEN": self.outer is not None,
        }

    def _given(self, z: Tensor, rows: slice, block: slice) -> tuple[Tensor, ...]:
        """Returns bias, targets and per-token factors of a tile; z stands for what there is not."""
        return (
            z if self.bias is None else self.bias[block],
            self.targets[rows],
            z if self.outer is None else self.outer[rows],
        )

    def fold(self, sums: Sums, z: Tensor, rows: slice, block: slice) -> None:
        """Adds a tile to the sums."""
        have = sums.at(rows)
        extras = [z if part is None else part for part in (have.s2, have.t2, have.v)]
        with _on(z):
            _fold[(z.shape[0],)](
                z,
                *self._given(z, rows, block),
                *(have.m, have.s, have.t, have.y, *extras),
                start=block.start,
                words=z.shape[1],
                EXTRAS=have.s2 is not None,
                WORDS=_FOLD_WORDS,
                num_warps=8,
                **self.curve,
            )

    def gradient(self, c: Coefficients, z: Tensor, rows: slice, block: slice, out: Tensor) -> None:
        """Writes the gradient of a tile's products to `out`, which may be z."""
        at = [part[rows] for part in (c.m, c.at_y, c.constant, c.m if c.slope is None else c.slope)]
        with _on(z):
            _gradient[(z.shape[0], triton.cdiv(z.shape[1], _GRADIENT_WORDS))](
                z,
                out,
                *self._given(z, rows, block),
                *at,
                start=block.start,
                words=z.shape[1],
                HAS_SLOPE=c.slope is not None,
                WORDS=_GRADIENT_WORDS,
                num_warps=4,
                **self.curve,
            )


def _on(z: Tensor) -> AbstractContextManager[Any]:
    """Makes the tensor's device the current one, on which Triton launches."""
    return torch.cuda.device(z.device) if z.is_cuda else nullcontext()
