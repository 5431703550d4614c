"""AsymGRPO, arXiv 2604.04894: right and wrong answers weighted by separate powers of the odds of the group.

The formula is known from secondary sources only (no code found, paper not read); defaults: those they recommend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, RewardMethod, Rollout, check_range, given
from forkwise.methods.groups import group_mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AsymGrpo(RewardMethod):
    """`((1-p)/p)^positive` for right answers and `-(p/(1-p))^negative` for wrong ones; p is the share of right ones.

    Args:
        positive: at least 0. 0.5 is GRPO (population deviation); larger values stress rare successes.
        negative: at least 0. Larger values stress rare failures. Both 0: the sign.
    """

    positive: float = 0.9
    negative: float = 0.4

    name = "asym_grpo"
    title = "AsymGRPO"
    paper = "2604.04894"
    formula = "((1-p)/p)^positive if right, -(p/(1-p))^negative if wrong; 0 where p is 0 or 1"
    requires = frozenset({Need.GROUPS, Need.CORRECT})

    def __post_init__(self) -> None:
        for field in ("positive", "negative"):
            check_range(self, field, 0, float("inf"))

    def check_group_size(self, size: int) -> None:
        """Refuses groups whose odds are always 1."""
        if size < 3:
            raise InputError(
                f"The method 'asym_grpo' goes by the odds of a group, which among {size} answers are always 1, so it "
                "would do nothing: set the size of groups to 3 or more (num_generations; on verl "
                "actor_rollout_ref.rollout.n)."
            )

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages from the odds of each group, `(N,)`."""
        import torch

        correct = given(rollout.correct)
        p = group_mean(correct, given(rollout.groups))
        mixed = (p > 0) & (p < 1)
        odds = torch.where(mixed, p / (1 - p), 1)
        signed = torch.where(correct, odds**-self.positive, -(odds**self.negative))
        return torch.where(mixed, signed, 0)
