"""Length control: three ways to compare models that write answers of different length.

Each holds length still in its own way, and none of them is causal: the length of an answer is itself an outcome.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk.estimator import FloatArray, grid_of, shown_ks
from forkwise.passk.outcomes import Arm
from forkwise.progress import watch

CAP, BUDGET, MATCHED = "cap", "budget", "matched"


@dataclass(frozen=True)
class LengthMatch:
    """Length-matched Pass@K of one problem: K samples whose lengths are distributed as the reference's."""

    pass_at_k: FloatArray
    """Pass@K at each k; NaN where the arm has too few samples in some length bin."""
    effective_n: float
    """Kish's effective number of samples after weighting the bins."""


def default_caps(arms: Sequence[Arm], points: int = 6) -> list[int]:
    """Chooses caps at even quantiles of the pooled lengths; the last is the longest sample, which caps nothing."""
    pooled = np.concatenate([arm.lengths() for arm in arms])
    return sorted({max(1, int(np.ceil(x))) for x in np.quantile(pooled, np.linspace(0, 1, points + 1)[1:])})


def largest_budget(arms: Sequence[Arm]) -> int:
    """Returns what every problem of every run can spend: the smallest total length of a problem's samples."""
    totals = [
        np.bincount(arm.run_N * len(arm.problems) + arm.problem_N, weights=arm.lengths()).min()  # no cell is empty
        for arm in arms
    ]
    return int(min(totals))


def default_budgets(arms: Sequence[Arm], points: int = 12) -> list[int]:
    """Chooses budgets from the median length to `largest_budget`, evenly spaced in the logarithm."""
    top = largest_budget(arms)
    if top < 1:  # some problem has nothing but empty samples
        return []
    median = min(float(np.median(np.concatenate([arm.lengths() for arm in arms]))), top)
    return sorted({int(b) for b in np.round(np.geomspace(max(median, 1), top, points)) if b <= top} | {top})


