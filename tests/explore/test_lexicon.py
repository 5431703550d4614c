from __future__ import annotations

from pathlib import Path

import pytest

from forkwise.errors import InputError
from forkwise.explore.lexicon import load_lexicon, load_reflective, reflective_spans
from forkwise.explore.sentences import Span
from forkwise.explore.spans import first_token, token_spans


def found(text: str) -> list[str]:
    return [match.entry for match in load_lexicon().matches(text)]


@pytest.mark.parametrize(
    "text",
    [
        "It is also sold.",  # so
        "Different gifts.",  # if
        "This strengthens it.",  # then
        "\\because x \\therefore y",  # LaTeX
        "a first-order so-called term",  # compounds
        "Nowadays buttons yetis",
        "the first term",  # not_after
        "so far, and so on",  # not_before
        "the tank now holds 5",
        "fırst ſo İmplies",  # letters that a match without case takes for i and s
    ],
)
def test_no_word_is_found_inside_another(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("and so x = 5", ["so"]),
        ("And so, we get", ["so"]),
        ("It's worth noting that x > 0", ["noting that"]),
        ("If x is odd, given that y is, in conclusion z", ["if", "given that", "in conclusion"]),
        ("That is why. After that, it fits", ["that is why", "after that"]),
        ("provided that it fits, so that y", ["provided that", "so that"]),
        ("Recalling the rule and concluding, now we add", ["recalling", "concluding", "now"]),
    ],
)
def test_connectors_that_were_missed_are_found(text: str, expected: list[str]) -> None:
    assert found(text) == expected


def test_words_and_phrases_are_found_whole_longest_first_and_in_any_case() -> None:
    assert found("THEREFORE, even though x, On  the other\nhand so y instead of z") == [
        "therefore",
        "even though",
        "on the other hand",
        "so",
        "instead of",
    ]


def test_a_match_is_where_it_stands() -> None:
    text = "also, so x"
    (match,) = load_lexicon().matches(text)
    assert (match.start, match.end, text[match.start : match.end]) == (6, 8, "so")


def test_marks_are_on_the_first_token_of_each_match() -> None:
    tokens = ["There", "fore", " on", " the", " other", " hand", " also", " so", "<eos>"]
    text = "Therefore on the other hand also so"
    matches = [Span(match.start, match.end) for match in load_lexicon().matches(text)]
    assert first_token(token_spans(tokens, text), matches).tolist() == [0, 2, 7]


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("Wait, that can't be right.", {"wait", "doubt"}),
        ("Let me double-check the sum.", {"check"}),
        ("Hmm, so x is 3.", {"hesitation"}),
        ("To verify, substitute back.", {"verify"}),
        ("But wait.", {"wait"}),
        ("We waited for the bus, then he waits.", set()),
        ("The checkered board has 64 squares.", set()),
        ("So the answer is 5.", set()),
        ("I made a mistake earlier.", {"mistake"}),
        ("I made an arithmetic error.", {"mistake"}),
        ("I'll make sure to provide more explanation.", set()),
        ("Let me make sure.", {"confirm"}),
        ("Substituting back gives 5 = 5.", {"re-reading"}),
        ("Re-reading the problem, there are two.", {"re-reading"}),
        ("Ah, I see.", {"insight"}),
        ("I'm not sure.", {"unsure"}),
        ("That seems too large.", {"unsure"}),
    ],
)
def test_reflective_sentences(text: str, patterns: set[str]) -> None:
    names = set(load_reflective().names(text))
    assert patterns <= names
    assert bool(names) == bool(patterns)


def test_reflective_spans_name_sentence_and_patterns() -> None:
    text = "x is 3. Wait, no. Fine."
    ((span, names),) = reflective_spans(text)
    assert text[span.start : span.end] == "Wait, no."
    assert "wait" in names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("causal: because", "must be a list"),
        ("causal: [because, Because]", "'because' twice"),
        ("causal: [5]", "not a word"),
        ("causal: [{so: {before: [far]}}]", "use not_before"),
        ("- so", "must be a YAML mapping"),
        ("causal: []", "holds no words"),
        ("a: [", "is not YAML"),
    ],
)
def test_an_edited_lexicon_is_checked(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_lexicon(path)


def test_a_lexicon_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("ours:\n  - weil\n  - in  Folge: {not_before: [dessen]}\n", encoding="utf-8")
    lexicon = load_lexicon(path)
    assert [m.entry for m in lexicon.matches("Weil es in Folge dessen in folge so ist")] == ["weil", "in folge"]
    assert lexicon.name.startswith("mine.yaml ")


def test_an_edited_pattern_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("wait: '(wait'", encoding="utf-8")
    with pytest.raises(InputError, match="'wait' is not a regular expression"):
        load_reflective(path)
