"""Credit in gradients: how near the update that a method makes is to the true policy gradient.

The gradient is that of the output layer, which is exact and cheap, of a token `(e_a - p) h'`, with `h` what the layer
is given; or that of all parameters. The update of a group is the sum of its tokens' gradients, each times what the
method makes of it. The true gradient of the chance of a right answer is what RLOO's update is in the mean, without
bias, on completions of the very policy.

Problems are drawn anew for every update, so expectations are over problems and completions together, and inner products
of two of them are estimated without bias by products of *different* problems. With u a method's update of a group, v
RLOO's, and E their means,

    direction   <Eu, Ev> / (|Eu| |Ev|),         the cosine with endlessly many completions,
    signal to noise of a completion   |Eu|^2 / (G tr Cov u),
    cosine with n completions   <Eu, Ev> / (|Ev| sqrt(|Eu|^2 + G tr Cov(u) / n)),

G completions to a group. Two passes over the groups suffice: sums of updates, then products with these sums.

Suffixes: B bins of entropy, F entries of the output layer, L tokens of a group, M methods, Q problems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forkwise.credit.agreement import Jackknife
from forkwise.explore.contrast import FloatArray

_ENTRIES = 1 << 18  # whose products are added up at a time
Parts = tuple[Tensor, Tensor, Tensor]
"""What the updates of a group are made of: advantages `(M, L)`, `e_a - p` `(L, V)` and `h` `(L, D)`."""
Problems = Callable[[], Iterator[list[Any]]]
"""Yields the groups of each problem, each as what `update` takes."""


@dataclass(frozen=True)
class Products:
    """Inner products of the methods' updates of problems, from which everything else follows.

    Attributes:
        square_QMM: of the updates of a group with each other, the mean over the problem's groups.
        own_QMM: of a problem's updates with each other, these being means over its groups.
        sum_QMM: of a problem's updates (first index) with the sums over all problems (second).
        total_MM: of the sums with each other.
        reference: which of the methods is the true gradient.
        size: completions of a group.
    """

    square_QMM: FloatArray
    own_QMM: FloatArray
    sum_QMM: FloatArray
    total_MM: FloatArray
    reference: int
    size: int

    @property
    def problems(self) -> int:
        """How many problems there are."""
        return int(self.own_QMM.shape[0])

    def left_out(self) -> FloatArray:
        """Returns the products of different problems, summed, with each problem left out once, `(Q, M, M)`."""
        without_Q: FloatArray = self.all_pairs() - self.sum_QMM - self.sum_QMM.transpose(0, 2, 1) + 2 * self.own_QMM
        return without_Q

    def all_pairs(self) -> FloatArray:
        """Returns the products of different problems, summed over ordered pairs, `(M, M)`."""
        pairs: FloatArray = self.total_MM - self.own_QMM.sum(axis=0)
        return pairs

    def combined(self, weight_MA: FloatArray, reference: int) -> Products:
        """Returns the products of sums of methods' updates, a column of weights for each, `(M, A)`.

        Args:
            reference: which of the new ones is the true gradient.
        """

        def both(x_MM: FloatArray) -> FloatArray:
            product_AA: FloatArray = weight_MA.T @ x_MM @ weight_MA
            return product_AA

        square, of_one, with_sum = (both(x) for x in (self.square_QMM, self.own_QMM, self.sum_QMM))
        return Products(square, of_one, with_sum, both(self.total_MM), reference, self.size)

    def of(self, kept: Sequence[int]) -> Products:
        """Returns the products of some of the methods; the reference stays, as the last."""
        weight = np.zeros((self.total_MM.shape[0], len(kept) + 1))
        weight[[*kept, self.reference], range(len(kept) + 1)] = 1.0
        return self.combined(weight, len(kept))


def update(advantages_ML: Tensor, residual_LV: Tensor, hidden_LD: Tensor) -> Tensor:
    """Computes the methods' updates of a group in the output layer, `(M, V D)`."""
    weighted_MVL = advantages_ML[:, None, :] * residual_LV.T[None]
    return (weighted_MVL @ hidden_LD).flatten(1)


