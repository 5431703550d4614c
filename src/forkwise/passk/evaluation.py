"""What `forkwise passk` reports about one arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forkwise.passk.diversity import EMBED_NOTE, Embed, diversity
from forkwise.passk.estimator import FloatArray, curve_grid, g_pass_at_k, k_grid, mg_pass_at_k, pass_pow_k
from forkwise.passk.extrapolation import Extrapolation, extrapolate
from forkwise.passk.intervals import Interval, bootstrap_interval, unseen
from forkwise.passk.length import BUDGET, CAP, budget_curves, default_budgets, default_caps, shown_ks
from forkwise.passk.majority import EXACT_UP_TO, count_votes, maj_at_k
from forkwise.passk.outcomes import Arm, check_ks


@dataclass(frozen=True)
class Curve:
    """A quantity along k, with its interval over problems."""

    metric: str
    ks: list[int]
    interval: Interval
    error: FloatArray | None = None
    """Monte-Carlo standard error of the mean at each k, where the value is not exact."""


@dataclass(frozen=True)
class LengthRow:
    """Pass@k with longer answers counted wrong (`cap`), or the pass rate within a length budget (`budget`)."""

    control: str
    at: int
    """The cap or the budget, in the arm's length unit."""
    k: int | None
    value: float
    low: float
    high: float
    error: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """Pass@K of one arm and what belongs beside it. Intervals are BCa over problems unless said otherwise."""

    arm: str
    runs: int
    problems: int
    samples: tuple[int, int]
    """Fewest and most scored samples of a problem."""
    curves: dict[str, Curve]
    mean_length: float | None
    length_unit: str
    no_answer: float | None
    """Share of samples without a final answer; None where answers were not recorded."""
    length: list[LengthRow]
    diversity: dict[str, Interval]
    extrapolation: Extrapolation | None
    notes: list[str]

    @property
    def pass_at_k(self) -> Interval:
        return self.curves["pass@k"].interval

    @property
    def ks(self) -> list[int]:
        return self.curves["pass@k"].ks

    def rows(self) -> list[dict[str, Any]]:
        """Every number as one row: `arm, metric, k, at, value, low, high, error`; what --csv and --json hold."""
        out: list[dict[str, Any]] = []
        for curve in self.curves.values():
            for i, k in enumerate(curve.ks):
                out.append(
                    {
                        "arm": self.arm,
                        "metric": curve.metric,
                        "k": k,
                        "value": float(curve.interval.mean[i]),
                        "low": float(curve.interval.low[i]),
                        "high": float(curve.interval.high[i]),
                        "error": 0.0 if curve.error is None else float(curve.error[i]),
                    }
                )
        for row in self.length:
            out.append(
                {
                    "arm": self.arm,
                    "metric": f"pass@k, {row.control}",
                    "k": row.k,
                    "at": row.at,
                    "value": row.value,
                    "low": row.low,
                    "high": row.high,
                    "error": row.error,
                }
            )
        for name, interval in self.diversity.items():
            out.append({"arm": self.arm, "metric": name, **_bounds(interval)})
        if self.extrapolation is not None:
            model = self.extrapolation
            for i, k in enumerate(model.ks):
                at_k = {"value": model.pass_at_k.mean, "low": model.pass_at_k.low, "high": model.pass_at_k.high}
                row_k = {name: float(values[i]) for name, values in at_k.items()}
                out.append({"arm": self.arm, "metric": "pass@k, beta-binomial model", "k": k, **row_k})
        if self.mean_length is not None:
            out.append({"arm": self.arm, "metric": f"mean length ({self.length_unit})", "value": self.mean_length})
        return out

    def to_pandas(self) -> Any:
        """`rows()` as a pandas DataFrame; needs pandas."""
        import pandas

        return pandas.DataFrame(self.rows())


def _bounds(interval: Interval) -> dict[str, float]:
    return {"value": float(interval.mean), "low": float(interval.low), "high": float(interval.high)}


def over_problems(values_SQ: FloatArray, *, level: float, resamples: int | None, seed: int) -> Interval:
    """Mean over runs, then interval over problems; `(S, Q, ...)`, shares. It covers the choice of problems, not runs.

    Where all problems have the same value it is the exact binomial one: that no other was seen does not exclude any.
    """
    values_Q = values_SQ.mean(axis=0)
    found = bootstrap_interval(values_Q, level=level, resamples=resamples, seed=seed)
    same = np.ptp(values_Q, axis=0) == 0
    off = unseen(values_Q.shape[0], level)
    low = np.where(same, found.mean * (1 - off), found.low)
    high = np.where(same, found.mean + (1 - found.mean) * off, found.high)
    return replace(found, low=low, high=high)


