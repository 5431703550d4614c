"""DAPO's soft penalty of overlong answers, arXiv 2503.14476, equation 13."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, RewardMethod, Rollout, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-4  # added to the deviation, TRL's


@dataclass(frozen=True)
class Overlong(RewardMethod):
    """GRPO on rewards from which answers that come near the limit lose up to `weight`.

    Args:
        limit: the length of an answer at which all of `weight` is lost, in tokens: the run's `max_completion_length`.
        buffer: over how many tokens before the limit the loss grows, at least 1 and below `limit`.
        weight: the largest loss, > 0. DAPO: limit 20480, buffer 4096, weight 1, with rewards of 1 and -1.
    """

    limit: int = 20480
    buffer: int = 4096
    weight: float = 1.0

    name = "overlong"
    title = "DAPO: An Open-Source LLM Reinforcement Learning System at Scale"
    paper = "2503.14476"
    formula = "GRPO on r + min(0, (limit - buffer - n)/buffer) weight; n tokens"
    requires = frozenset({Need.GROUPS, Need.LENGTHS})

    def __post_init__(self) -> None:
        check_range(self, "buffer", 1, float("inf"))
        check_range(self, "weight", 0, float("inf"), open_low=True)
        if self.buffer >= self.limit:
            raise InputError(f"buffer of the method 'overlong' must be below limit ({self.limit}), got {self.buffer}.")

    def check_longest(self, tokens: int) -> None:
        """Refuses limits that no answer comes near."""
        if self.limit - self.buffer >= tokens:
            raise InputError(
                f"The method 'overlong' takes nothing from answers of up to {self.limit - self.buffer} tokens, and "
                f"none is longer than {tokens} here, so it would do nothing: set overlong:limit={tokens},buffer="
                f"{max(tokens // 5, 1)}, or allow longer answers."
            )

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages of all completions, `(N,)`."""
        from forkwise.core import group_advantages

        rewards = wide(rollout.rewards) + self.penalty(given(rollout.lengths))
        return group_advantages(rewards, group_ids=given(rollout.groups), eps=EPS)

    def penalty(self, lengths: Tensor) -> Tensor:
        """Returns what answers of these lengths `(N,)` lose, `(N,)` float64, at least `-weight` up to the limit."""
        return ((self.limit - self.buffer - wide(lengths)) / self.buffer).clamp(max=0) * self.weight
