"""Per-token entropy and log-probability of a language-model policy, without a second copy of the logits.

Both functions fold blocks of logits z into three numbers per token, centred on the running maximum m:

    S = sum_v exp(z_v - m),   T = sum_v exp(z_v - m) (z_v - m),   H = log S - T / S,   log p_y = (z_y - m) - log S

In the code u = (z - m) log2(e) stands for z - m, and T is in bits: `exp2` is four times as fast as `exp` on CPUs.
S >= 1 and T <= 0, so H is a sum of two non-negative terms: no cancellation, never negative, unmoved by a shift of the
logits. The usual `logsumexp(z) - sum(p * z)` subtracts two numbers of the size of the logits, and -inf makes it NaN.
The file has more than 400 lines because both functions, forwards and backwards, share this fold and its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Floor of u: exp2(_FLOOR) is exactly 0 in float32 and float64, and 0 * _FLOOR, unlike 0 * -inf, is 0.
_FLOOR = -1e4
# `torch.mm(..., out_dtype=torch.float32)` of bfloat16 matrices: NVIDIA only, new in torch 2.8.
_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
_MM_OUT_DTYPE = _TORCH >= (2, 8) and torch.version.cuda is not None


class LogprobEntropy(NamedTuple):
    """Log-probs and entropies of tokens, both `(...)` as the targets, float32 (float64 for float64 input), in nats."""

    logprob: Tensor
    entropy: Tensor


def token_entropy(logits: Tensor, *, temperature: float | Tensor = 1.0) -> Tensor:
    """Computes the Shannon entropy of `softmax(logits / temperature)` per token, over the whole vocabulary, in nats.

    This is the H of arXiv 2506.14758, Eq. 4. Differentiable in the logits: dH/dz_v = -p_v (log p_v + H) / temperature.
    Arithmetic is float32 (float64 for float64 logits) whatever the input dtype, in blocks of rows, so that the extra
    memory is a few tens of MB however many rows there are; the logits are neither copied nor changed.

    Args:
        logits: `(..., V)`, floating point, any strides. A logit of -inf is a token of probability 0: it contributes
            nothing and gets gradient 0. A row that is -inf throughout is no distribution: its entropy is NaN and
            its gradient 0. NaN and +inf give NaN.
        temperature: the sampling temperature of the tokens; a number, or one per token `(...)`. Not differentiated.

    Returns:
        `(...)`, float32 (float64 for float64 logits), >= 0.
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, not {logits.dtype}: pass the scores before any argmax.")
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., V) with V >= 1, not {tuple(logits.shape)}.")
    entropy: Tensor = _TokenEntropy.apply(logits, _inverse_temperature(temperature, logits.shape[:-1], logits))
    return entropy


def logprob_and_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    entropy_grad: bool = False,
    backend: Literal["torch", "liger"] = "torch",
) -> LogprobEntropy:
    """Computes each target's log-probability and its distribution's entropy from the last hidden states, in nats.

    The logits `hidden @ weight.T + bias` exist only as tiles of a few million elements, in the forward pass and,
    computed anew, in the backward pass. Gradients reach `hidden`, `weight` and `bias`, as far as they ask for one.

    bfloat16 and float16 inputs are multiplied in their own dtype and everything else is float32. The product keeps its
    float32 accumulator on NVIDIA GPUs (torch >= 2.8); elsewhere it is rounded to the input dtype first, as it is in a
    model that returns its logits. Under autocast the product runs in the autocast dtype.

    Args:
        hidden: `(..., d)`, floating point: what the language-model head would get.
        weight: `(V, d)`, of the same dtype: the head. Under ZeRO-3 or FSDP, gather it first.
        targets: `(...)`, int64 in `[0, V)`: the tokens that were sampled.
        bias: `(V,)` or None. -inf removes a token from the vocabulary, in values and gradients.
        temperature: the sampling temperature of the tokens; a number, or one per token `(...)`. Not differentiated.
        entropy_grad: False for shaping and logging: the entropy is a constant. True for an entropy bonus in the loss.
        backend: `"liger"` runs liger-kernel's fused function instead (no bias, one temperature for all tokens). Its
            entropy is rounded to the input dtype, and on Hopper it takes bfloat16 inputs only.

    Returns:
        `(logprob, entropy)`, each `(...)`, float32 (float64 for float64 inputs).
    """
    _check_head(hidden, weight, targets, bias)
    lead, dim = hidden.shape[:-1], hidden.shape[-1]
    if backend == "liger":
        flat = _liger(
            hidden.reshape(-1, dim),
            weight,
            targets.reshape(-1),
            bias=bias,
            temperature=temperature,
            entropy_grad=entropy_grad,
        )
    elif backend == "torch":
        inv_t = _inverse_temperature(temperature, lead, hidden)
        flat = _LogprobEntropy.apply(hidden.reshape(-1, dim), weight, bias, targets.reshape(-1), inv_t, entropy_grad)
    else:
        raise ValueError(f"backend must be 'torch' or 'liger', not {backend!r}.")
    logprob, entropy = flat
    return LogprobEntropy(logprob.view(lead), entropy.view(lead))


