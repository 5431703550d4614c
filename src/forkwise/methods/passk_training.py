"""Pass@k training, arXiv 2508.10751: the group is rewarded for one success in k, and credit is shared analytically.

The default k, 4, is ours (the released code takes k as an argument); choose it well below the group size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, RewardMethod, Rollout, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6  # added to the deviation, as in the authors' code


@dataclass(frozen=True)
class PasskTraining(RewardMethod):
    """Advantages of the average subset of k completions that holds a completion, rewarded 1 if any of it is right.

    Args:
        k: at least 1 and below the group size. 1 is GRPO; larger values leave easy problems alone.
    """

    k: int = 4

    name = "passk_training"
    title = "Pass@k Training for Adaptively Balancing Exploration and Exploitation of Large Reasoning Models"
    paper = "2508.10751"
    formula = "R = 1 - C(wrong,k)/C(N,k), s = sqrt(R(1-R)); right (1-R)/s, wrong (1-R - C(wrong-1,k-1)/C(N-1,k-1))/s"
    requires = frozenset({Need.GROUPS, Need.CORRECT})

    def __post_init__(self) -> None:
        check_range(self, "k", 1, float("inf"))

    def check_group_size(self, size: int) -> None:
        """Refuses k from the group size on: one subset, always wholly right or wrong, teaches nothing."""
        if self.k >= size:
            raise InputError(
                f"k of the method 'passk_training' is {self.k}, but groups have {size} completions, which would leave "
                "every advantage at 0: lower k or raise num_generations."
            )

    def advantages(self, rollout: Rollout) -> Tensor:
        """Computes the advantages of all completions, `(N,)`."""
        return passk_advantages(given(rollout.correct), given(rollout.groups), self.k)


def passk_advantages(correct: Tensor, groups: Tensor, k: int) -> Tensor:
    """Computes Eq. 14 and 15 of the paper, `(N,)` float64; 0 in groups whose subsets of k are all right or all wrong.

    Args:
        correct: `(N,)` bool.
        groups: `(N,)` integers.
        k: subset size, at most that of the smallest group.
    """
    import torch

    ids = groups.unique(return_inverse=True)[1]
    size = wide(ids.bincount())
    wrong = torch.zeros_like(size).index_add_(0, ids, wide(~correct))
    fail = _subsets(wrong, size, k)  # 1 - R
    fail_given_wrong = _subsets(wrong - 1, size - 1, k - 1)
    spread = (fail * (1 - fail)).sqrt() + EPS
    return torch.where(correct, (fail / spread)[ids], ((fail - fail_given_wrong) / spread)[ids])


def _subsets(wrong: Tensor, size: Tensor, k: int) -> Tensor:
    """Computes `C(wrong, k) / C(size, k)` as a product, exact where it is 0 or 1."""
    import torch

    share = torch.ones_like(size)
    for i in range(k):
        share = share * ((wrong - i).clamp(min=0) / (size - i))
    return share
