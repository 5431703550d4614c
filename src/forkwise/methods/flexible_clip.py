"""Flexible entropy control, arXiv 2602.09782: a clip range that depends on the token's probability and on progress.

The form is that of the authors' public description. They publish no slopes: the defaults are those of a third party
that cites the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forkwise.methods.base import Need, State, Tokens, check_range, given, wide
from forkwise.methods.clips import ClipMethod

if TYPE_CHECKING:
    from torch import Tensor

_NARROWEST, _WIDEST = 0.05, 0.6  # of the dynamic range, the third party's
_LOWEST = 0.2  # of the initial entropy: below it the strategy `od` raises the entropy


@dataclass(frozen=True)
class FlexibleClip(ClipMethod):
    """A token beyond its bound keeps the gradient at the bound; bounds are dynamic on one side and fixed on the other.

    The dynamic range is `slope p + base` of the policy under update. A wide upper one raises the entropy, a wide lower
    one lowers it. In the first and the second half of the run:

    - `id`: the upper one goes from dynamic to fixed; then the lower one from dynamic to fixed.
    - `did`: the upper one goes from fixed to dynamic and stays; then the lower one goes from dynamic to fixed.
    - `od`: the upper one is dynamic while the entropy is to rise, the lower one while it is to fall. It is to rise from
      where it is below 0.2 of its initial value, and to fall from where it is above a bound that sinks from the
      initial value to 0.2 of it.

    Args:
        strategy: see above.
        upper_slope: of the upper range; at most 0.
        upper_base: the upper range at p = 0; > 0.
        lower_slope: of the lower range; at most 0.
        lower_base: the lower range at p = 0; in (0, 1].
        fixed: the fixed range on either side; in (0, 1].
    """

    strategy: Literal["id", "did", "od"] = "id"
    upper_slope: float = -0.25
    upper_base: float = 0.5
    lower_slope: float = -0.13
    lower_base: float = 0.3
    fixed: float = 0.2

    name = "flexible_clip"
    title = "Flexible Entropy Control in RLVR with a Gradient-Preserving Perspective"
    paper = "2602.09782"
    formula = "weight r, at most 1 + up(p) if A > 0, at least 1 - low(p) if A < 0; slope p + base or fixed, by progress"
    requires = ClipMethod.requires | {Need.PROGRESS}

    def __post_init__(self) -> None:
        for field in ("upper_slope", "lower_slope"):
            check_range(self, field, -float("inf"), 0)
        check_range(self, "upper_base", 0, float("inf"), open_low=True)
        for field in ("lower_base", "fixed"):
            check_range(self, field, 0, 1, open_low=True)

    def needs(self) -> frozenset[Need]:
        """Adds the state that the strategy `od` keeps."""
        return super().needs() | {Need.STATES} if self.strategy == "od" else super().needs()

    @property
    def steers(self) -> bool:
        """Tells whether the mode follows the entropy."""
        return self.strategy == "od" or super().steers

    def first_state(self) -> State:
        """Returns the state of `od`: the initial entropy, not known yet, and that the entropy is to fall."""
        searching = {"initial_entropy": -1.0, "raising": 0.0} if self.strategy == "od" else {}
        return {**super().first_state(), **searching}

    def next_state(self, state: State, entropy: float, progress: float) -> State:
        """Returns the state of `od` after a rollout of this entropy."""
        steered = super().next_state(state, entropy, progress)
        if self.strategy != "od":
            return steered
        initial = state["initial_entropy"] if state["initial_entropy"] >= 0 else entropy
        low = _LOWEST * initial
        high = low + (initial - low) * (1 - progress)
        raising = 1.0 if entropy <= low else 0.0 if entropy > high else state["raising"]
        return {**steered, "initial_entropy": initial, "raising": raising}

    def factor(self, advantages: Tensor, ratio: Tensor, tokens: Tokens) -> Tensor:
        """Computes `w / r`, `(B, T)`."""
        import torch

        upper, lower = self.ranges(wide(given(tokens.old_logprobs)).exp().clamp(max=1), tokens)
        factor = torch.where((advantages > 0) & (ratio > 1 + upper), (1 + upper) / ratio, 1)
        return torch.where((advantages < 0) & (ratio < 1 - lower), (1 - lower) / ratio, factor)

    def ranges(self, p_old: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Computes the ranges above and below 1 of each token's ratio, from its probability under the old policy."""
        import torch

        up = ((1 + self.upper_base) / (1 - self.upper_slope * p_old) - 1).clamp(_NARROWEST, _WIDEST)
        down = (1 - (1 - self.lower_base) / (1 + self.lower_slope * p_old)).clamp(_NARROWEST, _WIDEST)
        fixed = torch.full_like(p_old, self.fixed)
        if self.strategy == "od":
            assert tokens.states is not None
            return (up, fixed) if tokens.states[self.name]["raising"] else (fixed, down)
        assert tokens.progress is not None
        remaining = 1 - 2 * tokens.progress  # from 1 to -1
        if remaining >= 0:
            share = remaining if self.strategy == "id" else 1 - remaining
            return share * up + (1 - share) * fixed, fixed
        return fixed if self.strategy == "id" else up, (1 + remaining) * down - remaining * fixed
