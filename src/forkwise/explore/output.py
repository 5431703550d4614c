"""Terminal tables of an exploration."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from forkwise.explore.results import (
    Behaviour,
    Checkpoint,
    Contrast,
    Dependence,
    EntropySummary,
    Entry,
    Estimate,
    Exploration,
    Rarity,
    RunExploration,
)
from forkwise.progress import Console

_ENTRIES, _FORKS, _FARTHEST = 15, 15, 8


def _number(value: float | None, digits: int = 3, sign: str = "") -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}"


def _estimate(estimate: Estimate, digits: int = 3, sign: str = "") -> str:
    text = _number(estimate.value, digits, sign)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{_number(estimate.low, digits, sign)}, {_number(estimate.high, digits, sign)}]"


def _share(estimate: Estimate) -> str:
    scaled = [None if v is None else 100 * v for v in (estimate.value, estimate.low, estimate.high)]
    return _estimate(Estimate(*scaled), 1)


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    table = Table()
    for i, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(_printable(cell)) for cell in row))
    console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
    console.print(table)


def _printable(text: str) -> str:
    """Model text without what would move the cursor or turn the line around."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def print_exploration(exploration: Exploration, console: Console) -> None:
    """The tables of `forkwise explore`."""
    for run in exploration.runs:
        _print_run(run, console)
    if len(exploration.series) > 1:
        _print_series(exploration.series, console)
    for note in exploration.notes:
        console.print(escape(f"- {note}"), soft_wrap=True)


def _print_run(run: RunExploration, console: Console) -> None:
    console.print(
        f"\n[bold]{escape(run.run)}[/bold]: {run.samples:,} samples of {run.problems:,} problems, {run.words:,} words, "
        f"{run.sentences:,} sentences",
        soft_wrap=True,
    )
    if run.entropy:
        _print_entropy(run.entropy, console)
    _print_behaviours(run.behaviours, console)
    _print_entries(run.entries, console)
    if run.rarity:
        _print_rarity(run.rarity, console)
    _print_dependence(run.dependence, console)
    for note in run.notes:
        console.print(escape(f"- {note}"), soft_wrap=True)


def _print_entropy(entropy: EntropySummary, console: Console) -> None:
    said = {"stored": "as sampled", "model": "teacher-forced", "top-k": "lower bounds from top-k log-probs"}
    parts = [f"{entropy.tokens:,} tokens, {said[entropy.source]}; mean entropy {_estimate(entropy.mean)} nats"]
    if entropy.upper_mean is not None:
        parts.append(
            f"at most {entropy.upper_mean:.3f} with {entropy.vocabulary:,} tokens in the vocabulary "
            f"({entropy.vocabulary_source})"
        )
    parts.append(
        f"high-entropy: above {entropy.threshold:.3f}, the {100 * entropy.quantile:g} % quantile of all tokens"
    )
    console.print(escape("; ".join(parts) + "."), soft_wrap=True)
    rows = [[t.name, f"{t.tokens:,}", _number(t.mean), f"{100 * t.high_share:.1f}"] for t in entropy.types]
    _table(console, "Entropy by type of token", ["type", "tokens", "mean (nats)", "high %"], rows)
    profile = [
        [_distance(p.start, p.end), f"{p.tokens:,}", _estimate(Estimate(p.mean, p.low, p.high))]
        for p in entropy.sentence_profile
    ]
    _table(
        console, "Entropy by distance from the sentence's start", ["tokens before", "tokens", "mean (nats)"], profile
    )
    forks = [
        [f.token, f"{f.count:,}", f"{f.high:,}", _number(f.mean_entropy), "yes" if f.pivotal else ""]
        for f in entropy.forks[:_FORKS]
    ]
    _table(
        console,
        "Fork tokens: most often above the threshold",
        ["token", "count", "high", "mean (nats)", "pivotal"],
        forks,
    )


def _distance(start: float, end: float) -> str:
    return f"{start:g}" if end == start + 1 else f"{start:g}–{end - 1:g}" if end < 1 << 30 else f"{start:g} and more"


def _print_behaviours(behaviours: Sequence[Behaviour], console: Console) -> None:
    rows = [
        [
            b.name,
            f"{b.count:,}",
            _number(b.per_response, 2),
            _number(b.per_1000_words, 2),
            f"{100 * b.count / max(b.total, 1):.1f}",
        ]
        for b in behaviours
    ]
    columns = ["behaviour", "count", "per response", "per 1,000 words", "% of words or sentences"]
    _table(console, "Behaviours", columns, rows)
    contrasts = [_contrast_row(b.name, c) for b in behaviours for c in b.contrasts]
    columns = ["entropy of", "version", "marked", "others", "with match %", "difference (nats)", "AUC", "null", "p"]
    _table(
        console, "Marked against other units; mean [interval over problems]; null by circular shift", columns, contrasts
    )
    for b in behaviours:
        for c in b.contrasts:
            if c.identified is not None:
                low, high = c.identified
                console.print(
                    f"- {b.name}, {c.version}: whatever the unseen tails, the difference lies in "
                    f"[{low:+.3f}, {high:+.3f}].",
                    soft_wrap=True,
                )


