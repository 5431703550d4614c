"""GPG, arXiv 2504.02546: rewards minus their group's mean, scaled up where many completions earn nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, RewardMethod, Rollout, given, wide
from forkwise.methods.groups import group_mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gpg(RewardMethod):
    """`(N / number of rewards that are not 0) (r - mean)`, N and the number over the rollout."""

    name = "gpg"
    title = "GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning"
    paper = "2504.02546"
    formula = "(N / #(r != 0)) (r - mean of the group)"
    requires = frozenset({Need.GROUPS})

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages of all completions, `(N,)`."""
        rewards = wide(rollout.rewards)
        scale = len(rewards) / max(1, int((rewards != 0).sum()))
        return scale * (rewards - group_mean(rewards, given(rollout.groups)))
