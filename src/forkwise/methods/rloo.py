"""RLOO's baseline, arXiv 2402.14740: each reward minus the mean of the others of its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, RewardMethod, Rollout, given

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rloo(RewardMethod):
    """`forkwise.core.leave_one_out` under TRL's clipped token-level loss (its `RLOOTrainer` has one of its own)."""

    name = "rloo"
    title = "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback in LLMs"
    paper = "2402.14740"
    formula = "r_i - mean of the group's other rewards"
    requires = frozenset({Need.GROUPS})

    def advantages(self, rollout: Rollout) -> Tensor:
        """Returns the rewards less those of the others, `(N,)`."""
        from forkwise.core import leave_one_out

        return leave_one_out(rollout.rewards, group_ids=given(rollout.groups))
