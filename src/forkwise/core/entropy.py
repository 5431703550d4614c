"""Per-token entropy and log-probability of a language-model policy, without a second copy of the logits.

Both functions fold blocks of logits z into three numbers per token, centred on the running maximum m:

    S = sum_v exp(z_v - m),   T = sum_v exp(z_v - m) (z_v - m),   H = log S - T / S,   log p_y = (z_y - m) - log S

In the code u = (z - m) log2(e) stands for z - m, and T is in bits: `exp2` is four times as fast as `exp` on CPUs.
S >= 1 and T <= 0, so H is a sum of two non-negative terms: no cancellation, never negative, unmoved by a shift of the
logits. The usual `logsumexp(z) - sum(p * z)` subtracts two numbers of the size of the logits, and -inf makes it NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forkwise.core.backends import choose_passes
from forkwise.core.rows import RowEntropy
from forkwise.core.tiles import Coefficients, LogitCurve, Passes, Sums, Tiles, accumulation_dtype

__all__ = ["Extras", "HiddenStatesError", "LogprobEntropy", "logprob_and_entropy", "token_entropy"]

Backend = Literal["auto", "torch", "triton", "liger"]


class HiddenStatesError(ValueError):
    """Hidden states of tokens that are to be scored, or their log-probs, are no numbers; the message names how many."""


class Extras(NamedTuple):
    """More of each token's distribution p, `(...)` each as the targets; constants, of no gradient.

    Attributes:
        sum_p2: sum of p^2, the chance that two draws are equal.
        sum_p2_log: sum of p^2 (log p + H), in nats: how fast H falls, on average, as the logit of a drawn token rises.
        varentropy: variance of -log p over p, in nats^2. 0 for a flat or certain choice, large for a few forks.
        top1: whether no token is likelier than the target; bool.
    """

    sum_p2: Tensor
    sum_p2_log: Tensor
    varentropy: Tensor
    top1: Tensor


class _Pair(NamedTuple):
    logprob: Tensor
    entropy: Tensor


class LogprobEntropy(_Pair):
    """Log-probs and entropies of tokens, both `(...)` as the targets, float32 (float64 for float64 input), in nats."""

    _extras: Extras | None = None

    @property
    def extras(self) -> Extras:
        """What `extras=True` asked for."""
        if self._extras is None:
            raise AttributeError("There are no extras here: call logprob_and_entropy(..., extras=True).")
        return self._extras


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
    entropy: Tensor = RowEntropy.apply(logits, _inverse_temperature(temperature, logits.shape[:-1], logits))
    return entropy


def logprob_and_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    entropy_grad: bool = False,
    extras: bool = False,
    backend: Backend = "auto",
) -> LogprobEntropy:
    """Computes each target's log-probability and its distribution's entropy from the last hidden states, in nats.

    The logits are `softcap * tanh(logit_scale * (hidden @ weight.T + bias) / softcap) / temperature`, without the tanh
    where there is no soft cap. They exist only as tiles of a few million elements, in the forward pass and, computed
    anew, in the backward pass. Gradients reach `hidden`, `weight` and `bias`, as far as they ask for one.

    bfloat16 and float16 inputs are multiplied in their own dtype and everything else is float32. The product keeps its
    float32 accumulator on NVIDIA GPUs (torch >= 2.8); elsewhere it is rounded to the input dtype first, as it is in a
    model that returns its logits. Under autocast the product runs in the autocast dtype.

    Args:
        hidden: `(..., d)`, floating point: what the language-model head would get.
        weight: `(V, d)`, of the same dtype: the head. Under ZeRO-3 or FSDP, gather it first.
        targets: `(...)`, int64 in `[0, V)`: the tokens that were sampled.
        bias: `(V,)` or None. -inf removes a token from the vocabulary, in values and gradients.
        logit_scale: what the model multiplies its logits by, before a soft cap. (Granite divides: pass 1 over that.)
        softcap: the bound of the model's logits, as `final_logit_softcapping` of Gemma; None for none.
        temperature: the sampling temperature of the tokens; a number, or one per token `(...)`. Not differentiated.
        mask: `(...)`, bool: the tokens that count. Others cost nothing, get 0 in all results, and may have any target,
            temperature and hidden state.
        entropy_grad: False for shaping and logging: the entropy is a constant. True for an entropy bonus in the loss.
        extras: compute `Extras` in the same pass, to be had as `.extras` of the result.
        backend: `"auto"` folds tiles in Triton on NVIDIA GPUs and by passes of PyTorch elsewhere; `"torch"` and
            `"triton"` insist. `"liger"` runs liger-kernel's fused function (no bias, scale, soft cap or extras, one
            temperature for all tokens). Its entropy is rounded to the input dtype, and on Hopper it takes bfloat16
            inputs only.

    Returns:
        `(logprob, entropy)`, each `(...)`, float32 (float64 for float64 inputs).

    Raises:
        HiddenStatesError: a token that counts has a hidden state that is NaN or infinite.
    """
    _check_head(hidden, weight, targets, bias)
    _check_logits(logit_scale, softcap)
    lead, dim = hidden.shape[:-1], hidden.shape[-1]
    flat_hidden, flat_targets, index = hidden.reshape(-1, dim), targets.reshape(-1), None
    if mask is not None:
        index = _counted(mask, lead)
        flat_hidden, flat_targets = flat_hidden[index], flat_targets[index]
    inv_t = _inverse_temperature(temperature, lead, hidden, index)
    _check_values(flat_hidden, flat_targets, weight.shape[0], index, lead)
    results: Sequence[Tensor]
    if backend == "liger":
        _refuse_for_liger(hidden, weight, bias, temperature, plain=logit_scale == 1 and softcap is None and not extras)
        results = _liger(flat_hidden, weight, flat_targets, temperature=float(temperature), entropy_grad=entropy_grad)
    else:
        curve, kind = LogitCurve.of(inv_t, logit_scale, softcap), choose_passes(backend, hidden.device, hidden.dtype)
        results = _LogprobEntropy.apply(flat_hidden, weight, bias, flat_targets, curve, kind, entropy_grad, extras)
    if index is not None:
        results = [part.new_zeros(lead.numel()).index_copy(0, index, part) for part in results]
    logprob, entropy, *more = (part.view(lead) for part in results)
    pair = LogprobEntropy(logprob, entropy)
    if extras:
        pair._extras = Extras(*more)
    return pair


def _inverse_temperature(
    temperature: float | Tensor, lead: torch.Size, like: Tensor, index: Tensor | None = None
) -> float | Tensor:
    """Returns 1 / temperature: a float for one temperature, or a flat tensor `(N,)` in the accumulation dtype.

    `index`: of the tokens that count; others may have any temperature, and are left out.
    """
    dtype = accumulation_dtype(like.dtype)
    if isinstance(temperature, Tensor) and temperature.requires_grad:
        raise ValueError("temperature gets no gradient here: pass temperature.detach().")
    if isinstance(temperature, Tensor) and temperature.dim() > 0:
        if temperature.shape != lead:
            raise ValueError(
                f"temperature must be one number or one per token {tuple(lead)}, not {tuple(temperature.shape)}."
            )
        flat = temperature.reshape(-1).to(like.device, dtype)
        each = (flat if index is None else flat[index]).reciprocal()
        if not bool(((each > 0) & each.isfinite()).all()):
            raise ValueError("temperature must be positive and finite at every token, and 1 over it finite too.")
        return each
    value = float(temperature)
    inverse = 1 / value if value > 0 else 0.0
    if not 0 < inverse <= torch.finfo(dtype).max:
        raise ValueError(
            f"temperature must be positive and finite, and 1 over it finite too, not {value}: greedy decoding has no "
            "entropy."
        )
    return inverse


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
    devices = {str(part.device) for part in (hidden, weight, targets, bias) if part is not None}
    if len(devices) > 1:  # of one that is meta, PyTorch would make numbers of what the memory held
        raise ValueError(f"hidden, weight, targets and bias must be on one device, not {', '.join(sorted(devices))}.")


def _check_logits(logit_scale: float, softcap: float | None) -> None:
    for name, value in (("logit_scale", logit_scale), ("softcap", 1.0 if softcap is None else softcap)):
        if isinstance(value, Tensor):
            raise TypeError(f"{name} must be a number: a tensor would get no gradient here. Pass {name}.item().")
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, not {value}.")


def _counted(mask: Tensor, lead: torch.Size) -> Tensor:
    """Returns the flat indices of the tokens that count."""
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, not {mask.dtype}: pass mask.bool().")
    if mask.shape != lead:
        raise ValueError(f"mask must be {tuple(lead)} like targets, not {tuple(mask.shape)}.")
    return mask.reshape(-1).nonzero().squeeze(1)


def _check_values(hidden: Tensor, targets: Tensor, vocab: int, index: Tensor | None, lead: torch.Size) -> None:
    """Refuses tokens outside the vocabulary, and hidden states that are no numbers. One wait for the device."""
    if not targets.numel():
        return
    low, high, finite = torch.stack([*targets.aminmax(), hidden.isfinite().all().to(targets)]).tolist()
    if low < 0 or high >= vocab:
        raise ValueError(
            f"targets must lie in [0, {vocab}) but span {low} to {high}: leave ignored tokens out by the mask, or "
            "give them id 0 and mask the result."
        )
    if not finite:
        broken = ~hidden.isfinite().all(-1)
        first = int(broken.nonzero()[0])
        where = torch.unravel_index(torch.tensor(first if index is None else int(index[first])), lead) if lead else ()
        raise HiddenStatesError(
            f"The hidden states of {int(broken.sum()):,} of {len(targets):,} tokens are NaN or infinite, first at "
            f"{tuple(int(i) for i in where)}: the model computes no distribution there. Look at its weights and dtype."
        )


class _LogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        curve: LogitCurve,
        kind: type[Passes],
        entropy_grad: bool,
        extras: bool,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        tiles = Tiles(hidden, weight)
        sums = Sums.start(hidden.shape[0], tiles.dtype, hidden.device, extras=extras)
        passes = kind(tiles, bias, targets, curve, third=extras)
        with torch.autocast(hidden.device.type, enabled=False):
            for block, w in tiles.vocabulary():
                for rows in tiles.tokens():
                    passes.fold(sums, tiles.product(rows, w), rows, block)
            dead = sums.s == 0  # no word is left: NaN, and a gradient of 0
            log_s, mean = sums.s.log(), sums.t / sums.s
            logprob = (sums.y - sums.m) * curve.outer - log_s
            results = [logprob, log_s - math.log(2) * mean, *_extras(sums, mean)]
        ctx.save_for_backward(
            hidden, weight, bias, targets, sums.m, sums.s.masked_fill(dead, 1), mean.masked_fill(dead, 0)
        )
        ctx.curve, ctx.kind = curve, kind
        ctx.autocast = torch.is_autocast_enabled(hidden.device.type), torch.get_autocast_dtype(hidden.device.type)
        ctx.mark_non_differentiable(*results[2 if entropy_grad else 1 :])
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, m, s, mean = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        if grad_logprob is None and grad_entropy is None:
            return (None,) * 8
        enabled, autocast_dtype = ctx.autocast
        with torch.autocast(hidden.device.type, dtype=autocast_dtype, enabled=enabled):
            tiles = Tiles(hidden, weight)
        coefficients = _coefficients(ctx.curve, grad_logprob, grad_entropy, m, s, mean)
        passes = ctx.kind(tiles, bias, targets, ctx.curve, third=ctx.curve.inner is not None)

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
                    z = tiles.product(rows, w)
                    dz = tiles.like(z, tiles.compute_dtype)
                    if grad_bias is None:
                        passes.gradient(coefficients, z, rows, block, dz)
                    else:
                        exact = tiles.like(z, tiles.dtype)
                        passes.gradient(coefficients, z, rows, block, exact)
                        grad_bias[block] += exact.sum(0)
                        dz.copy_(exact)
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
            *(None,) * 5,
        )


def _extras(sums: Sums, mean: Tensor) -> list[Tensor]:
    """Makes the extras, in the order of `Extras`: log p + H = log(2) (u - T / S), p = e / S."""
    extras = sums.of_extras()
    if extras is None:
        return []
    s2, t2, v = extras
    square = sums.s.square()
    return [
        s2 / square,
        math.log(2) * (t2 - mean * s2) / square,
        (math.log(2) ** 2 * (v / sums.s - mean.square())).clamp_(min=0),
        sums.y == sums.m,
    ]


def _coefficients(
    curve: LogitCurve, grad_logprob: Tensor | None, grad_entropy: Tensor | None, m: Tensor, s: Tensor, mean: Tensor
) -> Coefficients:
    """Makes the coefficients of the gradient with respect to products.

    dlogp/dz_v = 1[v = y] - p_v and dH/dz_v = -p_v (log p_v + H), p = e / S, log p + H = log(2) (u - T / S).
    """
    outer = curve.outer if curve.inner is None else -curve.inner * curve.outer
    at_y = torch.zeros_like(m) if grad_logprob is None else grad_logprob * outer
    if grad_entropy is None:
        return Coefficients(m, at_y, -at_y / s, None)
    slope = -math.log(2) * grad_entropy * outer / s
    return Coefficients(m, at_y, -at_y / s - slope * mean, slope)


def _refuse_for_liger(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float | Tensor, *, plain: bool
) -> None:
    if bias is not None or not plain:
        raise ValueError("backend='liger' takes no bias, logit_scale, softcap or extras: use backend='torch'.")
    if isinstance(temperature, Tensor) and temperature.dim() > 0:
        raise ValueError("backend='liger' takes one temperature for all tokens: use backend='torch'.")
    if hidden.dtype != weight.dtype:
        raise TypeError("backend='liger' needs hidden and weight of one dtype: cast them, or use backend='torch'.")


def _liger(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    try:
        from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction
    except ImportError as error:
        raise ImportError(
            f"backend='liger' needs liger-kernel >= 0.8.2 and triton: pip install 'liger-kernel>=0.8.2' ({error})."
        ) from error
    nll, entropy = LigerFusedLinearScaledCrossEntropyFunction.apply(
        hidden, weight, targets, temperature=temperature, return_entropy=True
    )
    dtype = accumulation_dtype(hidden.dtype)
    return -nll.to(dtype), entropy.to(dtype) if entropy_grad else entropy.detach().to(dtype)
