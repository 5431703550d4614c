"""Tiles of logits, computed on demand, and what is done with each: the fold into sums, and the turn into a gradient.

A tile holds products `hidden @ weight.T`. Its logits are `cap tanh(scale (product + bias) / cap) / temperature`, and a
fold adds it to sums per token that are centred on the running maximum; `forkwise.core.entropy` has the formulas. The
passes of PyTorch in this file run anywhere and are the reference; `forkwise.core.kernels` has the same two in Triton.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = [
    "Coefficients",
    "LogitCurve",
    "Passes",
    "Sums",
    "Tiles",
    "TorchPasses",
    "accumulation_dtype",
    "product_dtypes",
    "to_bits",
]

# Floor of u: exp2(_FLOOR) is exactly 0 in float32 and float64, and 0 * _FLOOR, unlike 0 * -inf, is 0.
_FLOOR = -1e4
# `torch.mm(..., out_dtype=torch.float32)` of bfloat16 matrices: NVIDIA only, new in torch 2.8.
_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
_MM_OUT_DTYPE = _TORCH >= (2, 8) and torch.version.cuda is not None


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype of all arithmetic on logits: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def product_dtypes(hidden: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Returns the dtype that hidden states are multiplied in, and the one in which a tile of products arrives."""
    kind = hidden.device.type
    autocast = torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64
    compute = torch.get_autocast_dtype(kind) if autocast else hidden.dtype
    return compute, accumulation_dtype(compute) if kind == "cuda" and _MM_OUT_DTYPE else compute


def to_bits(
    y: Tensor, m: Tensor, outer: float | Tensor, rows: slice, *, floor: bool = True, out: Tensor | None = None
) -> Tensor:
    """Makes u = (y - m) log2(e) outer, in place of y `(n, words)` or in `out`; m is `(n, 1)`.

    The floor is needed wherever y may be -inf.
    """
    scale = math.log2(math.e) * outer
    u = torch.sub(y, m, out=y if out is None else out)
    u.mul_(scale[rows, None] if isinstance(scale, Tensor) else scale)
    return u.clamp_(min=_FLOOR) if floor else u


@dataclass(frozen=True)
class LogitCurve:
    """The way from a product and its bias to a logit, which is `outer * y` up to a shift that changes no probability.

    Without a soft cap y is `product + bias`. With one y is `sigmoid(inner * (product + bias))`, since
    cap tanh(x / cap) = 2 cap sigmoid(2 x / cap) - cap, and sigmoid is four times as fast as tanh on CPUs.

    Attributes:
        outer: what y is multiplied by: a number, or one per token `(N,)`. The temperature is in it.
        inner: `2 * scale / cap`, or None without a soft cap.
    """

    outer: float | Tensor
    inner: float | None = None

    @staticmethod
    def of(inverse_temperature: float | Tensor, scale: float, cap: float | None) -> LogitCurve:
        """Makes the curve of a logit scale and a soft cap, in the order of the models that have both."""
        if cap is None:
            return LogitCurve(scale * inverse_temperature)
        return LogitCurve(2 * cap * inverse_temperature, 2 * scale / cap)


