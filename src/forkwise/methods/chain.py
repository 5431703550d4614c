"""Runs the methods of one stage after another, and counts what each of them did."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from forkwise.methods.base import RewardMethod, Rollout, TokenMethod, Tokens, given, wide
from forkwise.methods.terms import EntropyTermMethod

if TYPE_CHECKING:
    from torch import Tensor


SHAPING = "shaping"


def run_reward_methods(methods: Sequence[RewardMethod], rollout: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
    """Runs the methods of the reward stage: advantages `(N,)` after them, and their `counts` as `method/NAME`."""
    import torch

    totals = {}
    advantages = given(rollout.advantages)
    everywhere = torch.ones_like(advantages, dtype=torch.bool)
    with torch.no_grad():
        for method in methods:
            visible = dataclasses.replace(rollout, advantages=advantages).only(method.needs())
            changed = _checked_advantages(method, method.advantages(visible), advantages, everywhere)
            totals[f"method/{method.name}"] = counts(advantages, changed, everywhere)
            advantages = changed
    return advantages, totals


def run_token_methods(methods: Sequence[TokenMethod], tokens: Tokens) -> tuple[Tensor, dict[str, Tensor]]:
    """Runs the token methods: advantages `(B, T)` after them, and sums over tokens of how they changed.

    The sums are each method's `counts` as `method/NAME`, and `ShapingStats.totals` as `SHAPING` if the first method
    adds a psi. All add up over micro-batches and processes.
    """
    import torch

    totals = {}
    with torch.no_grad():
        for i, method in enumerate(methods):
            change = method.change(tokens.only(method.needs()))
            changed = _checked_advantages(method, change.advantages, tokens.advantages, tokens.mask)
            totals[f"method/{method.name}"] = counts(tokens.advantages, changed, tokens.mask)
            if i == 0 and change.shaping is not None:
                totals[SHAPING] = change.shaping.totals
            tokens = dataclasses.replace(tokens, advantages=changed)
    return tokens.advantages, totals


def run_entropy_terms(methods: Sequence[EntropyTermMethod], tokens: Tokens) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Runs the methods that add a term in the entropies.

    Returns:
        The sum of their terms, its derivative in each token's entropy `(B, T)`, and for each method `method/NAME`: as
        `counts`, with `N |derivative|`, N the number of tokens, in place of a change of the advantages.
    """
    import torch

    values, slopes = wide(tokens.advantages).new_zeros(()), torch.zeros_like(wide(tokens.advantages))
    totals = {}
    for method in methods:
        value, slope = method.slopes(tokens.only(method.needs()))
        if not bool(value.isfinite() & slope.isfinite().all()):
            raise RuntimeError(f"The method '{method.name}' made a term that is not finite.")
        values, slopes = values + wide(value), slopes + wide(slope)
        moved = torch.where(tokens.mask, slope * tokens.mask.sum(), 0)
        total = counts(torch.zeros_like(moved), moved, tokens.mask)
        total[3] = torch.where(tokens.mask, wide(tokens.advantages), 0).abs().sum()
        totals[f"method/{method.name}"] = total
    return values, slopes, totals


def counts(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """Sums over the mask, `(4,)` float64: how many there are, how many changed, `|after - before|`, `|before|`."""
    import torch

    old, new = (torch.where(mask, wide(x), 0) for x in (before, after))
    return torch.stack([wide(mask).sum(), wide(old != new).sum(), (new - old).abs().sum(), old.abs().sum()])


def shares(totals: Tensor) -> dict[str, float]:
    """Tells how much a method changed, from a sum of `counts`.

    - `changed`: share of the tokens (completions, for the reward stage) whose advantage it changed.
    - `shift`: `sum |change| / sum |A|`; 0 where all advantages were 0.
    """
    n, changed, moved, size = totals.tolist()
    return {"changed": changed / n if n else 0.0, "shift": moved / size if size else 0.0}


def _checked_advantages(method: RewardMethod | TokenMethod, advantages: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """Returns a method's advantages as finite numbers of the right shape and dtype, unchanged outside the mask."""
    import torch

    if advantages.shape != before.shape:
        raise RuntimeError(
            f"The method '{method.name}' made advantages {tuple(advantages.shape)} instead of {tuple(before.shape)}."
        )
    advantages = torch.where(mask, advantages.detach().to(before.dtype), before)
    if not bool((advantages.isfinite() | ~mask).all()):
        raise RuntimeError(f"The method '{method.name}' made advantages that are not finite.")
    return advantages
