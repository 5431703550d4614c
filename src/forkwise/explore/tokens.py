"""The tokens and sentences of a run as flat arrays, the strata of the matched controls, and tables of the tokens.

Suffixes: N tokens of all traces, T tokens of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from forkwise.explore.contrast import BoolArray, FloatArray, IntArray, Units, mean_interval
from forkwise.explore.findings import ForkToken, Histogram, ProfilePoint, TokenType
from forkwise.explore.lexicon import Lexicon
from forkwise.explore.sentences import Span
from forkwise.explore.spans import first_token, tokens_in
from forkwise.explore.traces import Trace
from forkwise.progress import watch

TYPES = ("word", "word continuation", "number", "mathematics", "punctuation", "white space", "special")
_WORD, _CONTINUATION, _NUMBER, _MATHEMATICS, _PUNCTUATION, _SPACE, _SPECIAL = range(7)
_MATHEMATICAL = re.compile(r"[\\=+*/^_{}<>|~&%$≤≥≠≈×÷·√π∞∑∫∈→⇒−]|^-$|^\s-\s?$")

_ANY_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

_DISTANCE_EDGES = np.array([1, 2, 3, 5, 9, 17, 33])  # from the start of the sentence, tokens
_LENGTH_EDGES = np.array([1, 2, 3, 4, 5, 6, 8, 11])  # of a token, characters
_SENTENCE_EDGES = np.array([4, 7, 10, 14, 19, 26, 36, 51])  # of a sentence, tokens
_OUTSIDE = _DISTANCE_EDGES.size + 1  # tokens of no sentence


@dataclass(frozen=True)
class TokenTable:
    """All tokens of a run, in the order of traces."""

    units: Units
    text_N: list[str]
    position_N: IntArray
    """Number of tokens before this one in its trace."""
    decile_N: IntArray
    """Tenth of the trace in which the token stands, from 0."""
    distance_N: IntArray
    """Number of tokens between this one and the start of its sentence; -1 outside of any sentence."""
    type_N: IntArray
    """Type of the token, as an index into `TYPES`."""
    stratum_N: IntArray
    """Stratum of the token: its tenth of the trace, distance from the sentence's start and length (binned)."""
    pivotal_N: BoolArray
    """Whether a match of the lexicon begins with the token."""
    continued_N: BoolArray
    """Whether the token continues a match: it is neither pivotal nor another, since the first token has decided it."""
    entry_N: IntArray
    """Entry of the lexicon that begins with the token, as an index into `entries`; -1 where none does."""
    entries: list[str]
    word_N: IntArray
    """Word outside of the lexicon that begins with the token, as an index into `words`; -1 where none does."""
    varentropy_N: FloatArray | None
    """Varentropies, nats squared; None unless all traces have them. So with `surprisal_N`, nats."""
    surprisal_N: FloatArray | None
    words: list[str]
    """The words of the texts in lower case, whole ones, without the lexicon's."""

    @property
    def other_N(self) -> BoolArray:
        """Whether the token has text and belongs to no match."""
        other_N: BoolArray = ~self.pivotal_N & ~self.continued_N & (self.type_N < _SPACE)
        return other_N

    @property
    def begins_N(self) -> BoolArray:
        """Whether the token begins a word."""
        begins_N: BoolArray = self.type_N == _WORD
        return begins_N


@dataclass(frozen=True)
class SentenceTable:
    """All sentences of a run that hold tokens, in the order of traces; values are mean token entropies."""

    units: Units
    later_units: Units
    """The sentences with the first token left out of the mean; a sentence of one token keeps it."""
    stratum_N: IntArray
    """Stratum of the sentence: its tenth of the trace and number of tokens (binned)."""
    trace_N: IntArray
    """Index of the sentence's trace in the run.
    """
    index_N: IntArray
    """Index of the sentence in its trace."""


STRATA_TOKENS = "trace, its tenth, distance from the sentence's start, length in characters"
STRATA_SENTENCES = "trace, its tenth, length in tokens"


