"""UCPO, uniform-correct policy optimisation, arXiv 2605.00365: among right answers, the unlikely ones count more.

The released method (estimator `iq`), default tau 0.2 as in its scripts. Its other variants are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, RewardMethod, Rollout, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-6  # q is clamped here, as in the authors' code


@dataclass(frozen=True)
class Ucpo(RewardMethod):
    """GRPO's advantages, those of a prompt's right answers re-weighted towards the less likely; their sum stays.

    Args:
        tau: in [0, 1]. 0 is GRPO; larger values favour unlikely right answers more.
    """

    tau: float = 0.2

    name = "ucpo"
    title = "UCPO: Uniform-Correct Policy Optimization"
    paper = "2605.00365"
    formula = "A n_c ((1-tau)/n_c + tau (1/q_i)/sum(1/q)) if right, q = softmax over right answers of mean log pi_old"
    requires = frozenset({Need.GROUPS, Need.CORRECT, Need.SEQUENCE_LOGPROBS, Need.ADVANTAGES})

    def __post_init__(self) -> None:
        check_range(self, "tau", 0, 1)

    def check_group_size(self, size: int) -> None:
        """Refuses groups in which right and wrong answers leave but one right one."""
        if size < 3:
            raise InputError(
                f"The method 'ucpo' weighs the right answers of a group that has wrong ones, too, against each other, "
                f"and {size} answers leave one at most, so it would do nothing: set the size of groups to 3 or more "
                "(num_generations; on verl actor_rollout_ref.rollout.n)."
            )

    def advantages(self, rollout: Rollout) -> Tensor:
        """Returns the re-weighted advantages, `(N,)`."""
        logprobs, groups, correct = given(rollout.sequence_logprobs), given(rollout.groups), given(rollout.correct)
        advantages = given(rollout.advantages)
        return advantages * ucpo_weights(logprobs, groups, correct, self.tau).to(advantages.dtype)


def ucpo_weights(logprobs: Tensor, groups: Tensor, correct: Tensor, tau: float) -> Tensor:
    """Computes `w_i n_c`, `(N,)` float64: mean 1 over a group's right answers, 1 for wrong and single right ones.

    An answer without tokens, whose log-prob is NaN, counts as none.
    """
    import torch

    ids = groups.unique(return_inverse=True)[1]
    correct = correct & ~logprobs.isnan()
    zero = torch.zeros_like(wide(ids.bincount()))
    count = zero.index_add(0, ids, wide(correct))
    score = torch.where(correct, wide(logprobs), -torch.inf)
    top = torch.full_like(zero, -torch.inf).scatter_reduce(0, ids, score, "amax")
    exps = torch.where(correct, (score - top[ids]).exp(), 0)
    q = (exps / zero.index_add(0, ids, exps)[ids]).clamp(min=SMALLEST)
    inverse = torch.where(correct, 1 / q, 0)
    share = inverse / zero.index_add(0, ids, inverse)[ids]
    several = correct & (count[ids] >= 2)
    return torch.where(several, 1 - tau + tau * share * count[ids], 1)