def _inverse_temperature(temperature: float | Tensor, lead: torch.Size, like: Tensor) -> float | Tensor:
    """Returns 1 / temperature: a float for one temperature, or a flat tensor `(N,)` in the accumulation dtype."""
    if isinstance(temperature, Tensor) and temperature.dim() > 0:
        if temperature.shape != lead:
            raise ValueError(
                f"temperature must be one number or one per token {tuple(lead)}, not {tuple(temperature.shape)}."
            )
        if temperature.requires_grad:
            raise ValueError("temperature gets no gradient here: pass temperature.detach().")
        if not bool(((temperature > 0) & temperature.isfinite()).all()):
            raise ValueError("temperature must be positive and finite at every token.")
        return temperature.reshape(-1).to(like.device, _accumulation_dtype(like.dtype)).reciprocal()
    value = float(temperature)
    if not 0 < value < float("inf"):
        raise ValueError(f"temperature must be positive and finite, not {value}: greedy decoding has no entropy.")
    return 1 / value


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _bits(z: Tensor, m: Tensor, inv_t: float | Tensor, rows: slice) -> Tensor:
    """Turns z in place into u = (z - m) log2(e) / temperature; `m` is the logits' maximum before the temperature."""
    scale = math.log2(math.e) * inv_t
    return z.sub_(m[:, None]).mul_(scale[rows, None] if isinstance(scale, Tensor) else scale).clamp_(min=_FLOOR)


# --- from logits -----------------------------------------------------------------------------------------------------


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


class _TokenEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, inv_t: float | Tensor) -> Tensor:
        dtype = _accumulation_dtype(logits.dtype)
        m, s, mean = (logits.new_empty(logits.shape[:-1].numel(), dtype=dtype) for _ in range(3))
        scratch = _row_scratch(logits, dtype)
        for rows, (block,) in _row_blocks(logits):
            z, e = (buffer[: block.numel()].view_as(block) for buffer in scratch)
            m[rows] = z.copy_(block).amax(-1).clamp_(min=torch.finfo(dtype).min)
            u = _bits(z, m[rows], inv_t, rows)
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
        out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        scratch = _row_scratch(logits, m.dtype)
        for rows, (block, out_block) in _row_blocks(logits, out):
            z, e = (buffer[: block.numel()].view_as(block) for buffer in scratch)
            u = _bits(z.copy_(block), m[rows], inv_t, rows)
            torch.exp2(u, out=e)
            # log p + H = log(2) (u - T / S)
            out_block.copy_(u.sub_(mean[rows, None]).mul_(e).mul_(slope[rows, None]))
        return out, None


# --- from hidden states ----------------------------------------------------------------------------------------------


def _check_head(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> None:
    if not (hidden.is_floating_point() and weight.is_floating_point()):
        raise TypeError(f"hidden and weight must be floating point, not {hidden.dtype} and {weight.dtype}.")
    if weight.dim() != 2 or weight.shape[0] == 0 or hidden.dim() == 0 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be (..., d) and weight (V, d), not {tuple(hidden.shape)} and {tuple(weight.shape)}."
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"targets must be int64, not {targets.dtype}: pass targets.long().")
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(f"targets must be {tuple(hidden.shape[:-1])} like hidden, not {tuple(targets.shape)}.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},) like the rows of weight, not {tuple(bias.shape)}.")
    dtypes = {hidden.dtype, weight.dtype} | (set() if bias is None else {bias.dtype})
    if len(dtypes) > 1 and not torch.is_autocast_enabled(hidden.device.type):
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise TypeError(f"hidden, weight and bias must share one dtype, not {names}: cast them, or run under autocast.")
    if targets.numel():
        low, high = (int(bound) for bound in targets.aminmax())
        if low < 0 or high >= weight.shape[0]:
            raise ValueError(
                f"targets must lie in [0, {weight.shape[0]}) but span {low} to {high}: leave ignored tokens out, or "
                "give them id 0 and mask the result."
            )


