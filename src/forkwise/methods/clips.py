"""Clips of one's own: what methods share that decide the weight of a token's gradient in place of the trainer's clip.

The wanted gradient of a token is `-w A grad(log pi)`. With the trainer's clip opened it is `-r A' grad(log pi)`, so
`A' = A w / r` gives exactly that, in whatever way the trainer averages tokens. Where w = r, the advantage stays.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from forkwise.methods.base import Condition, Need, TokenMethod, Tokens, given, wide

if TYPE_CHECKING:
    from torch import Tensor

_FARTHEST = 80.0  # nats: keeps 1 / r finite

CLIP = "clip of the ratio"
"""The slot of methods that need the trainer's clip opened: an engine must open it, or refuse them."""


class ClipMethod(TokenMethod):
    """A method that decides the weight w of a token's gradient, in place of the trainer's clip of `r = pi / pi_old`."""

    requires = frozenset({Need.LOGPROBS, Need.OLD_LOGPROBS})
    conditions = frozenset({Condition.OFF_POLICY})
    slot = CLIP

    @abstractmethod
    def factor(self, advantages: Tensor, ratio: Tensor, tokens: Tokens) -> Tensor:
        """Computes `w / r` `(B, T)`, exactly 1 at tokens with `w = r`; all in float64."""

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages with the clip folded in, `(B, T)`."""
        import torch

        log_ratio = wide(given(tokens.logprobs)) - wide(given(tokens.old_logprobs))
        ratio = torch.where(tokens.mask, log_ratio, 0).clamp(-_FARTHEST, _FARTHEST).exp()
        return tokens.advantages * self.factor(wide(tokens.advantages), ratio, tokens)
