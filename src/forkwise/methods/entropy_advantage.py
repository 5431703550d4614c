"""Entropy-shaped advantages, arXiv 2506.14758, Eq. 5-7: `A + min(alpha * H, |A| / kappa)`; with its ablations.

The published form is `forkwise.core.shape_advantages`. Defaults: alpha 0.4 (the paper's for GRPO; `forkwise ppo` takes
its 0.1 for PPO), kappa 2. The switches are for ablations and not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forkwise.constants import ALPHA, KAPPA, check_alpha, check_kappa
from forkwise.methods.base import Change, Condition, Need, Scope, TokenMethod, Tokens, given

if TYPE_CHECKING:
    from torch import Tensor

Sign = Literal["both", "positive", "negative"]
Policy = Literal["current", "old"]


@dataclass(frozen=True)
class EntropyAdvantage(TokenMethod):
    """`A + psi`, `psi = min(alpha * H, |A| / kappa)`.

    Args:
        alpha: advantage per nat, > 0. Larger values favour uncertain tokens more, until the cap binds.
        kappa: the cap is |A| / kappa; > 1, so that no advantage changes its sign. Larger values shape less.
        sign: psi only where A > 0 (`positive`) or A < 0 (`negative`).
        multiplicative: `A + A * psi` instead, which strengthens penalties too.
        cap: False leaves `psi = alpha * H`, which moves tokens with A = 0 and can flip the sign of A.
        entropy: of the policy under update, or of the `old` one that drew the tokens.
    """

    alpha: float = ALPHA
    kappa: float = KAPPA
    sign: Sign = "both"
    multiplicative: bool = False
    cap: bool = True
    entropy: Policy = "current"

    name = "entropy_advantage"
    title = "Reasoning with Exploration: An Entropy Perspective"
    paper = "2506.14758"
    formula = "A + min(alpha H, |A|/kappa)"
    scope = Scope.TOKEN
    requires = frozenset({Need.ENTROPY})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        check_shaping(self)

    def needs(self) -> frozenset[Need]:
        """Returns the old entropy instead of the current one, where it is asked for."""
        return frozenset({Need.OLD_ENTROPY}) | self.needs_of_plans() if self.entropy == "old" else super().needs()

    def holds_under(self) -> frozenset[Condition]:
        """Requires that the old entropy is another one than the current, where it is used."""
        return frozenset({Condition.OFF_POLICY}) if self.entropy == "old" else self.conditions

    @property
    def published(self) -> bool:
        """Tells whether this is the paper's form: none of the switches is used."""
        return self == EntropyAdvantage(self.alpha, self.kappa)

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the shaped advantages, `(B, T)`."""
        return self.change(tokens).advantages

    def change(self, tokens: Tokens) -> Change:
        """Returns the shaped advantages, and psi where the method acts (at one sign of A, with `sign`) under a cap."""
        from forkwise.core import shape_and_measure

        a, mask = tokens.advantages, tokens.mask
        entropy = given(tokens.entropy if self.entropy == "current" else tokens.old_entropy)
        if self.published:
            return Change(*shape_and_measure(a, entropy, alpha=self.alpha, kappa=self.kappa, mask=mask))
        psi = ablated_psi(a, entropy, mask, self.alpha, self.kappa if self.cap else None, self.sign)
        shaped = a + (a * psi if self.multiplicative else psi)
        if not self.cap:
            return Change(shaped)
        if self.sign != "both":
            mask = mask & (a > 0 if self.sign == "positive" else a < 0)
        _, stats = shape_and_measure(a, entropy, alpha=self.alpha, kappa=self.kappa, mask=mask)
        return Change(shaped, stats)


def ablated_psi(
    advantages: Tensor, entropy: Tensor, mask: Tensor, alpha: float, kappa: float | None, sign: Sign = "both"
) -> Tensor:
    """Computes `min(alpha * H, |A| / kappa)` at the tokens of the mask whose A has the sign, 0 elsewhere; `(B, T)`.

    `kappa` None means no cap.
    """
    import torch

    psi = alpha * torch.where(mask, entropy, 0).clamp(min=0).to(advantages.dtype)
    if kappa is not None:
        psi = torch.minimum(psi, advantages.abs() / kappa)
    if sign != "both":
        psi = torch.where(advantages > 0 if sign == "positive" else advantages < 0, psi, 0)
    return torch.where(mask, psi, 0)


def check_shaping(method: TokenMethod) -> None:
    """Refuses alpha and kappa outside their ranges.

    Raises:
        InputError: naming method, constant and value.
    """
    if hasattr(method, "alpha"):
        check_alpha(method.alpha, f"alpha of the method '{method.name}'", above_zero=True)
    if hasattr(method, "kappa"):
        check_kappa(method.kappa, f"kappa of the method '{method.name}'")
