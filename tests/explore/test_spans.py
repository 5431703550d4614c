"""Where tokens stand in their text. Token lists are what tokenizers of each family give when decoded one by one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkwise.explore.sentences import Span
from forkwise.explore.spans import MisfitError, first_token, token_spans, tokens_in


def pieces(tokens: list[str], text: str) -> list[str]:
    return [text[span.start : span.end] for span in token_spans(tokens, text)]


def test_byte_level_tokens_join_as_they_are() -> None:
    assert pieces([" So", " x", "=", "1", ".\n\n", "Wait"], " So x=1.\n\nWait") == [
        " So",
        " x",
        "=",
        "1",
        ".\n\n",
        "Wait",
    ]


def test_word_level_tokens_lack_the_blanks_and_the_end_token_is_not_in_the_text() -> None:
    assert pieces(["try", "13", "-", "8", "<eos>"], "try 13 - 8") == ["try", "13", "-", "8", ""]


def test_parts_of_a_character_share_it() -> None:
    # "→" is three bytes; a byte-level tokenizer may give it two tokens, neither of which is readable alone.
    assert pieces(["a", " \ufffd", "\ufffd", " b"], "a → b") == ["a", "→", "→", " b"]
    assert pieces(["x", "\ufffd", "\ufffd"], "x€") == ["x", "€", "€"]


def test_special_tokens_inside_get_an_empty_span() -> None:
    assert pieces(["a", "<|think|>", "b"], "ab") == ["a", "", "b"]


def test_a_think_tag_of_the_prompt_is_no_token_s() -> None:
    """A template that opens the reasoning, and a server that splits it off: the tag is in the text alone."""
    text = "<think>\nhm 4\n</think>\n\n4"
    assert pieces(["hm", " 4", "\n", "</think>", "\n\n", "4", "<|im_end|>"], text) == [
        "hm",
        " 4",
        "\n",
        "</think>",
        "\n\n",
        "4",
        "",
    ]
    assert pieces(["<think>", "\n", "hm 4", "\n", "</think>", "\n\n", "4"], text)[0] == "<think>"
    assert pieces(["<", "think", ">\n", "hm 4", "\n", "</think>", "\n\n", "4"], text)[:2] == ["<", "think"]
    with pytest.raises(MisfitError):
        token_spans(["4"], text)  # of the answer alone


@pytest.mark.parametrize(
    ("tokens", "text", "message"),
    [
        (["so", "x"], "so y", r"token 2 of 2 is 'x', but the text goes on with ' y'"),
        (["so"], "so it goes", r"goes on behind the last token with ' it goes'"),
        (["\ufffd", "zzz"], "→ abc", r"token 2 of 2 is 'zzz'"),
    ],
)
def test_tokens_that_do_not_join_are_refused_with_the_place(tokens: list[str], text: str, message: str) -> None:
    with pytest.raises(MisfitError, match=message):
        token_spans(tokens, text)


@given(st.lists(st.text(alphabet="ab→ \n$€", min_size=1, max_size=4), max_size=12))
def test_tokens_of_any_cut_of_a_text_cover_it(tokens: list[str]) -> None:
    text = "".join(tokens)
    spans = token_spans(tokens, text)
    assert pieces(tokens, text) == tokens
    assert all(a.end == b.start for a, b in pairwise(spans))


def test_first_token_of_a_piece_and_the_piece_of_a_token() -> None:
    text = "Then on the other hand no. So"
    spans = token_spans(["Then", " on", " the", " other", " ha", "nd", " no", ".", " So", "<eos>"], text)
    start = text.index("on the")
    assert first_token(spans, [Span(0, 4), Span(start, start + 17), Span(27, 29)]).tolist() == [0, 1, 8]
    # " So" begins with the blank between the sentences and belongs to the second; the end token to none.
    assert tokens_in(spans, [Span(0, 26), Span(27, 29)], text).tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1, -1]
