"""The tables of a report, as text cells; the page and the text summary show the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forkwise.explore.results import Behaviour, Contrast, Estimate, RunExploration
from forkwise.passk import Interval
from forkwise.passk.estimator import k_grid
from forkwise.passk.length import BUDGET, CAP, MATCHED
from forkwise.report.content import Content
from forkwise.terminal import one_line

_FORKS = 20
_ENTRIES = 25


@dataclass(frozen=True)
class Table:
    """Cells of text; the first column names the row."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = False
    """Shown on demand: too long for most readers."""


def summary_tables(content: Content) -> list[Table]:
    """Pass@K of every arm at a few k, and the paired differences."""
    if not content.evaluations:
        return []
    ks = content.evaluations[0].ks
    wanted = [k for k in (1, 4, 16, 64) if k < ks[-1]] + [ks[-1]]
    unit = content.evaluations[0].length_unit
    rows = []
    for e in content.evaluations:
        places = [e.ks.index(k) if k in e.ks else None for k in wanted]
        cells = ["" if i is None else _at(e.pass_at_k, i) for i in places]
        rows.append([e.arm, *cells, "" if e.mean_length is None else f"{e.mean_length:.1f}"])
    for d in content.comparison.differences if content.comparison else ():
        places = [d.ks.index(k) if k in d.ks else None for k in wanted]
        rows.append([f"{d.arm} − {d.reference}", *("" if i is None else _at(d.interval, i, "+") for i in places), ""])
        rows.append(["  adjusted p, problems", *("" if i is None else p_text(d.adjusted_p[i]) for i in places), ""])
        if d.run_p is not None:
            rows.append(["  adjusted p, runs", *("" if i is None else p_text(d.run_p[i]) for i in places), ""])
    level = f"{content.evaluations[0].pass_at_k.level:.0%}"
    caption = f"Pass@K, mean [{level} interval over problems]; differences are paired by problem"
    return [Table(caption, ["", *(f"Pass@{k}" for k in wanted), f"mean {unit}"], rows)]


def passk_tables(content: Content) -> list[Table]:
    """Every number of the curves and of the length controls; folded."""
    tables = []
    for e in content.evaluations:
        shown = [i for i, k in enumerate(e.ks) if len(e.ks) <= 12 or k in k_grid(e.ks[-1])]
        columns = {"Pass@K": "pass@k", "Pass^K (all K right)": "pass^k"}
        curves = {name: e.curves[key] for name, key in columns.items() if key in e.curves}
        rows = []
        for i in shown:
            cells = [_at(c.interval, c.ks.index(e.ks[i])) if e.ks[i] in c.ks else "" for c in curves.values()]
            rows.append([str(e.ks[i]), *cells])
        tables.append(Table(f"{e.arm}, {e.problems} problems", ["K", *curves], rows, folded=True))
    for d in content.comparison.differences if content.comparison else ():
        for control, title in (
            (CAP, "longer than the cap is wrong"),
            (BUDGET, "equal budget per problem"),
            (MATCHED, f"{d.arm} and {d.reference} at equal lengths: each at its own and at the other's, averaged"),
        ):
            rows = [
                [
                    "" if r.at is None else str(r.at),
                    "" if r.k is None else str(r.k),
                    f"{r.reference_value:.3f}",
                    f"{r.value:.3f}",
                    _cell(r.difference, r.low, r.high, "+"),
                    str(r.problems),
                ]
                for r in d.length
                if r.control == control
            ]
            if rows:
                header = [control if control != MATCHED else "", "K", d.reference, d.arm, "difference", "problems"]
                tables.append(Table(f"{d.arm} − {d.reference}: {title}", header, rows, folded=True))
    return tables


def entropy_tables(content: Content) -> list[Table]:
    """How much entropy the tokens of each arm have, and the types of tokens where an exploration says so."""
    rows = [
        [name, f"{d.tokens:,}", f"{d.mean:.3f}", f"{d.threshold:.3f}", d.source]
        for name, d in content.distributions.items()
    ]
    tables = [Table("Token entropy, nats", ["", "tokens", "mean", "high from", "how it was got"], rows)] if rows else []
    types = [
        [run.run, t.name, f"{t.tokens:,}", f"{t.mean:.3f}", f"{t.high_share:.1%}"]
        for run in content.explored()
        if run.entropy is not None
        for t in run.entropy.types
    ]
    if types:
        header = ["", "type", "tokens", "mean entropy", "high-entropy share"]
        tables.append(Table("By type of token", header, types, folded=True))
    return tables


