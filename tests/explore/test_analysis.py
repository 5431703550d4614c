"""The analysis of a run as a whole, on traces whose answers follow from how they were made."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from forkwise.explore.analysis import explore_run
from forkwise.explore.contrast import Resampling, benjamini_hochberg
from forkwise.explore.findings import Contrast
from forkwise.explore.lexicon import load_lexicon, load_reflective
from forkwise.explore.results import RunExploration
from forkwise.explore.sentences import split_sentences
from forkwise.explore.settings import ExploreSettings
from forkwise.explore.spans import token_spans
from forkwise.explore.traces import RunTraces, Trace, TraceTokens

LOW, HIGH = 0.1, 1.1


def settings() -> ExploreSettings:
    return ExploreSettings(load_lexicon(), load_reflective(), resampling=Resampling(resamples=200))


def trace(problem: int, sample: int, sentences: Sequence[str], entropies: Sequence[float]) -> Trace:
    """Words are tokens; all those of a sentence have its entropy."""
    words = [(word, h) for text, h in zip(sentences, entropies, strict=True) for word in text.split()]
    text = " ".join(word for word, _ in words)
    tokens = [f" {word}" if i else word for i, (word, _) in enumerate(words)]
    tokenised = TraceTokens(tokens, token_spans(tokens, text), np.array([h for _, h in words]))
    return Trace("r", f"p{problem}", sample, None, text, None, len(tokens), split_sentences(text), tokenised)


def contrasts(found: RunExploration, name: str) -> dict[str, Contrast]:
    return {c.version: c for b in found.behaviours if b.name == name for c in b.contrasts}


@pytest.fixture(scope="module")
def placed() -> RunExploration:
    """Twenty sentences of three words, the later ten of high entropy whatever they say; two to a tenth of the trace."""
    traces = []
    for i in range(16):
        sentences = ["We do it."] * 20
        sentences[14:16] = ["We check it.", "So do it."]
        sentences[4] = "Then do it."
        sentences[6 if i % 2 else 18] = "But do it."
        traces.append(trace(i // 2, i % 2, sentences, [LOW] * 10 + [HIGH] * 10))
    return explore_run(RunTraces("r", "m", traces, source="stored"), settings())


def test_an_effect_of_the_place_alone_is_gone_once_tokens_are_matched(placed: RunExploration) -> None:
    differs = contrasts(placed, "pivotal")
    # Of three pivotal words in each trace one and a half are in the high half, of the other 57 words 28.5.
    assert differs["raw"].difference.value == pytest.approx(0, abs=1e-9)
    (so,) = (entry for entry in placed.entries if entry.entry == "so")
    assert so.difference.value == pytest.approx(HIGH - (LOW + HIGH) / 2, abs=0.02)
    assert so.matched_difference.value == pytest.approx(0, abs=1e-9)
    # The pivotal words of each half have neighbours of their tenth, distance and length with the same entropy.
    assert differs["matched"].supported > 0.3
    assert differs["matched"].mean_marked == pytest.approx(differs["matched"].mean_other)
    assert differs["matched"].others < differs["raw"].others / 5


def test_an_effect_of_the_place_alone_is_gone_once_sentences_are_matched(placed: RunExploration) -> None:
    differs = contrasts(placed, "reflective")
    assert differs["raw"].difference.value == pytest.approx(HIGH - (10 * LOW + 9 * HIGH) / 19)
    for version in ("matched", "matched, first token left out"):
        assert differs[version].supported == 1
        assert differs[version].difference.value == pytest.approx(0, abs=1e-9)
        # One other sentence in the same tenth of each of the 16 traces.
        assert differs[version].others == 16


def test_entries_carry_the_adjusted_p_of_the_whole_lexicon(placed: RunExploration) -> None:
    entries = {entry.entry: entry for entry in placed.entries}
    assert set(entries) == {"so", "then", "but"}
    # "So" has the same entropy as its like, and the others have none: no word of their length begins a sentence.
    assert (entries["so"].p, entries["so"].q) == (1.0, 1.0)
    assert (entries["then"].p, entries["but"].q) == (None, None)
    rng = np.random.default_rng(0)
    traces = [
        trace(i // 2, i % 2, [f"{word} it is." for word in ("So", "We", "If", "As")] * 5, 1 + rng.random(20))
        for i in range(16)
    ]
    explored = explore_run(RunTraces("r", "m", traces, source="stored"), settings()).entries
    p = [entry.p for entry in explored if entry.p is not None]
    assert len(p) == len(explored) >= 1
    assert [entry.q for entry in explored] == pytest.approx(benjamini_hochberg(p))


class Animals:
    """Sentences of zebras point one way, all others nearly the same other way."""

    name = "animals"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = [
            [float("zebra" in text), float("zebra" not in text), zlib.crc32(text.encode()) / 2**35] for text in texts
        ]
        vectors = np.array(rows)
        unit: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return unit


def test_rare_sentences_are_compared_with_others_like_the_rest() -> None:
    def made(odd: str, high: float) -> list[Trace]:
        traces = []
        for i in range(16):
            sentences = [f"We take {100 * i + j} apples." for j in range(20)]
            entropies = [LOW] * 20
            for j in (9, 19):
                sentences[j], entropies[j] = odd.format(100 * i + j), high
            traces.append(trace(i // 2, i % 2, sentences, entropies))
        return traces

    run = RunTraces("r", "m", made("That zebra eats {}.", HIGH), source="stored")
    explored = explore_run(run, settings(), base=made("They take {} pears.", LOW), encoder=Animals())
    (rare,) = (behaviour for behaviour in explored.behaviours if behaviour.name == "rare")
    assert (rare.count, rare.total) == (32, 320)
    assert all("zebra" in text for text in rare.examples)
    assert [c.version for c in rare.contrasts] == ["raw", "matched", "matched, first token left out"]
    for c in rare.contrasts:
        assert c.difference.value == pytest.approx(HIGH - LOW)
        assert c.auc.value == 1.0
        assert c.p == 0.0  # the same in every problem
        assert c.null is None  # of pivotal tokens alone
    # One other sentence in the same tenth as each.
    assert [(c.supported, c.others) for c in rare.contrasts] == [(1, 288), (1, 32), (1, 32)]


def test_four_sentences_make_no_headline() -> None:
    traces = [
        trace(i, 0, ["We do it."] * 19 + ["We check it." if i < 4 else "We do it."], [LOW] * 20) for i in range(12)
    ]
    differs = contrasts(explore_run(RunTraces("r", "m", traces, source="stored"), settings()), "reflective")
    assert differs["raw"].too_few
    assert differs["raw"].difference.value is None


def test_right_and_wrong_samples_are_explored_apart() -> None:
    rng = np.random.default_rng(0)
    traces = []
    for i in range(24):
        sentences = ["We do it.", "But do it."] * 5
        right = i % 2 == 0
        # Only wrong samples have more entropy at "But".
        made = trace(i // 2, i % 2, sentences, (LOW + 0.01 * rng.random(10) + [0, 0 if right else 1] * 5).tolist())
        traces.append(replace(made, correct=right))
    explored = explore_run(RunTraces("r", "m", traces, source="stored"), settings())
    assert list(explored.by_verdict) == ["right", "wrong"]
    assert [part.samples for part in explored.by_verdict.values()] == [12, 12]
    difference = {n: contrasts(part, "pivotal")["raw"].difference.value for n, part in explored.by_verdict.items()}
    assert difference["right"] == pytest.approx(0, abs=0.02)
    assert difference["wrong"] == pytest.approx(0.6, abs=0.02)  # half of the other words stand beside "But"
    thresholds = {part.entropy.threshold for part in [explored, *explored.by_verdict.values()]}
    assert len(thresholds) == 1
    only = explore_run(RunTraces("r", "m", [t for t in traces if t.correct], source="stored"), settings())
    assert only.by_verdict == {}
