"""Pass@K in words: what an evaluation and a comparison say, as sentences and tables for every sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from forkwise.passk import Comparison, Difference, Evaluation, Interval
from forkwise.passk.estimator import shown_ks
from forkwise.passk.length import BUDGET, CAP, MATCHED
from forkwise.passk.notes import Note
from forkwise.passk.results import Curve, Endpoint, LengthDifference, LengthRow
from forkwise.report.formats import at, count, coverage, interval, number, p_value, share
from forkwise.report.passk_notes import sentences
from forkwise.report.table import Block, Table, filled

FEW, MANY = 6, 12
"""Most K in the columns and in the rows of a table."""

CONTROLS = {
    CAP: "longer than the cap counts as wrong",
    BUDGET: "pass within a budget per problem, samples in random order",
    MATCHED: "arm and reference at equal lengths: each at its own and at the other's, averaged",
}
"""What each length control does, in words."""

_MODEL = (
    "model, not an estimate: success rates follow a beta distribution, but for a share of problems that is never solved"
)
_NAMED = 4  # problems named in a table
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


def overview(evaluations: Sequence[Evaluation], comparison: Comparison | None = None, most: int = FEW) -> list[Table]:
    """Makes the table of Pass@K of every arm at a few K, and of the paired differences with band and adjusted p."""
    if not evaluations:
        return []
    evaluation, differences = evaluations[0], comparison.differences if comparison else []
    ks = shown_ks(differences[0].ks if differences else evaluation.ks, most)
    rows = [[e.arm, *(_cell(e.ks, e.pass_at_k, k) for k in ks), number(e.mean_length, 1)] for e in evaluations]
    length = {e.arm: e.mean_length for e in evaluations}
    for d in differences:
        arm_length, reference_length = length[d.arm], length[d.reference]
        longer = None
        if comparison and comparison.length_unit and arm_length is not None and reference_length is not None:
            longer = arm_length - reference_length
        rows.append([f"{d.arm} − {d.reference}", *(_cell(d.ks, d.band, k, "+") for k in ks), number(longer, 1, "+")])
        rows.append(["  adjusted p", *(p_value(d.adjusted_p[d.ks.index(k)]) for k in ks), ""])
    level = coverage(evaluation.pass_at_k.level)
    caption = f"Pass@K, mean [{level} BCa interval over problems]"
    if differences:
        caption += f"; differences are paired by problem [{level} band over all K and arms]"
    return filled(caption, ["", *(f"Pass@{k}" for k in ks), f"mean {evaluation.length_unit}"], rows)


def details(evaluations: Sequence[Evaluation], comparison: Comparison | None = None) -> list[Block]:
    """Makes every other table; they are long, hence folded."""
    blocks = [block for e in evaluations for block in _evaluation(e)]
    if comparison is not None:
        blocks += [table for d in comparison.differences for table in _difference(d, comparison)]
    return blocks


def listed(notes: Sequence[Note]) -> list[Block]:
    """Makes a list of the notes, a sentence each."""
    return [f"- {sentence}" for sentence in sentences(notes)]


def _cell(ks: Sequence[int], values: Interval, k: int, sign: str = "") -> str:
    return at(values, list(ks).index(k), sign) if k in ks else ""


# --------------------------------------------------------------------------------------------------------- evaluation


def _evaluation(e: Evaluation) -> list[Block]:
    samples = f"{e.samples[0]}" if e.samples[0] == e.samples[1] else f"{e.samples[0]}–{e.samples[1]}"
    level = coverage(e.pass_at_k.level)
    caption = f"{e.arm}: {e.problems} problems x {samples} samples; mean [{level} BCa interval over problems]"
    curves = {c.title: (c.ks, c.interval) for c in e.curves.values() if c.shown}
    first, *rest = curves.items()
    curves = dict([first, (f"{first[0]}, these problems", (e.ks, e.same_problems)), *rest])
    blocks: list[Block] = [*_by_k(caption, curves, e.ks), _facts(e), *_capped(e)]
    budget = [row for row in e.length if row.control == BUDGET]
    caption = f"{e.arm}, {CONTROLS[BUDGET]} ({e.length_unit}); pointwise intervals{_simulated(budget)}"
    rows = [[str(row.at), interval(row.value, row.low, row.high)] for row in budget]
    blocks += [*_folded(caption, [BUDGET, "pass"], rows), *_diversity(f"{e.arm}, diversity in a problem", e.diversity)]
    if e.extrapolation is not None:
        model = e.extrapolation
        never = ", ".join(f"{run.never:.2f}" for run in model.runs)
        caption = f"{e.arm}, extrapolation: {_MODEL} ({never}); misfit beyond n: of what fewer samples say about n"
        rows = [
            [str(k), at(model.pass_at_k, i), number(model.misfit[i]), f"{model.tried[i]:.3g} x"]
            for i, k in enumerate(model.ks)
        ]
        blocks += _folded(caption, ["K", "Pass@K (model)", "misfit", "tried over"], rows)
    return blocks


def _facts(e: Evaluation) -> str:
    mean = e.curves["mean@n"]
    facts = [f"{_title(mean)} {at(mean.interval, 0)}"]
    if e.mean_length is not None:
        facts.append(f"mean length {number(e.mean_length, 1)} {e.length_unit}")
    if e.no_answer is not None:
        facts.append(f"no answer in {share(e.no_answer)} % of the samples")
    return f"{e.arm}: {'; '.join([*facts, f'{count(e.pass_at_k.resamples)} resamples of problems'])}."


def _capped(e: Evaluation) -> list[Table]:
    cells = {(row.at, row.k): interval(row.value, row.low, row.high) for row in e.length if row.control == CAP}
    ks = sorted({k for _, k in cells if k is not None})
    rows = [[str(cap), *(cells.get((cap, k), "") for k in ks)] for cap in dict.fromkeys(cap for cap, _ in cells)]
    caption = f"{e.arm}, {CONTROLS[CAP]} ({e.length_unit}); pointwise intervals"
    return _folded(caption, [CAP, *(f"Pass@{k}" for k in ks)], rows)


def _by_k(caption: str, curves: Mapping[str, tuple[Sequence[int], Interval]], ks: Sequence[int]) -> list[Table]:
    """Makes a table with one row per K; a curve leaves empty the K that it does not have."""
    rows = [[str(k), *(_cell(curve_ks, values, k) for curve_ks, values in curves.values())] for k in shown_ks(ks, MANY)]
    return _folded(caption, ["K", *curves], rows)


def _folded(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Table]:
    return filled(caption, header, rows, folded=True)


def _diversity(caption: str, measures: Mapping[str, Interval], sign: str = "") -> list[Table]:
    rows = [[name, interval(float(v.mean), float(v.low), float(v.high), sign=sign)] for name, v in measures.items()]
    return _folded(f"{caption}; pointwise intervals", ["measure", "difference" if sign else "mean"], rows)


def _simulated(rows: Sequence[LengthRow] | Sequence[LengthDifference]) -> str:
    error = max((row.error for row in rows), default=0.0)
    return f"; simulation error <= {error:.4f}" if error else ""


# --------------------------------------------------------------------------------------------------------- comparison


def _difference(d: Difference, c: Comparison) -> list[Block]:
    pair = f"{d.arm} minus {d.reference}"
    tables: list[Block] = [*_tests(d, pair, c.level), *_certified(d, pair, c.level), *_changes(d), *_others(d, pair)]
    for control in CONTROLS:
        tables += _controlled(d, pair, control, c.length_unit)
    return [*tables, *_diversity(f"{pair}, diversity", d.diversity, "+")]


def _tests(d: Difference, pair: str, level: float) -> list[Table]:
    header = ["K", f"difference [{coverage(level)} band, all K]", "adjusted p"]
    header += [f"pointwise {coverage(level)} interval", "p at this K alone", "these models and problems"]
    rows = []
    for k in shown_ks(d.ks, MANY):
        i = d.ks.index(k)
        alone, same = (at(values, i, "+").partition(" ")[2] for values in (d.interval, d.same_problems))
        rows.append([str(k), at(d.band, i, "+"), p_value(d.adjusted_p[i]), alone, p_value(d.p[i]), same])
    explored = "; exploratory, not the primary endpoint" if d.primary is not None else ""
    return _folded(f"{pair}, paired by problem{explored}", header, rows)


def _certified(d: Difference, pair: str, level: float) -> list[Block]:
    """Says at which K the band excludes 0, if at any, and where the first loss lies."""
    ks = np.array(d.ks)
    found = d.certified
    if not found.gains and not found.losses:
        return []
    gains, losses = (_span(d.ks, np.isin(ks, chosen)) for chosen in (found.gains, found.losses))
    text = f"{pair}, {coverage(level)} sure for all K at once: better at K = {gains or 'none'}; "
    text += f"worse at K = {losses or 'none'}"
    if found.first_loss is not None and found.losses:
        text += f"; the first loss lies in K = {found.first_loss[0]}–{found.first_loss[1]}"
    elif found.losses:
        text += "; where the first loss lies needs every K (--k all)"
    return [f"{text}."]


def _changes(d: Difference) -> list[Block]:
    """Says which problems one arm solved alone, and names the first of them."""
    found = d.changes
    if found is None:
        return []
    counts = (
        f"{found.by_both} by both, {len(found.by_arm)} by {d.arm} alone, {len(found.by_reference)} by {d.reference} "
    )
    counts += f"alone (exact McNemar p {p_value(found.solved_p)}), {found.by_neither} by neither"
    rates = f"{d.arm} is right more often on {found.better} and less often on {found.worse} (exact sign test, p "
    sentence = f"Problems solved: {counts}. {rates}{p_value(found.rate_p)}). Both tests are about these very models."
    rows = [
        [name, *(f"{p.problem}: {p.right} of {p.n}" for p in problems[:_NAMED]), *[""] * (_NAMED - len(problems))]
        for name, problems in ((d.arm, found.by_arm), (d.reference, found.by_reference))
        if problems
    ]
    header = ["solved alone by", *(f"{i}." for i in range(1, _NAMED + 1))]
    return [sentence, *_folded(f"Problems solved by {d.arm} or {d.reference} alone, the surest first", header, rows)]


def gate(c: Comparison, margin: float) -> str:
    """Says whether every arm is shown to be worse than the reference by less than the margin, and by which numbers."""
    where = "at every K" if c.differences[0].primary is None else "at the primary endpoint"
    ends = ", ".join(f"{d.arm} {d.least:+.3f}" for d in c.differences)
    passed = c.not_worse(margin)
    text = f"Gate {'passed' if passed else 'not passed'}: less than {margin:g} worse than {c.reference} {where} is "
    text += f"{'shown' if passed else 'not shown'} (lower ends: {ends})"
    if not passed and all(d.least > -margin for d in c.differences):
        text += f"; {c.problems} problems are too few for this margin"
    return f"{text}."


def _others(d: Difference, pair: str) -> list[Table]:
    ks = shown_ks(sorted({k for curve in d.others.values() for k in curve.ks}), FEW) if d.others else []
    rows = [[_title(c), *(_cell(c.ks, c.interval, k, "+") for k in ks)] for c in d.others.values()]
    return _folded(f"{pair}, other statistics; pointwise intervals", ["", *(f"K = {k}" for k in ks)], rows)


def _title(curve: Curve) -> str:
    """Returns the statistic's title, with the number in the place of n for one that is taken at n alone."""
    return curve.title.replace("@n", f"@{curve.ks[-1]}")