def _contrast_row(name: str, c: Contrast) -> list[str]:
    null = f"{c.null.mean:+.3f} [{c.null.low:+.3f}, {c.null.high:+.3f}]" if c.null else ""
    return [
        name,
        c.version,
        f"{c.marked:,}",
        f"{c.others:,}",
        f"{100 * c.supported:.1f}",
        _estimate(c.difference, sign="+"),
        _estimate(c.auc),
        null,
        _p(c.null.p if c.null else None),
    ]


def _print_entries(entries: Sequence[Entry], console: Console) -> None:
    if any(e.difference.value is not None for e in entries):
        rows = [
            [
                e.entry,
                e.group,
                f"{e.count:,}",
                str(e.problems),
                _number(e.mean_entropy),
                _estimate(e.difference, sign="+"),
                _estimate(e.matched_difference, sign="+"),
                _number(_hundred(e.supported), 1),
                _p(e.q),
            ]
            for e in entries[:_ENTRIES]
        ]
        columns = ["entry", "group", "count", "problems", "mean (nats)", "difference"]
        columns += ["matched difference", "with match %", "q (BH)"]
    else:
        rows = [[e.entry, e.group, f"{e.count:,}", str(e.problems)] for e in entries[:_ENTRIES]]
        columns = ["entry", "group", "count", "problems"]
    more = f" ({_ENTRIES} of {len(entries)})" if len(entries) > _ENTRIES else ""
    _table(console, f"Entries of the lexicon, most frequent first{more}", columns, rows)


def _print_rarity(r: Rarity, console: Console) -> None:
    console.print(
        escape(
            f"\nDistance to the base: {r.distinct:,} distinct of {r.sentences:,} sentences, base {r.base_distinct:,} "
            f"of {r.base_sentences:,}; mean distance to the {r.k} nearest of {r.reference:,} base sentences of another "
            f"{r.folds}: {r.mean_distance:.3f}, base to base {r.base_mean_distance:.3f}, difference "
            f"{_estimate(r.difference, sign='+')}; AUC {r.auc:.3f} ({r.encoder})."
        ),
        soft_wrap=True,
    )
    rows = [
        [
            g.definition,
            f"{g.sentences:,}",
            _share(g.share),
            f"{g.mean_words:.1f} / {g.rest_mean_words:.1f}",
            f"{_share(g.reflective)} / {_number(_hundred(g.rest_reflective.value), 1)}",
            f"{_share(g.pivotal)} / {_number(_hundred(g.rest_pivotal.value), 1)}",
        ]
        for g in r.groups
    ]
    base = f"{100 * (1 - r.quantile):g}"
    columns = [
        "rare is",
        "sentences",
        f"% (base: {base})",
        "words rare / rest",
        "% reflective rare / rest",
        "% pivotal rare / rest",
    ]
    _table(console, "Rare sentences", columns, rows)
    console.print("Farthest from the base:", soft_wrap=True)
    for text in r.farthest[:_FARTHEST]:
        console.print(escape(f"  {_printable(text[:150])}"), soft_wrap=True)


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _print_dependence(dependence: Sequence[Dependence], console: Console) -> None:
    rows = []
    for d in dependence:
        first = d.retrieval[0] if d.retrieval else None
        information = f"saturated, >= {_estimate(d.information)}" if d.saturated else _estimate(d.information)
        rows.append(
            [
                "cross log-probs" if d.method == "model" else "text (TF-IDF)",
                f"{d.responses:,} x {d.prompts:,}",
                information,
                _number(d.ceiling),
                _p(d.p),
                _share(first.accuracy) if first else "",
                f"{100 * first.chance:.1f}" if first else "",
                _p(d.retrieval_p),
                _number(d.entropy, 1),
                _number(d.conditional_entropy, 1),
            ]
        )
    columns = [
        "from",
        "responses x prompts",
        "information (nats)",
        "log N",
        "p",
        "retrieval %",
        "chance %",
        "p",
        "H(Z)",
        "H(Z|X)",
    ]
    _table(console, "Does the response depend on its prompt?", columns, rows)


def _print_series(series: Sequence[Checkpoint], console: Console) -> None:
    rows = [
        [
            c.run,
            f"{c.samples:,}",
            _number(c.accuracy),
            f"{c.mean_length:.1f}",
            _number(c.mean_entropy),
            f"{c.pivotal:,}",
            _number(c.pivotal_per_response, 2),
            _number(c.pivotal_entropy),
            f"{c.reflective:,}",
            _number(c.reflective_per_response, 2),
            _number(c.reflective_entropy),
            _number(c.repetition),
        ]
        for c in series
    ]
    length = f"length ({series[0].length_unit})"
    columns = [
        "run",
        "samples",
        "accuracy",
        length,
        "entropy",
        "pivotal",
        "each",
        "entropy",
        "reflective",
        "each",
        "entropy",
    ]
    _table(console, "Over runs or training", [*columns, "4-gram repetition"], rows)
