"""MaxRL, arXiv 2602.02710: the advantage is divided by the group's mean reward, so that rare successes count most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, RewardMethod, Rollout, given, wide
from forkwise.methods.groups import group_mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MaxRl(RewardMethod):
    """`(r - mean) / mean` of the group, 0 where the mean is 0; rewards must not be negative."""

    name = "maxrl"
    title = "Maximum Likelihood Reinforcement Learning"
    paper = "2602.02710"
    formula = "(r - mean)/mean of the group; 0 where the mean is 0"
    requires = frozenset({Need.GROUPS})

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages of all completions, `(N,)`.

        Raises:
            InputError: a reward below 0.
        """
        import torch

        rewards = wide(rollout.rewards)
        if bool((rewards < 0).any()):
            raise InputError(
                "The method 'maxrl' divides by the mean reward of a group, and a completion has "
                f"{float(rewards.min()):g}: use rewards of 0 and more, as 1 for right and 0 for wrong."
            )
        mean = group_mean(rewards, given(rollout.groups))
        return torch.where(mean > 0, (rewards - mean) / torch.where(mean > 0, mean, 1), 0)