def _controlled(d: Difference, pair: str, control: str, unit: str) -> list[Table]:
    chosen = [row for row in d.length if row.control == control]
    header = [control, "K", d.reference, d.arm, "difference", "band over budgets", "problems", "effective n"]
    rows = [
        [
            "" if row.at is None else str(row.at),
            "" if row.k is None else str(row.k),
            number(row.reference_value),
            number(row.value),
            _change(row),
            "" if row.band_low is None else f"[{row.band_low:+.3f}, {row.band_high:+.3f}]",
            str(row.problems) if control == MATCHED else "",
            number(row.effective_n, 1),
        ]
        for row in chosen
    ]
    if control == MATCHED:  # no row has a length of its own
        header, rows, unit = header[1:], [row[1:] for row in rows], ""
    caption = f"{pair}, {CONTROLS[control]}{unit and f' ({unit})'}; pointwise intervals{_simulated(chosen)}"
    return _folded(caption, header, rows)


def _change(row: LengthDifference) -> str:
    return interval(row.difference, row.low, row.high, sign="+")


def matched(c: Comparison) -> list[Table]:
    """Makes the table of the differences at equal lengths, one row per arm; none where nothing could be matched."""
    cells = {(d.arm, row.k): _change(row) for d in c.differences for row in d.length if row.control == MATCHED}
    ks = sorted({k for _, k in cells if k is not None})
    rows = [[d.arm, *(cells.get((d.arm, k), "") for k in ks)] for d in c.differences] if ks else []
    caption = f"Minus {c.reference}, {CONTROLS[MATCHED]}; pointwise intervals"
    return filled(caption, ["arm", *(f"Pass@{k}" for k in ks)], rows)