def behaviour_tables(content: Content) -> list[Table]:
    """Counts, contrasts with their nulls, lexicon entries, rare sentences, input dependence, and the series."""
    runs = content.explored()
    tables = []
    counts = [
        [
            run.run,
            b.name,
            f"{b.count:,}",
            f"{b.count / b.total:.1%}" if b.total else "",
            f"{b.per_response:.2f}",
            f"{b.per_1000_words:.1f}",
            "" if b.mean_entropy is None else f"{b.mean_entropy:.3f}",
        ]
        for run in runs
        for b in run.behaviours
    ]
    if counts:
        header = ["", "behaviour", "found", "of its units", "per response", "per 1,000 words", "mean entropy"]
        tables.append(Table("How often", header, counts))
    contrasts = [_contrast_row(run, b, c) for run in runs for b in run.behaviours for c in b.contrasts]
    if contrasts:
        header = [
            "",
            "behaviour",
            "against",
            "difference, nats",
            "AUC",
            "null: shifted within traces",
            "p",
            "supported",
            "problems",
        ]
        caption = "Entropy of marked units against others; matched: of the same stratum"
        tables.append(Table(caption, header, contrasts))
    return [*tables, *(table for run in runs for table in _run_tables(run)), *_series(content)]


def _contrast_row(run: RunExploration, b: Behaviour, c: Contrast) -> list[str]:
    null = "" if c.null is None else f"{c.null.mean:+.3f} [{c.null.low:+.3f}, {c.null.high:+.3f}]"
    p = "" if c.null is None else p_text(c.null.p)
    support = f"{c.supported:.0%}"
    difference = estimate(c.difference, "+")
    if c.identified is not None:
        difference += f", surely within [{c.identified[0]:+.3f}, {c.identified[1]:+.3f}]"
    return [run.run, b.name, c.version, difference, estimate(c.auc), null, p, support, str(c.problems)]


def _run_tables(run: RunExploration) -> list[Table]:
    tables = []
    entries = [
        [
            e.entry,
            e.group,
            f"{e.count:,}",
            str(e.problems),
            "" if e.mean_entropy is None else f"{e.mean_entropy:.3f}",
            estimate(e.difference, "+"),
            estimate(e.matched_difference, "+"),
            "" if e.q is None else p_text(e.q),
        ]
        for e in run.entries[:_ENTRIES]
    ]
    if entries:
        header = ["", "group", "found", "problems", "mean entropy", "difference", "matched difference", "q (BH)"]
        caption = f"{run.run}: entries of the lexicon, {len(entries)} of {len(run.entries)}, most frequent first"
        tables.append(Table(caption, header, entries, folded=True))
    if run.rarity is not None:
        r = run.rarity
        rare = [
            [
                g.definition,
                str(g.sentences),
                estimate(g.share),
                f"{g.mean_words:.1f} / {g.rest_mean_words:.1f}",
                *map(estimate, (g.reflective, g.rest_reflective, g.pivotal, g.rest_pivotal)),
            ]
            for g in r.groups
        ]
        caption = (
            f"{run.run}: rare sentences of {r.distinct:,} distinct ones, by mean distance to the {r.k} nearest of "
            f"{r.reference:,} base sentences; base against base is the null. Distance is of style as well as strategy"
        )
        header = [
            "rare is",
            "sentences",
            "share",
            "words, rare / rest",
            "reflective: rare",
            "rest",
            "pivotal: rare",
            "rest",
        ]
        tables.append(Table(caption, header, rare))
        farthest = [[str(i), one_line(text, 160)] for i, text in enumerate(r.farthest, 1)]
        tables.append(Table(f"{run.run}: the rarest sentences", ["", "sentence"], farthest, folded=True))
    for b in run.behaviours:
        if b.examples:
            examples = [[str(i), one_line(text, 160)] for i, text in enumerate(b.examples, 1)]
            tables.append(Table(f"{run.run}: examples, {b.name}", ["", "text"], examples, folded=True))
    if run.dependence:
        rows = []
        for d in run.dependence:
            best = d.retrieval[0] if d.retrieval else None
            said = estimate(d.information) + (", saturated" if d.saturated else "")
            rows.append(
                [
                    d.method,
                    f"{d.prompts} / {d.responses:,}",
                    said,
                    f"{d.ceiling:.3f}",
                    p_text(d.p),
                    "" if best is None else estimate(best.accuracy),
                    "" if best is None else f"{best.chance:.3f}",
                    p_text(d.retrieval_p),
                ]
            )
        header = ["by", "prompts / responses", "information, nats", "at most (log N)", "p"]
        header += ["own prompt fits best", "chance", "p"]
        tables.append(Table(f"{run.run}: do responses depend on their prompts", header, rows))
    return tables


