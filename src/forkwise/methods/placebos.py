"""Placebo arms of the entropy-shaped advantage: what is left of it without the message of each token's entropy.

If one of them does as well as the real method, then it was not the entropy. See `docs/methods.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.constants import ALPHA, KAPPA
from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, given, wide
from forkwise.methods.entropy_advantage import ablated_psi, check_shaping

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class _WithEntropy(TokenMethod):
    """What the placebos share that take entropies: the constants of the method, and when they act."""

    alpha: float = ALPHA
    kappa: float = KAPPA

    scope = Scope.UPDATE
    requires = frozenset({Need.ENTROPY})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_shaping(self)


@dataclass(frozen=True)
class PlaceboPermuted(_WithEntropy):
    """The entropy-shaped advantage with the entropies of an update dealt out anew among its tokens.

    Args:
        alpha: as of the entropy-shaped advantage.
        kappa: as of the entropy-shaped advantage.
    """

    name = "placebo_permuted"
    title = "Placebo: entropies permuted over the tokens of an update"
    formula = "A + min(alpha H[perm], |A|/kappa)"

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the advantages shaped with permuted entropies, `(B, T)`."""
        from forkwise.core import shape_advantages

        entropy = permuted(given(tokens.entropy), tokens.mask, tokens.generator(self.name))
        return shape_advantages(tokens.advantages, entropy, alpha=self.alpha, kappa=self.kappa, mask=tokens.mask)


def permuted(values: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the values of the mask's tokens in a random order, `(B, T)`; elsewhere as they are."""
    import torch

    inside = values[mask]
    order = torch.randperm(len(inside), generator=generator).to(values.device)
    return values.masked_scatter(mask, inside[order])


@dataclass(frozen=True)
class PlaceboConstant(_WithEntropy):
    """One psi for all tokens with A != 0: the mean of the entropy-shaped advantage's psi over them.

    It isolates the shift of the baseline. Unlike psi it knows no cap: an |A| below the mean can change its sign.

    Args:
        alpha: as of the entropy-shaped advantage.
        kappa: as of the entropy-shaped advantage.
    """

    name = "placebo_constant"
    title = "Placebo: a constant psi of the same mean"
    formula = "A + mean(min(alpha H, |A|/kappa)) where A != 0"

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the shifted advantages, `(B, T)`."""
        import torch

        a = tokens.advantages
        psi = ablated_psi(wide(a), given(tokens.entropy), tokens.mask, self.alpha, self.kappa)
        where = tokens.mask & (a != 0)
        mean = psi.sum() / where.sum().clamp(min=1)  # psi is 0 where A is
        return torch.where(where, a + mean.to(a.dtype), a)


@dataclass(frozen=True)
class PlaceboScaling(TokenMethod):
    """`A (1 + 1/kappa)` where A > 0 and `A (1 - 1/kappa)` where A < 0: the shaped advantage where the cap always binds.

    At least as large as the method's psi at each token, and larger the fewer tokens of the method are at the cap.

    Args:
        kappa: as of the entropy-shaped advantage.
    """

    kappa: float = KAPPA

    name = "placebo_scaling"
    title = "Placebo: scaling by 1 +- 1/kappa, no entropy in it"
    formula = "A + |A|/kappa"
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_shaping(self)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the scaled advantages, `(B, T)`."""
        return tokens.advantages + tokens.advantages.abs() / self.kappa
