"""An exploration in words, one function per result: the terminal, the text summary and the page show the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from forkwise.explore.results import Dependence, Exploration, RunExploration
from forkwise.report.distributions import Distribution, explored_entropies
from forkwise.report.formats import count, estimate, interval, number, p_value, percent, quantile, share
from forkwise.report.table import Block, Table, filled
from forkwise.terminal import counted, one_line

_ENTRIES, _FORKS, _FARTHEST = 25, 20, 15
_FEW = 10  # problems, below which a bootstrap over problems falls well short of its level

Runs = Sequence[RunExploration]


def exploration(explored: Exploration) -> list[Block]:
    """Makes every table of an exploration and every sentence but its conclusion."""
    runs = explored.runs
    distributions = {run.run: explored_entropies(run.entropy) for run in runs if run.entropy is not None}
    groups = (entropy(distributions, runs), forks(runs), behaviours(runs), rarity(runs), dependence(runs))
    return [*sizes(runs), *(block for group in groups for block in group), *series([explored])]


def conclusion(run: RunExploration) -> str:
    """Says what is left of the entropy of marked tokens and sentences after matching, or how often they occur."""
    phrases = []
    for behaviour in run.behaviours:
        raw = next((c for c in behaviour.contrasts if c.version == "raw"), None)
        matched = next((c for c in behaviour.contrasts if c.version == "matched"), None)
        if raw is None or raw.difference.value is None:
            continue
        phrase = f"{behaviour.name} {behaviour.unit}s minus others {number(raw.difference.value, sign='+')} nats"
        if matched is not None and matched.difference.value is not None:
            few = f" ({matched.supported:.0%} of them have a match)" if round(matched.supported, 2) < 1 else ""
            phrase += f", minus matched others {estimate(matched.difference, sign='+')}{few}"
        phrases.append(phrase)
    if phrases:
        return f"{run.run}: mean entropy of {'; of '.join(phrases)}."
    often = ", ".join(f"{number(b.per_response, 2)} {b.name} {b.unit}s" for b in run.behaviours)
    why = "no token entropies are there" if run.entropy is None else "too few were found"
    return f"{run.run}: {often} per response; {why} to compare their entropy with that of others."


def notes(explored: Exploration) -> list[str]:
    """Says what a reader must know of the numbers: what is left out, and what they cannot show."""
    said = [*explored.imported]
    if not explored.settings.get("base"):
        said.append("Without --base there is nothing that sentences could be rare against.")
    if explored.settings.get("only_exact"):
        said.append("Of every run the samples with stored entropies were explored, and no others.")
    if explored.full_logits:
        said.append(f"The model is scored by its full logits, which need more memory: {explored.full_logits}.")
    limit = explored.settings.get("max_sentences")
    return [*said, *(f"{run.run}: {note}" for run in explored.runs for note in _notes(run, limit))]


def _notes(run: RunExploration, limit: int | None) -> Iterator[str]:
    if run.empty:
        yield f"Left out: {counted(run.empty, 'sample')} without text."
    if run.without_tokens:
        yield (
            f"{run.without_tokens:,} of {run.samples - run.empty:,} samples have no token data: they count for words "
            "and sentences, not for entropies."
        )
    if run.problems == 1:
        yield "There is only one problem, and intervals are over problems, so there are none."
    elif run.problems < _FEW:
        yield f"With {run.problems} problems the intervals are too narrow; ask for {_FEW} or more."
    if run.sentences <= 1:
        yield "There is at most one sentence, so sentences cannot be compared."
    if run.entropy is None:
        yield (
            "There are no entropies: what follows counts words and sentences. --model computes them for any causal "
            "language model."
        )
    elif run.entropy.source == "top-k":
        yield (
            "Entropies are lower bounds from top-k log-probs; every difference says in which range it lies for certain."
        )
    if run.rarity_refused:
        yield run.rarity_refused
    if run.rarity and limit in (run.rarity.distinct, run.rarity.base_distinct):
        yield (
            f"Rare sentences were looked for among {limit:,} distinct sentences of a model, drawn at random; "
            "occurrences of all others do not count as rare (--max-sentences)."
        )
    if not any(dependence.method == "text" for dependence in run.dependence):
        yield "There are fewer than two different prompts, so input dependence cannot be measured."


def sizes(runs: Runs) -> list[Block]:
    """Says how much was explored."""
    return [
        f"{run.run}: {counted(run.samples, 'sample')} of {counted(run.problems, 'problem')}, "
        f"{counted(run.words, 'word')}, {counted(run.sentences, 'sentence')}."
        for run in runs
    ]


def entropy(distributions: Mapping[str, Distribution], runs: Runs) -> list[Block]:
    """Shows how much entropy tokens have: of each arm, by type, and by place in the sentence."""
    arms = [
        [name, count(d.tokens), interval(d.mean, d.low, d.high), number(d.threshold), quantile(d.quantile), d.source]
        for name, d in distributions.items()
    ]
    header = ["", "tokens", "mean", "high above", "% below that", "how it was got"]
    explored = [(run.run, run.entropy) for run in runs if run.entropy is not None]
    types = [
        [name, t.name, count(t.tokens), number(t.mean), share(t.high_share)] for name, e in explored for t in e.types
    ]
    places = [
        [name, _distance(p.start, p.end), count(p.tokens), interval(p.mean, p.low, p.high)]
        for name, e in explored
        for p in e.sentence_profile
    ]
    measured = ["tokens", "mean (nats)"]
    return [
        *filled("Token entropy, nats", header, arms),
        *(
            f"{name}: its mean entropy is at most {number(e.upper_mean)} nats, with {count(e.vocabulary or 0)} tokens "
            f"in the vocabulary ({e.vocabulary_source})."
            for name, e in explored
            if e.upper_mean is not None
        ),
        *filled("Entropy by type of token", ["", "type", *measured, "high-entropy %"], types, folded=True),
        *filled("Entropy by distance from the sentence's start", ["", "tokens before", *measured], places, folded=True),
    ]


def _distance(start: float, end: float) -> str:
    return f"{start:g}" if end == start + 1 else f"{start:g}–{end - 1:g}" if end < 1 << 30 else f"{start:g} and more"


def forks(runs: Runs) -> list[Block]:
    """Lists the tokens that are most often of high entropy."""
    tables: list[Block] = []
    for run in runs:
        if run.entropy is None:
            continue
        rows = [
            [
                one_line(f.token.replace("\n", "\\n"), 30),
                count(f.high),
                count(f.count),
                share(f.high / f.count, 0),
                number(f.mean_entropy),
                "pivotal" if f.pivotal else "",
            ]
            for f in run.entropy.forks[:_FORKS]
        ]
        caption = (
            f"{run.run}: fork tokens, most often above {number(run.entropy.threshold)} nats, the "
            f"{quantile(run.entropy.quantile)} % quantile of all its tokens"
        )
        header = ["token", "times high", "times", "high %", "mean (nats)", "mostly"]
        tables += filled(caption, header, rows)
    return tables


def behaviours(runs: Runs) -> list[Block]:
    """Shows how often each behaviour occurs, its entropy against its nulls, examples, and entries of the lexicon."""
    often = [
        [
            run.run,
            b.name,
            count(b.count),
            share(b.count / b.total if b.total else None),
            number(b.per_response, 2),
            number(b.per_1000_words, 2),
            number(b.mean_entropy),
        ]
        for run in runs
        for b in run.behaviours
    ]
    header = ["", "behaviour", "found", "% of words or sentences", "per response", "per 1,000 words", "mean (nats)"]
    return [
        *filled("Behaviours", header, often),
        *_contrasts(runs),
        *(
            table
            for run in runs
            for b in run.behaviours
            for table in _list(f"{run.run}: examples, {b.name}", b.examples)
        ),
        *(table for run in runs for table in _entries(run)),
    ]


def _contrasts(runs: Runs) -> list[Block]:
    all_contrasts = [(run, b, c) for run in runs for b in run.behaviours for c in b.contrasts]
    rows = [
        [
            run.run,
            b.name,
            c.version,
            count(c.marked),
            count(c.others),
            share(c.supported),
            count(c.problems),
            estimate(c.difference, sign="+"),
            estimate(c.auc),
            interval(c.null.mean, c.null.low, c.null.high, sign="+") if c.null else "",
            p_value(c.null.p if c.null else None),
        ]
        for run, b, c in all_contrasts
    ]
    header = ["", "entropy of", "version", "marked", "others", "with match %", "problems"]
    header += ["difference (nats)", "AUC", "null", "p"]
    caption = (
        "Marked against other units, matched: of the same stratum; mean [interval over problems]; null by circular "
        "shift within traces"
    )
    return [
        *filled(caption, header, rows),
        *(
            f"{run.run}: {b.name}, {c.version}: whatever the unseen tails, the difference lies in "
            f"[{number(c.identified[0], sign='+')}, {number(c.identified[1], sign='+')}]."
            for run, b, c in all_contrasts
            if c.identified is not None
        ),
    ]


def _entries(run: RunExploration) -> list[Table]:
    rows = [
        [
            e.entry,
            e.group,
            count(e.count),
            count(e.problems),
            number(e.mean_entropy),
            estimate(e.difference, sign="+"),
            estimate(e.matched_difference, sign="+"),
            share(e.supported),
            p_value(e.q),
        ]
        for e in run.entries[:_ENTRIES]
    ]
    header = ["entry", "group", "found", "problems", "mean (nats)", "difference", "matched difference"]
    shown = f", {len(rows)} of {len(run.entries)}" if len(rows) < len(run.entries) else ""
    caption = f"{run.run}: entries of the lexicon, most frequent first{shown}"
    return filled(caption, [*header, "with match %", "q (BH)"], rows, folded=True)


def _list(caption: str, texts: Sequence[str]) -> list[Table]:
    return filled(caption, ["text"], [[one_line(text, 150)] for text in texts], folded=True)


def rarity(runs: Runs) -> list[Block]:
    """Shows how far sentences are from the base model's, and what the rare ones are like."""
    blocks: list[Block] = []
    for run in runs:
        r = run.rarity
        if r is None:
            continue
        blocks.append(
            f"{run.run}: {count(r.distinct)} distinct of {count(r.sentences)} sentences, base {count(r.base_distinct)} "
            f"of {count(r.base_sentences)}; mean distance to the {r.k} nearest of {count(r.reference)} base sentences "
            f"of another {r.folds}: {number(r.mean_distance)}, base to base {number(r.base_mean_distance)}, difference "
            f"{estimate(r.difference, sign='+')}; AUC {number(r.auc)} ({r.encoder})."
        )
        rows = [
            [
                g.definition,
                count(g.sentences),
                percent(g.share),
                f"{number(g.mean_words, 1)} / {number(g.rest_mean_words, 1)}",
                *map(percent, (g.reflective, g.rest_reflective, g.pivotal, g.rest_pivotal)),
            ]
            for g in r.groups
        ]
        header = ["rare is", "sentences", f"% (base: {quantile(1 - r.quantile)})", "words, rare / rest"]
        header += ["% reflective: rare", "rest", "% pivotal: rare", "rest"]
        caption = f"{run.run}: Rare sentences; base against base is the null. Distance is of style as well as strategy"
        blocks += filled(caption, header, rows)
        blocks += _list(f"{run.run}: the sentences farthest from the base", r.farthest[:_FARTHEST])
    return blocks


