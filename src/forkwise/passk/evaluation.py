"""Evaluates one arm, as `forkwise passk` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from forkwise.errors import InputError
from forkwise.passk.diversity import Embed, diversity
from forkwise.passk.estimator import FloatArray, IntArray, curve_grid
from forkwise.passk.extrapolation import extrapolate
from forkwise.passk.intervals import Interval, bootstrap_interval, by_cluster, cluster_count, unseen
from forkwise.passk.length import BUDGET, CAP, budget_curves, control_ks, default_budgets, default_caps
from forkwise.passk.metrics import METRICS, Metric, MetricOptions
from forkwise.passk.notes import Note, note
from forkwise.passk.outcomes import Arm, check_ks, number_clusters
from forkwise.passk.results import Curve, Evaluation, LengthRow
from forkwise.passk.sampling_noise import same_problems, sampling_variance


@dataclass(frozen=True)
class MeasuredCurve:
    """One statistic of an arm at some K: values `(S, Q, K)`, and the Monte-Carlo error `(K,)` of their mean, if any."""

    metric: Metric
    ks: list[int]
    values_SQK: FloatArray
    error_K: FloatArray | None


@dataclass(frozen=True)
class Measured:
    """Values of one arm for every run and problem, which `evaluate` averages and `compare` pairs.

    Attributes:
        curves: by the name of their statistic.
        control_ks: the K of length control.
        capped: Pass@K `(S, Q, K)` under each cap.
        within: the chance `(S, Q, B)` to pass within each of the `budgets`; None where there are none.
        noise: variance of the mean of Pass@K from sampling alone, `(K,)`.
        within_error: Monte-Carlo standard error of the mean of `within`, the largest of all budgets.
    """

    arm: Arm
    options: MetricOptions
    curves: dict[str, MeasuredCurve]
    control_ks: list[int]
    capped: dict[int, FloatArray]
    budgets: list[int]
    within: FloatArray | None
    within_error: float
    noise: FloatArray


def measure(
    arm: Arm,
    ks: Sequence[int],
    options: MetricOptions,
    *,
    caps: Sequence[int] | None,
    budgets: Sequence[int] | None,
    largest: int | None = None,
) -> Measured:
    """Computes every statistic that the arm's samples allow, each at its K among `ks`; see `evaluate`.

    `largest` is the largest K that all arms have; None is the arm's own.
    """
    n = arm.largest_k()
    curves = {}
    for metric in METRICS:
        if not metric.answers or arm.answer_N is not None:
            at = metric.ks(ks, n, n if largest is None else largest)
            curves[metric.name] = MeasuredCurve(metric, at, *metric.values(arm, at, options))
    has_lengths = arm.length_N is not None
    caps = (default_caps([arm]) if has_lengths else ()) if caps is None else caps
    budgets = (default_budgets([arm]) if has_lengths else ()) if budgets is None else budgets
    for kind, lengths in (("cap", caps), ("budget", budgets)):
        if min(lengths, default=1) < 1:
            raise InputError(f"A {kind} is {min(lengths)}; the smallest is 1.")
    at = control_ks(ks)
    capped = {int(cap): arm.curves(at, cap) for cap in caps} if has_lengths else {}
    within, error = budget_curves(arm, budgets, seed=options.seed) if has_lengths and budgets else (None, 0.0)
    noise = sampling_variance(*arm.counts(), curves["pass@k"].ks)
    return Measured(arm, options, curves, at, capped, [int(b) for b in budgets], within, error, noise)


def over_problems(
    values_SQ: FloatArray, cluster_Q: IntArray | None = None, *, level: float, resamples: int | None, seed: int
) -> Interval:
    """Averages shares `(S, Q, ...)` over runs, then gives an interval over problems or their clusters, not over runs.

    Where all problems have the same value, the interval is the exact binomial one: other values may exist unseen. Nor
    does it reach below what the binomial one would allow for as much that is solved, or above for as much that is not.
    """
    values_Q = values_SQ.mean(axis=0)
    q = cluster_count(values_Q.shape[0], cluster_Q)
    bootstrap = bootstrap_interval(by_cluster(values_Q, cluster_Q), level=level, resamples=resamples, seed=seed)
    constant = np.ptp(values_Q, axis=0) == 0
    off = unseen(q, level)
    solved, tail = q * values_Q.mean(axis=0), (1 - level) / 2
    least = np.where(solved > 0, stats.beta.ppf(tail, np.maximum(solved, 1e-9), q - solved + 1), 0.0)
    most = np.where(solved < q, stats.beta.ppf(1 - tail, solved + 1, np.maximum(q - solved, 1e-9)), 1.0)
    low = np.where(constant, bootstrap.mean * (1 - off), np.clip(np.maximum(bootstrap.low, least), 0.0, bootstrap.mean))
    high = np.where(
        constant,
        bootstrap.mean + (1 - bootstrap.mean) * off,
        np.clip(np.minimum(bootstrap.high, most), bootstrap.mean, 1.0),
    )
    return replace(bootstrap, low=low, high=high)


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
    """Evaluates every statistic of `forkwise.passk.metrics` for one arm, with length control beside them.

    Several runs in the arm are averaged per problem first.

    Args:
        ks: where to evaluate; `None` is `curve_grid(n)`: every k up to 100, then about 100 of them.
        tau: of G-Pass@K_tau.
        beyond: k above n, answered by a model of each run that is labelled as one.
        caps, budgets: lengths for the length control; `None` chooses them from the samples, `()` leaves it out.
        texts: also measure the diversity of the texts.
        embed: turns texts into vectors, for the diversity of these (with `texts`).
        level, resamples, seed: of the intervals, as in `bootstrap_interval`.

    Raises:
        InputError: a k above the samples of some problem, or fewer than two problems.
    """
    ks = curve_grid(arm.largest_k()) if ks is None else check_ks([arm], ks)
    measured = measure(arm, ks, MetricOptions(tau, seed), caps=caps, budgets=budgets)
    evaluation = summarise(measured, level=level, resamples=resamples)
    notes, diversities, model = list(evaluation.notes), {}, None
    if texts:
        if embed is not None:
            notes.append(note("embeddings"))
        for name, values in diversity([arm], embed=embed)[0].values.items():
            defined = values[np.isfinite(values)]
            if defined.size >= 2:
                diversities[name] = bootstrap_interval(defined, level=level, resamples=resamples, seed=seed)
    if beyond:
        model = extrapolate(*arm.counts(), sorted(beyond), level=level, seed=seed)
    return replace(evaluation, diversity=diversities, extrapolation=model, notes=notes)


def summarise(measured: Measured, *, level: float, resamples: int | None) -> Evaluation:
    """Turns measured values into means with intervals over problems."""
    arm, seed = measured.arm, measured.options.seed
    clusters = number_clusters(arm)

    def interval(values_SQ: FloatArray) -> Interval:
        return over_problems(values_SQ, clusters, level=level, resamples=resamples, seed=seed)

    curves = {
        name: Curve(*c.metric.labels(measured.options), c.ks, interval(c.values_SQK), c.error_K, c.metric.shown)
        for name, c in measured.curves.items()
    }
    length = []
    for cap, values in measured.capped.items():
        at_cap = interval(values)
        bounds = zip(at_cap.mean.tolist(), at_cap.low.tolist(), at_cap.high.tolist(), strict=True)
        length += [LengthRow(CAP, cap, k, *row) for k, row in zip(measured.control_ks, bounds, strict=True)]
    if measured.within is not None:
        at = interval(measured.within)
        bounds = zip(at.mean.tolist(), at.low.tolist(), at.high.tolist(), strict=True)
        error = measured.within_error
        length += [LengthRow(BUDGET, b, None, *row, error) for b, row in zip(measured.budgets, bounds, strict=True)]
    n_SQ, c_SQ = arm.counts()
    passed = curves["pass@k"]
    return Evaluation(
        arm.name,
        len(arm.runs),
        len(arm.problems),
        (arm.largest_k(), int(n_SQ.max())),
        curves,
        None if arm.length_N is None else float(arm.length_N.mean()),
        arm.length_unit,
        None if arm.answer_N is None else float(np.mean([not (a or "").strip() for a in arm.answer_N])),
        length,
        {},
        None,
        same_problems(passed.interval.mean, measured.noise, n_SQ, c_SQ, passed.ks, level),
        _notes(measured, level),
    )


def _notes(measured: Measured, level: float) -> list[Note]:
    """Notes what a reader must know about the arm and its intervals."""
    arm = measured.arm
    notes = list(arm.notes)
    for curve in measured.curves.values():
        if curve.error_K is not None and (curve.error_K > 0).any():
            error = float(curve.error_K.max())
            notes.append(note("simulated", title=curve.metric.title, exact=curve.metric.exact, error=error))
    n_SQ, c_SQ = arm.counts()
    solved, q = int((c_SQ.sum(axis=0) > 0).sum()), len(arm.problems)
    if solved == 0 or (c_SQ == n_SQ).all():
        notes.append(note("all alike", right=solved > 0, unseen=unseen(q, level)))
    if n_SQ.min() == 1:
        notes.append(note("one sample"))
    if q < 100:
        notes.append(note("few problems", problems=q, level=level))
    if len(arm.runs) > 1:
        notes.append(note("several runs", runs=len(arm.runs)))
    return notes