def products(problems: Problems, reference: int, size: int, update: Callable[..., Tensor] = update) -> Products:
    """Computes the products in two passes over the problems.

    Args:
        problems: called twice; the same groups in the same order.
        reference: which of the methods is the true gradient.
        size: completions of a group.
        update: makes the updates of a group, `(M, F)`, of its parts.
    """
    total_MF: Tensor | None = None
    for groups in problems():
        mean_MF = torch.stack([update(*parts) for parts in groups]).mean(0)
        total_MF = mean_MF if total_MF is None else total_MF.add_(mean_MF)
    assert total_MF is not None
    square, of_one, with_sum = [], [], []
    for groups in problems():
        of_groups = [update(*parts) for parts in groups]
        square.append(np.mean([_gram(one, one) for one in of_groups], axis=0))
        mean_MF = torch.stack(of_groups).mean(0)
        of_one.append(_gram(mean_MF, mean_MF))
        with_sum.append(_gram(mean_MF, total_MF))
    total_MM = _gram(total_MF, total_MF)
    return Products(np.array(square), np.array(of_one), np.array(with_sum), total_MM, reference, size)


def _gram(a_MF: Tensor, b_MF: Tensor) -> FloatArray:
    gram = np.zeros((len(a_MF), len(b_MF)))
    for a, b in zip(a_MF.split(_ENTRIES, dim=1), b_MF.split(_ENTRIES, dim=1), strict=True):
        gram += (a.double() @ b.double().T).numpy()
    return gram


# ------------------------------------------------------------------------------------------------- numbers of a method


@dataclass(frozen=True)
class InGradients:
    """What follows for one method, each number with its pseudo-values over problems."""

    direction: Jackknife
    signal: Jackknife
    cosine: Jackknife


def numbers(of: Products, method: int, completions: int) -> InGradients:
    """Computes the numbers of a method.

    Args:
        completions: for `cosine`.
    """
    m, r = method, of.reference
    # Of each problem: what its pairs with the others are, and its own square. Linear in problems' contributions once
    # the pairs are leave-one-out sums, so these are left out directly and not through `jackknife`.
    problems, whole, without_one = of.problems, of.all_pairs(), of.left_out()
    square_Q = of.square_QMM[:, m, m]

    def made(pairs: FloatArray, square: FloatArray | float, q: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        dot, true, mine = (pairs[..., i, j] / (q * (q - 1)) for i, j in ((m, r), (r, r), (m, m)))
        noise = np.maximum(square / q - mine, 0.0) * of.size
        with np.errstate(divide="ignore", invalid="ignore"):
            direction = np.where((mine > 0) & (true > 0), dot / np.sqrt(np.abs(mine * true)), np.nan)
            signal = np.where(noise > 0, mine / noise, np.nan)
            second = mine + noise / completions
            cosine = np.where((second > 0) & (true > 0), dot / np.sqrt(np.abs(true * second)), np.nan)
        return direction, signal, cosine

    values = made(whole, float(square_Q.sum()), problems)
    without_each = made(without_one, square_Q.sum() - square_Q, problems - 1)
    return InGradients(
        *(
            Jackknife(float(v), problems * float(v) - (problems - 1) * np.asarray(o, dtype=np.float64))
            for v, o in zip(values, without_each, strict=True)
        )
    )


def needed(of: Products, method: int, base: int, completions: int) -> Jackknife:
    """Computes the log of how many times as many completions a method needs for the cosine that `base` has.

    NaN where no number of completions suffices, with or without one of the problems, or that cosine is not above 0.

    Args:
        base: another method, with so many `completions`.
    """
    problems, r = of.problems, of.reference
    squares = of.square_QMM

    def log_ratio(pairs: FloatArray, square: FloatArray, q: int) -> FloatArray:
        dot, mine = pairs[..., r] / (q * (q - 1)), pairs / (q * (q - 1))
        noise = [np.maximum(square[..., i, i] / q - mine[..., i, i], 0.0) * of.size for i in (base, method)]
        target = np.where(dot[..., base] > 0, dot[..., base] ** 2, np.nan) / (
            mine[..., base, base] + noise[0] / completions
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(dot[..., method] > 0, dot[..., method] ** 2 / target - mine[..., method, method], np.nan)
            n = np.where(room > 0, noise[1] / room, np.nan)
            value: FloatArray = np.log(n / completions)
        return value

    total = squares.sum(axis=0)
    value = float(log_ratio(of.all_pairs(), total, problems))
    without_each = log_ratio(of.left_out(), total[None] - squares, problems - 1)
    return Jackknife(value, problems * value - (problems - 1) * without_each)
