"""FIPO, arXiv 2603.19835: a token weighs more, the likelier the policy has since made what follows it.

Constants as in ms-swift's implementation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Condition, Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fipo(TokenMethod):
    """`A f`, f the exponential of the discounted sum of `log r` from the token on, between `low` and `high`.

    Where A < 0 and the token's own ratio exceeds `ratio`, f is at most 1: it is not punished more than by GRPO.

    Args:
        half_life: tokens after which a later token counts half; > 0.
        low: smallest f, in (0, 1]. 1 only ever strengthens; 0.8 weakens too.
        high: largest f, at least 1.
        ratio: > 0, see above.
    """

    half_life: float = 32.0
    low: float = 1.0
    high: float = 1.2
    ratio: float = 4.0

    name = "fipo"
    title = "FIPO: Eliciting Deep Reasoning with Future-KL Influenced Policy Optimization"
    paper = "2603.19835"
    formula = "A clip(exp(sum_{k>=t} 2^(-(k-t)/half_life) log r_k), low, high); at most 1 where A < 0 and r > ratio"
    scope = Scope.COMPLETION
    requires = frozenset({Need.LOGPROBS, Need.OLD_LOGPROBS})
    conditions = frozenset({Condition.OFF_POLICY})

    def __post_init__(self) -> None:
        for field in ("half_life", "ratio"):
            check_range(self, field, 0, float("inf"), open_low=True)
        check_range(self, "high", 1, float("inf"))
        check_range(self, "low", 0, 1, open_low=True)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the weighted advantages, `(B, T)`."""
        import torch

        mask = tokens.mask
        log_ratio = torch.where(mask, wide(given(tokens.logprobs)) - wide(given(tokens.old_logprobs)), 0)
        weight = discounted(log_ratio, 2 ** (-1 / self.half_life)).exp().clamp(self.low, self.high)
        held = (tokens.advantages < 0) & (log_ratio.exp() > self.ratio)
        return tokens.advantages * torch.where(held, weight.clamp(max=1), weight)


def discounted(values: Tensor, factor: float) -> Tensor:
    """Sums `factor^(k - t) values_k` over k >= t along each row, `(B, T)`."""
    import torch

    sums, running = [], torch.zeros_like(values[:, 0])
    for column in reversed(values.unbind(dim=1)):
        running = column + factor * running
        sums.append(running)
    return torch.stack(sums[::-1], dim=1)
