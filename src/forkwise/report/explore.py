"""An exploration in words, one function per result: the terminal, the text summary and the page show the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from forkwise.explore.findings import Dependence, PlaceboNull
from forkwise.explore.results import Exploration, RunExploration
from forkwise.report.distributions import Distribution, explored_entropies
from forkwise.report.formats import bounds, count, estimate, interval, number, p_value, percent, quantile, share
from forkwise.report.table import Block, Table, filled
from forkwise.terminal import counted, one_line

_ENTRIES, _FORKS, _FARTHEST = 25, 20, 15

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
        name = f"{behaviour.name} {behaviour.unit}s"
        raw = next((c for c in behaviour.contrasts if c.version == "raw"), None)
        matched = next((c for c in behaviour.contrasts if c.version == "matched"), None)
        if raw is None:
            continue
        if raw.difference.value is None:
            phrases.append(f"{name} are too few ({count(raw.marked)} in {count(raw.problems)} problems)")
            continue
        phrase = f"{name} minus others {number(raw.difference.value, sign='+')} nats"
        if matched is not None and matched.difference.value is not None:
            few = f", {matched.supported:.0%} of them have a match" if round(matched.supported, 2) < 1 else ""
            placebo = f"; {_beside(matched.null)}" if matched.null else ""
            phrase += f", minus matched others {estimate(matched.difference, sign='+')} (p {p_value(matched.p)}{few}"
            phrase += f"{placebo})"
        phrases.append(phrase)
    if any(c.difference.value is not None for b in run.behaviours for c in b.contrasts):
        return f"{run.run}: mean entropy of {'; of '.join(phrases)}."
    often = ", ".join(f"{number(b.per_response, 2)} {b.name} {b.unit}s" for b in run.behaviours)
    why = "no token entropies are there" if run.entropy is None else "too few were found"
    return f"{run.run}: {often} per response; {why} to compare their entropy with that of others."


def _beside(null: PlaceboNull) -> str:
    return f"lexicons of other words {interval(null.mean, null.low, null.high, sign='+')}, p {p_value(null.p)}"


def _with_verdicts(runs: Runs) -> list[RunExploration]:
    """Puts behind each run its right and its wrong samples, as runs of their own."""
    return [
        part
        for run in runs
        for part in (run, *(replace(p, run=f"{run.run}, {name}") for name, p in run.by_verdict.items()))
    ]


def sizes(runs: Runs) -> list[Block]:
    """Says how much was explored."""
    return [
        f"{run.run}: {counted(run.samples, 'sample')} of {counted(run.problems, 'problem')}, "
        f"{counted(run.words, 'word')}, {counted(run.sentences, 'sentence')}."
        for run in runs
    ]


def entropy(distributions: Mapping[str, Distribution], runs: Runs) -> list[Block]:
    """Shows how much entropy tokens have: of each arm, by type, and by place in the sentence."""
    by_verdict = {
        part.run: explored_entropies(part.entropy)
        for part in _with_verdicts(runs)
        if part.entropy is not None and part.run not in distributions
    }
    arms = [
        [
            name,
            count(d.tokens),
            interval(d.mean, d.low, d.high),
            number(d.threshold),
            "" if name in by_verdict else quantile(d.quantile),
            d.source,
        ]
        for name, d in {**distributions, **by_verdict}.items()
    ]
    header = ["", "tokens", "mean", "high above", "% below that", "how it was got"]
    explored = [(run.run, run.entropy) for run in _with_verdicts(runs) if run.entropy is not None]
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
        *(
            f"{name}: the sampled tokens' mean surprisal is {estimate(e.surprisal)} nats"
            + (f", their varentropy {estimate(e.varentropy)} nats squared" if e.varentropy.value is not None else "")
            + (f" (correlation with entropy {number(e.varentropy_correlation, 2)})" if e.varentropy_correlation else "")
            + "."
            for name, e in explored
            if e.surprisal.value is not None
        ),
        *filled("Entropy by type of token", ["", "type", *measured, "high-entropy %"], types, folded=True, labels=2),
        *filled(
            "Entropy by distance from the sentence's start",
            ["", "tokens before", *measured],
            places,
            folded=True,
            labels=2,
        ),
    ]


def _distance(start: float, end: float) -> str:
    return f"{start:g}" if end == start + 1 else f"{start:g}–{end - 1:g}" if end < 1 << 30 else f"{start:g} and more"


def forks(runs: Runs) -> list[Block]:
    """Lists the tokens that are of high entropy more often than tokens are on the whole."""
    tables: list[Block] = []
    for run in _with_verdicts(runs):
        if run.entropy is None:
            continue
        shown = run.entropy.forks[:_FORKS]
        spread = any(f.mean_varentropy is not None for f in shown)
        rows = [
            [
                one_line(_visible(f.token), 30),
                number(f.excess, 0, sign="+"),
                count(f.high),
                count(f.count),
                share(f.high / f.count, 0),
                number(f.mean_entropy),
                *([number(f.mean_varentropy)] if spread else []),
                "pivotal" if f.pivotal else "",
            ]
            for f in shown
        ]
        caption = (
            f"{run.run}: fork tokens, more often above {number(run.entropy.threshold)} nats than tokens on the whole"
        )
        header = ["token", "times more", "times high", "times", "high %", "mean (nats)"]
        header += ["varentropy", "mostly"] if spread else ["mostly"]
        tables += filled(caption, header, rows, folded=run not in runs)
    return tables


def _visible(token: str) -> str:
    """Shows the blanks of a token that has nothing else."""
    return token if token.strip() else token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")


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
        for run in _with_verdicts(runs)
        for b in run.behaviours
    ]
    header = ["", "behaviour", "found", "% of words or sentences", "per response", "per 1,000 words", "mean (nats)"]
    return [
        *filled("Behaviours", header, often, labels=2),
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
    every = [(run, b, c) for run in _with_verdicts(runs) for b in run.behaviours for c in b.contrasts]
    rows = [
        [
            run.run,
            b.name,
            c.version,
            count(c.marked),
            count(c.others),
            share(c.supported),
            count(c.problems),
            "too few" if c.too_few else estimate(c.difference, sign="+"),
            p_value(c.p),
            estimate(c.auc),
            interval(c.null.mean, c.null.low, c.null.high, sign="+") if c.null else "",
            p_value(c.null.p if c.null else None),
        ]
        for run, b, c in every
    ]
    header = ["", "entropy of", "version", "marked", "others", "with match %", "problems"]
    header += ["difference (nats)", "p", "AUC", "other words", "p, other words"]
    caption = (
        "Marked against other units, matched: of the same trace and stratum; [interval over problems], p of no "
        "difference; other words: lexicons of words as frequent, and the share of these that differ as much"
    )
    return [
        *filled(caption, header, rows, labels=3),
        *(
            f"{run.run}: {b.name}, {c.version}: whatever the unseen tails, the difference lies in "
            f"{bounds(*c.identified, sign='+')}."
            for run, b, c in every
            if c.identified is not None
        ),
        *(
            f"{run.run}: there are no lexicons of other words to compare with: hardly any other word is as frequent."
            for run in runs
            for b in run.behaviours
            if b.name == "pivotal" and any(c.difference.value is not None and c.null is None for c in b.contrasts)
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
            interval(e.null.mean, e.null.low, e.null.high, sign="+") if e.null else "",
            p_value(e.null.p if e.null else None),
        ]
        for e in run.entries[:_ENTRIES]
    ]
    header = ["entry", "group", "found", "problems", "mean (nats)", "difference", "matched difference"]
    shown = f", {len(rows)} of {len(run.entries)}" if len(rows) < len(run.entries) else ""
    caption = f"{run.run}: entries of the lexicon, most frequent first{shown}"
    return filled(caption, [*header, "with match %", "q (BH)", "other words", "p, other words"], rows, folded=True)


def _list(caption: str, texts: Sequence[str]) -> list[Table]:
    return filled(caption, ["text"], [[one_line(text, 150)] for text in texts], folded=True)


def rarity(runs: Runs) -> list[Block]:
    """Shows how far sentences are from the base model's, and what the rare ones are like."""
    blocks: list[Block] = []
    for run in _with_verdicts(runs):
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
        header += [f"% {name}: {part}" for name in ("reflective", "pivotal") for part in ("rare", "rest")]
        caption = f"{run.run}: Rare sentences; base against base is the null. Distance is of style as well as strategy"
        blocks += filled(caption, header, rows)
        blocks += _list(f"{run.run}: the sentences farthest from the base", r.farthest[:_FARTHEST])
    return blocks


def dependence(runs: Runs) -> list[Block]:
    """Shows whether responses depend on their prompts."""
    rows = [[run.run, *_dependence_row(d)] for run in _with_verdicts(runs) for d in run.dependence]
    header = ["", "from", "responses x prompts", "information (nats)", "at most (log N)", "p, information"]
    header += ["own prompt fits best %", "chance %", "p, fit", "H(Z)", "H(Z|X)"]
    return [*filled("Does the response depend on its prompt?", header, rows, labels=2)]


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
    header = ["", "step", "samples", "accuracy", f"length ({units})", "entropy", "pivotal", "pivotal each"]
    header += ["pivotal entropy", "reflective", "reflective each", "reflective entropy", "4-gram repetition"]
    return [*filled("Over runs or training", header, rows)] if len(rows) > 1 else []
