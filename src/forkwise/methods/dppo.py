"""DPPO, arXiv 2602.04879: a token is left out by how far its probability has moved, not by its ratio.

As in verl (`dppo_tv`, `dppo_kl`); the default bounds are prime-rl's and those of verl's example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forkwise.methods.base import Tokens, check_range, given, wide
from forkwise.methods.clips import ClipMethod

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-8  # verl's, lest a probability of 1 be divided by


@dataclass(frozen=True)
class Dppo(ClipMethod):
    """No gradient at tokens that have moved too far in their advantage's direction; elsewhere r, at most `largest`.

    Args:
        divergence: how far a token has moved: `tv`, by `|pi - pi_old|`, or `kl`, by the divergence of (pi, 1 - pi) from
            (pi_old, 1 - pi_old), in nats.
        low: bound where A <= 0, > 0.
        high: bound where A > 0, > 0. verl's example has 0.05 for `kl`, prime-rl 0.2 for `tv`.
        largest: the ratio counts as at most this; > 0.
    """

    divergence: Literal["tv", "kl"] = "tv"
    low: float = 0.2
    high: float = 0.2
    largest: float = 20.0

    name = "dppo"
    title = "Rethinking the Trust Region in LLM Reinforcement Learning"
    paper = "2602.04879"
    formula = "weight min(r, largest); 0 where pi - pi_old > high if A > 0, < -low else (or by binary KL)"

    def __post_init__(self) -> None:
        for field in ("low", "high", "largest"):
            check_range(self, field, 0, float("inf"), open_low=True)

    def factor(self, advantages: Tensor, ratio: Tensor, tokens: Tokens) -> Tensor:
        """Computes `w / r`, `(B, T)`."""
        import torch

        logp, old = (torch.where(tokens.mask, wide(given(x)), 0) for x in (tokens.logprobs, tokens.old_logprobs))
        p, p_old = logp.exp(), old.exp()
        if self.divergence == "tv":
            moved = (p - p_old).abs()
        else:
            moved = p_old * (old - logp) + (1 - p_old) * ((1 - p_old + _EPS) / (1 - p + _EPS)).log()
        onward = torch.where(advantages > 0, p > p_old, p < p_old)
        too_far = onward & (moved > torch.where(advantages > 0, self.high, self.low))
        return torch.where(too_far, 0, (self.largest / ratio).clamp(max=1))
