"""OPEFO, arXiv 2605.11491: updates that lower the entropy and updates that raise it are brought into balance.

From secondary sources. The weight of the paper's printed example is p (1 - p)^2; the exact one is ours by derivation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, given, wide

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Opefo(TokenMethod):
    """`A (1 + b)` at tokens that raise the entropy, `A (1 - b)` at those that lower it; `b = (N - P) / (N + P)`.

    P and N are the sums over the update of how much its tokens raise and lower the entropy, to first order.

    Args:
        weight: of a token's effect: `exact` is `-A (p (log p + H) - sum_v p_v^2 (log p_v + H))`, `paper` is
            `-A p (1 - p)^2 (log p + H)`, as in the paper's example. Which tokens are strengthened seldom differs.
    """

    weight: Literal["exact", "paper"] = "exact"

    name = "opefo"
    title = "Understanding and Preventing Entropy Collapse in RLVR with On-Policy Entropy Flow Optimization"
    paper = "2605.11491"
    formula = "A (1 + b) where the token raises H, A (1 - b) where it lowers H; b = (N - P)/(N + P)"
    scope = Scope.UPDATE
    requires = frozenset({Need.ENTROPY, Need.LOGPROBS, Need.SUM_P2_LOG})
    slot = "entropy shaping"

    def needs(self) -> frozenset[Need]:
        """Leaves the sum over the vocabulary out where it is not used."""
        return super().needs() - {Need.SUM_P2_LOG} if self.weight == "paper" else super().needs()

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the balanced advantages, `(B, T)`."""
        import torch

        mask, a = tokens.mask, wide(tokens.advantages)
        logp, h = (torch.where(mask, wide(given(x)), 0) for x in (tokens.logprobs, tokens.entropy))
        p = logp.exp()
        if self.weight == "paper":
            effect = p * (1 - p) ** 2 * (logp + h)
        else:
            effect = p * (logp + h) - wide(given(tokens.sum_p2_log))
        flow = torch.where(mask, -a * effect, 0)
        raised, lowered = flow.clamp(min=0).sum(), (-flow).clamp(min=0).sum()
        total = raised + lowered
        balance = (lowered - raised) / torch.where(total > 0, total, 1)
        return a * (1 + balance * flow.sign())
