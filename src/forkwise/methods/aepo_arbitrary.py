"""AEPO, arXiv 2510.08141: the entropy is steered by right answers that were drawn at another temperature.

Constants and rules of the authors' code (597358816/AEPO). Not the agentic AEPO, arXiv 2510.14545.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Rollout, State, check_range, given, wide
from forkwise.methods.redraw import RedrawMethod
from forkwise.methods.steered import UNKNOWN, SteeredTemperature

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6  # added to the deviation, verl's
_RIGHT = 0.05  # advantage among the completions drawn again


@dataclass(frozen=True)
class AepoArbitrary(SteeredTemperature, RedrawMethod):
    """GRPO, with right completions drawn at another temperature in place of some, whose advantage is 1.

    While the entropy of the last rollout's updates is at most the target, the first `share` of the prompts is drawn
    again at the temperature times `high`, and else times `low`, so that the policy learns towards more, or less,
    entropy. Of the completions drawn again, those that are better than their group take the place of the rollout's
    first ones: at most `most`, and half of that while the entropy is above the target. The first rollout is left alone.

    Args:
        target: entropy in nats, above 0.
        high: times the sampling temperature, above 1.
        low: times the sampling temperature, in (0, 1).
        share: of the prompts that are drawn again, in (0, 1]; at least one.
        most: completions of each process that are replaced, at least 2.
    """

    share: float = 0.25
    most: int = 60

    name = "aepo_arbitrary"
    title = "Arbitrary Entropy Policy Optimization"
    paper = "2510.08141"
    formula = "GRPO; A = 1 at right completions drawn again at T high or low, which replace the rollout's first ones"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "share", 0, 1, open_low=True)
        check_range(self, "most", 2, float("inf"))

    def draws_again(self, states: Mapping[str, State]) -> bool:
        """Tells whether an entropy is known."""
        return states[self.name]["entropy"] != UNKNOWN

    def chosen(self, rewards: Tensor, groups: Tensor, states: Mapping[str, State]) -> Tensor:
        """Chooses the first of those that are better than their group."""
        from forkwise.core import group_advantages

        right = (group_advantages(wide(rewards), group_ids=groups, eps=EPS) > _RIGHT).nonzero(as_tuple=True)[0]
        count = min(self.most, len(right))
        return right[: count if states[self.name]["entropy"] <= self.target else count // 2]

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages of all completions, `(N,)`."""
        import torch

        from forkwise.core import group_advantages

        first = group_advantages(wide(given(rollout.first_rewards)), group_ids=given(rollout.groups), eps=EPS)
        return torch.where(given(rollout.redrawn), 1.0, first)
