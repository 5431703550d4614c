"""SHEAR, arXiv 2604.23318: tokens count by how far their hidden states are from those of answers of the other outcome.

Formula and constants from secondary sources; how the distance is computed (Sinkhorn, its settings) is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forkwise.errors import InputError
from forkwise.methods.base import Need, Scope, TokenMethod, Tokens, check_range, given, wide

if TYPE_CHECKING:
    from torch import Tensor

_BATCH = 1 << 22  # distances of tokens at a time


@dataclass(frozen=True)
class Shear(TokenMethod):
    """`A` times the largest distance of a window around the token to the windows of answers of the other outcome.

    A window is the hidden states of `window` neighbouring tokens, its distance to another one the optimal transport
    between the two. A window's distance is that to the nearest window of any answer of the other outcome to the same
    prompt, divided by the mean length of the group's hidden states. Groups that are all right or all wrong stay as they
    are.

    Args:
        window: tokens, at least 1. Shorter answers are one window.
        stride: tokens from one window to the next, at least 1. The last window ends with the answer.
        reg: of the entropic optimal transport (Sinkhorn), times the mean distance of the two windows' tokens; above 0.
            Smaller values come nearer to the exact distance, and need more iterations.
        iterations: of Sinkhorn, always so many; at least 1.
        normalise: `mean` divides by the mean weight of the group's tokens, so that the size of the step stays.
    """

    window: int = 100
    stride: int = 25
    reg: float = 0.05
    iterations: int = 100
    normalise: Literal["none", "mean"] = "none"

    name = "shear"
    title = "Hidden States Know Where Reasoning Diverges: Credit Assignment via Span-Level Wasserstein Distance"
    paper = "2604.23318"
    formula = "A max_{windows of t} min_{windows of other outcome} W1 / mean |h|, over last hidden states"
    scope = Scope.ROLLOUT
    requires = frozenset({Need.HIDDEN, Need.CORRECT, Need.GROUPS, Need.ADVANTAGES})
    packages = ("ot",)

    def __post_init__(self) -> None:
        for field in ("window", "stride", "iterations"):
            check_range(self, field, 1, float("inf"))
        check_range(self, "reg", 0, float("inf"), open_low=True)

    def check_group_size(self, size: int) -> None:
        """Refuses groups that can have no answer of the other outcome."""
        if size < 2:
            raise InputError("The method 'shear' compares answers to one prompt: set num_generations to 2 or more.")

    def advantages(self, tokens: Tokens) -> Tensor:
        """Returns the weighted advantages, `(B, T)`."""
        import torch

        hidden, groups, correct = given(tokens.hidden), given(tokens.groups), given(tokens.correct)
        weight = wide(torch.ones_like(tokens.advantages))
        for group in groups[tokens.mask.any(dim=1)].unique():
            rows = ((groups == group) & tokens.mask.any(dim=1)).nonzero(as_tuple=True)[0].tolist()
            states = {i: _exact(hidden[i][tokens.mask[i]]) for i in rows}
            size = torch.cat(list(states.values())).norm(dim=1).mean().clamp(min=1e-12)
            far = self.distances(
                {i: states[i] for i in rows if correct[i]}, {i: states[i] for i in rows if not correct[i]}
            )
            parts = {i: wide(self.largest(far[i], len(states[i]))) / wide(size) for i in far}
            if parts and self.normalise == "mean":
                mean = torch.cat(list(parts.values())).mean().clamp(min=1e-12)
                parts = {i: part / mean for i, part in parts.items()}
            for i, part in parts.items():
                weight[i] = weight[i].masked_scatter(tokens.mask[i], part)
        return tokens.advantages * weight

    def distances(self, right: dict[int, Tensor], wrong: dict[int, Tensor]) -> dict[int, Tensor]:
        """Returns for each answer its windows' distances to the nearest window of the other outcome, `(windows,)`.

        Args:
            right: hidden states `(tokens, d)` of the right answers, by their rows.
            wrong: those of the wrong ones. With none of either, nothing is returned.
        """
        import torch

        nearest: dict[int, Tensor] = {}
        for i, a in right.items():
            for j, b in wrong.items():
                apart = self.between(torch.cdist(a, b))
                for row, least in ((i, apart.amin(dim=1)), (j, apart.amin(dim=0))):
                    nearest[row] = torch.minimum(nearest[row], least) if row in nearest else least
        return nearest

    def between(self, apart: Tensor) -> Tensor:
        """Computes the transport of each window of one answer to each of another; `apart` is of their tokens."""
        import torch
        from ot.batch import bregman_log_projection_batch

        first, second = (self.windows(n).to(apart.device) for n in apart.shape)
        pairs = torch.cartesian_prod(torch.arange(len(first)), torch.arange(len(second))).to(apart.device)
        costs = []
        for some in pairs.split(max(1, _BATCH // (first.shape[1] * second.shape[1]))):
            cost = apart[first[some[:, 0]][:, :, None], second[some[:, 1]][:, None, :]]
            scale = (self.reg * cost.mean(dim=(1, 2), keepdim=True)).clamp(min=1e-12)
            a = cost.new_full((len(cost), cost.shape[1]), 1 / cost.shape[1])
            b = cost.new_full((len(cost), cost.shape[2]), 1 / cost.shape[2])
            plan = bregman_log_projection_batch(-cost / scale, a, b, max_iter=self.iterations, tol=0.0)["T"]
            costs.append((plan * cost).sum(dim=(1, 2)))
        return torch.cat(costs).view(len(first), len(second))

    def windows(self, length: int) -> Tensor:
        """Lists the places of each window's tokens in an answer, `(windows, tokens of a window)`."""
        import torch

        size = min(self.window, length)
        starts = [*range(0, length - size + 1, self.stride)]
        starts += [length - size] if starts[-1] != length - size else []
        return torch.tensor(starts)[:, None] + torch.arange(size)

    def largest(self, distances: Tensor, length: int) -> Tensor:
        """Returns for each token of an answer the largest distance of its windows, `(tokens,)`."""
        places = self.windows(length).to(distances.device)
        none = distances.new_zeros(length)
        return none.scatter_reduce(0, places.flatten(), distances[:, None].expand(places.shape).flatten(), "amax")


def _exact(hidden: Tensor) -> Tensor:
    """Widens hidden states: to float64 on a CPU, to float32 elsewhere, where float64 is slow."""
    import torch

    return hidden.to(torch.float64 if hidden.device.type == "cpu" else torch.float32)