def majority_curves(arm: Arm, ks: Sequence[int], *, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """maj@K `(S, Q, K)`, and the Monte-Carlo standard error `(K,)` of its mean over runs and problems."""
    assert arm.answer_N is not None
    value = np.empty((len(arm.runs), len(arm.problems), len(ks)))
    error = np.empty_like(value)
    for s, row in enumerate(arm.groups()):
        for q, index in enumerate(row):
            votes = count_votes([arm.answer_N[i] for i in index], arm.correct_N[index], by_text=arm.by_text)
            value[s, q], error[s, q] = maj_at_k(votes, ks, seed=seed + q)
    return value, np.sqrt((error**2).sum(axis=(0, 1))) / (value.shape[0] * value.shape[1])


def evaluate(
    arm: Arm,
    *,
    ks: Sequence[int] | None = None,
    tau: float = 0.5,
    beyond: Sequence[int] = (),
    caps: Sequence[int] | None = None,
    budgets: Sequence[int] | None = None,
    texts: bool = False,
    embed: Embed | None = None,
    level: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Pass@K, Pass^K, G-Pass@K, mG-Pass@K, maj@K and mean@n of one arm, with length control beside them.

    Several runs in the arm are averaged per problem first.

    Args:
        ks: where to evaluate; `None` is `curve_grid(n)`: every k up to 100, then about 100 of them.
        tau: of G-Pass@K_tau.
        beyond: k above n, answered by a beta-binomial model that is labelled as one.
        caps, budgets: lengths for the length control; `None` chooses them from the samples, `()` leaves it out.
        texts: also measure the diversity of the texts.
        embed: turns texts into vectors, for the diversity of these (with `texts`).
        level, resamples, seed: of the intervals, as in `bootstrap_interval`.

    Raises:
        InputError: a k above the samples of some problem, or fewer than two problems.
    """
    largest = arm.largest_k()
    ks = curve_grid(largest) if ks is None else check_ks([arm], ks)
    notes = list(arm.notes)
    n_SQ, c_SQ = arm.counts()

    def interval(values_SQ: FloatArray) -> Interval:
        return over_problems(values_SQ, level=level, resamples=resamples, seed=seed)

    def flat(function: Any, ks: Sequence[int], *extra: float) -> FloatArray:
        values: FloatArray = function(n_SQ.ravel(), c_SQ.ravel(), ks, *extra)
        return values.reshape(*n_SQ.shape, -1)

    # Pass@K and Pass^K have a product form and cost the same at every k; the others are computed where curves are read.
    few = [k for k in k_grid(largest) if k in ks] or ks

    curves = {
        "mean@n": Curve("mean@n", [largest], interval((c_SQ / n_SQ)[..., None])),
        "pass@k": Curve("pass@k", ks, interval(arm.curves(ks))),
        "pass^k": Curve("pass^k", ks, interval(flat(pass_pow_k, ks))),
        "g-pass@k": Curve(f"g-pass@k, tau {tau:g}", few, interval(flat(g_pass_at_k, few, tau))),
        "mg-pass@k": Curve("mg-pass@k", few, interval(flat(mg_pass_at_k, few))),
    }
    no_answer = None
    if arm.answer_N is not None:
        value, error = majority_curves(arm, few, seed=seed)
        curves["maj@k"] = Curve("maj@k", few, interval(value), error)
        no_answer = float(np.mean([not (a or "").strip() for a in arm.answer_N]))
        if (error > 0).any():
            notes.append(
                f"maj@K is exact up to {EXACT_UP_TO} samples per problem; here it is simulated, "
                f"with a standard error of at most {error.max():.4f}."
            )
    solved = int((c_SQ.sum(axis=0) > 0).sum())
    q = len(arm.problems)
    if solved == 0 or (c_SQ == n_SQ).all():
        kind, counted = ("wrong", "solved") if solved == 0 else ("right", "failed")
        bound = 1 - ((1 - level) / 2) ** (1 / q)
        notes.append(
            f"Every sample is {kind}, so the bootstrap interval has no width; by the exact binomial bound up to "
            f"{bound:.1%} of such problems could still be {counted}."
        )
    if largest == 1:
        notes.append("There is one sample per problem, so only Pass@1 can be estimated.")
    if q < 100:
        notes.append(
            f"With {q} problems a nominal {level:.0%} interval covers less at small K when success rates are skewed "
            "(docs/statistics.md has the measured coverage)."
        )
    if len(arm.runs) > 1:
        notes.append(f"Mean of {len(arm.runs)} runs; the intervals cover the choice of problems, not of runs.")

    length: list[LengthRow] = []
    if arm.length_N is not None:
        at = [k for k in shown_ks(largest) if k in ks] or [ks[-1]]
        for cap in default_caps([arm]) if caps is None else caps:
            at_cap = interval(arm.curves(at, cap))
            length += [
                LengthRow(CAP, int(cap), k, float(at_cap.mean[i]), float(at_cap.low[i]), float(at_cap.high[i]))
                for i, k in enumerate(at)
            ]
        budgets = default_budgets([arm]) if budgets is None else budgets
        if budgets:
            value, worst = budget_curves(arm, budgets, seed=seed)
            within = interval(value)
            length += [
                LengthRow(
                    BUDGET, int(b), None, float(within.mean[i]), float(within.low[i]), float(within.high[i]), worst
                )
                for i, b in enumerate(budgets)
            ]
    measured = {}
    if texts:
        if embed is not None:
            notes.append(EMBED_NOTE)
        for name, values in diversity([arm], embed=embed)[0].values.items():
            if np.isfinite(values).sum() >= 2:
                measured[name] = bootstrap_interval(
                    values[np.isfinite(values)], level=level, resamples=resamples, seed=seed
                )
    model = None
    if beyond:
        # Runs of one arm are pooled: the model describes problems, not runs.
        model = extrapolate(n_SQ.sum(axis=0), c_SQ.sum(axis=0), sorted(beyond), level=level, seed=seed)
    return Evaluation(
        arm.name,
        len(arm.runs),
        q,
        (largest, int(n_SQ.max())),
        curves,
        None if arm.length_N is None else float(arm.length_N.mean()),
        arm.length_unit,
        no_answer,
        length,
        measured,
        model,
        notes,
    )
