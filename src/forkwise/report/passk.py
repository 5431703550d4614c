"""Pass@K in tables: what an evaluation and a comparison say, for every sink; `passk_conclusion` has the sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from forkwise.passk import Comparison, Difference, Evaluation, Interval
from forkwise.passk.estimator import shown_ks
from forkwise.passk.length import BUDGET, CAP, MATCHED
from forkwise.passk.notes import Note
from forkwise.passk.results import Curve, LengthDifference, LengthRow
from forkwise.report.benchmarks import by_scorio, on_benchmarks
from forkwise.report.formats import at, bounds, count, coverage, interval, number, p_value, share, spans
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
    if comparison is not None and comparison.benchmarks is not None:
        caption = f"Pass@K, mean over {len(comparison.benchmarks.names)} benchmarks [{level} t interval over problems]"
    if differences:
        caption += f"; differences are paired by problem [{level} band over all K and arms]"
    return filled(caption, ["", *(f"Pass@{k}" for k in ks), f"mean {evaluation.length_unit}"], rows)


def details(evaluations: Sequence[Evaluation], comparison: Comparison | None = None) -> list[Block]:
    """Makes every other table; they are long, hence folded."""
    blocks = [block for e in evaluations for block in _evaluation(e)]
    if comparison is not None:
        blocks += [table for d in comparison.differences for table in _difference(d, comparison)]
        blocks += [*on_benchmarks(comparison), *by_scorio(comparison)]
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
    first, *others = curves.items()
    curves = dict([first, (f"{first[0]}, these problems", (e.ks, e.same_problems)), *others])
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
    certified = d.certified
    if not certified.gains and not certified.losses:
        return []
    gains, losses = (spans(d.ks, np.isin(ks, chosen)) for chosen in (certified.gains, certified.losses))
    text = f"{pair}, {coverage(level)} sure for all K at once: better at K = {gains or 'none'}; "
    text += f"worse at K = {losses or 'none'}"
    if certified.first_loss is not None and certified.losses:
        text += f"; the first loss lies in K = {certified.first_loss[0]}–{certified.first_loss[1]}"
    elif certified.losses:
        text += "; where the first loss lies needs every K (--k all)"
    return [f"{text}."]


def _changes(d: Difference) -> list[Block]:
    """Says which problems one arm solved alone, and names the first of them."""
    changes = d.changes
    if changes is None:
        return []
    solved = f"{changes.by_both} by both, {len(changes.by_arm)} by {d.arm} alone, {len(changes.by_reference)} by "
    solved += f"{d.reference} alone (exact McNemar p {p_value(changes.solved_p)}), {changes.by_neither} by neither"
    rates = f"{d.arm} is right more often on {changes.better} and less often on {changes.worse} (exact sign test, p "
    sentence = f"Problems solved: {solved}. {rates}{p_value(changes.rate_p)}). Both tests are about these very models."
    rows = [
        [name, *(f"{p.problem}: {p.right} of {p.n}" for p in problems[:_NAMED]), *[""] * (_NAMED - len(problems))]
        for name, problems in ((d.arm, changes.by_arm), (d.reference, changes.by_reference))
        if problems
    ]
    header = ["solved alone by", *(f"{i}." for i in range(1, _NAMED + 1))]
    return [sentence, *_folded(f"Problems solved by {d.arm} or {d.reference} alone, the surest first", header, rows)]


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
            bounds(row.band_low, row.band_high, sign="+"),
            str(row.problems) if control == MATCHED else "",
            number(row.effective_n, 1),
        ]
        for row in chosen
    ]
    if control == MATCHED:  # no row has a length of its own
        header, rows, unit = header[1:], [row[1:] for row in rows], ""
    caption = f"{pair}, {CONTROLS[control]}{unit and f' ({unit})'}; pointwise intervals{_simulated(chosen)}"
    return filled(caption, header, rows, folded=True, labels=1 if control == MATCHED else 2)


def _change(row: LengthDifference) -> str:
    return interval(row.difference, row.low, row.high, sign="+")


def matched(c: Comparison) -> list[Table]:
    """Makes the table of the differences at equal lengths, one row per arm; none where nothing could be matched."""
    cells = {(d.arm, row.k): _change(row) for d in c.differences for row in d.length if row.control == MATCHED}
    ks = sorted({k for _, k in cells if k is not None})
    rows = [[d.arm, *(cells.get((d.arm, k), "") for k in ks)] for d in c.differences] if ks else []
    caption = f"Minus {c.reference}, {CONTROLS[MATCHED]}; pointwise intervals"
    return filled(caption, ["arm", *(f"Pass@{k}" for k in ks)], rows)