@dataclass
class Sums:
    """What is known of each token's distribution so far, `(N,)` each; e = exp2(u), u = (y - m) log2(e) outer.

    Attributes:
        m: largest y; s: sum of e; t: sum of e u; y: y of the target.
        s2, t2, v: sums of e^2, e^2 u and e u^2, or None where no extras are asked for.
    """

    m: Tensor
    s: Tensor
    t: Tensor
    y: Tensor
    s2: Tensor | None = None
    t2: Tensor | None = None
    v: Tensor | None = None

    @staticmethod
    def start(tokens: int, dtype: torch.dtype, device: torch.device, *, extras: bool) -> Sums:
        """Makes the sums of no word. The maximum starts at the smallest finite number: -inf - -inf would be NaN."""
        m = torch.full((tokens,), torch.finfo(dtype).min, dtype=dtype, device=device)
        return Sums(m, *(torch.zeros_like(m) for _ in range(6 if extras else 3)))

    def of_extras(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Returns the last three, if they are asked for."""
        return None if self.s2 is None or self.t2 is None or self.v is None else (self.s2, self.t2, self.v)

    def at(self, rows: slice) -> Sums:
        """Returns views of some tokens."""
        parts = (getattr(self, field.name) for field in fields(self))
        return Sums(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


class Coefficients(NamedTuple):
    """A gradient from logits back to products: dz = e (constant + slope u), and at_y more at the target, `(N,)` each.

    Under a soft cap dz is then multiplied by y (y - 1); the coefficients hold the rest of the curve's derivative.
    """

    m: Tensor
    at_y: Tensor
    constant: Tensor
    slope: Tensor | None


class Passes(Protocol):
    """What is done with a tile `z` of products as they arrive: `rows` are its tokens, `block` its words."""

    def __init__(self, tiles: Tiles, bias: Tensor | None, targets: Tensor, curve: LogitCurve, *, third: bool) -> None:
        """Takes what all tiles share. `third`: a third buffer is used, for extras or the gradient of a soft cap."""

    def fold(self, sums: Sums, z: Tensor, rows: slice, block: slice) -> None:
        """Adds a tile to the sums."""

    def gradient(self, c: Coefficients, z: Tensor, rows: slice, block: slice, out: Tensor) -> None:
        """Writes the gradient of a tile's products to `out`, which may be z."""


def _tile_shape(tokens: int, device: torch.device) -> tuple[int, int]:
    """Returns a tile's (tokens, vocabulary). A CPU tile stays in the last-level cache, others hide kernel launches."""
    token_block = max(1, min(tokens, 2048))
    if device.type == "cpu":
        return token_block, min(2048, (1 << 20) // token_block)
    return token_block, (1 << 26) // token_block


class Tiles:
    """Products of (token block, vocabulary block), computed on demand into one reused buffer.

    The vocabulary is the outer loop, so that every row of `weight` and of its gradient is visited once.
    """

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        device = hidden.device
        self.compute_dtype, self.arrives = product_dtypes(hidden)
        self.dtype = accumulation_dtype(self.compute_dtype)
        self.hidden, self.weight = hidden.to(self.compute_dtype), weight
        self.token_block, self.vocab_block = _tile_shape(hidden.shape[0], device)
        self.vocab_block = min(self.vocab_block, weight.shape[0])
        # A float16 product is rounded to -inf below -65504.
        self.finite = self.arrives != torch.float16
        self._buffers: dict[torch.dtype, Tensor] = {}

    def _buffer(self, dtype: torch.dtype, n: int, v: int) -> Tensor:
        """Returns the one buffer of a dtype, as a matrix."""
        if dtype not in self._buffers:
            self._buffers[dtype] = self.hidden.new_empty(self.token_block * self.vocab_block, dtype=dtype)
        return self._buffers[dtype][: n * v].view(n, v)

    def vocabulary(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields vocabulary blocks: indices, and rows of the head in the compute dtype."""
        for lo in range(0, self.weight.shape[0], self.vocab_block):
            block = slice(lo, min(lo + self.vocab_block, self.weight.shape[0]))
            yield block, self.weight[block].to(self.compute_dtype)

    def tokens(self) -> Iterator[slice]:
        """Yields token blocks."""
        for lo in range(0, self.hidden.shape[0], self.token_block):
            yield slice(lo, min(lo + self.token_block, self.hidden.shape[0]))

    def product(self, rows: slice, w: Tensor) -> Tensor:
        """Returns the tile of some tokens and rows of the head, in the dtype in which products arrive."""
        z = self._buffer(self.arrives, rows.stop - rows.start, w.shape[0])
        wider = {} if self.arrives == self.compute_dtype else {"out_dtype": self.arrives}
        return torch.mm(self.hidden[rows], w.t(), out=z, **wider)

    def like(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns a buffer like the tile `z` of this dtype: z itself where that is its own."""
        return self._buffer(dtype, *z.shape)

    def add_product(self, acc: Tensor, a: Tensor, b: Tensor) -> None:
        """Computes `acc += a @ b`, for an `acc` of the accumulation dtype."""
        if self.compute_dtype == self.dtype:
            acc.addmm_(a, b)
        elif self.arrives == self.dtype:
            acc.add_(torch.mm(a, b, out_dtype=torch.float32))
        else:
            acc.add_(a @ b)


def _at_target(targets: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Returns each target's column `(n, 1)` in a vocabulary block (any one if outside), and whether it is inside."""
    column = targets - block.start
    inside = (column >= 0) & (targets < block.stop)
    return column.clamp_(0, block.stop - block.start - 1).unsqueeze(1), inside


def _piece(device: torch.device) -> int:
    """Returns the elements of the part of a tile that all passes go over together.

    On a CPU it stays in the cache that each core has for itself; elsewhere it hides kernel launches.
    """
    return torch.get_num_threads() << 17 if device.type == "cpu" else 1 << 24


class _Piece(NamedTuple):
    """Some tokens of a tile: `some` of those of the tile, `at` of all, n in number.

    Attributes:
        u, e, x: buffers, `(n, words)`; x is e where there are two.
        m, y: where the largest y and that of the target go, `(n, 1)`.
        s, t, t2, v, norm: where sums go, `(n,)`, named as in `Sums`; `norm` is the root of s2.
    """

    some: slice
    at: slice
    u: Tensor
    e: Tensor
    x: Tensor
    m: Tensor
    y: Tensor
    s: Tensor
    t: Tensor
    t2: Tensor
    v: Tensor
    norm: Tensor


class TorchPasses:
    """The passes in PyTorch, several for each piece of a tile: the reference, and the only ones off NVIDIA GPUs."""

    def __init__(self, tiles: Tiles, bias: Tensor | None, targets: Tensor, curve: LogitCurve, *, third: bool) -> None:
        """Takes what all tiles share."""
        self.curve, self.targets, self.floor = curve, targets, bias is not None or not tiles.finite
        self.bias = None if bias is None else bias.detach().to(tiles.dtype)
        # A word that a bias of -inf removed stays removed: the cap would bring it back at -cap.
        removed = self.bias is not None and curve.inner is not None and bool(self.bias.isneginf().any())
        self.removed = self.bias.isneginf() if removed and self.bias is not None else None
        size = min(tiles.token_block * tiles.vocab_block, max(tiles.vocab_block, _piece(tiles.hidden.device)))
        self._buffers = [tiles.hidden.new_empty(size, dtype=tiles.dtype) for _ in range(3 if third else 2)]
        self._made: dict[tuple[int, int, int], tuple[list[_Piece], Tensor]] = {}

    def _pieces(self, z: Tensor, rows: slice) -> tuple[list[_Piece], Tensor]:
        """Returns the pieces of a tile, with views that are made once, and what fills up, `(7, tokens)`."""
        key = rows.start, rows.stop, z.shape[1]
        if key not in self._made:
            filled = z.new_empty(7, len(z), dtype=self._buffers[0].dtype)
            step = max(1, self._buffers[0].numel() // z.shape[1])
            pieces = []
            for lo in range(0, len(z), step):
                some = slice(lo, min(lo + step, len(z)))
                u, e, *x = (buffer[: z[some].numel()].view_as(z[some]) for buffer in self._buffers)
                m, y, *sums = filled[:, some]
                at = slice(rows.start + lo, rows.start + some.stop)
                pieces.append(_Piece(some, at, u, e, x[0] if x else e, m[:, None], y[:, None], *sums))
            self._made[key] = pieces, filled
        return self._made[key]

    def _y(self, z: Tensor, y: Tensor, block: slice) -> Tensor:
        """Returns y of products z: written to `y`, or z itself where it is the same."""
        if z.dtype == y.dtype and self.bias is None and self.curve.inner is None:
            return z
        y.copy_(z)
        if self.bias is not None:
            y.add_(self.bias[block])
        return y if self.curve.inner is None else y.mul_(self.curve.inner).sigmoid_()

    def _remove(self, y: Tensor, block: slice) -> None:
        if self.removed is not None:
            y.masked_fill_(self.removed[block], -math.inf)

    def fold(self, sums: Sums, z: Tensor, rows: slice, block: slice) -> None:
        """Adds a tile to the sums."""
        have = sums.at(rows)
        column, inside = _at_target(self.targets[rows], block)
        had, had_m = have.of_extras(), have.m[:, None]
        pieces, filled = self._pieces(z, rows)
        for p in pieces:
            y = self._y(z[p.some], p.u, block)
            self._remove(y, block)
            torch.amax(y, 1, keepdim=True, out=p.m)
            torch.maximum(p.m, had_m[p.some], out=p.m)
            torch.gather(y, 1, column[p.some], out=p.y)
            to_bits(y, p.m, self.curve.outer, p.at, floor=self.floor, out=p.u)
            torch.exp2(p.u, out=p.e)
            torch.sum(p.e, 1, out=p.s)
            if had is None:
                torch.sum(p.e.mul_(p.u), 1, out=p.t)
            else:
                torch.linalg.vector_norm(p.e, dim=1, out=p.norm)
                torch.sum(torch.mul(p.e, p.u, out=p.x), 1, out=p.t)
                torch.sum(p.e.mul_(p.x), 1, out=p.t2)
                torch.sum(p.u.mul_(p.x), 1, out=p.v)
        m, y, s, t, t2, v, norm = filled
        have.y.copy_(torch.where(inside, y, have.y))
        # A maximum that moves by delta <= 0 bits turns S into 2^delta S, and T into 2^delta (T + delta S).
        delta = to_bits(had_m.clone(), m[:, None], self.curve.outer, rows).squeeze(1)
        r = delta.exp2()
        if had is None:
            have.t.addcmul_(delta, have.s)
        else:
            had_s2, had_t2, had_v = had
            had_v.addcmul_(delta, have.t)
            have.t.addcmul_(delta, have.s)
            had_v.addcmul_(delta, have.t).mul_(r).add_(v)
            r2 = r * r
            had_t2.addcmul_(delta, had_s2).mul_(r2).add_(t2)
            had_s2.mul_(r2).addcmul_(norm, norm)
        have.t.mul_(r).add_(t)
        have.s.mul_(r).add_(s)
        have.m.copy_(m)

    def gradient(self, c: Coefficients, z: Tensor, rows: slice, block: slice, out: Tensor) -> None:
        """Writes the gradient of a tile's products to `out`."""
        column, inside = _at_target(self.targets[rows], block)
        at_y, m = (c.at_y[rows] * inside)[:, None], c.m[rows, None]
        constant, slope = c.constant[rows, None], None if c.slope is None else c.slope[rows, None]
        for p in self._pieces(z, rows)[0]:
            some, u = p.some, p.u
            y = self._y(z[some], u, block)
            if self.curve.inner is not None:
                torch.mul(y, y, out=p.x).sub_(y)
                self._remove(y, block)
            to_bits(y, m[some], self.curve.outer, p.at, floor=self.floor, out=u)
            if slope is None:
                u.exp2_()
                factor = constant[some]
            else:
                factor = torch.exp2(u, out=p.e)
                u.mul_(slope[some]).add_(constant[some])
            dz = torch.mul(u, factor, out=out[some] if out.dtype == u.dtype else u)
            dz.scatter_add_(1, column[some], at_y[some])
            if self.curve.inner is not None:
                dz.mul_(p.x)
            if dz is u:
                out[some].copy_(u)
