"""From tokens to text: where each token stands in the completion it belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from forkwise.explore.sentences import Span

IntArray = npt.NDArray[np.int64]

_SPECIAL = re.compile(r"<[^<>\s][^<>]*>|\[[A-Z_/0-9]+\]|")
_UNREADABLE = "�"
_BYTES = re.compile(r"bytes:|<0x[0-9A-Fa-f]{2}>")
_OPENING = re.compile(r"<think>\s*")
_LOOK_AHEAD = 16  # characters that a run of tokens with parts of characters may stand for, beyond one each


class MisfitError(ValueError):
    """The tokens do not join to their text."""


def token_spans(tokens: Sequence[str], text: str) -> list[Span]:
    """Finds the characters of `text` that each token stands for, in order.

    Tokens are taken as decoded one by one: white space between them may be missing (word-level and SentencePiece
    tokenizers), parts of a character are `U+FFFD`, and special tokens need not be in the text; those get an empty span.
    Tokens that share a character share its span. An opening think tag may belong to the prompt, not to the tokens.

    Raises:
        MisfitError: the tokens do not join to the text; says at which token.
    """
    spans: list[Span] = []
    tag = _OPENING.match(text)
    at = tag.end() if tag and not "".join(tokens[:_LOOK_AHEAD]).lstrip().startswith(tag[0].strip()) else 0
    waiting = 0  # tokens with parts of characters, whose span ends where the next readable token begins
    for i, token in enumerate(tokens):
        if _UNREADABLE in token or _BYTES.match(token):
            waiting += 1
            continue
        if waiting:
            begin = _resume(text, at, token, waiting)
            if begin is None:
                raise _misfit(tokens, i, text, at)
            spans += [Span(_skip(text, at, begin), begin)] * waiting
            at, waiting = begin, 0
        span = _place(text, at, token)
        if span is None:
            raise _misfit(tokens, i, text, at)
        spans.append(span)
        at = max(at, span.end)
    if waiting:
        spans += [Span(at, len(text))] * waiting
        at = len(text)
    if text[at:].strip():
        raise MisfitError(f"the text goes on behind the last token with {text[at : at + 20]!r}")
    return spans


def _skip(text: str, start: int, end: int) -> int:
    while start < end and text[start].isspace():
        start += 1
    return start


def _place(text: str, at: int, token: str) -> Span | None:
    if text.startswith(token, at):
        return Span(at, at + len(token))
    word = token.strip()
    begin = _skip(text, at, len(text))
    if word and text.startswith(word, begin):
        return Span(begin, begin + len(word))
    if not word:  # blanks that the decoder cleaned up, or those that come at a text's trimmed end
        return Span(at, at)
    return Span(at, at) if _SPECIAL.fullmatch(word) else None


def _resume(text: str, at: int, token: str, waiting: int) -> int | None:
    """Finds where `token`, behind `waiting` unreadable ones, begins: the first place that leaves them characters."""
    reach = at + waiting + _LOOK_AHEAD
    for needle in (token, token.strip()):
        begin = text.find(needle, at + 1, reach + len(needle)) if needle else -1
        if begin >= 0:
            return begin
    if _SPECIAL.fullmatch(token.strip()):
        return len(text) if len(text) - at <= waiting + _LOOK_AHEAD else None
    return None


def _misfit(tokens: Sequence[str], i: int, text: str, at: int) -> MisfitError:
    return MisfitError(
        f"token {i + 1} of {len(tokens)} is {tokens[i]!r}, but the text goes on with {text[at : at + 20]!r}"
    )


def first_token(spans: Sequence[Span], pieces: Sequence[Span]) -> IntArray:
    """Finds the first token with a character in each piece of the text, `(pieces,)`: its index, or -1 without any."""
    ends = np.array([span.end for span in spans], dtype=np.int64)
    starts = np.array([span.start for span in spans], dtype=np.int64)
    # Ends do not fall, so the first token whose end lies behind the piece's start is the first that can overlap it.
    index = np.searchsorted(np.maximum.accumulate(ends) if ends.size else ends, [p.start for p in pieces], side="right")
    first = np.full(len(pieces), -1, dtype=np.int64)
    for j, piece in enumerate(pieces):
        i = int(index[j])
        while i < len(spans) and starts[i] == ends[i]:
            i += 1
        if i < len(spans) and starts[i] < piece.end:
            first[j] = i
    return first


def tokens_in(spans: Sequence[Span], pieces: Sequence[Span], text: str) -> IntArray:
    """Finds the piece of the text in which each token begins, white space aside, `(tokens,)`: its index, or -1.

    Args:
        pieces: in order, not overlapping.
        text: what the spans are of.
    """
    owner = np.full(len(spans), -1, dtype=np.int64)
    if not pieces:
        return owner
    starts = np.array([piece.start for piece in pieces])
    ends = np.array([piece.end for piece in pieces])
    # Tokens begin with the blank in front of a word (" So") or end in a line break (".\n\n"), so that neither the first
    # nor the last character decides, but the first that is not white space.
    begins = [_skip(text, span.start, span.end) for span in spans]
    first = np.array([b if b < span.end else -1 for b, span in zip(begins, spans, strict=True)], dtype=np.int64)
    at = np.searchsorted(starts, first, side="right") - 1
    inside = (first >= 0) & (at >= 0)
    inside[inside] = first[inside] < ends[at[inside]]
    owner[inside] = at[inside]
    return owner
