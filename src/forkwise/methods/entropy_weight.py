"""GRPO's advantage times a weight that rises with the token's entropy: our own method, with its placebo.

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
    """A method that multiplies the advantages by a weight that rises with an entropy, from `least` to 1 at `width`."""

    width: float = 1.0
    least: float = 0.5

    requires = frozenset({Need.ENTROPY})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_range(self, "width", 0, float("inf"), open_low=True)
        check_range(self, "least", 0, 1)

    def weighted(self, tokens: Tokens, entropy: Tensor) -> Tensor:
        """Returns the advantages times the weights of these entropies, both `(B, T)`."""
        rise = (entropy.clamp(min=0) / self.width).clamp(max=1).to(tokens.advantages.dtype)
        return tokens.advantages * (self.least + (1 - self.least) * rise)


@dataclass(frozen=True)
class EntropyWeight(_RisingWeight):
    """`A g(H)` with `g = least + (1 - least) min(H / width, 1)`.

    It keeps the sign of A, adds nothing where A is 0, and leaves the advantage alone from `width` nats on.

    Args:
        width: entropy in nats from which on the weight is 1; > 0. Larger values leave more of the update to the most
            uncertain tokens.
        least: weight of a token without entropy, in [0, 1]. 1 is the advantage itself.
    """

    name = "entropy_weight"
    title = "The advantage times a weight that rises with entropy, estimated for credit"
    formula = "A (least + (1 - least) min(H/width, 1))"
    scope = Scope.TOKEN

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the weighted advantages, `(B, T)`."""
        return self.weighted(tokens, given(tokens.entropy))


@dataclass(frozen=True)
class PlaceboWeight(_RisingWeight):
    """`entropy_weight` with the weights of an update dealt out anew among its tokens.

    Args:
        width: as of the entropy weight.
        least: as of the entropy weight.
    """

    name = "placebo_weight"
    title = "Placebo: the entropy weight with entropies permuted over the tokens of an update"
    formula = "A (least + (1 - least) min(H[perm]/width, 1))"
    scope = Scope.UPDATE

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages with the weights of other tokens, `(B, T)`."""
        entropy = permuted(given(tokens.entropy), tokens.mask, tokens.generator(self.name))
        return self.weighted(tokens, entropy)
