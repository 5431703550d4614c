"""Quantile advantage estimation (QAE), arXiv 2509.22611: the group's K-quantile as baseline instead of its mean.

Hard problems then learn from successes only and easy ones from failures only. Default 0.4, the paper's (0.6 where the
entropy is low).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, RewardMethod, Rollout, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6  # added to the deviation


@dataclass(frozen=True)
class Qae(RewardMethod):
    """`(r - b) / (std + eps)`, b the smallest reward x of the group with a share of at least `quantile` at or below x.

    Args:
        quantile: in (0, 1]. With 1/0 rewards b is 0 where at most 1 - quantile of the group is right, else 1.
    """

    quantile: float = 0.4

    name = "qae"
    title = "Quantile Advantage Estimation for Entropy-Safe Reasoning"
    paper = "2509.22611"
    formula = "(r - b)/(std + eps), b = inf{x: F(x) >= K}"
    requires = frozenset({Need.GROUPS})

    def __post_init__(self) -> None:
        check_range(self, "quantile", 0, 1, open_low=True)

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages of all completions, `(N,)`."""
        return qae_advantages(rollout.rewards, given(rollout.groups), self.quantile)


def qae_advantages(rewards: Tensor, groups: Tensor, quantile: float) -> Tensor:
    """Computes the advantages of all completions, `(N,)` float64; 0 in groups of equal rewards."""
    import torch

    advantages = torch.zeros_like(wide(rewards))
    for group in groups.unique():
        inside = groups == group
        r = wide(rewards[inside])
        if len(r) < 2 or bool((r == r[0]).all()):
            continue
        # F at the j-th smallest of n rewards is at least j / n. Rounded, lest 0.55 * 100 be more than 55.
        rank = max(1, math.ceil(round(quantile * len(r), 9)))
        advantages[inside] = (r - r.sort().values[rank - 1]) / (r.std() + EPS)
    return advantages
