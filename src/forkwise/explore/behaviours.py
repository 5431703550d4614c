"""Marked tokens and sentences of a run: how often they are, and their entropy against that of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from forkwise.explore.contrast import (
    BoolArray,
    ContrastDesign,
    IntArray,
    MatchedDesign,
    Units,
    benjamini_hochberg,
    contrast,
)
from forkwise.explore.findings import Behaviour, Contrast, Entry
from forkwise.explore.lexicon import LexiconMatch
from forkwise.explore.placebo import WordEffects, draw_lexicons, placebo_null, single_words
from forkwise.explore.settings import ExploreSettings
from forkwise.explore.tokens import STRATA_SENTENCES, STRATA_TOKENS, SentenceTable, TokenTable
from forkwise.explore.traces import Trace
from forkwise.progress import watch

_EXAMPLES = 12


def _per(count: int, traces: Sequence[Trace]) -> tuple[float, float]:
    words = sum(len(trace.text.split()) for trace in traces)
    return count / len(traces), 1000 * count / max(words, 1)


Matches = Sequence[tuple[Trace, LexiconMatch]]


def pivotal(
    traces: Sequence[Trace], table: TokenTable | None, settings: ExploreSettings
) -> tuple[Behaviour, list[Entry]]:
    """Counts the matches of the lexicon and of each entry, and compares their entropy with that of other tokens."""
    matches = [(trace, match) for trace in traces for match in settings.lexicon.matches(trace.text)]
    groups = Counter(settings.lexicon.groups[match.entry] for _, match in matches)
    contrasts: list[Contrast] = []
    entries = _bare_entries(matches, settings)
    if table is not None and table.pivotal_N.any():
        matched, contrasts = _against_tokens(table, settings)
        entries = _tested_entries(entries, table, matched, settings)
    per_response, per_1000 = _per(len(matches), traces)
    behaviour = Behaviour(
        name="pivotal",
        unit="token",
        count=len(matches),
        total=sum(len(trace.text.split()) for trace in traces),
        per_response=per_response,
        per_1000_words=per_1000,
        contrasts=contrasts,
        by_group={group: groups[group] for group in dict.fromkeys(settings.lexicon.groups.values())},
        mean_entropy=None if table is None else _mean(table.units, table.pivotal_N),
    )
    return behaviour, entries


def _mean(units: Units, marked_N: BoolArray) -> float | None:
    return float(units.value_N[marked_N].mean()) if marked_N.any() else None


def _against_tokens(table: TokenTable, settings: ExploreSettings) -> tuple[MatchedDesign, list[Contrast]]:
    """Compares the lexicon's tokens with all others, each version beside lexicons of other words."""
    resampling = settings.resampling
    tokens_N = table.pivotal_N | table.other_N
    lexicons = draw_lexicons(
        _word_counts(table),
        [int(count) for count in np.bincount(table.entry_N[table.entry_N >= 0]) if count],
        resampling.resamples,
        resampling.seed,
    )
    matched = MatchedDesign(table.units, tokens_N, table.stratum_N)
    contrasts = []
    for version, strata, design in (
        ("raw", "", ContrastDesign(table.units, tokens_N)),
        ("matched", STRATA_TOKENS, matched),
        (
            "matched, words",
            f"{STRATA_TOKENS}; both begin a word",
            MatchedDesign(table.units, tokens_N & table.begins_N, table.stratum_N),
        ),
    ):
        compared = contrast(design, table.pivotal_N, version=version, strata=strata, level=resampling.level)
        if compared is not None:
            words = WordEffects(design, table.word_N, len(table.words))
            contrasts.append(replace(compared, null=placebo_null(words, lexicons, compared.difference.value)))
    return matched, contrasts


def _word_counts(table: TokenTable) -> IntArray:
    return np.bincount(table.word_N[table.word_N >= 0], minlength=len(table.words))


def _bare_entries(matches: Matches, settings: ExploreSettings) -> list[Entry]:
    """Counts every entry of the lexicon that occurs, the most frequent first."""
    count: Counter[str] = Counter()
    problems: dict[str, set[str]] = {}
    for trace, match in matches:
        count[match.entry] += 1
        problems.setdefault(match.entry, set()).add(trace.problem_id)
    return [Entry(entry, settings.lexicon.groups[entry], n, len(problems[entry])) for entry, n in count.most_common()]