def token_table(traces: Sequence[Trace], problem_of: dict[str, int], lexicon: Lexicon) -> TokenTable:
    """Makes the table of the tokens of all traces that have entropies; `problem_of` numbers the problems.

    It has more than 60 lines because all columns are filled in one pass over the tokens.
    """
    entries = list(lexicon.groups)
    number = {entry: i for i, entry in enumerate(entries)}
    words: dict[str, int] = {}
    columns: dict[str, list[npt.NDArray[np.generic]]] = {}
    texts: list[str] = []
    further: dict[str, list[FloatArray | None]] = {"upper": [], "varentropy": [], "surprisal": []}

    for t, trace in enumerate(watch(traces, "tokens", "samples")):
        tokens = trace.tokens
        if tokens is None:
            continue
        n = len(tokens.text)
        matches = lexicon.matches(trace.text)
        first_tokens = first_token(tokens.spans, [Span(m.start, m.end) for m in matches])
        entry = np.full(n, -1)
        inside = np.zeros(n, dtype=bool)
        for match, i in zip(matches, first_tokens, strict=True):
            if i < 0:
                continue
            entry[i] = number[match.entry]
            j = int(i)
            while j < n and tokens.spans[j].start < match.end:
                inside[j] = tokens.spans[j].end > match.start
                j += 1
        word = np.full(n, -1)
        words_here = list(_ANY_WORD.finditer(trace.text))
        for text, i in zip(
            words_here, first_token(tokens.spans, [Span(*m.span()) for m in words_here]).tolist(), strict=True
        ):
            if i >= 0 and not inside[i] and word[i] < 0:
                word[i] = words.setdefault(text[0].lower(), len(words))
        owner = tokens_in(tokens.spans, trace.all_sentences, trace.text)
        types = _types(trace.text, tokens.text, tokens.spans)
        length = np.array([len(text.strip()) for text in tokens.text])
        decile = np.arange(n) * 10 // n
        distance = _distances(owner)
        near = np.where(distance < 0, _OUTSIDE, np.searchsorted(_DISTANCE_EDGES, distance, side="right"))
        stratum = (decile * (_OUTSIDE + 1) + near) * (_LENGTH_EDGES.size + 1)
        stratum += np.searchsorted(_LENGTH_EDGES, length, side="right")
        for name, column in {
            "value": tokens.entropy,
            "problem": np.full(n, problem_of[trace.problem_id]),
            "trace": np.full(n, t),
            "position": np.arange(n),
            "decile": decile,
            "distance": distance,
            "type": types,
            "stratum": stratum,
            "entry": entry,
            "continued": inside & (entry < 0),
            "word": word,
        }.items():
            columns.setdefault(name, []).append(column)
        texts += [text.strip() or text for text in tokens.text]
        for name, pieces in further.items():
            pieces.append(getattr(tokens, name))
    flat = {name: np.concatenate(pieces) for name, pieces in columns.items()}
    whole = {name: _whole(pieces) for name, pieces in further.items()}
    units = Units(flat["value"], flat["problem"], flat["trace"], whole["upper"])
    return TokenTable(
        units=units,
        text_N=texts,
        position_N=flat["position"],
        decile_N=flat["decile"],
        distance_N=flat["distance"],
        type_N=flat["type"],
        stratum_N=flat["stratum"],
        pivotal_N=flat["entry"] >= 0,
        continued_N=flat["continued"],
        entry_N=flat["entry"],
        entries=entries,
        word_N=flat["word"],
        varentropy_N=whole["varentropy"],
        surprisal_N=whole["surprisal"],
        words=list(words),
    )


def _whole(pieces: Sequence[FloatArray | None]) -> FloatArray | None:
    known = [piece for piece in pieces if piece is not None]
    return np.concatenate(known) if known and len(known) == len(pieces) else None


def _distances(owner: IntArray) -> IntArray:
    """Counts the tokens since the first one of the same sentence; -1 outside of any sentence."""
    distance = np.full(owner.size, -1, dtype=np.int64)
    first: dict[int, int] = {}
    for i, sentence in enumerate(owner.tolist()):
        if sentence >= 0:
            distance[i] = i - first.setdefault(sentence, i)
    return distance


def _types(text: str, tokens: Sequence[str], spans: Sequence[Span]) -> IntArray:
    return np.array([_type(text, token, span) for token, span in zip(tokens, spans, strict=True)], dtype=np.int64)


def _type(text: str, token: str, span: Span) -> int:
    word = text[span.start : span.end].strip()
    if span.end <= span.start:
        return _SPECIAL if token.strip() else _SPACE
    if not word:
        return _SPACE
    begin = span.start + len(text[span.start : span.end]) - len(text[span.start : span.end].lstrip())
    before = text[begin - 1] if begin else " "
    if _MATHEMATICAL.search(word) or (before == "\\" and word[0].isalpha()):
        return _MATHEMATICS
    if any(c.isalpha() for c in word):
        return (
            _CONTINUATION if before.isalnum() or (before in "'’" and begin > 1 and text[begin - 2].isalpha()) else _WORD
        )
    return _NUMBER if any(c.isdigit() for c in word) else _PUNCTUATION


