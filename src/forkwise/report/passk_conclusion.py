"""The conclusion of a Pass@K evaluation or comparison: one sentence in plain words, for every sink."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from forkwise.passk import Comparison, Difference, Evaluation
from forkwise.passk.results import Endpoint
from forkwise.report.formats import at, coverage, interval, number, spans

_LUMPED = 3  # differences; with more, the sentence puts the arms without one together


def conclusion(evaluations: Sequence[Evaluation], comparison: Comparison | None = None) -> str:
    """Says what the comparison found, or how good the arms are where nothing is compared."""
    if comparison is not None:
        return _compared(comparison)
    phrases = []
    for e in evaluations:
        ends = [f"Pass@{e.ks[i]} {at(e.pass_at_k, i)}" for i in sorted({0, len(e.ks) - 1})]
        phrases.append(f"{e.arm} has {' and '.join(ends)} on {e.problems} problems")
    level = f"{coverage(evaluations[0].pass_at_k.level)} intervals over problems"
    return f"{'; '.join(phrases)} ({level}). Nothing is compared here, so this says nothing about a difference."


def gate(c: Comparison, margin: float) -> str:
    """Says whether every arm is shown to be worse than the reference by less than the margin, and by which numbers."""
    where = "at every K" if c.differences[0].primary is None else "at the primary endpoint"
    ends = ", ".join(f"{d.arm} {number(d.least, sign='+')}" for d in c.differences)
    passed = c.not_worse(margin)
    text = f"Gate {'passed' if passed else 'not passed'}: less than {margin:g} worse than {c.reference} {where} is "
    text += f"{'shown' if passed else 'not shown'} (lower ends: {ends})"
    if not passed and all(d.least > -margin for d in c.differences):
        alone = math.floor(c.effective_problems)
        worth = "" if alone == c.problems else f", no more than {alone:,} that weigh the same and stand for themselves,"
        text += f"; {c.problems:,} problems{worth} are too few for this margin"
    return f"{text}."


def _compared(c: Comparison) -> str:
    """Says in one plain sentence what was found; with many arms, those that show no difference share a clause."""
    endpoints = [(d, d.primary) for d in c.differences if d.primary is not None]
    if endpoints:
        return _primary(c, endpoints)
    alpha, many = 1 - c.level, len(c.differences) > _LUMPED
    phrases = [_sentence(d, c) for d in c.differences if d.claimed(alpha).any() or not many]
    if len(phrases) < len(c.differences):
        quiet = [d for d in c.differences if not d.claimed(alpha).any()]
        phrases.append(_no_difference(quiet, c))
    return f"{_where(c)}, {'; '.join(phrases)}."


def _where(c: Comparison) -> str:
    """Says what the comparison is about."""
    if c.benchmarks is None:
        return f"On {c.problems} problems"
    return f"In the mean over {len(c.benchmarks.names)} benchmarks ({c.problems} problems)"


def _sentence(d: Difference, c: Comparison) -> str:
    """Says what was found about one arm, without a full stop."""
    alpha = 1 - c.level
    claimed = d.claimed(alpha)
    text = f"{d.arm} against {d.reference} "
    if claimed.any():
        text += f"is {_leads(d, claimed)}, adjusted p <= {alpha:.2g}{_scope(d)}"
    else:
        ends = ", ".join(_at(d, i) for i in sorted({0, len(d.ks) - 1}))
        smallest = d.adjusted_p.min()
        text += f"shows no difference that can be told from luck at any K (smallest adjusted p {smallest:.2g}; {ends})"
    if d.equivalent_up_to == d.ks[-1]:
        text += f", and the two are equivalent within ±{d.margin:g} at every K"
    elif not claimed.any():
        few = d.equivalent_up_to is None and _inside(d)
        why = f"{c.problems} problems are too few" if few else "the band is too wide"
        text += f", but {why} to call them equivalent within ±{d.margin:g}"
        if d.equivalent_up_to is not None:
            text += f" beyond K = {d.equivalent_up_to}"
    return text + _crossing(d, claimed)


def _inside(d: Difference) -> bool:
    """Whether the whole band lies within the margin, which on few problems is not yet equivalence."""
    return bool(((d.band.low >= -d.margin) & (d.band.high <= d.margin)).all())


def _scope(d: Difference) -> str:
    """Says about whose other training runs a claim is; empty where it is about these very models."""
    trained = [name for name, varies in zip((d.reference, d.arm), d.trained, strict=True) if varies]
    return f", for other training runs{f' of {trained[0]}' if len(trained) == 1 else ''} too" if trained else ""


def _primary(c: Comparison, endpoints: Sequence[tuple[Difference, Endpoint]]) -> str:
    """Says what was found at the primary endpoint, and that all else is exploratory."""
    phrases = []
    for d, endpoint in endpoints:
        mean, low, high = (float(x) for x in (endpoint.interval.mean, endpoint.interval.low, endpoint.interval.high))
        difference = f"{interval(mean, low, high, sign='+')}, p {endpoint.p:.2g}"
        if endpoint.p <= 1 - c.level:
            text = f"{d.arm} against {d.reference} is {'better' if mean > 0 else 'worse'} ({difference}){_scope(d)}"
        else:
            text = f"{d.arm} against {d.reference} shows no difference that can be told from luck ({difference})"
        phrases.append(text + (f", and is equivalent within ±{d.margin:g}" if endpoint.equivalent else ""))
    first = endpoints[0][1]
    name = f"Pass@{first.k}" if first.metric == "pass@k" else f"the mean of Pass@K over K = 1, 2, 4, ..., {first.k}"
    where = f"at the primary endpoint ({name}), the only one that is tested"
    return f"{_where(c)}, {where}, {'; '.join(phrases)}."


def _at(d: Difference, i: int) -> str:
    return f"Pass@{d.ks[i]} {at(d.band, i, '+')}"


def _leads(d: Difference, claimed: npt.NDArray[np.bool_]) -> str:
    """Says where the arm is better and where it is worse, each with the K of the smallest p."""
    phrases = []
    for word, where in (("better", claimed & (d.band.mean > 0)), ("worse", claimed & (d.band.mean < 0))):
        if where.any():
            surest = int(np.flatnonzero(where)[np.argmin(d.adjusted_p[where])])
            phrases.append(f"{word} at K = {spans(d.ks, where)} ({_at(d, surest)})")
    return " and ".join(phrases)


def _crossing(d: Difference, claimed: npt.NDArray[np.bool_]) -> str:
    """Says where the curves cross, and whether that is proved; empty where they do not."""
    if d.crossing.k is None:
        return ""
    edges = ", ".join(_edge(end, d.ks[-1]) for end in (d.crossing.low, d.crossing.high))
    mean = d.band.mean
    if (claimed & (np.sign(mean) == np.sign(mean[0]))).any() and (claimed & (mean * mean[0] < 0)).any():
        return f"; the curves cross near K = {d.crossing.k:.3g} [{edges}], with a proved lead on either side"
    return (
        f", and their crossing near K = {d.crossing.k:.3g} [{edges}] is not proved "
        f"({d.crossing.no_crossing:.0%} of the resamples do not cross)"
    )


def _edge(end: float | None, last: int) -> str:
    return f"beyond {last}" if end is None else "before 1" if end == 0 else f"{end:.3g}"


def _no_difference(quiet: Sequence[Difference], c: Comparison) -> str:
    """Says, in one clause for all of them, that these arms show no difference."""
    reference, margin, arms = quiet[0].reference, quiet[0].margin, len(c.differences)
    who = f"none of {arms} arms" if len(quiet) == arms else f"none of the others ({', '.join(d.arm for d in quiet)})"
    lowest = min(quiet, key=lambda d: float(d.adjusted_p.min()))
    far = max(quiet, key=lambda d: float(np.abs(d.band.mean).max()))
    named = f", {lowest.arm}" if lowest.adjusted_p.min() < 1 else ""
    i = int(np.abs(far.band.mean).argmax())
    text = (
        f"{who} shows a difference from {reference} that can be told from luck at any K (smallest adjusted p "
        f"{lowest.adjusted_p.min():.2g}{named}; largest difference {at(far.band, i, '+')} at K = {far.ks[i]}, "
        f"{far.arm})"
    )
    equal = [d.arm for d in quiet if d.equivalent_up_to == d.ks[-1]]
    if len(equal) == len(quiet):
        return f"{text}, and all are equivalent to it within ±{margin:g} at every K"
    if equal:
        return f"{text}; equivalent to it within ±{margin:g} at every K: {', '.join(equal)}"
    why = f"{c.problems} problems are too few" if any(map(_inside, quiet)) else "no band is narrow enough"
    return f"{text}, but {why} to call an arm equivalent to it within ±{margin:g} at every K"
