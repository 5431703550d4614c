"""Entropy-shaped advantages: A + min(alpha * H, |A| / kappa), arXiv 2506.14758, Eq. 5-7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from forkwise.constants import ALPHA, KAPPA, check_alpha, check_kappa

# An entropy below this is not rounding (uncentred formulas reach -0.01): it is a log-probability, or minus an entropy.
_LOWEST_ENTROPY = -0.05


@torch.no_grad()
def shape_advantages(
    advantages: Tensor,
    entropy: Tensor,
    *,
    alpha: float = ALPHA,
    kappa: float = KAPPA,
    mask: Tensor | None = None,
) -> Tensor:
    """Adds the entropy term to advantages: `A + psi`, `psi = min(alpha * H, |A| / kappa)`, a new tensor.

    The result is a constant of the policy gradient: no gradient reaches the entropy or the advantages. psi is never
    negative, never above |A| / kappa and 0 where A = 0, so the sign of A stays; all of it holds in the dtype of the
    result too. Both signs of A move up: at uncertain tokens right answers are reinforced more and wrong ones
    punished less.

    Args:
        advantages: `(B, T)`; or `(B,)` or `(B, 1)`, one per response; or `(N,)` with packed `(N,)` entropy.
        entropy: `(B, T)` or packed `(N,)`, nats, of the current policy at the sampling temperature.
        alpha: advantage per nat, >= 0. Larger values favour uncertain tokens more, 0 returns the advantages bit for
            bit. The paper has 0.4 for GRPO and 0.1 for PPO.
        kappa: > 1: psi is at most 1/kappa of |A|. Larger values shape less. The paper has 2.
        mask: like the entropy, bool or 0/1: response tokens. Elsewhere A stays as it is and the entropy is ignored.

    Returns:
        The shape of the entropy, the dtype of the advantages.

    Raises:
        ValueError: a NaN, an infinity or a negative entropy at a response token; shapes that do not match; alpha or
            kappa out of range.
        TypeError: integer tensors.
    """
    return _shaped(_terms(advantages, entropy, alpha, kappa, mask))


@dataclass(frozen=True)
class ShapingStats:
    """What shaping did to a batch, as sums that add up over micro-batches and processes.

    Attributes:
        totals: `(6,)` float64: response tokens with A > 0 and with A < 0, the sum of psi over each, the sum of
            psi / |A|, and the tokens where the cap binds. Add (all-reduce) these, never the ratios.
    """

    totals: Tensor

    @classmethod
    def from_totals(cls, totals: Tensor) -> ShapingStats:
        """Returns the statistics behind a sum of `totals`."""
        if totals.shape != (6,):
            raise ValueError(f"totals must be (6,), a sum of ShapingStats.totals, not {tuple(totals.shape)}.")
        return cls(totals)

    def as_dict(self) -> dict[str, float]:
        """Returns the statistics as numbers, each 0 where there is no token to average over.

        - `psi_over_adv`: mean of psi / |A| over tokens with A != 0; at most 1 / kappa.
        - `capped_frac`: share of those tokens where |A| / kappa < alpha * H.
        - `psi_pos`, `psi_neg`: mean psi over tokens with A > 0, with A < 0.
        - `mass_added`, `mass_removed`: sum of psi over tokens with A > 0 (reinforcement added), with A < 0 (penalty
          removed).
        """
        n_pos, n_neg, psi_pos, psi_neg, ratio, capped = self.totals.tolist()
        n = n_pos + n_neg
        return {
            "psi_over_adv": ratio / n if n else 0.0,
            "capped_frac": capped / n if n else 0.0,
            "psi_pos": psi_pos / n_pos if n_pos else 0.0,
            "psi_neg": psi_neg / n_neg if n_neg else 0.0,
            "mass_added": psi_pos,
            "mass_removed": psi_neg,
        }


@torch.no_grad()
def shape_and_measure(
    advantages: Tensor,
    entropy: Tensor,
    *,
    alpha: float = ALPHA,
    kappa: float = KAPPA,
    mask: Tensor | None = None,
) -> tuple[Tensor, ShapingStats]:
    """Shapes as `shape_advantages` does, and measures over response tokens what it did."""
    terms = _terms(advantages, entropy, alpha, kappa, mask)
    return _shaped(terms), _stats(terms)


class _Terms(NamedTuple):
    """The terms of shaping, each of the entropy's shape; float64, since B * T numbers cost nothing (float32 on MPS)."""

    unshaped: Tensor  # the advantages, broadcast, in their own dtype
    advantages: Tensor
    psi: Tensor  # 0 outside the mask
    capped: Tensor
    valid: Tensor  # the mask
    kappa: float