def _tile_shape(tokens: int, device: torch.device) -> tuple[int, int]:
    """Returns a tile's (tokens, vocabulary). A CPU tile stays in the last-level cache, others hide kernel launches."""
    token_block = max(1, min(tokens, 2048))
    if device.type == "cpu":
        return token_block, min(2048, (1 << 20) // token_block)
    return token_block, (1 << 26) // token_block


class _Tiles:
    """The logits of (token block, vocabulary block), computed on demand into one reused buffer.

    The vocabulary is the outer loop, so that every row of `weight` and of its gradient is visited once.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        device = hidden.device
        autocast = torch.is_autocast_enabled(device.type) and hidden.dtype != torch.float64
        self.compute_dtype = torch.get_autocast_dtype(device.type) if autocast else hidden.dtype
        self.dtype = _accumulation_dtype(self.compute_dtype)
        self.hidden, self.weight, self.bias = hidden.to(self.compute_dtype), weight, bias
        self.token_block, self.vocab_block = _tile_shape(hidden.shape[0], device)
        self.vocab_block = min(self.vocab_block, weight.shape[0])
        self.exact = self.compute_dtype == self.dtype
        self.fp32_product = not self.exact and device.type == "cuda" and _MM_OUT_DTYPE
        tile = self.token_block * self.vocab_block
        self._z = torch.empty(tile, dtype=self.dtype, device=device)
        self._e = torch.empty_like(self._z)
        self._rounded = torch.empty(0 if self.exact else tile, dtype=self.compute_dtype, device=device)

    def vocabulary(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields vocabulary blocks: indices, and rows of the head in the compute dtype."""
        for lo in range(0, self.weight.shape[0], self.vocab_block):
            block = slice(lo, min(lo + self.vocab_block, self.weight.shape[0]))
            yield block, self.weight[block].to(self.compute_dtype)

    def tokens(self) -> Iterator[slice]:
        for lo in range(0, self.hidden.shape[0], self.token_block):
            yield slice(lo, min(lo + self.token_block, self.hidden.shape[0]))

    def logits(self, rows: slice, block: slice, w: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `(tokens, vocabulary)` logits before the temperature, and a buffer of the same shape."""
        n, v = rows.stop - rows.start, block.stop - block.start
        z, e = self._z[: n * v].view(n, v), self._e[: n * v].view(n, v)
        if self.exact:
            torch.mm(self.hidden[rows], w.t(), out=z)
        elif self.fp32_product:
            torch.mm(self.hidden[rows], w.t(), out_dtype=torch.float32, out=z)
        else:
            z.copy_(torch.mm(self.hidden[rows], w.t(), out=self._rounded[: n * v].view(n, v)))
        if self.bias is not None:
            z.add_(self.bias[block])
        return z, e

    def round(self, z: Tensor) -> Tensor:
        """Rounds `z` to the dtype of the products."""
        return z if self.exact else self._rounded[: z.numel()].view_as(z).copy_(z)

    def add_product(self, acc: Tensor, a: Tensor, b: Tensor) -> None:
        """Computes `acc += a @ b`, for an `acc` of the accumulation dtype."""
        if self.exact:
            acc.addmm_(a, b)
        elif self.fp32_product:
            acc.add_(torch.mm(a, b, out_dtype=torch.float32))
        else:
            acc.add_(a @ b)


def _at_target(targets: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Returns each target's column `(n, 1)` in a vocabulary block (any one if outside), and whether it is inside."""
    column = targets - block.start
    inside = (column >= 0) & (targets < block.stop)
    return column.clamp_(0, block.stop - block.start - 1).unsqueeze(1), inside


class _LogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        inv_t: float | Tensor,
        entropy_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        tiles = _Tiles(hidden, weight, bias)
        # The maximum starts at the smallest finite number: with -inf, a tile of -inf logits would give -inf - -inf.
        m = hidden.new_full((hidden.shape[0],), torch.finfo(tiles.dtype).min, dtype=tiles.dtype)
        s, t, z_y = torch.zeros_like(m), torch.zeros_like(m), torch.zeros_like(m)
        with torch.autocast(hidden.device.type, enabled=False):
            for block, w in tiles.vocabulary():
                for rows in tiles.tokens():
                    z, e = tiles.logits(rows, block, w)
                    column, inside = _at_target(targets[rows], block)
                    z_y[rows] = torch.where(inside, z.gather(1, column).squeeze(1), z_y[rows])
                    new_m = torch.maximum(m[rows], z.amax(1))
                    u = _bits(z, new_m, inv_t, rows)
                    torch.exp2(u, out=e)
                    # A maximum that moves by delta <= 0 bits turns S into 2^delta S, and T into 2^delta (T + delta S).
                    delta = _bits(m[rows, None].clone(), new_m, inv_t, rows).squeeze(1)
                    r = delta.exp2()
                    t[rows] = r * (t[rows] + delta * s[rows])
                    s[rows] = r * s[rows] + e.sum(1)
                    t[rows] += e.mul_(u).sum(1)
                    m[rows] = new_m
            log_s, mean = s.log(), t / s
            logprob, entropy = (z_y - m) * inv_t - log_s, log_s - math.log(2) * mean
        ctx.save_for_backward(hidden, weight, bias, targets, m, s, mean)
        ctx.inv_t = inv_t
        ctx.autocast = torch.is_autocast_enabled(hidden.device.type), torch.get_autocast_dtype(hidden.device.type)
        if not entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, m, s, mean = ctx.saved_tensors
        inv_t = ctx.inv_t
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        if grad_logprob is None and grad_entropy is None:
            return (None,) * 6
        enabled, autocast_dtype = ctx.autocast
        with torch.autocast(hidden.device.type, dtype=autocast_dtype, enabled=enabled):
            tiles = _Tiles(hidden, weight, bias)

        # dlogp/dz_v = 1[v = y] - p_v and dH/dz_v = -p_v (log p_v + H), p = e / S, log p + H = log(2) (u - T / S):
        # dz = e (constant + slope u), and at_y more at the target.
        g = torch.zeros_like(m) if grad_logprob is None else grad_logprob
        at_y = g * inv_t
        slope = None if grad_entropy is None else -math.log(2) * grad_entropy * inv_t / s
        constant = -at_y / s if slope is None else -at_y / s - slope * mean

        grad_hidden = torch.zeros(hidden.shape, dtype=tiles.dtype, device=hidden.device) if need_hidden else None
        grad_weight = torch.zeros_like(weight, memory_format=torch.contiguous_format) if need_weight else None
        grad_bias = torch.zeros(weight.shape[0], dtype=tiles.dtype, device=hidden.device) if need_bias else None
        # dW is rounded once: with one token block it is the product itself; with more, the products of a vocabulary
        # block add up in the accumulation dtype.
        direct = hidden.shape[0] <= tiles.token_block and weight.dtype == tiles.compute_dtype
        buffer = None
        if grad_weight is not None and not direct and weight.dtype != tiles.dtype:
            buffer = grad_weight.new_empty(tiles.vocab_block, weight.shape[1], dtype=tiles.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for block, w in tiles.vocabulary():
                acc = None
                if grad_weight is not None:
                    acc = grad_weight[block] if buffer is None else buffer[: block.stop - block.start].zero_()
                for rows in tiles.tokens():
                    z, e = tiles.logits(rows, block, w)
                    u = _bits(z, m[rows], inv_t, rows)
                    if slope is None:
                        dz = u.exp2_().mul_(constant[rows, None])
                    else:
                        torch.exp2(u, out=e)
                        dz = u.mul_(slope[rows, None]).add_(constant[rows, None]).mul_(e)
                    column, inside = _at_target(targets[rows], block)
                    dz.scatter_add_(1, column, (at_y[rows] * inside).unsqueeze(1))
                    if grad_bias is not None:
                        grad_bias[block] += dz.sum(0)
                    dz = tiles.round(dz)
                    if grad_hidden is not None:
                        tiles.add_product(grad_hidden[rows], dz, w)
                    if acc is not None and direct:
                        torch.mm(dz.t(), tiles.hidden[rows], out=acc)
                    elif acc is not None:
                        tiles.add_product(acc, dz.t(), tiles.hidden[rows])
                if buffer is not None and grad_weight is not None and acc is not None:
                    grad_weight[block] = acc
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            grad_weight,
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _liger(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None,
    temperature: float | Tensor,
    entropy_grad: bool,
) -> tuple[Tensor, Tensor]:
    if bias is not None:
        raise ValueError("backend='liger' takes no bias: use backend='torch'.")
    if isinstance(temperature, Tensor) and temperature.dim() > 0:
        raise ValueError("backend='liger' takes one temperature for all tokens: use backend='torch'.")
    if hidden.dtype != weight.dtype:
        raise TypeError("backend='liger' needs hidden and weight of one dtype: cast them, or use backend='torch'.")
    try:
        from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction
    except ImportError as error:
        raise ImportError(
            f"backend='liger' needs liger-kernel >= 0.8.2 and triton: pip install 'liger-kernel>=0.8.2' ({error})."
        ) from error
    nll, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(
        hidden, weight, targets, temperature=float(temperature), return_entropy=True
    )
    dtype = _accumulation_dtype(hidden.dtype)
    return -nll.to(dtype), entropy.to(dtype) if entropy_grad else entropy.detach().to(dtype)
