"""What the matched controls hold equal, told token by token on texts small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forkwise.explore.lexicon import load_lexicon
from forkwise.explore.sentences import split_sentences
from forkwise.explore.spans import token_spans
from forkwise.explore.tokens import TYPES, fork_tokens, sentence_table, token_table, token_types
from forkwise.explore.traces import Trace, TraceTokens


def trace(
    tokens: list[str],
    entropy: list[float],
    problem: str = "p",
    text: str | None = None,
    upper: list[float] | None = None,
) -> Trace:
    text = "".join(tokens) if text is None else text
    high = None if upper is None else np.array(upper)
    tokenised = TraceTokens(tokens, token_spans(tokens, text), np.array(entropy), high)
    return Trace("r", problem, 0, None, text, None, None, split_sentences(text), tokenised)


WORDS = [" So", " the", " rest", "less", " 12", " +", " \\", "frac", ".", " There", "fore", " it", "'s", "\n", "<eos>"]


def test_types_distances_and_marks_of_tokens() -> None:
    table = token_table(
        [trace(WORDS, [0.1 * i for i in range(15)], text="".join(WORDS[:-1]))], {"p": 0}, load_lexicon()
    )
    assert [TYPES[i] for i in table.type_N] == [
        *("word", "word", "word", "word continuation", "number", "mathematics", "mathematics", "mathematics"),
        *("punctuation", "word", "word continuation", "word", "word continuation", "white space", "special"),
    ]
    # Two sentences: nine tokens up to the full stop, then four; the line break and the end token are in none.
    assert table.distance_N.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, -1, -1]
    assert np.flatnonzero(table.pivotal_N).tolist() == [0, 9]
    assert np.flatnonzero(table.continued_N).tolist() == [10]
    assert np.flatnonzero(table.other_N).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]
    assert [table.entries[i] for i in table.entry_N if i >= 0] == ["so", "therefore"]
    assert table.decile_N.tolist() == [10 * i // 15 for i in range(15)]


def test_equal_strata_mean_equal_tenth_distance_and_length() -> None:
    tokens = [" aa", " bb", " c", " dd"] * 25  # one sentence of 100 tokens
    table = token_table([trace(tokens, [0.0] * 100)], {"p": 0}, load_lexicon())
    stratum = table.stratum_N
    # Tokens 52 and 53 ("aa", "bb") share the tenth 50-59, the distance (33 and more) and the length of two characters.
    assert stratum[52] == stratum[53]
    assert stratum[52] != stratum[54]  # "c" is shorter
    assert stratum[52] != stratum[60]  # another tenth
    assert stratum[1] != stratum[3]  # same tenth and length, at the second and at the fourth place of the sentence


def test_a_sentence_s_entropy_is_the_mean_of_its_tokens_with_and_without_the_first() -> None:
    tokens = ["Wait", ",", " no", ".", " Fine", "."]
    table = sentence_table([trace(tokens, [2.0, 0.0, 1.0, 0.0, 0.5, 0.1])], {"p": 0})
    assert table.units.value_N.tolist() == pytest.approx([0.75, 0.3])
    assert table.later_units.value_N.tolist() == pytest.approx([1 / 3, 0.1])
    assert table.index_N.tolist() == [0, 1]


def test_upper_bounds_of_a_sentence_are_means_too() -> None:
    low, high = [2.0, 0.0, 1.0, 0.0, 0.5, 0.1], [2.5, 0.5, 1.0, 0.5, 0.5, 0.7]
    table = sentence_table([trace(["Wait", ",", " no", ".", " Fine", "."], low, upper=high)], {"p": 0})
    assert table.units.upper_N is not None
    assert table.later_units.upper_N is not None
    assert table.units.upper_N.tolist() == pytest.approx([4.5 / 4, 0.6])
    assert table.later_units.upper_N.tolist() == pytest.approx([2 / 3, 0.7])
    assert table.later_units.value_N.tolist() == pytest.approx([1 / 3, 0.1])


def test_fork_tokens_are_counted_without_their_blanks() -> None:
    tokens = [" so", " x", " so", " y", " so"]
    table = token_table([trace(tokens, [1.0, 0.1, 0.2, 0.9, 1.2])], {"p": 0}, load_lexicon())
    # Three of five are above the threshold: of one "y" 1 - 0.6 more than of any token, of three "so" 2 - 1.8.
    first, second = fork_tokens(table, threshold=0.5)
    assert (first.token, first.high, first.excess) == ("y", 1, pytest.approx(0.4))
    assert (second.token, second.count, second.high, second.pivotal) == ("so", 3, 2, True)
    assert second.excess == pytest.approx(0.2)
    assert second.mean_entropy == pytest.approx(0.8)
    (word,) = token_types(table, 0.5)
    assert (word.name, word.tokens, word.high_share) == ("word", 5, pytest.approx(0.6))


def test_tokens_that_are_high_less_often_than_any_are_no_forks() -> None:
    # "the" is above the threshold most often, in 10 of 100 cases, where 25 of 125 tokens are.
    tokens = [" the"] * 100 + [" and"] * 25
    entropy = [1.0] * 10 + [0.0] * 90 + [1.0] * 15 + [0.0] * 10
    table = token_table([trace(tokens, entropy)], {"p": 0}, load_lexicon())
    (only,) = fork_tokens(table, threshold=0.5)
    assert (only.token, only.high, only.excess) == ("and", 15, pytest.approx(15 - 25 * 25 / 125))


def test_a_paragraph_s_last_token_belongs_to_its_sentence() -> None:
    # Qwen and Llama 3 have single tokens of a full stop and a paragraph break.
    tokens = ["A", " bc", ".\n\n", "C", " d", "."]
    made = trace(tokens, [0.0, 0.0, 3.0, 1.0, 1.0, 1.0])
    table = token_table([made], {"p": 0}, load_lexicon())
    assert table.distance_N.tolist() == [0, 1, 2, 0, 1, 2]
    assert sentence_table([made], {"p": 0}).units.value_N.tolist() == pytest.approx([1.0, 1.0])


def test_a_sentence_that_was_cut_off_is_none_but_its_tokens_have_a_place() -> None:
    tokens = ["Fine", ".", " Then", " we"]
    whole = trace(tokens, [0.0, 1.0, 2.0, 3.0])
    cut = replace(whole, sentences=whole.sentences[:1], cut_off=whole.sentences[1])
    assert sentence_table([whole], {"p": 0}).units.value_N.tolist() == [0.5, 2.5]
    assert sentence_table([cut], {"p": 0}).units.value_N.tolist() == [0.5]
    assert token_table([cut], {"p": 0}, load_lexicon()).distance_N.tolist() == [0, 1, 0, 1]


def test_words_outside_the_lexicon_are_whole_and_known_at_their_first_token() -> None:
    tokens = [" So", " the", " rest", "less", " cat", "'s", " The"]
    table = token_table([trace(tokens, [0.0] * 7)], {"p": 0}, load_lexicon())
    words = [table.words[i] if i >= 0 else None for i in table.word_N.tolist()]
    assert words == [None, "the", "restless", None, "cat's", None, "the"]


def test_traces_without_tokens_are_skipped() -> None:
    bare = Trace("r", "p", 1, None, "So.", None, None, split_sentences("So."), None)
    table = token_table([bare, trace([" so"], [1.0])], {"p": 0}, load_lexicon())
    assert table.units.trace_N.tolist() == [1]
