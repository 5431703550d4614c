"""SIREN, arXiv 2509.25133: the entropy of uncertain tokens is held at what it was at first, by a term of the loss.

Formula and constants as in the authors' code (Linn3a/siren).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, State, Tokens, check_range
from forkwise.methods.terms import EntropyTermMethod

if TYPE_CHECKING:
    from torch import Tensor

_UNKNOWN = -1.0


@dataclass(frozen=True)
class Siren(EntropyTermMethod):
    """`coef (mean H - anchor)^2` is added to the loss; H is that of the nucleus, its mean over uncertain tokens.

    A token is uncertain if its H lies above the `1 - share` quantile of its completion's tokens. The anchor is the mean
    of the run's first rollout, before anything was learned.

    Args:
        coef: weight of the term per nat^2, above 0.
        top_p: in (0, 1], the share of the probability that the nucleus has. 1 is the whole vocabulary.
        share: in (0, 1), of a completion's tokens that count as uncertain.
    """

    coef: float = 0.005
    top_p: float = 0.8
    share: float = 0.2

    name = "siren"
    title = "Rethinking Entropy Regularization in Large Reasoning Models"
    paper = "2509.25133"
    formula = "loss + coef (mean H - anchor)^2; H of the top-p nucleus, at tokens above the completion's quantile"
    requires = frozenset({Need.STATES})

    def __post_init__(self) -> None:
        check_range(self, "coef", 0, float("inf"), open_low=True)
        check_range(self, "top_p", 0, 1, open_low=True)
        check_range(self, "share", 0, 1, open_low=True)

    @property
    def nucleus(self) -> float:
        """Returns the share of the probability that the nucleus holds."""
        return self.top_p

    @property
    def steers(self) -> bool:
        """Tells that it holds the entropy at its anchor."""
        return True

    def first_state(self) -> State:
        """Returns that the anchor is not known yet."""
        return {**super().first_state(), "anchor": _UNKNOWN}

    def next_state(self, state: State, entropy: float, progress: float) -> State:
        """Returns the anchor as it is."""
        return {**super().next_state(state, entropy, progress), "anchor": state["anchor"]}

    def first_seen(self, entropies: Tensor, tokens: Tokens) -> State:
        """Returns the anchor."""
        uncertain = self.uncertain(entropies, tokens.mask)
        return {"anchor": float(entropies[uncertain].mean())} if bool(uncertain.any()) else {}

    def term(self, entropies: Tensor, tokens: Tokens) -> Tensor:
        """Returns the squared distance to the anchor."""
        uncertain = self.uncertain(entropies.detach(), tokens.mask)
        states: Mapping[str, State] = tokens.states or {}
        anchor = states[self.name]["anchor"]
        if anchor == _UNKNOWN or not bool(uncertain.any()):
            return 0 * entropies.sum()
        return self.coef * (entropies[uncertain].mean() - anchor) ** 2

    def uncertain(self, entropies: Tensor, mask: Tensor) -> Tensor:
        """Finds the tokens strictly above the quantile of their completion, interpolated linearly; `(B, T)` bool."""
        import torch

        values = torch.where(mask, entropies, torch.nan)
        return mask & (entropies > values.nanquantile(1 - self.share, dim=1, keepdim=True))