def _series(content: Content) -> list[Table]:
    rows = [
        [
            one_line(c.run, 50),
            "" if c.step is None else str(c.step),
            "" if c.accuracy is None else f"{c.accuracy:.3f}",
            f"{c.mean_length:.1f}",
            "" if c.mean_entropy is None else f"{c.mean_entropy:.3f}",
            f"{c.pivotal_per_response:.2f}",
            "" if c.pivotal_entropy is None else f"{c.pivotal_entropy:.3f}",
            f"{c.reflective_per_response:.2f}",
            "" if c.reflective_entropy is None else f"{c.reflective_entropy:.3f}",
            f"{c.repetition:.3f}",
        ]
        for exploration in content.explorations
        for c in exploration.series
    ]
    header = ["", "step", "accuracy", "length", "entropy", "pivotal / response", "their entropy"]
    header += ["reflective / response", "their entropy", "repeated 4-grams"]
    return [Table("Run by run", header, rows)] if len(rows) > 1 else []


def fork_tables(content: Content) -> list[Table]:
    """The tokens that are most often of high entropy, per run."""
    tables = []
    for run in content.explored():
        if run.entropy is None or not run.entropy.forks:
            continue
        rows = [
            [
                one_line(f.token, 30),
                f"{f.high:,}",
                f"{f.count:,}",
                f"{f.high / f.count:.0%}",
                f"{f.mean_entropy:.3f}",
                "pivotal" if f.pivotal else "",
            ]
            for f in run.entropy.forks[:_FORKS]
        ]
        caption = (
            f"{run.run}: tokens most often above {run.entropy.threshold:.3f} nats, the {run.entropy.quantile:.0%} "
            "quantile of all its tokens"
        )
        header = ["token", "times high", "times", "share", "mean entropy", "mostly"]
        tables.append(Table(caption, header, rows))
    return tables


def training_table(content: Content, last: int = 5) -> list[Table]:
    """Where training ended: means over the last logged steps and the seeds."""
    keys = {
        "reward": "reward",
        "entropy (nats)": "entropy",
        "length": "completions/mean_length",
        "at the cap": "shaping/capped_frac",
    }
    rows = []
    for name, runs in content.training.items():
        cells = []
        for key in keys.values():
            values = [[row[key] for row in run if isinstance(row.get(key), (int, float))][-last:] for run in runs]
            cells.append(f"{np.mean([np.mean(v) for v in values]):.3f}" if all(values) else "")
        steps = max((run[-1]["step"] for run in runs if run), default=0)
        rows.append([name, str(len(runs)), str(steps), *cells])
    header = ["", "runs", "step", *keys]
    return [Table(f"Training, mean of the last {last} logged steps", header, rows)] if rows else []


def estimate(value: Estimate, sign: str = "") -> str:
    """A number with its interval, as far as there is one."""
    if value.value is None:
        return ""
    if value.low is None or value.high is None:
        return f"{value.value:{sign}.3f}"
    return _cell(value.value, value.low, value.high, sign)


def p_text(p: float) -> str:
    """A p-value with as many digits as mean something."""
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _cell(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _at(interval: Interval, i: int, sign: str = "") -> str:
    return _cell(float(interval.mean[i]), float(interval.low[i]), float(interval.high[i]), sign)