def _shaped(terms: _Terms) -> Tensor:
    a, psi, dtype = terms.advantages, terms.psi, terms.unshaped.dtype
    shaped = (a + psi).to(dtype)
    # Rounding to nearest may land beyond the cap, even on 0 where A is subnormal: such a value goes one step back to A.
    finfo = torch.finfo(dtype)
    step = finfo.eps * a.abs().clamp(min=finfo.smallest_normal)
    beyond = (shaped.to(a.dtype) - a).clamp(min=0) * terms.kappa > a.abs()
    shaped = torch.where(beyond, (a + (psi - step).clamp(min=0)).to(dtype), shaped)
    return torch.where(psi > 0, shaped, terms.unshaped)


def _stats(terms: _Terms) -> ShapingStats:
    pos, neg = terms.valid & (terms.advantages > 0), terms.valid & (terms.advantages < 0)
    psi, size = terms.psi, terms.advantages.abs()
    ratio = torch.where(pos | neg, psi / size, 0)
    return ShapingStats(
        torch.stack(
            [
                pos.sum().to(psi.dtype),
                neg.sum().to(psi.dtype),
                torch.where(pos, psi, 0).sum(),
                torch.where(neg, psi, 0).sum(),
                ratio.sum(),
                (terms.capped & (pos | neg)).sum().to(psi.dtype),
            ]
        )
    )


def _terms(advantages: Tensor, entropy: Tensor, alpha: float, kappa: float, mask: Tensor | None) -> _Terms:
    check_alpha(alpha)
    check_kappa(kappa)
    for name, tensor in (("advantages", advantages), ("entropy", entropy)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, not {tensor.dtype}: call .float() on it.")
    unshaped = advantages.unsqueeze(1) if (advantages.dim(), entropy.dim()) == (1, 2) else advantages
    per_response = entropy.dim() == 2 and unshaped.shape == (entropy.shape[0], 1)
    if entropy.dim() not in (1, 2) or not (unshaped.shape == entropy.shape or per_response):
        raise ValueError(
            f"advantages {tuple(advantages.shape)} and entropy {tuple(entropy.shape)} do not match: pass (B, T) and "
            "(B, T), (B,) and (B, T), or packed (N,) and (N,)."
        )
    if mask is not None and mask.shape != entropy.shape:
        raise ValueError(f"mask must be {tuple(entropy.shape)} like entropy, not {tuple(mask.shape)}.")

    valid = torch.ones_like(entropy, dtype=torch.bool) if mask is None else mask != 0
    unshaped = unshaped.expand_as(entropy)
    _check_values(unshaped, entropy, mask, valid)
    wide = torch.float32 if entropy.device.type == "mps" else torch.float64
    a = unshaped.to(wide)
    bonus = alpha * torch.where(valid, entropy.to(wide), 0).clamp_(min=0)
    cap = a.abs() / kappa
    psi = torch.where(valid, torch.minimum(bonus, cap), 0)
    return _Terms(unshaped, a, psi, cap < bonus, valid, kappa)


def _check_values(advantages: Tensor, entropy: Tensor, mask: Tensor | None, valid: Tensor) -> None:
    good = advantages.isfinite() & entropy.isfinite() & (entropy >= _LOWEST_ENTROPY) | ~valid
    if mask is not None:
        good &= (mask == 0) | (mask == 1)
    if bool(good.all()):  # one device synchronisation while all is well
        return
    if mask is not None and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask must hold 0 and 1 only: pass the response mask, not weights.")
    where = " where mask is 1" if mask is not None else "; pass a mask if these are padding"
    if not bool((advantages.isfinite() | ~valid).all()):
        raise ValueError(f"advantages hold NaN or infinity{where}.")
    if not bool((entropy.isfinite() | ~valid).all()):
        raise ValueError(f"entropy holds NaN or infinity{where}.")
    lowest = float(entropy[valid].min())
    raise ValueError(
        f"entropy falls to {lowest:.3g} nats but cannot be negative: pass H, not log-probabilities or minus H."
    )
