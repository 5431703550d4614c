"""DCPO, in the code of arXiv 2510.08141 (AEPO, arbitrary entropy): right tokens pulled towards another temperature.

It steers the entropy to a chosen value without further draws. Constants: those of the authors' configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, Scope, State, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

_UNKNOWN = -1.0


@dataclass(frozen=True)
class Dcpo(TokenMethod):
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

    target: float = 0.5
    high: float = 1.2
    low: float = 0.8
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
        for field in ("target", "most"):
            check_range(self, field, 0, float("inf"), open_low=True)
        check_range(self, "high", 1, float("inf"), open_low=True)
        check_range(self, "low", 0, 1, open_low=True)

    def first_state(self) -> State:
        """Returns that no entropy is known yet."""
        return {**super().first_state(), "entropy": _UNKNOWN}

    def next_state(self, state: State, entropy: float, progress: float) -> State:
        """Returns the entropy of the rollout."""
        return {**super().next_state(state, entropy, progress), "entropy": entropy}

    def temperature_factor(self, states: Mapping[str, State]) -> float:
        """Returns what the sampling temperature is multiplied by."""
        return self.high if states[self.name]["entropy"] <= self.target else self.low

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the pulled advantages, `(B, T)`."""
        import torch

        correct, rows = given(tokens.correct), tokens.mask.any(dim=1)
        tempered, old = wide(given(tokens.tempered_logprobs)), wide(given(tokens.old_logprobs))
        assert tokens.states is not None
        entropy = tokens.states[self.name]["entropy"]
        share = float(wide(correct & rows).sum() / rows.sum().clamp(min=1))
        if entropy == _UNKNOWN or share == 0:
            return tokens.advantages
        pull = min(abs(self.target - entropy), self.most) / share
        a = pull / (1 + pull)
        pulled = torch.where(correct[:, None], (tempered - old).exp(), 0)
        return (1 - a) * wide(tokens.advantages) + a * torch.where(tokens.mask, pulled, 0)