def sentence_table(traces: Sequence[Trace], problem_of: dict[str, int]) -> SentenceTable:
    """Makes the table of the sentences of all traces that have entropies."""
    columns: dict[str, list[npt.NDArray[np.generic]]] = {}
    for t, trace in enumerate(traces):
        if trace.tokens is None or not trace.sentences:
            continue
        owner = tokens_in(trace.tokens.spans, trace.sentences, trace.text)
        inside = owner >= 0
        size = np.bincount(owner[inside], minlength=len(trace.sentences))
        sentences = np.flatnonzero(size)
        first = np.searchsorted(np.maximum.accumulate(owner), sentences)  # owners rise along the trace
        bounds = {"": trace.tokens.entropy} | ({} if trace.tokens.upper is None else {"upper ": trace.tokens.upper})
        for bound, entropy in bounds.items():
            total = np.bincount(owner[inside], weights=entropy[inside], minlength=size.size)[sentences]
            later = np.where(size[sentences] > 1, (total - entropy[first]) / np.maximum(size[sentences] - 1, 1), total)
            columns.setdefault(f"{bound}value", []).append(total / size[sentences])
            columns.setdefault(f"{bound}rest", []).append(later)
        decile = first * 10 // owner.size
        length = np.searchsorted(_SENTENCE_EDGES, size[sentences], side="right")
        for name, column in {
            "problem": np.full(sentences.size, problem_of[trace.problem_id]),
            "trace": np.full(sentences.size, t),
            "index": sentences,
            "stratum": decile * (_SENTENCE_EDGES.size + 1) + length,
        }.items():
            columns.setdefault(name, []).append(column)
    flat = {name: np.concatenate(pieces) for name, pieces in columns.items()} if columns else {}
    empty = np.zeros(0, dtype=np.int64)
    value, later = (flat.get(name, np.zeros(0)) for name in ("value", "rest"))
    problem, trace_N = flat.get("problem", empty), flat.get("trace", empty)
    return SentenceTable(
        units=Units(value, problem, trace_N, flat.get("upper value")),
        later_units=Units(later, problem, trace_N, flat.get("upper rest")),
        stratum_N=flat.get("stratum", empty),
        trace_N=trace_N,
        index_N=flat.get("index", empty),
    )


# ----------------------------------------------------------------------------------------------- what tokens look like


def histogram(values: FloatArray, edges: FloatArray) -> Histogram:
    """Counts the values between `edges`."""
    heights, _ = np.histogram(values, edges)
    return Histogram([float(edge) for edge in edges], [int(count) for count in heights])


def profile(table: TokenTable, at_N: IntArray | FloatArray, edges: Sequence[float], level: float) -> list[ProfilePoint]:
    """Averages the entropy of the tokens whose `at_N` lies between two edges, with intervals over problems."""
    points = []
    for start, end in pairwise(edges):
        inside = (at_N >= start) & (at_N < end)
        if inside.any():
            units = table.units
            mean = mean_interval(
                units.value_N[inside], units.problem_N[inside], units.problems, level, within=(0.0, np.inf)
            )
            assert mean.value is not None
            points.append(ProfilePoint(float(start), float(end), int(inside.sum()), mean.value, mean.low, mean.high))
    return points


def token_types(table: TokenTable, threshold: float) -> list[TokenType]:
    """Averages the entropy of each type of token."""
    types = []
    for i, name in enumerate(TYPES):
        value = table.units.value_N[table.type_N == i]
        if value.size:
            types.append(TokenType(name, int(value.size), float(value.mean()), float((value > threshold).mean())))
    return types


def fork_tokens(table: TokenTable, threshold: float, top: int = 40) -> list[ForkToken]:
    """Finds the token texts that are above the threshold more often than as many tokens of any kind would be."""
    value, varentropy = table.units.value_N, table.varentropy_N
    texts, kind_N = np.unique(np.array(table.text_N, dtype=object), return_inverse=True)
    count = np.bincount(kind_N)
    high = np.bincount(kind_N, weights=value > threshold)
    mean = np.bincount(kind_N, weights=value) / count
    pivotal = np.bincount(kind_N, weights=table.pivotal_N)
    spread = None if varentropy is None else np.bincount(kind_N, weights=varentropy) / count
    excess = high - count * (value > threshold).mean()
    order = sorted(np.flatnonzero(excess > 0), key=lambda i: (-excess[i], -mean[i], texts[i]))[:top]
    return [
        ForkToken(
            token=str(texts[i]),
            count=int(count[i]),
            high=int(high[i]),
            excess=float(excess[i]),
            mean_entropy=float(mean[i]),
            pivotal=bool(pivotal[i] * 2 > count[i]),
            mean_varentropy=None if spread is None else float(spread[i]),
        )
        for i in order
    ]
