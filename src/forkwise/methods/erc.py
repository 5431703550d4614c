"""Entropy ratio clipping (ERC), arXiv 2512.05591: no gradient at tokens whose entropy has moved too far.

Defaults: those of the authors' configuration, 0.8 and 1.2; the name of a script of theirs suggests 0.95 and 1.05.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Condition, Need, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-8  # nats, the authors'


@dataclass(frozen=True)
class Erc(TokenMethod):
    """Advantage 0 where `H / H_old` lies outside [low, high].

    Args:
        low: in [0, 1].
        high: at least 1. A narrower range stops more tokens.
    """

    low: float = 0.8
    high: float = 1.2

    name = "erc"
    title = "Entropy Ratio Clipping as a Soft Global Constraint for Stable RL"
    paper = "2512.05591"
    formula = "A where low <= (H + 1e-8)/(H_old + 1e-8) <= high, else 0"
    requires = frozenset({Need.ENTROPY, Need.OLD_ENTROPY})
    conditions = frozenset({Condition.OFF_POLICY})

    def __post_init__(self) -> None:
        check_range(self, "low", 0, 1)
        check_range(self, "high", 1, float("inf"))

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the masked advantages, `(B, T)`."""
        import torch

        ratio = (wide(given(tokens.entropy)) + EPS) / (wide(given(tokens.old_entropy)) + EPS)
        return torch.where((ratio >= self.low) & (ratio <= self.high), tokens.advantages, 0)
