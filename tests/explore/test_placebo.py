"""Lexicons of other words: their differences are those that `contrast` finds, and as frequent as the real one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy import sparse

from forkwise import progress
from forkwise.explore import placebo
from forkwise.explore.contrast import ContrastDesign, MatchedDesign, Units, contrast
from forkwise.explore.placebo import WordEffects, draw_lexicons, placebo_null, single_words


def words_with_levels(seed: int = 0) -> tuple[ContrastDesign, np.ndarray, np.ndarray]:
    """60 words in 30 traces, each with an entropy of its own; word 0 and 1 are the lexicon."""
    rng = np.random.default_rng(seed)
    trace = np.repeat(np.arange(30), 100)
    word = rng.integers(0, 60, trace.size)
    word[rng.random(trace.size) < 0.1] = -1  # no word begins here
    level = rng.normal(size=61)
    level[:2] = 0.8
    value = level[word] + rng.normal(size=30)[trace] + 0.3 * rng.normal(size=trace.size)
    return (
        MatchedDesign(Units(value, trace // 3, trace), np.ones(trace.size, dtype=bool), np.arange(3000) % 100 // 10),
        word,
        level,
    )


@pytest.mark.parametrize("matched", [True, False])
def test_a_lexicon_s_difference_is_that_of_the_contrast(matched: bool) -> None:
    design, word, _ = words_with_levels()
    if not matched:
        units = Units(design.value, design.problem, np.zeros(3000, dtype=int))
        design = ContrastDesign(units, np.ones(3000, dtype=bool))
    lexicons = np.zeros((3, 60))
    lexicons[0, [4, 5]] = lexicons[1, [20]] = lexicons[2, 30:50] = 1
    differences = WordEffects(design, word, 60).differences(sparse.csr_array(lexicons))
    for row, difference in zip(lexicons, differences, strict=True):
        expected = contrast(design, np.isin(word, np.flatnonzero(row)))
        assert expected is not None
        assert difference == pytest.approx(expected.difference.value, abs=1e-6)


def test_any_words_differ_and_the_null_says_by_how_much() -> None:
    # Each word has a level of its own, so ordinary words differ as much as the lexicon does. The p of its difference is
    # small, but nothing is special about it.
    design, word, level = words_with_levels()
    mark = np.isin(word, [0, 1])
    differs = contrast(design, mark)
    assert differs is not None
    assert differs.p < 0.001
    counts = np.bincount(np.where(mark | (word < 0), 0, word), minlength=60)
    counts[:2] = 0  # the lexicon's own words are not drawn
    lexicons = draw_lexicons(counts, [int((word == 0).sum()), int((word == 1).sum())], 500, seed=0)
    null = placebo_null(WordEffects(design, word, 60), lexicons, differs.difference.value)
    assert null is not None
    assert null.p > 0.02
    assert null.draws == 500
    # Pairs of words: their levels' mean has a standard deviation of 1 / sqrt(2).
    assert null.high - null.low == pytest.approx(4 * level[2:].std() / np.sqrt(2), rel=0.25)
    special = contrast(
        ContrastDesign(Units(design.value + 6.0 * mark, design.problem, design.block), design.member_N), mark
    )
    assert special is not None
    assert placebo_null(WordEffects(design, word, 60), lexicons, special.difference.value).p == pytest.approx(1 / 501)


def test_drawn_words_are_as_frequent_as_the_entries_and_never_twice() -> None:
    count = np.array([100, 90, 80, 12, 10, 9, 0, 1, 1, 1])
    lexicons = draw_lexicons(count, [95, 85, 10], 200, seed=1).toarray()
    assert (lexicons.sum(axis=1) == 3).all()
    assert (lexicons[:, :3].sum(axis=1) == 2).all()
    assert (lexicons[:, 3:6].sum(axis=1) == 1).all()
    assert lexicons[:, 6:].sum() == 0
    assert lexicons[:, :6].mean(axis=0).min() > 0.2  # each in turn
    assert np.array_equal(lexicons, draw_lexicons(count, [95, 85, 10], 200, seed=1).toarray())


def test_without_words_as_frequent_there_is_no_null() -> None:
    assert draw_lexicons(np.array([3, 4, 5, 1000]), [100, 120, 4], 50, seed=0) is None
    assert single_words(np.array([10] * 11), 10) is None
    few = single_words(np.array([10] * 12 + [100]), 10)
    assert few.shape == (12, 13)
    assert placebo_null(None, None, 0.3) is None


def test_lexicons_say_their_share_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SAY_EVERY", 0.0)
    monkeypatch.setattr(progress, "_SHOWN_EVERY", 0.0)
    monkeypatch.setattr(placebo, "_BLOCK", 3000)  # a hundred lexicons of 30 traces at a time
    said = io.StringIO()
    design, word, _ = words_with_levels()
    lexicons = draw_lexicons(np.bincount(word[word >= 0]), [50, 50], 400, seed=0)
    with progress.Meter(console=progress.Console(file=said, width=200), phase="exploring"):
        WordEffects(design, word, 60).differences(lexicons)
    assert "lexicons of other words: 200 of 400 lexicons are done (50 %)" in said.getvalue()
