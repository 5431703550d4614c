"""GRPO's advantage times a weight that rises with the token's entropy, and with its probability: our own method.

The weight is the simplest that is near to what `forkwise credit` finds best: `docs/credit.md` has the derivation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given
from forkwise.methods.placebos import permuted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _RisingWeight(TokenMethod):
    """A method that multiplies the advantages by a weight that rises with an entropy, and with a probability."""

    width: float = 1.0
    least: float = 0.5
    probability: float = 0.0

    requires = frozenset({Need.ENTROPY})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_range(self, "width", 0, float("inf"), open_low=True)
        check_range(self, "least", 0, 1)
        check_range(self, "probability", 0, 1)

    def needs(self) -> frozenset[Need]:
        """Returns the entropies, and the log-probs where the probability of a token counts."""
        return super().needs() | (frozenset({Need.LOGPROBS}) if self.probability else frozenset())

    def weight(self, tokens: Tokens) -> Tensor:
        """Returns the weight of each token, `(B, T)`."""
        dtype = tokens.advantages.dtype
        rise = (given(tokens.entropy).clamp(min=0) / self.width).clamp(max=1).to(dtype)
        weight = self.least + (1 - self.least) * rise
        if self.probability:
            weight = weight * (given(tokens.logprobs).detach().exp() / self.probability).clamp(max=1).to(dtype)
        return weight


@dataclass(frozen=True)
class EntropyWeight(_RisingWeight):
    """`A g(H, p)` with `g = (least + (1 - least) min(H / width, 1)) min(p / probability, 1)`.

    It keeps the sign of A and adds nothing where A is 0. With `probability` 0 the second factor is 1. Weights that rise
    with the probability of a token are Advantage Reweighting's (arXiv 2505.12929), whose form is `alpha p + 1 - alpha`.

    Args:
        width: entropy in nats from which on the first factor is 1; > 0. Larger values leave more of the update to the
            most uncertain tokens.
        least: first factor of a token without entropy, in [0, 1]. 1 leaves entropy out.
        probability: probability of the token from which on the second factor is 1, in [0, 1]. Larger values take more
            from tokens that were drawn though they were unlikely.
    """

    name = "entropy_weight"
    title = "The advantage times a weight that rises with entropy and probability, estimated for credit"
    formula = "A (least + (1 - least) min(H/width, 1)) min(p/probability, 1)"
    scope = Scope.TOKEN

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the weighted advantages, `(B, T)`."""
        return tokens.advantages * self.weight(tokens)


@dataclass(frozen=True)
class PlaceboWeight(_RisingWeight):
    """`entropy_weight` with the weights of an update dealt out anew among its tokens.

    Args:
        width: as of the entropy weight.
        least: as of the entropy weight.
        probability: as of the entropy weight.
    """

    name = "placebo_weight"
    title = "Placebo: the entropy weight with the weights permuted over the tokens of an update"
    formula = "A g(H, p)[perm]"
    scope = Scope.UPDATE

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages with the weights of other tokens, `(B, T)`."""
        return tokens.advantages * permuted(self.weight(tokens), tokens.mask, tokens.generator(self.name))
