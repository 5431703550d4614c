"""Sentences of mathematical text. Expectations are how a reader would cut these texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkwise.explore.sentences import ends_whole, split_sentences


def cut(text: str, *breaks: str) -> list[str]:
    return [text[span.start : span.end] for span in split_sentences(text, breaks)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First, x = 3.14 and y. Then stop.", ["First, x = 3.14 and y.", "Then stop."]),
        ("So $a. B$ holds. Next.", ["So $a. B$ holds.", "Next."]),
        ("We get \\[ x = 1.\nY = 2. \\] Hence done.", ["We get \\[ x = 1.\nY = 2. \\] Hence done."]),
        ("It costs $5. Then $10 more.", ["It costs $5.", "Then $10 more."]),
        ("Compute 5! = 120 first. Wait! maybe not.", ["Compute 5! = 120 first.", "Wait!", "maybe not."]),
        ("There are 3! ways. Is it 6? yes.", ["There are 3! ways.", "Is it 6?", "yes."]),
        ("Use e.g. Vieta, i.e. The sums. OK.", ["Use e.g. Vieta, i.e. The sums.", "OK."]),
        ("1. First step\n2. Second step", ["1. First step", "2. Second step"]),
        ("By Dr. Smith et al. it is 2. Thus 3.", ["By Dr. Smith et al. it is 2.", "Thus 3."]),
        ("Hmm... so maybe. Wait... No.", ["Hmm... so maybe.", "Wait...", "No."]),
        ("<think>One here. Two.</think>Three", ["One here.", "Two.", "Three"]),
        ("Take $x$. $y$ follows.", ["Take $x$.", "$y$ follows."]),
        ('He said "no." Then left.', ['He said "no."', "Then left."]),
        ("a line\n\n---\n\nanother", ["a line", "another"]),
        ("So x = y. Therefore z.", ["So x = y.", "Therefore z."]),
        ("```\nx = 1. Y\n```\nDone.", ["```\nx = 1. Y\n```", "Done."]),
        ("所以是三。然后我们加二！对吗？对。", ["所以是三。", "然后我们加二！", "对吗？", "对。"]),
        ("It was 5 p.m. The train left.", ["It was 5 p.m.", "The train left."]),
        ("At 5 p.m. it left. Apples, pears, etc. We add.", ["At 5 p.m. it left.", "Apples, pears, etc.", "We add."]),
        (
            "Take\n\\begin{align}\nx &= 1.\\\\\nY &= 2\n\\end{align}\nDone.",
            ["Take", "\\begin{align}\nx &= 1.\\\\\nY &= 2\n\\end{align}", "Done."],
        ),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_of_mathematics(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


def test_words_begin_sentences_where_there_is_no_punctuation() -> None:
    text = "try 13 - 8 = 5 , check no wait maybe 1 + 1 = 2 , waiting"
    assert cut(text, "wait") == ["try 13 - 8 = 5 , check no", "wait maybe 1 + 1 = 2 , waiting"]


@given(st.text(alphabet="aA1 .!?$\\[]()\n`…", max_size=60))
def test_sentences_are_in_order_trimmed_and_hold_every_letter_and_digit(text: str) -> None:
    spans = split_sentences(text)
    at = 0
    for span in spans:
        assert at <= span.start < span.end
        assert text[span.start : span.end] == text[span.start : span.end].strip()
        at = span.end
    kept = "".join(text[span.start : span.end] for span in spans)
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        *[("It is 5.", True), ("It is", False), ("so x = 5\n", True), ('He said "no."', True), ("\\[ x = 1 \\]", True)],
        *[("对。", True), ("I'm using a backs", False), ("</answer>", True), ("5.25", False), ("", False)],
    ],
)
def test_whether_a_text_ends_where_a_sentence_can(text: str, whole: bool) -> None:
    assert ends_whole(text) is whole