# --------------------------------------------------------------------------------------------------------- conclusion


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
    return f"On {c.problems} problems, {'; '.join(phrases)}."


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
        found = f"{interval(mean, low, high, sign='+')}, p {endpoint.p:.2g}"
        if endpoint.p <= 1 - c.level:
            text = f"{d.arm} against {d.reference} is {'better' if mean > 0 else 'worse'} ({found}){_scope(d)}"
        else:
            text = f"{d.arm} against {d.reference} shows no difference that can be told from luck ({found})"
        phrases.append(text + (f", and is equivalent within ±{d.margin:g}" if endpoint.equivalent else ""))
    first = endpoints[0][1]
    name = f"Pass@{first.k}" if first.metric == "pass@k" else f"the mean of Pass@K over K = 1, 2, 4, ..., {first.k}"
    what = f"at the primary endpoint ({name}), the only one that is tested"
    return f"On {c.problems} problems, {what}, {'; '.join(phrases)}."


def _at(d: Difference, i: int) -> str:
    return f"Pass@{d.ks[i]} {at(d.band, i, '+')}"


def _leads(d: Difference, claimed: npt.NDArray[np.bool_]) -> str:
    """Says where the arm is better and where it is worse, each with the K of the smallest p."""
    phrases = []
    for word, where in (("better", claimed & (d.band.mean > 0)), ("worse", claimed & (d.band.mean < 0))):
        if where.any():
            surest = int(np.flatnonzero(where)[np.argmin(d.adjusted_p[where])])
            phrases.append(f"{word} at K = {_span(d.ks, where)} ({_at(d, surest)})")
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


def _span(ks: Sequence[int], chosen: npt.NDArray[np.bool_]) -> str:
    """Writes the chosen K as ranges of neighbours on the grid: `1–8, 32`."""
    runs: list[list[int]] = []
    for i in np.flatnonzero(chosen):
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(int(i))
        else:
            runs.append([int(i)])
    return ", ".join(str(ks[r[0]]) if len(r) == 1 else f"{ks[r[0]]}–{ks[r[-1]]}" for r in runs)


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
