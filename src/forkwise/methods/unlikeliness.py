"""The unlikeliness reward, arXiv 2506.02355: among right answers, the likelier ones are paid less.

Default 0.25, that of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, RewardMethod, Rollout, check_range, given, wide
from forkwise.methods.groups import group_sum

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6  # added to the deviation, the authors'


@dataclass(frozen=True)
class Unlikeliness(RewardMethod):
    """GRPO on rewards of which right answers keep `1 - weight * rank / G`; rank 0 is the group's least likely.

    Groups that are all right learn too: towards their unlikely answers.

    Args:
        weight: in [0, 1]. 0 is GRPO; larger values favour unlikely right answers more.
    """

    weight: float = 0.25

    name = "unlikeliness"
    title = "Rewarding the Unlikely: Lifting GRPO Beyond Distribution Sharpening"
    paper = "2506.02355"
    formula = "GRPO on r (1 - weight rank_i/G) if right; rank by mean log pi_old in the group, ascending"
    requires = frozenset({Need.GROUPS, Need.CORRECT, Need.SEQUENCE_LOGPROBS})

    def __post_init__(self) -> None:
        check_range(self, "weight", 0, 1)

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages of all completions, `(N,)`."""
        import torch

        from forkwise.core import group_advantages

        groups, correct = given(rollout.groups), given(rollout.correct)
        rank = ranks(given(rollout.sequence_logprobs), groups)
        size = group_sum(torch.ones_like(groups), groups)
        rewards = wide(rollout.rewards)
        paid = torch.where(correct, rewards * (1 - self.weight * rank / size), rewards)
        return group_advantages(paid, group_ids=groups, eps=EPS)


def ranks(values: Tensor, groups: Tensor) -> Tensor:
    """Ranks values within their groups, the smallest 0, equal ones at their mean rank; `(N,)` float64, 0 for NaN."""
    same = groups[:, None] == groups
    below = (same & (values[None, :] < values[:, None])).sum(dim=1)
    equal = (same & (values[None, :] == values[:, None])).sum(dim=1)
    return wide(below) + (wide(equal) - 1).clamp(min=0) / 2
