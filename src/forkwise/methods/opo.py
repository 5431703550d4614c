"""OPO, arXiv 2505.23585: each completion counts in its group's baseline by its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, RewardMethod, Rollout, given, wide
from forkwise.methods.groups import group_sum

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Opo(RewardMethod):
    """`r - sum(length r) / sum(length)` of the group: the baseline of least variance for gradients as long as texts."""

    name = "opo"
    title = "On-Policy RL with Optimal Reward Baseline"
    paper = "2505.23585"
    formula = "r - sum(n_i r_i)/sum(n_i) of the group, n_i the completion's tokens"
    requires = frozenset({Need.GROUPS, Need.LENGTHS})

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages of all completions, `(N,)`; 0 in groups without tokens."""
        import torch

        rewards, groups, lengths = wide(rollout.rewards), given(rollout.groups), wide(given(rollout.lengths))
        total = group_sum(lengths, groups)
        baseline = group_sum(lengths * rewards, groups) / total.clamp(min=1)
        return torch.where(total > 0, rewards - baseline, 0)