def dependence(runs: Runs) -> list[Block]:
    """Shows whether responses depend on their prompts."""
    rows = [[run.run, *_dependence_row(d)] for run in runs for d in run.dependence]
    header = ["", "from", "responses x prompts", "information (nats)", "at most (log N)", "p"]
    header += ["own prompt fits best %", "chance %", "p", "H(Z)", "H(Z|X)"]
    return [*filled("Does the response depend on its prompt?", header, rows)]


def _dependence_row(d: Dependence) -> list[str]:
    best = d.retrieval[0] if d.retrieval else None
    return [
        "cross log-probs" if d.method == "model" else "text (TF-IDF)",
        f"{count(d.responses)} x {count(d.prompts)}",
        f"saturated, >= {estimate(d.information)}" if d.saturated else estimate(d.information),
        number(d.ceiling),
        p_value(d.p),
        percent(best.accuracy) if best else "",
        share(best.chance) if best else "",
        p_value(d.retrieval_p),
        number(d.entropy, 1),
        number(d.conditional_entropy, 1),
    ]


def series(explorations: Sequence[Exploration]) -> list[Block]:
    """Shows runs, or checkpoints of one run, side by side."""
    points = [point for explored in explorations for point in explored.series]
    rows = [
        [
            one_line(c.run, 50),
            "" if c.step is None else count(c.step),
            count(c.samples),
            number(c.accuracy),
            number(c.mean_length, 1),
            number(c.mean_entropy),
            count(c.pivotal),
            number(c.pivotal_per_response, 2),
            number(c.pivotal_entropy),
            count(c.reflective),
            number(c.reflective_per_response, 2),
            number(c.reflective_entropy),
            number(c.repetition),
        ]
        for c in points
    ]
    units = " or ".join(sorted({c.length_unit for c in points}))
    header = ["", "step", "samples", "accuracy", f"length ({units})", "entropy", "pivotal", "each", "entropy"]
    header += ["reflective", "each", "entropy", "4-gram repetition"]
    return [*filled("Over runs or training", header, rows)] if len(rows) > 1 else []