def _tested_entries(
    entries: Sequence[Entry], table: TokenTable, matched: MatchedDesign, settings: ExploreSettings
) -> list[Entry]:
    """Compares each entry with all other tokens, those of other entries among them, if it occurs often enough."""
    raw = ContrastDesign(table.units, matched.member_N)
    words = WordEffects(matched, table.word_N, len(table.words))
    word_counts = _word_counts(table)
    level = settings.resampling.level

    def compared(entry: Entry) -> Entry:
        marked_N = table.entry_N == table.entries.index(entry.entry)
        first, second = contrast(raw, marked_N, level=level), contrast(matched, marked_N, level=level, auc=False)
        if first is None:
            return entry
        mean = _mean(table.units, marked_N)
        entry = replace(entry, mean_entropy=mean, difference=first.difference, auc=first.auc, supported=0.0)
        if second is None:
            return entry
        alike = single_words(word_counts, int(marked_N.sum()))
        return replace(
            entry,
            matched_difference=second.difference,
            supported=second.supported,
            p=second.p,
            null=placebo_null(words, alike, second.difference.value),
        )

    tested = [compared(entry) for entry in watch(entries, "testing pivotal words", "words")]
    p = [entry.p for entry in tested if entry.p is not None]
    q = dict(zip((e.entry for e in tested if e.p is not None), benjamini_hochberg(p), strict=True))
    return [replace(entry, q=q.get(entry.entry)) for entry in tested]


def reflective(traces: Sequence[Trace], table: SentenceTable | None, settings: ExploreSettings) -> Behaviour:
    """Counts the sentences that look back, and compares their entropy with that of other sentences."""
    patterns: Counter[str] = Counter()
    marked: set[tuple[int, int]] = set()
    texts: dict[str, None] = {}
    for t, trace in enumerate(traces):
        for s, span in enumerate(trace.sentences):
            text = trace.text[span.start : span.end]
            names = settings.reflective.names(text)
            if names:
                marked.add((t, s))
                patterns.update(names)
                texts[text] = None
    return _sentences("reflective", traces, table, marked, list(texts), settings, dict(patterns.most_common()))


def rare(traces: Sequence[Trace], table: SentenceTable | None, texts: set[str], settings: ExploreSettings) -> Behaviour:
    """Counts the sentences whose text is rare, and compares their entropy with that of other sentences."""
    marked = {
        (t, s)
        for t, trace in enumerate(traces)
        for s, span in enumerate(trace.sentences)
        if " ".join(trace.text[span.start : span.end].split()) in texts
    }
    return _sentences("rare", traces, table, marked, sorted(texts), settings, {})


def _sentences(
    name: str,
    traces: Sequence[Trace],
    table: SentenceTable | None,
    marked: set[tuple[int, int]],
    texts: Sequence[str],
    settings: ExploreSettings,
    by_group: dict[str, int],
) -> Behaviour:
    """Counts the marked (trace, sentence), and compares their entropy with that of other sentences."""
    mean, contrasts = _sentence_contrasts(table, marked, settings)
    per_response, per_1000 = _per(len(marked), traces)
    return Behaviour(
        name=name,
        unit="sentence",
        count=len(marked),
        total=sum(len(trace.sentences) for trace in traces),
        per_response=per_response,
        per_1000_words=per_1000,
        contrasts=contrasts,
        by_group=by_group,
        examples=_spread(texts),
        mean_entropy=mean,
    )


def _sentence_contrasts(
    table: SentenceTable | None, marked: set[tuple[int, int]], settings: ExploreSettings
) -> tuple[float | None, list[Contrast]]:
    """Returns the mean entropy of the marked sentences, and each version of the comparison that is possible."""
    if table is None or table.units.value_N.size == 0:
        return None, []
    sentences = zip(table.trace_N.tolist(), table.index_N.tolist(), strict=True)
    marked_N = np.array([sentence in marked for sentence in sentences], dtype=bool)
    every_N = np.ones(marked_N.size, dtype=bool)
    later = f"{STRATA_SENTENCES}; the mean leaves out each sentence's first token"
    versions = [
        contrast(design, marked_N, version=version, strata=strata, level=settings.resampling.level)
        for version, strata, design in (
            ("raw", "", ContrastDesign(table.units, every_N)),
            ("matched", STRATA_SENTENCES, MatchedDesign(table.units, every_N, table.stratum_N)),
            ("matched, first token left out", later, MatchedDesign(table.later_units, every_N, table.stratum_N)),
        )
    ]
    return _mean(table.units, marked_N), [version for version in versions if version is not None]


def _spread(texts: Sequence[str]) -> list[str]:
    """Picks some of the texts, evenly spread, and cuts long ones."""
    step = max(1, len(texts) // _EXAMPLES)
    return [text if len(text) <= 200 else text[:199] + "…" for text in texts[::step][:_EXAMPLES]]
