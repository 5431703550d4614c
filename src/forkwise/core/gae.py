"""PPO with a critic: advantages from values (GAE), their whitening, and the clipped value loss.

All tensors are `(B, T)`: completions by completion tokens. `mask` is 1 (or True) at the tokens that the policy chose
and 0 at padding and at tokens it did not choose (a tool's answer); what stands there is never read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over processes, e.g. `lambda t: accelerator.reduce(t, "sum")`."""


class Gae(NamedTuple):
    """Advantages and returns, both `(B, T)`, the dtype of the values, in reward units, 0 outside the mask."""

    advantages: Tensor
    returns: Tensor


class ValueLoss(NamedTuple):
    """The loss of each token, and 1 where the clipped term is the larger one; both `(B, T)`, 0 outside the mask."""

    loss: Tensor
    clipped: Tensor


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    bootstrap: Tensor | None = None,
) -> Gae:
    """Computes generalized advantage estimates and the critic's returns (arXiv 1506.02438, Eq. 11-12, 16).

    `delta_t = r_t + gamma V_{t+1} - V_t`, `A_t = delta_t + gamma lam A_{t+1}`, `R_t = A_t + V_t`, where t+1 is the next
    token *inside the mask*: gaps are stepped over, as if the completion had none.

    Args:
        rewards: `(B, T)`, paid after each token; an outcome reward stands at the last token of the mask.
        values: `(B, T)`, floating point: the critic's value before each token was chosen.
        mask: `(B, T)`.
        gamma: discount per token, in [0, 1]. Below 1, a reward counts less the more tokens lie before it.
        lam: in [0, 1]. 1 gives Monte Carlo returns (no bias from the critic, most variance), 0 one-step differences.
            arXiv 2506.14758 has gamma = lam = 1.
        bootstrap: `(B,)`, the value after the last token, for completions that were cut off; 0 by default.

    Returns:
        Advantages, not whitened, and returns. Arithmetic is float64 (float32 on MPS).
    """
    for name, number in (("gamma", gamma), ("lam", lam)):
        if not 0 <= number <= 1:
            raise ValueError(f"{name} must lie in [0, 1], not {number}.")
    _check(values, rewards=rewards, mask=mask)
    if bootstrap is not None and bootstrap.shape != values.shape[:1]:
        raise ValueError(f"bootstrap must be ({values.shape[0]},), not {tuple(bootstrap.shape)}.")
    v, r, m = _wide(values), _wide(rewards), mask != 0
    advantages = torch.zeros_like(v)
    next_advantage = torch.zeros_like(v[:, 0])
    next_value = next_advantage if bootstrap is None else bootstrap.to(v)
    for t in reversed(range(v.shape[1])):
        here = r[:, t] + gamma * next_value - v[:, t] + gamma * lam * next_advantage
        next_value = torch.where(m[:, t], v[:, t], next_value)
        next_advantage = torch.where(m[:, t], here, next_advantage)
        advantages[:, t] = torch.where(m[:, t], here, 0)
    returns = torch.where(m, advantages + v, 0)
    return Gae(advantages.to(values.dtype), returns.to(values.dtype))


@torch.no_grad()
def whiten(values: Tensor, mask: Tensor, *, reduce: Reduce | None = None, eps: float = 1e-8) -> Tensor:
    """Computes `(x - mean) / sqrt(var + eps)` over all tokens of the mask, on all processes; 0 outside it.

    Args:
        values: `(B, T)`, floating point.
        mask: `(B, T)`.
        reduce: sums over processes, which may hold different B and T; every process must call `whiten`.
        eps: added to the variance (n - 1 in its denominator). Equal values become 0.

    Returns:
        `(B, T)`, the dtype of the values.
    """
    _check(values, mask=mask)
    mean, variance = masked_moments(values, mask, reduce=reduce)
    white = (_wide(values) - mean) * (variance + eps).rsqrt()
    return torch.where(mask != 0, white, 0).to(values.dtype)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float | None = 0.5
) -> ValueLoss:
    """Computes half the squared error to the returns, at least that of the value kept within `clip` of the old one.

    `max((V - R)^2, (clamp(V, V_old - clip, V_old + clip) - R)^2) / 2` per token, as in OpenAI's PPO: a value that has
    moved by more than `clip` since the rollout, towards its return, gets no gradient.

    Args:
        values: `(B, T)`, floating point, of the critic under update.
        old_values: `(B, T)`, its values at the time of the rollout.
        returns: `(B, T)`, from `gae`.
        mask: `(B, T)`.
        clip: > 0, in reward units; None clips nothing. Smaller values slow the critic down within a rollout.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be > 0, or None for no clipping, not {clip}.")
    _check(values, old_values=old_values, returns=returns, mask=mask)
    inside = mask != 0
    # Padding may hold anything: zero it before the arithmetic, or 0 * NaN would poison the gradient.
    v, old, target = (torch.where(inside, x, 0) for x in (values, old_values, returns))
    error = (v - target).square()
    if clip is None:
        return ValueLoss(error / 2, torch.zeros_like(error))
    clipped_error = (torch.clamp(v, old - clip, old + clip) - target).square()
    return ValueLoss(torch.maximum(error, clipped_error) / 2, (clipped_error > error).to(values.dtype))


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, *, reduce: Reduce | None = None) -> float:
    """Computes `1 - Var(R - V) / Var(R)` over the mask: 1 is a perfect critic, 0 one that predicts a constant.

    NaN where all returns are equal. With lam < 1 the returns contain the values, which flatters the critic.
    """
    _check(values, returns=returns, mask=mask)
    _, variance = masked_moments(returns, mask, reduce=reduce)
    _, unexplained = masked_moments(_wide(returns) - _wide(values), mask, reduce=reduce)
    return float(1 - unexplained / variance) if float(variance) > 0 else float("nan")


@torch.no_grad()
def masked_moments(values: Tensor, mask: Tensor, *, reduce: Reduce | None = None) -> tuple[Tensor, Tensor]:
    """Computes mean and unbiased variance over the mask, scalars in float64; 0 where there is nothing to average.

    Two passes, because the difference of two sums of squares loses its digits.
    """
    total = reduce or (lambda tensor: tensor)
    inside = mask != 0
    x = torch.where(inside, _wide(values), 0)
    n, s = total(torch.stack([inside.sum().to(x), x.sum()])).unbind()
    mean = s / n.clamp(min=1)
    squares = total(torch.where(inside, x - mean, 0).square().sum())
    return mean, squares / (n - 1).clamp(min=1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _check(values: Tensor, **others: Tensor) -> None:
    if values.dim() != 2 or not values.is_floating_point():
        raise ValueError(f"values must be (B, T) and floating point, not {tuple(values.shape)} of {values.dtype}.")
    for name, tensor in others.items():
        if tensor.shape != values.shape:
            raise ValueError(f"{name} must be {tuple(values.shape)} like the values, not {tuple(tensor.shape)}.")
