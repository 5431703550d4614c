"""Miner (ACL 2026): groups that are all right teach the completions that the policy found least likely.

Defaults: those of the authors' released command. Its YAML file has others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forkwise.errors import InputError
from forkwise.methods.base import Condition, Need, Scope, TokenMethod, Tokens, check_range, given, wide
from forkwise.methods.groups import group_sum

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Miner(TokenMethod):
    """The trainer's advantages, and in groups that are all right a credit for surprising completions and tokens.

    A completion's credit is how far its mean log-prob lies below that of its group; a token's share of it is
    `(1 - pi_old)^gamma`. All credits together are scaled down to `largest` times the sum of the other |A|: without a
    mixed group in the rollout nothing is learned.

    Args:
        gamma: at least 0. Larger values leave the credit to a completion's unlikely tokens.
        largest: in (0, 1], of the credits in relation to the other advantages.
        level: a completion is compared with its `group`, or with all all-right groups of the rollout (`batch`).
    """

    gamma: float = 2.0
    largest: float = 0.0015
    level: Literal["group", "batch"] = "group"

    name = "miner"
    title = "Miner: Mining Intrinsic Mastery for Data-Efficient RL in Large Reasoning Models"
    formula = "all-right groups: max(0, mean l - l_i)(1 - pi_old)^gamma, l = mean log pi_old; sum <= largest sum|A|"
    scope = Scope.ROLLOUT
    requires = frozenset({Need.OLD_LOGPROBS, Need.GROUPS, Need.CORRECT, Need.ADVANTAGES})
    conditions = frozenset({Condition.EQUAL_GROUPS})
    slot = "advantages"

    def __post_init__(self) -> None:
        check_range(self, "gamma", 0, float("inf"))
        check_range(self, "largest", 0, 1, open_low=True)

    def check_prompts(self, count: int) -> None:
        """Refuses rollouts of one prompt."""
        if count < 2:
            raise InputError(
                "The method 'miner' pays answers to solved prompts in proportion to what others of the same rollout "
                "earn, and a rollout has one prompt, so it would do nothing: draw more of them at once "
                "(per_device_train_batch_size, steps_per_generation; on verl data.train_batch_size)."
            )

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages, credits in place of those of all-right groups, `(B, T)`."""
        import torch

        a, mask, groups, correct = wide(tokens.advantages), tokens.mask, given(tokens.groups), given(tokens.correct)
        logprobs, count = torch.where(mask, wide(given(tokens.old_logprobs)), 0), mask.sum(dim=1)
        # All right, and the trainer finds nothing to choose between them.
        solved = (group_sum(~correct, groups) == 0) & (group_sum(((a != 0) & mask).any(dim=1), groups) == 0)
        among = groups if self.level == "group" else torch.zeros_like(groups)
        missing = surprise(logprobs.sum(dim=1) / count.clamp(min=1), among, solved & (count > 0))
        paid = (missing > 0)[:, None]
        unpaid = torch.where(mask & ~paid, a.abs(), 0).sum()
        return torch.where(paid, credits(missing, logprobs, mask, self.gamma, self.largest * unpaid), a)


def surprise(mean_logprobs: Tensor, groups: Tensor, among: Tensor) -> Tensor:
    """Computes how far each mean log-prob lies below that of its group; `(B,)`, over and at `among`, 0 elsewhere."""
    import torch

    typical = group_sum(torch.where(among, mean_logprobs, 0), groups) / group_sum(among, groups).clamp(min=1)
    return torch.where(among, (typical - mean_logprobs).clamp(min=0), 0)


def credits(missing: Tensor, logprobs: Tensor, mask: Tensor, gamma: float, allowed: Tensor) -> Tensor:
    """Shares each completion's surprise among its tokens, `(B, T)`: together at most `allowed`."""
    import torch

    credit = torch.where(mask, missing[:, None] * (1 - logprobs.exp()) ** gamma, 0)
    total = credit.sum()
    return credit * (allowed / total.clamp(min=1e-300)).clamp(max=1)
