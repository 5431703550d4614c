"""KL-Cov, arXiv 2505.22617, Sec. 4.2: a penalty on leaving the old policy, at the tokens of highest covariance.

Defaults: the authors' for 7B (0.2 % of the tokens; 0.02 % for 32B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import LossMethod, Scope, Tokens, check_range, given
from forkwise.methods.clip_cov import COVARIANCE, covariance

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KlCov(LossMethod):
    """`coef * |log pi - log pi_old|` is added to the loss of the `share` of an update's tokens with most covariance.

    Args:
        share: of the update's tokens, in (0, 1]; at least one.
        coef: > 0, advantage per nat. Larger values hold those tokens tighter.
    """

    share: float = 2e-3
    coef: float = 1.0

    name = "kl_cov"
    title = "The Entropy Mechanism of RL for Reasoning Language Models"
    paper = "2505.22617"
    formula = "loss + coef |log pi - log pi_old| at the top tokens by (A - mean A)(log pi - mean log pi)"
    scope = Scope.UPDATE
    slot = COVARIANCE

    def __post_init__(self) -> None:
        check_range(self, "share", 0, 1, open_low=True)
        check_range(self, "coef", 0, float("inf"), open_low=True)

    def term(self, logprobs: Tensor, tokens: Tokens) -> Tensor:
        """Returns the penalty per token, `(B, T)`."""
        import torch

        chosen = most(covariance(tokens.advantages, logprobs, tokens.mask), tokens.mask, self.share)
        return torch.where(chosen, self.coef * (logprobs - given(tokens.old_logprobs)).abs(), 0)


def most(values: Tensor, mask: Tensor, share: float) -> Tensor:
    """Returns the `max(1, floor(share * n))` of the mask's n tokens with the largest values, `(B, T)` bool."""
    import torch

    inside = values[mask]
    chosen = torch.zeros_like(inside, dtype=torch.bool)
    chosen[inside.sort(descending=True, stable=True).indices[: max(1, int(share * len(inside)))]] = True
    return torch.zeros_like(mask).masked_scatter(mask, chosen)