def pass_within_budget(
    lengths: npt.ArrayLike, correct: npt.ArrayLike, budgets: Sequence[float], *, orders: int = 200, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Computes the chance that a correct sample is complete within a budget, with samples drawn one after another.

    The order is random without replacement. How many wrong samples come before the first correct one, and which correct
    one it is, are averaged exactly; only the lengths of those wrong samples are simulated, by `orders` seeded orders.

    Args:
        lengths: `(n,)`, in tokens or words, of one problem's samples.
        correct: `(n,)` verdicts.
        budgets: in the unit of `lengths`, per problem.

    Returns:
        `(value, variance)`, each `(len(budgets),)`; `variance` is that of the Monte-Carlo mean, 0 where it is exact.

    Raises:
        InputError: a budget larger than all samples together, which says nothing about the next sample.
    """
    length_N = np.asarray(lengths, dtype=np.float64)
    correct_N = np.asarray(correct, dtype=bool)
    if max(budgets) > length_N.sum():
        raise InputError(
            f"A budget of {max(budgets):g} exceeds the {length_N.sum():g} that one problem's samples add up to: "
            "draw more samples or ask for a smaller budget."
        )
    n, right = length_N.size, np.sort(length_N[correct_N])
    wrong = length_N[~correct_N]
    if right.size == 0:
        return np.zeros(len(budgets)), np.zeros(len(budgets))
    # P(exactly j wrong samples come before the first correct one), j = 0..len(wrong)
    j = np.arange(wrong.size + 1)
    survive = np.concatenate([[1.0], np.cumprod((wrong.size - j[:-1]) / (n - j[:-1]))])
    first_J = survive * right.size / (n - j)
    exact = np.unique(wrong).size <= 1
    rng = np.random.default_rng(seed)
    rows = wrong[None, :] if exact else rng.permuted(np.tile(wrong, (orders, 1)), axis=1)
    spent_RJ = np.concatenate([np.zeros((rows.shape[0], 1)), rows.cumsum(axis=1)], axis=1)
    value, variance = np.empty(len(budgets)), np.zeros(len(budgets))
    for i, budget in enumerate(budgets):
        fits = np.searchsorted(right, budget - spent_RJ, side="right") / right.size
        by_order = fits @ first_J
        value[i] = by_order.mean()
        variance[i] = 0.0 if exact else by_order.var(ddof=1) / orders
    return value, variance


def budget_curves(arm: Arm, budgets: Sequence[float], *, orders: int = 200, seed: int = 0) -> tuple[FloatArray, float]:
    """Computes the pass within each budget, `(S, Q, B)`, and the largest Monte-Carlo error of the mean over S and Q."""
    value = np.empty((len(arm.runs), len(arm.problems), len(budgets)))
    variance = np.empty_like(value)
    for s, row in enumerate(arm.groups()):
        for q, index in enumerate(watch(row, f"length budgets of {arm.name}", "problems")):
            value[s, q], variance[s, q] = pass_within_budget(
                arm.lengths()[index], arm.correct_N[index], budgets, orders=orders, seed=seed + q
            )
    cells = value.shape[0] * value.shape[1]
    return value, float(np.sqrt(variance.sum(axis=(0, 1))).max() / cells)


def match_lengths(
    lengths: npt.ArrayLike, correct: npt.ArrayLike, reference: npt.ArrayLike, ks: Sequence[int], *, bins: int = 4
) -> LengthMatch | None:
    """Computes Pass@K of one problem if its K samples had the lengths of K of the reference's samples.

    The reference's lengths are cut into `bins` quantile bins. K samples of the reference, drawn without replacement,
    fill the bins at random; as many of the arm's are drawn from each. The average over all such draws is exact.
    At K = 1 this is direct standardisation: the reference's bin shares times the arm's success rates.

    Args:
        lengths, correct: `(n,)`, of the arm's samples. Any longer or shorter than all of the reference's is unused.
        reference: `(m,)` lengths of the reference's samples.

    Returns:
        None where the support is empty: the reference has samples in a bin in which the arm has none.
    """
    arm_lengths, verdicts = np.asarray(lengths, dtype=np.float64), np.asarray(correct, dtype=bool)
    reference_lengths = np.asarray(reference, dtype=np.float64)
    edges = np.unique(np.quantile(reference_lengths, np.linspace(0, 1, bins + 1), method="inverted_cdf"))
    inside = (arm_lengths >= edges[0]) & (arm_lengths <= edges[-1])
    cells = max(edges.size - 1, 1)

    def bin_of(x: FloatArray) -> npt.NDArray[np.int64]:
        return np.clip(np.searchsorted(edges[1:], x, side="left"), 0, cells - 1)

    want = np.bincount(bin_of(reference_lengths), minlength=cells)
    have = np.bincount(bin_of(arm_lengths[inside]), minlength=cells)
    wrong = np.bincount(bin_of(arm_lengths[inside])[~verdicts[inside]], minlength=cells)
    used = want > 0
    want, have, wrong = want[used], have[used], wrong[used]
    if (have == 0).any():
        return None
    share = want / want.sum()
    pass_at_k = np.full(len(ks), np.nan)
    for i, k in enumerate(ks):
        if k > reference_lengths.size or (np.minimum(k, want) > have).any():
            continue
        # Binomial weights with a common theta turn "j_b of bin b, sum K" into the multivariate hypergeometric.
        theta = k / reference_lengths.size if k < reference_lengths.size else 0.5
        product = np.ones(1)
        for w, h, f in zip(want, have, wrong, strict=True):
            j = np.arange(min(k, w) + 1)
            all_wrong = np.concatenate([[1.0], np.cumprod(np.clip(f - j[:-1], 0, None) / (h - j[:-1]))])
            product = np.convolve(product, stats.binom.pmf(j, w, theta) * all_wrong)[: k + 1]
        pass_at_k[i] = 1.0 - product[k] / stats.binom.pmf(k, reference_lengths.size, theta)
    return LengthMatch(pass_at_k, float(1.0 / (share**2 / have).sum()))


def match_curves(
    arm: Arm, reference: Arm, ks: Sequence[int], *, bins: int = 4
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Computes Pass@K of arm and reference at equal lengths, `(S, T, Q, K)`, and effective n `(Q,)`.

    Each is the mean of Pass@K at its own lengths and at the other's (`match_lengths`), or NaN without support. At K = 1
    both are at the mean of the two length distributions (Kitagawa 1955). One direction alone would favour the arm even
    against itself trained again: where a model writes more of some length, it is usually right less often there.

    Each of the arm's S runs is matched with each of the reference's T, which needs support both ways. Runs are never
    pooled: the Pass@K of a mixture of runs exceeds the mean of theirs.
    """
    shape = len(arm.runs), len(reference.runs), len(arm.problems)
    matched = np.full((2, *shape, len(ks)), np.nan)
    effective = np.full((2, *shape), np.nan)
    arms = (arm, reference)
    lengths = [side.lengths() for side in arms]
    plain = [side.curves(ks) for side in arms]
    for (s, arm_row), (t, reference_row) in product(enumerate(arm.groups()), enumerate(reference.groups())):
        pairs = list(zip(arm_row, reference_row, strict=True))
        for q, index in enumerate(watch(pairs, f"equal lengths of {arm.name} and {reference.name}", "problems")):
            for i, run in enumerate((s, t)):
                matched_index, target_index = index[i], index[1 - i]
                correct = arms[i].correct_N[matched_index]
                match = match_lengths(lengths[i][matched_index], correct, lengths[1 - i][target_index], ks, bins=bins)
                if match is not None:
                    matched[i, s, t, q] = (plain[i][run, q] + match.pass_at_k) / 2
                    effective[i, s, t, q] = match.effective_n
    matched[:, np.isnan(matched).any(axis=0)] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no pair is NaN
        return matched[0], matched[1], np.nanmean(effective, axis=(0, 1, 2))


def control_ks(ks: Sequence[int]) -> list[int]:
    """Picks the K of a curve at which length control is computed: three that span them."""
    return shown_ks(grid_of(ks), 3)


def have_common_lengths(arms: Sequence[Arm]) -> bool:
    """Whether the lengths of all samples are known, in one unit."""
    return all(arm.length_N is not None for arm in arms) and len({arm.length_unit for arm in arms}) == 1
