"""The statistics of an arm, each declared once: `evaluate` and `compare` loop over `METRICS`.

Another statistic is one more entry here, with its test and a row in docs/passk.md. Suffixes: S runs, Q problems,
K values of k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from forkwise.errors import InputError, nearest
from forkwise.passk.estimator import FloatArray, g_pass_at_k, grid_of, k_grid, mg_pass_at_k, pass_at_k, pass_pow_k
from forkwise.passk.majority import EXACT_UP_TO, majority_curves
from forkwise.passk.outcomes import Arm


@dataclass(frozen=True)
class MetricOptions:
    """Options of the statistics.

    Attributes:
        tau: share of the K samples that must be correct in G-Pass@K.
        seed: of what is simulated.
    """

    tau: float = 0.5
    seed: int = 0


Values = tuple[FloatArray, FloatArray | None]
"""Values `(S, Q, K)` of a statistic, and the Monte-Carlo error `(K,)` of their mean; None where they are exact."""


@dataclass(frozen=True)
class Metric:
    """One statistic of an arm, as `evaluate` and `compare` need it.

    Attributes:
        name: its key in `Evaluation.curves`, and its name in the tidy rows.
        title: the head of its column in tables.
        values: its value for every run, problem and K.
        where: at every K of a curve; on the grid of powers of two, for what is costly; at the largest K that all arms
            have, whichever K are shown; or at n, the arm's number of samples, alone.
        compared: whether `compare` pairs it unasked. Pass@K always is.
        shown: whether tables of an arm show it.
        answers: whether it needs the final answers of the samples.
        option: what the name and the title say of the options, such as `", tau {tau:g}"`.
        exact: up to what it is exact, for the note on one that is simulated.
    """

    name: str
    title: str
    values: Callable[[Arm, Sequence[int], MetricOptions], Values]
    where: Literal["every k", "grid", "largest k", "n"] = "grid"
    compared: bool = False
    shown: bool = True
    answers: bool = False
    option: str = ""
    exact: str = ""

    def ks(self, ks: Sequence[int], n: int, largest: int) -> list[int]:
        """Picks the K of a curve at which the statistic is computed; `largest` is the smallest n of all arms."""
        if self.where == "n":
            return [n]
        if self.where == "largest k":
            return [largest]
        return list(ks) if self.where == "every k" else grid_of(ks)

    def labels(self, options: MetricOptions) -> tuple[str, str]:
        """Returns the name in the tidy rows and the title in tables, with the options that the statistic depends on."""
        options_text = self.option.format(tau=options.tau)
        return self.name + options_text, self.title + options_text


def _of_counts(estimator: Callable[..., FloatArray]) -> Callable[[Arm, Sequence[int], MetricOptions], Values]:
    """Makes `values` of a statistic that follows from the numbers of samples and of correct ones."""

    def values(arm: Arm, ks: Sequence[int], options: MetricOptions) -> Values:
        n_SQ, c_SQ = arm.counts()
        return estimator(n_SQ.ravel(), c_SQ.ravel(), ks, options).reshape(*n_SQ.shape, -1), None

    return values


METRICS = (
    Metric("mean@n", "mean@n", _of_counts(lambda n, c, ks, _: c / n), "n", compared=True, shown=False),
    Metric("pass@k", "Pass@K", _of_counts(lambda n, c, ks, _: pass_at_k(n, c, ks)), "every k", compared=True),
    Metric(
        "curve",
        "mean of Pass@1, 2, 4, ..., K",
        _of_counts(lambda n, c, ks, _: pass_at_k(n, c, k_grid(ks[0])).mean(axis=1)),
        "largest k",
        compared=True,
        shown=False,
    ),
    Metric("pass^k", "Pass^K", _of_counts(lambda n, c, ks, _: pass_pow_k(n, c, ks)), "every k"),
    Metric(
        "g-pass@k",
        "G-Pass@K",
        _of_counts(lambda n, c, ks, options: g_pass_at_k(n, c, ks, options.tau)),
        option=", tau {tau:g}",
    ),
    Metric("mg-pass@k", "mG-Pass@K", _of_counts(lambda n, c, ks, _: mg_pass_at_k(n, c, ks)), shown=False),
    Metric(
        "maj@k",
        "maj@K",
        lambda arm, ks, options: majority_curves(arm, ks, seed=options.seed),
        compared=True,
        answers=True,
        exact=f"exact up to {EXACT_UP_TO} samples per problem",
    ),
)


def compared_metrics(names: Sequence[str] | None) -> list[Metric]:
    """Returns the statistics that `compare` pairs beside Pass@K: those named, or those declared so.

    Raises:
        InputError: there is no such statistic.
    """
    by_name = {metric.name: metric for metric in METRICS}
    for name in names or ():
        if name not in by_name:
            raise InputError(f"There is no statistic '{name}': there are {', '.join(by_name)}.{nearest(name, by_name)}")
    chosen = names if names is not None else [metric.name for metric in METRICS if metric.compared]
    return [metric for name, metric in by_name.items() if name in chosen and name != "pass@k"]
