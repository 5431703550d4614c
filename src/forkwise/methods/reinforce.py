"""Learning from right or from wrong completions alone, arXiv 2506.01347: PSR, NSR and W-REINFORCE.

No group and no baseline: a right completion gets a fixed advantage, a wrong one -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from forkwise.methods.base import Need, RewardMethod, Rollout, Scope, TokenMethod, Tokens, check_range, given

if TYPE_CHECKING:
    from torch import Tensor

_TITLE = "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning"
_PAPER = "2506.01347"


@dataclass(frozen=True)
class WeightedReinforce(RewardMethod):
    """`right` for right completions, -1 for wrong ones.

    Args:
        right: advantage of right completions, at least 0. Larger values sharpen the policy more; 1 is REINFORCE.
    """

    right: float = 0.1

    name = "w_reinforce"
    title = _TITLE
    paper = _PAPER
    formula = "right if right, -1 if wrong; no baseline"
    requires = frozenset({Need.CORRECT})

    def __post_init__(self) -> None:
        check_range(self, "right", 0, float("inf"))

    def advantages(self, rollout: Rollout) -> Tensor:
        """Returns the advantages of all completions, `(N,)`."""
        import torch

        return torch.where(given(rollout.correct), self.right, -1.0)


@dataclass(frozen=True)
class _OneSide(TokenMethod):
    """What PSR and NSR share: one side of the completions learns, the others are left out.

    Args:
        others: `drop` makes the mean over the rollout's tokens one over those that learn, as the authors' code does by
            taking the others out of the batch; `zero` leaves them in it with an advantage of 0.
    """

    others: Literal["drop", "zero"] = "drop"

    title = _TITLE
    paper = _PAPER
    scope = Scope.ROLLOUT
    requires = frozenset({Need.CORRECT})
    slot = "advantages"
    side: ClassVar[bool]  # which completions learn: the right ones or the wrong ones

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages, the same at every token that learns, `(B, T)`."""
        import torch

        kept = tokens.mask & (given(tokens.correct) == self.side)[:, None]
        size = float(tokens.mask.sum()) / max(1.0, float(kept.sum())) if self.others == "drop" else 1.0
        return torch.where(kept, size if self.side else -size, 0.0)


class Psr(_OneSide):
    """Right completions alone learn, with advantage 1 (see `others`)."""

    name = "psr"
    formula = "1 at right completions; the wrong ones are left out"
    side = True


class Nsr(_OneSide):
    """Wrong completions alone learn, with advantage -1 (see `others`)."""

    name = "nsr"
    formula = "-1 at wrong completions; the right ones are left out"
    side = False
