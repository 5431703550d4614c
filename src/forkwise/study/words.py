"""A study in words: its plan, how far it is, and what it found, the registered comparison first.

The words stand here since `study` is above `report`, which knows no studies: they use its tables and formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forkwise.passk.design import FEWEST_PAIRS, FEWEST_RUNS
from forkwise.passk.estimator import shown_ks
from forkwise.passk.one_more import HeldAgainst
from forkwise.report.formats import count, coverage, interval, number, p_value
from forkwise.report.passk import FEW, overview
from forkwise.report.passk_conclusion import conclusion
from forkwise.report.table import Block, Table, filled
from forkwise.study.analysis import Blinded, Progress, Reading, Result
from forkwise.study.contrasts import SeedContrast, endpoint_name
from forkwise.study.receipts import LAST, TEXTS, Receipt
from forkwise.study.spec import BASE, Study
from forkwise.study.spending import boundary
from forkwise.terminal import counted

_LOGGED = {
    "reward": "reward",
    "entropy (nats)": "entropy",
    "psi/abs(A)": "shaping/psi_over_adv",
    "at the cap": "shaping/capped_frac",
    "clipped low": "clip_ratio/low_mean",
    "clipped high": "clip_ratio/high_mean",
}
_LINE = 100  # characters
_MEASURES = ("distinct-3", "self-BLEU", "distinct correct texts")


def design(study: Study) -> list[Block]:
    """Says what a study is, and what it can claim at all."""
    e, trained, yardstick = study.evaluation, len(study.runs()) - 1, study.yardstick
    samples = e.problems * e.n * (trained + e.base)
    rows = [
        *(["" if i else "arms", line] for i, line in enumerate(_lines([arm.name for arm in study.arms]))),
        ["seeds of every arm", f"{len(study.seeds)} ({_listed(study.seeds)})"],
        *([] if yardstick is None else [[f"further seeds of {study.arms[0].name}", _listed(yardstick.seeds)]]),
        ["training runs", f"{count(trained)}, each of {counted(study.steps, 'step')}"],
        [
            "evaluated on",
            f"{e.task or e.dataset or study.task}, {e.split}: {_problems(study)} x {count(e.n)} samples",
        ],
        ["samples in all", count(samples)],
        ["plan", study.sha256()[:16]],
    ]
    blocks: list[Block] = [Table(study.title, ["", ""], rows)]
    if study.primary is not None:
        blocks += [*_tested(study)]
    elif yardstick is not None:
        blocks.append(
            f"Tested: whether the run of each arm could be one more run of {study.arms[0].name}, at "
            f"{endpoint_name(yardstick.endpoint, e.n)}, by {1 + len(yardstick.seeds)} of its runs and over all arms at "
            "once (Dunnett). All else that comes of it is exploratory."
        )
    elif study.pilot:
        blocks.append("A pilot: it measures what a study is planned from, and compares nothing.")
    else:
        why = "no comparison is named to be tested"
        if len(study.seeds) < FEWEST_RUNS:
            why = f"fewer than {FEWEST_RUNS} seeds say nothing about other trainings"
        elif len(study.seeds) < FEWEST_PAIRS:
            why = f"it tests nothing, which takes {FEWEST_PAIRS} seeds, and it cannot show anything"
        blocks.append(f"Everything that comes of it is exploratory: {why}.")
    return blocks


def _problems(study: Study) -> str:
    e = study.evaluation
    start = f" from place {count(e.first_problem)} on" if e.first_problem else ""
    return f"{counted(e.problems, 'problem')}{start}"


def _lines(names: Sequence[str]) -> list[str]:
    """Lists names in lines that no table cuts, broken between names."""
    lines = [""]
    for name, last in zip(names, [*[", "] * (len(names) - 1), ""], strict=True):
        if len(lines[-1]) + len(name) > _LINE and lines[-1]:
            lines.append("")
        lines[-1] += name + last
    return [line.strip() for line in lines]


def _listed(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _tested(study: Study) -> list[Block]:
    primary = study.primary
    assert primary is not None
    name = endpoint_name(primary.endpoint, study.evaluation.n)
    pair = f"{study.tested.name} minus {study.arms[0].name}"
    text = f"Tested: {pair}, {name}; within ±{primary.margin:g} they are equivalent."
    if primary.gate is not None:
        text += f" If that is shown: {study.tested.name} minus {study.arm(primary.gate).name}."
    rows = [[f"{seeds} seeds", f"p < {boundary(study, seeds):.4f}"] for seeds in (*study.looks, len(study.seeds))]
    return [text, *filled("When a difference is shown", ["", "if"], rows if study.looks else [])]


def how_far(progress: Progress) -> str:
    """Says how many runs there are; nothing is left out of the count."""
    text = f"{count(progress.finished)} of {count(progress.runs)} runs have a receipt"
    facts = [f"{len(progress.collapsed)} collapsed ({', '.join(progress.collapsed)})" if progress.collapsed else ""]
    facts += [f"{progress.restarts} were started again" if progress.restarts else ""]
    facts += [f"{len(progress.started)} more were started" if progress.started else ""]
    listed = "; ".join(filter(None, facts))
    return f"{text}; {listed}." if listed else f"{text}."


def findings(study: Study, result: Result, registered: str | None) -> list[Block]:
    """Says what a study found: the registered comparison first, and the rest as exploratory."""
    blocks: list[Block] = [how_far(result.progress)]
    if result.ending is not None:
        blocks.append(result.ending.sentence())
    for look in result.otherwise:
        blocks.append(
            f"The record of the look after {look} seeds says otherwise than the receipts that are here: they were "
            "changed after it, or another version of forkwise made it. The record counts."
        )
    if study.yardstick is not None:
        blocks += _single(study, result.single, registered)
    elif study.primary is None:
        why = "a pilot compares nothing" if study.pilot else "nothing was named to be tested"
        blocks.append(f"Nothing here is confirmed: {why}.")
    elif result.primary is None:
        ahead = next((n for n in (*study.looks, len(study.seeds)) if n > len(result.progress.seeds)), len(study.seeds))
        blocks.append(
            f"{len(result.progress.seeds)} seeds are there in all arms; the arms are compared when there are {ahead}, "
            "as planned, and not before."
        )
    else:
        blocks += _primary(study, result, registered)
    blocks += _facts(result.blinded)
    return blocks


def _single(study: Study, single: HeldAgainst | None, registered: str | None) -> list[Block]:
    assert study.yardstick is not None
    reference, endpoint = study.arms[0].name, endpoint_name(study.yardstick.endpoint, study.evaluation.n)
    if single is None:
        return [f"The arms are held against the runs of {reference} when all {len(study.reference_runs())} are there."]
    if not single.rows:
        return [f"The {counted(single.runs, 'run')} of {reference} are there, and no arm's run yet."]
    head = f"Registered {registered}" if registered else "Not registered, so exploratory"
    shown = [row for row in single.rows if row.p < 1 - single.level]
    which = ", ".join(f"{row.arm} ({number(row.difference, sign='+')}, p {p_value(row.p)})" for row in shown)
    differ = "differ" if len(shown) > 1 else "differs"
    text = f"{head}: at {endpoint} {which or 'no arm'} {differ} from {reference} by more than one more run of it would"
    missing = single.arms - len(single.rows)
    text += f". The runs of {counted(missing, 'arm')} are missing; p is over all {single.arms}" if missing else ""
    estimated = interval(single.found, single.found_low, single.found_high)
    wide = coverage(single.level)
    blocks: list[Block] = [
        f"{text}.",
        f"{counted(single.runs, 'run')} of {reference}: {number(single.mean)} ± {number(single.sd, 4)} (SD over runs). "
        f"With {single.power:.0%} power a true difference of {estimated} is found [by the {wide} interval of that SD], "
        "if the runs of the arm differ as much; what is smaller is neither shown nor excluded. Other problems than "
        "these are not asked about.",
    ]
    rows = [
        [row.arm, interval(row.difference, row.low, row.high, sign="+"), p_value(row.p), number(single.found)]
        for row in sorted(single.rows, key=lambda row: -row.difference)
    ]
    caption = f"{endpoint}: one run of each arm minus the mean of {reference}'s; p and {wide} intervals over all arms"
    header = ["arm", "difference [interval]", "p", f"found with {single.power:.0%} power from"]
    return [*blocks, *filled(caption, header, rows)]


def _primary(study: Study, result: Result, registered: str | None) -> list[Block]:
    primary, named = result.primary, study.primary
    assert primary is not None
    assert named is not None
    head = f"Registered {registered}" if registered else "Not registered, so exploratory too"
    if result.early:
        head = "Read at a time that was not planned, so exploratory"
    text = f"{head}: {_difference(primary)}"
    if result.shown:
        text += f", is shown (p < {result.shown_below:.4f})"
    elif result.shown_below:
        text += f", is not shown (p would have to be below {result.shown_below:.4f})"
    if primary.equivalent(named.margin):
        text += f"; the two are equivalent within ±{named.margin:g}"
    text += f". It is over {primary.seeds} paired seeds and problems like these."
    if study.looks:
        text += f" The interval is the plain {coverage(named.level)} one, not adjusted for looks; the bound of p is."
    blocks: list[Block] = [text]
    if result.gate is not None:
        outcome = "is shown too" if result.gate.p < result.shown_below else "is not shown"
        blocks.append(f"The gate: {_difference(result.gate)}, {outcome}.")
    elif named.gate is not None:
        gate = study.arm(named.gate).name
        blocks.append(f"{study.tested.name} minus {gate} is not tested, since the primary difference is not shown.")
    rows = [[c.endpoint, interval(c.mean, c.low, c.high, sign="+"), p_value(c.p)] for c in result.secondary]
    caption = f"Secondary: {primary.arm} minus {primary.reference}; p by Holm's method"
    if result.shown_below:
        caption += f", to be held against {result.shown_below:.4f} like that of the primary one"
    return [*blocks, *filled(caption, ["", f"difference [{coverage(named.level)} interval]", "adjusted p"], rows)]


def _difference(c: SeedContrast) -> str:
    text = f"{c.arm} minus {c.reference}, {c.endpoint}, {interval(c.mean, c.low, c.high, digits=4, sign='+')}"
    return f"{text}, p {p_value(c.p)}"


def _facts(facts: Sequence[Blinded]) -> list[Table]:
    rows = [
        [f.endpoint, number(f.mean), number(f.gain, sign="+"), number(f.run_sd, 4), number(f.rho, 2, "+")]
        for f in facts
    ]
    caption = "All arms together: what the next study can be planned from"
    return filled(caption, ["", "mean", "gain over base", "SD over seeds", "correlation of paired seeds"], rows)


def exploratory(study: Study, result: Result, receipts: Mapping[str, Receipt]) -> list[Block]:
    """Shows everything that was not registered; nothing of it is confirmed."""
    if result.exploratory is None:
        return []
    evaluations = [*([] if result.base is None else [result.base]), *result.exploratory.arms]
    sentence = conclusion(evaluations, result.exploratory)
    return [
        f"Exploratory: {sentence}",
        *overview(evaluations, result.exploratory, FEW),
        *_spread(result),
        *_within(result),
        *beside(study, result.seeds, receipts),
    ]


def _spread(result: Result) -> list[Table]:
    """Makes the table of how much the runs of each arm differ."""
    if not result.spread:
        return []
    ks = shown_ks(result.spread[0].ks, FEW)
    rows = []
    for s in result.spread:
        places = [s.ks.index(k) for k in ks]
        rows.append([s.arm, *(f"{number(s.mean[i])} ± {number(s.sd[i], 4)}" for i in places)])
    caption = f"Pass@K of the {len(result.seeds)} runs of each arm, over all problems: mean ± SD over runs"
    return filled(caption, ["arm", *(f"Pass@{k}" for k in ks)], rows)


def _within(result: Result) -> list[Table]:
    """Makes the table of what a budget of tokens buys."""
    rows = []
    for w in result.within:
        rows.append([w.arm, *map(number, w.value)])
        if w.difference is not None and w.low is not None and w.high is not None:
            bounds = zip(w.difference, w.low, w.high, strict=True)
            rows.append([f"{w.arm} − {result.within[0].arm}", *(interval(*b, sign="+") for b in bounds)])
    caption = "Pass within a budget of tokens per problem, by mean lengths of samples [band over all budgets and arms]"
    header = ["arm", *(f"{count(budget)} tokens" for budget in (result.within[0].budgets if result.within else []))]
    return filled(caption, header, rows)


def beside(study: Study, seeds: Sequence[int], receipts: Mapping[str, Receipt]) -> list[Table]:
    """Makes the table of training, lengths, diversity and cost, per arm over its seeds."""
    runs = {BASE: [BASE]} | {arm.name: [arm.run(seed) for seed in seeds] for arm in study.arms}
    if study.yardstick is not None:
        runs[study.arms[0].name] = study.reference_runs()
    rows = []
    for name, names in runs.items():
        of_arm = [receipts[run] for run in names if run in receipts]
        if not of_arm:
            continue
        row = [name, *(_over([r.training.get(key) for r in of_arm]) for key in _LOGGED.values())]
        row.append(_over([_shift(r.training) for r in of_arm]))
        row.append(_over([None if r.tokens is None else sum(r.tokens) / len(r.tokens) for r in of_arm], 1))
        row += [_over([r.diversity.get(measure) for r in of_arm]) for measure in _MEASURES]
        row.append(_over([_millions(r.training) for r in of_arm], 2))
        row.append(_over([sum(r.seconds.values()) / 60 for r in of_arm], 1))
        rows.append(row)
    caption = (
        f"Training (mean of the last {LAST} logged steps, of clipping over all, ± SD over seeds), samples (diversity "
        f"of the first {TEXTS} per problem), millions of tokens trained on, and minutes of a run with its samples"
    )
    header = ["arm", *_LOGGED, "dA/abs(A)", "tokens per sample", *_MEASURES, "M tokens", "minutes"]
    return filled(caption, header, rows)


def _shift(training: Mapping[str, float]) -> float | None:
    shifts = [value for key, value in training.items() if key.startswith("method/") and key.endswith("/shift")]
    return sum(shifts) if shifts else None


def _millions(training: Mapping[str, float]) -> float | None:
    return training["num_tokens"] / 1e6 if "num_tokens" in training else None


def _over(values: Sequence[float | None], digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = sum(known) / len(known)
    if len(known) == 1:
        return number(mean, digits)
    spread = (sum((value - mean) ** 2 for value in known) / (len(known) - 1)) ** 0.5
    return f"{number(mean, digits)} ± {number(spread, digits)}"


def report(study: Study, receipts: Mapping[str, Receipt], reading: Reading) -> list[Block]:
    """Says all that `forkwise study analyse` prints."""
    return [
        *findings(study, reading.result, reading.registered),
        *exploratory(study, reading.result, receipts),
    ]


def cost(study: Study, minutes_per_run: float, minutes_per_100k: float) -> list[str]:
    """Says what a study takes; empty where nothing is known of its cost."""
    if not minutes_per_run and not minutes_per_100k:
        return []
    e, runs = study.evaluation, len(study.runs()) - 1
    training = runs * minutes_per_run / 60
    sampling = (runs + e.base) * e.problems * e.n / 100_000 * minutes_per_100k / 60
    return [f"It takes {training + sampling:.1f} hours: {training:.1f} of training and {sampling:.1f} of sampling."]
