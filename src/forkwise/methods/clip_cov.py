"""Clip-Cov, arXiv 2505.22617, Sec. 4.2: no gradient at a few tokens whose covariance drives the entropy down.

Defaults: the paper's for 7B and 32B, as in the authors' repository and verl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    import torch
    from torch import Tensor

COVARIANCE = "tokens of high covariance"
"""The slot of the paper's two methods: one silences such tokens, the other holds them."""


@dataclass(frozen=True)
class ClipCov(TokenMethod):
    """Advantage 0 at `share * n` of the n tokens of an update, drawn from those with covariance in (low, high).

    Args:
        share: of the update's tokens, in (0, 1]; at least one token is drawn where there is a candidate.
        low: covariances up to this are left alone; advantage times nats.
        high: covariances from this on are left alone, too.
    """

    share: float = 2e-4
    low: float = 1.0
    high: float = 5.0

    name = "clip_cov"
    title = "The Entropy Mechanism of RL for Reasoning Language Models"
    paper = "2505.22617"
    formula = "A = 0 at random tokens with low < (A - mean A)(log pi - mean log pi) < high"
    scope = Scope.UPDATE
    requires = frozenset({Need.LOGPROBS})
    slot = COVARIANCE

    def __post_init__(self) -> None:
        check_range(self, "share", 0, 1, open_low=True)
        if not self.low < self.high:
            raise InputError(f"low of the method 'clip_cov' must be below high, got {self.low} and {self.high}.")

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the masked advantages, `(B, T)`."""
        import torch

        cov = covariance(tokens.advantages, given(tokens.logprobs), tokens.mask)
        candidates = tokens.mask & (cov > self.low) & (cov < self.high)
        count = max(1, int(self.share * int(tokens.mask.sum())))
        return torch.where(draw(candidates, count, tokens.generator(self.name)), 0, tokens.advantages)


def covariance(advantages: Tensor, logprobs: Tensor, mask: Tensor) -> Tensor:
    """Computes `(A - mean A)(log pi - mean log pi)` at each token, means over the mask; `(B, T)` float64, 0 outside."""
    import torch

    a, logp = (torch.where(mask, wide(x.detach()), 0) for x in (advantages, logprobs))
    n = mask.sum().clamp(min=1)
    return torch.where(mask, (a - a.sum() / n) * (logp - logp.sum() / n), 0)


def draw(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws `count` of the candidates at random (all, where there are fewer), `(B, T)` bool."""
    import torch

    places = candidates.flatten().nonzero()[:, 0]
    order = torch.randperm(len(places), generator=generator)[:count].to(places.device)
    chosen = torch.zeros_like(candidates).flatten()
    chosen[places[order]] = True
    return chosen.view_as(candidates)
