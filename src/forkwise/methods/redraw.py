"""Methods that draw prompts of a rollout again, at another temperature, and put what they like in place of the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, RewardMethod, State

if TYPE_CHECKING:
    from torch import Tensor


class RedrawMethod(RewardMethod):
    """A method that has the first prompts of a rollout drawn again, before anything is learned from it.

    The engine draws a rollout, draws the first `share` of its prompts once more at the sampling temperature times
    `temperature_factor`, and puts the completions that the method chooses in the place of the rollout's first ones.
    Each process does so with its own part. The method then makes the advantages, from the rewards of the completions
    that were drawn first (`Rollout.first_rewards`) and from which ones have been replaced (`Rollout.redrawn`).
    """

    share: float

    requires = frozenset({Need.GROUPS, Need.REDRAWN, Need.STATES})

    def draws_again(self, states: Mapping[str, State]) -> bool:
        """Tells whether anything is drawn again in this rollout."""
        return True

    @abstractmethod
    def chosen(self, rewards: Tensor, groups: Tensor, states: Mapping[str, State]) -> Tensor:
        """Chooses among completions that were drawn again.

        Args:
            rewards: `(M,)`, their total rewards.
            groups: `(M,)` int64, the prompt of each.
            states: as in `Tokens`.

        Returns:
            The places of those to be trained on, in the order in which they replace the rollout's first ones.
        """
