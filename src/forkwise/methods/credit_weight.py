"""GRPO's advantage times a weight that rises with the token's probability, or its entropy: our own, and its placebo.

The weight is the simplest that is near to what `forkwise credit` finds best: `docs/credit.md` has the derivation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given
from forkwise.methods.placebos import permuted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _RisingWeight(TokenMethod):
    """A method that multiplies the advantages by a weight that rises with a probability, and with an entropy."""

    probability: float = 0.1
    least: float = 1.0
    width: float = 1.0

    requires = frozenset({Need.ENTROPY, Need.LOGPROBS})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_range(self, "probability", 0, 1)
        check_range(self, "least", 0, 1)
        check_range(self, "width", 0, float("inf"), open_low=True)
        if self.probability == 0 and self.least == 1:
            raise InputError(
                f"The method '{self.name}' with probability=0 and least=1 would do nothing: give one of them another "
                "value."
            )

    def needs(self) -> frozenset[Need]:
        """Returns the log-probs, the entropies, or both: what the weight depends on."""
        unused = {Need.LOGPROBS} if self.probability == 0 else {Need.ENTROPY} if self.least == 1 else set()
        return super().needs() - unused

    def weight(self, tokens: Tokens) -> Tensor:
        """Returns the weight of each token, `(B, T)`."""
        weight = tokens.advantages.new_ones(())
        if self.probability > 0:
            weight = weight * (given(tokens.logprobs).detach().exp() / self.probability).clamp(max=1)
        if self.least < 1:
            rise = (given(tokens.entropy).clamp(min=0) / self.width).clamp(max=1)
            weight = weight * (self.least + (1 - self.least) * rise)
        return weight.to(tokens.advantages.dtype)


@dataclass(frozen=True)
class CreditWeight(_RisingWeight):
    """`A min(p / probability, 1) (least + (1 - least) min(H / width, 1))`, with p the token's probability.

    It keeps the sign of A and adds nothing where A is 0. By default the weight depends on p alone. Weights that rise
    with p are Advantage Reweighting's (arXiv 2505.12929), in the form `alpha p + 1 - alpha`.

    Args:
        probability: probability of the token from which on the first factor is 1, in [0, 1]; 0 leaves it out. Larger
            values take more from tokens that were drawn though they were unlikely.
        least: second factor of a token without entropy, in [0, 1]. 1 leaves entropy out.
        width: entropy in nats from which on the second factor is 1; > 0. Larger values leave more of the update to the
            most uncertain tokens.
    """

    name = "credit_weight"
    title = "The advantage times a weight that rises with probability or entropy, estimated for credit"
    formula = "A min(p/probability, 1) (least + (1 - least) min(H/width, 1))"
    scope = Scope.TOKEN

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the weighted advantages, `(B, T)`."""
        return tokens.advantages * self.weight(tokens)


@dataclass(frozen=True)
class PlaceboWeight(_RisingWeight):
    """`credit_weight` with the weights of an update dealt out anew among its tokens.

    Args:
        probability: as of `credit_weight`.
        least: as of `credit_weight`.
        width: as of `credit_weight`.
    """

    name = "placebo_weight"
    title = "Placebo: the credit weight with weights permuted over the tokens of an update"
    formula = "A g[perm], g the weight of credit_weight"
    scope = Scope.UPDATE

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages with the weights of other tokens, `(B, T)`."""
        return tokens.advantages * permuted(self.weight(tokens), tokens.mask, tokens.generator(self.name))
