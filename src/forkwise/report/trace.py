"""One trace for the viewer: its pieces, what is known of each, and its marks.

A trace is cut into pieces (tokens, or words where no tokens are stored) whose texts join to the completion.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forkwise.explore.lexicon import Lexicon, ReflectivePatterns, reflective_spans
from forkwise.explore.spans import MisfitError, token_spans
from forkwise.report.distributions import FloatArray
from forkwise.report.forked import SampleForks
from forkwise.samples.store import Key
from forkwise.terminal import one_line

JUDGED = {"gold": "gold", "answer": "answer", "by": "verdict_by"}
"""What a trace says of its verdict, and the column of each."""

_ALTERNATIVES = 5
_LEAST = -9.2  # alternatives below p = 1e-4 are left out
_LONGEST_ANSWER = 300  # characters; a gold may be a whole solution


@dataclass(frozen=True)
class Marker:
    """Lexicon, patterns and rare sentences that are marked in the traces."""

    lexicon: Lexicon
    reflective: ReflectivePatterns
    breaks: tuple[str, ...] = ()
    rare: Mapping[Key, Sequence[tuple[int, int]]] = field(default_factory=dict)
    measured: Mapping[Key, SampleForks] = field(default_factory=dict)
    """What `forkwise forks` measured."""


@dataclass(frozen=True)
class Rendered:
    """A trace as it will be packed, but with texts where the chunk has their places."""

    trace: dict[str, Any]
    coloured: FloatArray
    """The trace's entropies or else -log p, nats."""
    finish: str | None


def render_trace(row: Mapping[str, Any], key: Key, marker: Marker) -> Rendered:
    """Makes a trace: texts `t`, entropies `h` and log-probs `l` (1/1000 nat), alternatives `a`, marks `p`, `r`, `q`.

    Of what `forkwise forks` measured, `v` are chances of success with their errors (1/1000) by place, and `f` states.
    """
    tokens, completion = row["tokens"], row["completion"]
    note = ""
    if tokens and None in tokens:
        tokens, note = None, "One of its tokens is null, so it is shown in words."
    if tokens:
        text = "".join(tokens) if completion is None else completion
        try:
            pieces, spans = _token_pieces(tokens, text)
        except MisfitError:
            note = "Its tokens do not join to its text, so they are shown as stored, without marks."
            pieces, spans = list(tokens), []
    else:
        text = completion or ""
        spans = [match.span() for match in re.finditer(r"\S+\s*|^\s+", text)]
        pieces = [text[start:end] for start, end in spans]
        if completion is None:
            note = "No text is stored with it."
    trace: dict[str, Any] = {
        "t": pieces,
        "tokens": bool(tokens),
        "h": _thousandths(row["entropies"], len(pieces)) if tokens else None,
        "l": _thousandths(row["logprobs"], len(pieces)) if tokens else None,
        "a": _alternatives(row["top_logprobs"], len(pieces)) if tokens else None,
        "p": [],
        "r": [],
        "q": [],
        "v": [],
        "f": [],
        "prompt": row["prompt"] or "",
        **{key: None if row[name] is None else one_line(row[name], _LONGEST_ANSWER) for key, name in JUDGED.items()},
        "note": note,
    }
    if spans:
        trace["p"] = _ranges(spans, [(match.start, match.end) for match in marker.lexicon.matches(text)])
        reflective = reflective_spans(text, marker.reflective, marker.breaks)
        trace["r"] = _ranges(spans, [(span.start, span.end) for span, _ in reflective])
        trace["q"] = _ranges(spans, marker.rare.get(key, ()))
    if tokens and key in marker.measured:
        trace["v"], trace["f"] = _measured(marker.measured[key], len(pieces))
    coloured = np.abs([x for x in trace["h"] or trace["l"] or () if x is not None]) / 1000
    return Rendered(trace, coloured, one_line(row["finish_reason"], 30) if row["finish_reason"] else None)


def _token_pieces(tokens: Sequence[str], text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Cuts the text into a piece for each token; the pieces join to the text, and a token without text is as stored."""
    pieces, spans, at = [], [], 0
    for token, span in zip(tokens, token_spans(tokens, text), strict=True):
        end = max(at, span.end)
        # A special token, or the later part of a character, is not in the text.
        pieces.append(text[at:end] if end > at else token)
        spans.append((at, end))
        at = end
    if pieces and at < len(text):
        pieces[-1] += text[at:]
    return pieces, spans


def _ranges(spans: Sequence[tuple[int, int]], marks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Finds the pieces `[first, last)` that hold a character of each mark."""
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    ranges = []
    for start, end in marks:
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        if first < last:
            ranges.append((first, last))
    return ranges


def _measured(sample: SampleForks, pieces: int) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Packs what was measured at the places that the trace has."""
    values = [[v.position, round(1000 * v.chance), round(1000 * v.error)] for v in sample.values if v.position < pieces]
    states = [
        {
            "at": state.position,
            "v": state.value,
            "e": state.value_error,
            "F": round(state.decided, 4),
            "p": state.p,
            "ways": [
                {
                    "t": way.token,
                    "p": round(way.probability, 4),
                    "n": way.continuations,
                    "right": way.right,
                    "forced": way.forced,
                    "ends": [(end.text, end.answer, end.correct) for end in way.ends]
                    or [(way.text, None, None)],  # as older files have them
                }
                for way in ways
            ],
        }
        for state, ways in sample.states
        if state.position < pieces
    ]
    return values, states


def _thousandths(values: Sequence[float | None] | None, pieces: int) -> list[int | None] | None:
    if values is None or len(values) != pieces:
        return None
    return [None if v is None or not math.isfinite(v) else round(1000 * v) for v in values]


def _alternatives(
    lists: Sequence[Sequence[Mapping[str, Any]] | None] | None, pieces: int
) -> list[list[tuple[str, int]]] | None:
    if lists is None or len(lists) != pieces:
        return None
    packed = []
    for candidates in lists:
        likely = [c for c in candidates or () if c["logprob"] is not None and c["logprob"] > _LEAST]
        best = sorted(likely, key=lambda c: -c["logprob"])[:_ALTERNATIVES]
        packed.append([(c["token"] or "", round(1000 * c["logprob"])) for c in best])
    return packed if any(packed) else None
