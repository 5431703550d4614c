"""Advantages from the rewards of several completions per prompt: GRPO, Dr. GRPO and RLOO."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


@torch.no_grad()
def group_advantages(
    rewards: Tensor,
    group_size: int | None = None,
    *,
    group_ids: Tensor | None = None,
    scale: Literal["group", "batch", "none"] = "group",
    eps: float = 1e-4,
) -> Tensor:
    """Computes the group-relative advantages `(r - mean) / (std + eps)`, in reward units over std units.

    The conventions are those of TRL's `scale_rewards`: the unbiased standard deviation (n - 1), and eps added to it. A
    group whose rewards are all equal gets exactly 0, and so does a group of one.

    Args:
        rewards: `(N,)`, floating point, finite.
        group_size: completions per prompt, where those of a prompt lie side by side; or
        group_ids: `(N,)` integers, the prompt of each completion, in any order. Exactly one of the two.
        scale: `"group"` divides by the std of the group (GRPO, arXiv 2402.03300, Sec. 4.1.2), `"batch"` by the std of
            all N rewards (arXiv 2508.08221), `"none"` by nothing (Dr. GRPO, arXiv 2503.20783, Sec. 3.2).
        eps: added to the std. Larger values damp groups of nearly equal rewards.

    Returns:
        `(N,)`, the dtype of the rewards.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale must be 'group', 'batch' or 'none', not {scale!r}.")
    if not eps > 0:
        raise ValueError(f"eps must be > 0, not {eps}: groups of equal rewards have std 0.")
    r, ids, count = _grouped(rewards, group_size, group_ids)
    centred = r - _group_sum(r, ids, count)[ids] / count[ids]
    if scale == "group":
        variance = _group_sum(centred.square(), ids, count) / (count - 1).clamp(min=1)
        centred = centred / (variance.sqrt()[ids] + eps)
    elif scale == "batch" and len(r) > 1:
        centred = centred / (r.std() + eps)
    return centred.to(rewards.dtype)


@torch.no_grad()
def leave_one_out(rewards: Tensor, group_size: int | None = None, *, group_ids: Tensor | None = None) -> Tensor:
    """Computes RLOO advantages: each reward minus the mean of the *other* rewards of its group (arXiv 2402.14740).

    Args:
        rewards: `(N,)`, floating point, finite.
        group_size: completions per prompt, at least 2, where those of a prompt lie side by side; or
        group_ids: `(N,)` integers, the prompt of each completion, in any order. Exactly one of the two.

    Returns:
        `(N,)`, reward units, the dtype of the rewards.
    """
    r, ids, count = _grouped(rewards, group_size, group_ids)
    if bool((count < 2).any()):
        raise ValueError("leave_one_out needs at least 2 completions in every group: a single one has no baseline.")
    mean_of_others = (_group_sum(r, ids, count)[ids] - r) / (count[ids] - 1)
    return (r - mean_of_others).to(rewards.dtype)


def _grouped(rewards: Tensor, group_size: int | None, group_ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns rewards in float64 (equal ones then centre to exactly 0), their group index, and the groups' sizes."""
    if not rewards.is_floating_point():
        raise TypeError(f"rewards must be floating point, not {rewards.dtype}: call .float() on them.")
    if rewards.dim() != 1:
        raise ValueError(f"rewards must be (N,), one per completion, not {tuple(rewards.shape)}.")
    if not bool(rewards.isfinite().all()):
        raise ValueError("rewards hold NaN or infinity: leave unscored completions out of their group.")
    if (group_size is None) == (group_ids is None):
        raise ValueError("pass exactly one of group_size and group_ids.")
    n = rewards.shape[0]
    if group_size is not None:
        if group_size != int(group_size) or group_size < 1 or n % group_size:
            raise ValueError(f"group_size must divide the number of rewards, but {group_size} does not divide {n}.")
        ids = torch.arange(n, device=rewards.device) // int(group_size)
    elif group_ids is not None:
        if group_ids.is_floating_point() or group_ids.shape != rewards.shape:
            raise ValueError(f"group_ids must be ({n},) integers, not {tuple(group_ids.shape)} of {group_ids.dtype}.")
        ids = group_ids.unique(return_inverse=True)[1].to(rewards.device)
    wide = torch.float32 if rewards.device.type == "mps" else torch.float64
    return rewards.to(wide), ids, ids.bincount()


def _group_sum(values: Tensor, ids: Tensor, count: Tensor) -> Tensor:
    return values.new_zeros(len(count)).index_add_(0, ids, values)
