"""EMPG, arXiv 2509.09265: certain steps of an agent learn more than uncertain ones, and lead to certain ones.

Formula as in two public re-implementations of it; constants those that both have, of zeta the larger one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Empg(TokenMethod):
    """`A g(H_s) + zeta f(H_next)` at the tokens of a step, less the mean over all steps of the rollout.

    A step is what the policy wrote in one go: a completion without tools is one step. `H_s` is its mean entropy, taken
    to 0 at the rollout's lowest and 1 at its highest; `g = exp(-k H_s) / mean exp(-k H_s)`, and
    `f = exp(-k_next H_next)` of the completion's next step, if it has one.

    Args:
        k: at least 0. Larger values let certain steps learn more, and uncertain ones less.
        k_next: at least 0. Larger values pay only for steps that lead to very certain ones.
        zeta: at least 0, of the pay for what a step leads to.
    """

    k: float = 1.0
    k_next: float = 1.0
    zeta: float = 0.1

    name = "empg"
    title = "Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents"
    paper = "2509.09265"
    formula = "A exp(-k H_s)/mean exp(-k H_s) + zeta exp(-k_next H_next), less the mean over steps; H_s in 0..1"
    scope = Scope.ROLLOUT
    requires = frozenset({Need.OLD_ENTROPY, Need.ADVANTAGES})
    slot = "entropy shaping"

    def __post_init__(self) -> None:
        for field in ("k", "k_next", "zeta"):
            check_range(self, field, 0, float("inf"))

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the modulated advantages, `(B, T)`."""
        import torch

        mask, a = tokens.mask, wide(tokens.advantages)
        begins = mask & ~torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=1)
        count = int(begins.sum())
        if count == 0:
            return tokens.advantages
        step = (begins.flatten().long().cumsum(0).view_as(mask) - 1).clamp(min=0)  # row after row
        rows = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask]
        sums, of_row = a.new_zeros(2, count), rows.new_zeros(count)
        sums[0].index_add_(0, step[mask], wide(given(tokens.old_entropy))[mask])
        sums[1].index_add_(0, step[mask], torch.ones_like(a[mask]))
        of_row[step[mask]] = rows
        h = sums[0] / sums[1]
        h = (h - h.min()) / (h.max() - h.min()).clamp(min=1e-8)
        weight = (-self.k * h).exp()
        weight = weight / weight.mean()
        followed = torch.cat([of_row[1:] == of_row[:-1], of_row.new_zeros(1, dtype=torch.bool)])
        pay = torch.where(followed, self.zeta * (-self.k_next * h.roll(-1)).exp(), 0)
        changed = a * weight[step] + pay[step]
        return changed - changed[begins].mean()
