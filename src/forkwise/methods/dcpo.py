"""DCPO, in the code of arXiv 2510.08141 (AEPO, arbitrary entropy): right tokens pulled towards another temperature.

It steers the entropy to a chosen value without further draws. Constants: those of the authors' configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide
from forkwise.methods.steered import UNKNOWN, SteeredTemperature

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Dcpo(SteeredTemperature, TokenMethod):
    """`(1 - a) A + a pi_T / pi_old` at tokens of right completions, `(1 - a) A` elsewhere.

    `a' = min(|target - H|, most) / share of right completions` and `a = a' / (1 + a')`; H is the mean entropy of the
    last rollout's updates, so that the first rollout is left alone. pi_T is the policy at a temperature that is higher
    than the sampling one while the entropy is too low, and lower while it is too high.

    Args:
        target: entropy in nats, > 0.
        high: times the sampling temperature, above 1.
        low: times the sampling temperature, in (0, 1).
        most: > 0; a larger distance to the target counts as this.
    """

    most: float = 0.1

    name = "dcpo"
    title = "DCPO, in the code of Arbitrary Entropy Policy Optimization"
    paper = "2510.08141"
    formula = "(1-a) A + a 1[right] exp(log pi_T - log pi_old), a from |target - H|; T by its sign"
    scope = Scope.ROLLOUT
    requires = frozenset(
        {Need.OLD_LOGPROBS, Need.CORRECT, Need.TEMPERED_LOGPROBS, Need.STATES, Need.ADVANTAGES},
    )
    slot = "advantages"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "most", 0, float("inf"), open_low=True)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the pulled advantages, `(B, T)`."""
        import torch

        correct, rows = given(tokens.correct), tokens.mask.any(dim=1)
        tempered, old = wide(given(tokens.tempered_logprobs)), wide(given(tokens.old_logprobs))
        assert tokens.states is not None
        entropy = tokens.states[self.name]["entropy"]
        share = float(wide(correct & rows).sum() / rows.sum().clamp(min=1))
        if entropy == UNKNOWN or share == 0:
            return tokens.advantages
        pull = min(abs(self.target - entropy), self.most) / share
        a = pull / (1 + pull)
        pulled = torch.where(correct[:, None], (tempered - old).exp(), 0)
        return (1 - a) * wide(tokens.advantages) + a * torch.where(tokens.mask, pulled, 0)
