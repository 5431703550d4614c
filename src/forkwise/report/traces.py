"""Traces for the viewer: which samples are shown, and how they are packed.

Every trace is cut into pieces (tokens, or words where no tokens are stored) whose texts join to the completion. Traces
lie in chunks of gzip-compressed JSON, so that a browser unpacks only what is looked at.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forkwise.explore.lexicon import Lexicon, ReflectivePatterns, reflective_spans
from forkwise.explore.spans import MisfitError, token_spans
from forkwise.report.distributions import FloatArray
from forkwise.report.selection import ListedSample, choose
from forkwise.report.sources import SampleArm
from forkwise.samples.store import Key, read_batches
from forkwise.terminal import one_line, visible

_CHUNK = 6000  # pieces after which a new chunk begins; a trace is never split
_ALTERNATIVES = 5
_LEAST = -9.2  # alternatives below p = 1e-4 are left out
_COLUMNS = ("prompt", "completion", "finish_reason", "tokens", "logprobs", "entropies", "top_logprobs")
_TOKEN_COLUMNS = ("tokens", "logprobs", "entropies", "top_logprobs")


@dataclass(frozen=True)
class Marker:
    """Lexicon, patterns and rare sentences that are marked in the traces."""

    lexicon: Lexicon
    reflective: ReflectivePatterns
    breaks: tuple[str, ...] = ()
    rare: Mapping[Key, Sequence[tuple[int, int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Traces:
    """Packed traces: `index` for the page's data, one base64 text per chunk."""

    index: dict[str, Any]
    chunks: list[str]
    shown: int
    available: int
    names: tuple[str, ...]
    """Names of the arms, in the order of the index."""
    problems: int
    all_problems: int
    highest: float
    """99.5 % quantile of the numbers that colour tokens, entropies or else -log p, nats; 0 without any."""


def pack_traces(
    arms: Sequence[SampleArm],
    samples: Sequence[ListedSample],
    marker: Marker,
    *,
    limit: int,
    token_tables: Sequence[Path] = (),
    per_problem: int = 16,
) -> Traces:
    """Packs as many traces as `limit` bytes of base64 hold, every arm and problem alike.

    Args:
        samples: from `list_samples`.
        token_tables: further tables with token columns of the same samples, used where the samples have none.
        per_problem: samples of one arm on one problem, at most.
    """
    shown, per_arm = len({sample.key[1] for sample in samples}), per_problem
    while shown:
        chosen = choose(samples, shown, per_arm)
        # No token takes less than a byte, so do not even read what cannot fit.
        share = limit / max(sum(sample.n_tokens or 0 for sample in chosen), 1)
        if share >= 1:
            try:
                return _pack(arms, samples, chosen, marker, token_tables, limit)
            except _TooLargeError as error:
                share = error.share
        if per_arm > 2:
            per_arm = max(2, min(per_arm - 1, int(per_arm * share)))
        elif shown > 1:
            shown = max(1, min(shown - 1, int(shown * share)))
        else:
            shown, per_arm = per_arm - 1, 1
    return _pack(arms, samples, [], marker, (), limit)


class _TooLargeError(Exception):
    """The chosen traces exceed the limit; about `share` of them fits."""

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self.share = share


_Row = tuple[pa.RecordBatch, int]
"""A row as Arrow holds it: as Python objects, its candidates would take twenty times the memory."""


def _read(
    arms: Sequence[SampleArm], chosen: Sequence[ListedSample], token_tables: Sequence[Path]
) -> Iterator[tuple[tuple[int, Key], list[_Row]]]:
    """Reads the rows of the chosen samples, in any order, each with that of the token tables where there is one."""
    for a, arm in enumerate(arms):
        keys = {sample.key for sample in chosen if sample.arm == a}
        if not keys:
            continue
        extra = dict(_rows(token_tables, _TOKEN_COLUMNS, arm.runs, keys)) if token_tables else {}
        for key, row in _rows(arm.tables, _COLUMNS, arm.runs, keys):
            yield (a, key), [row, extra[key]] if key in extra else [row]


def _rows(
    tables: Sequence[Path], columns: Sequence[str], runs: Sequence[str], keys_wanted: set[Key]
) -> Iterator[tuple[Key, _Row]]:
    for batch in read_batches(tables, ["run", "problem_id", "sample_id", *columns], runs):
        keys = list(zip(*(batch[name].to_pylist() for name in ("run", "problem_id", "sample_id")), strict=True))
        at = [i for i, key in enumerate(keys) if key in keys_wanted]
        if at:
            rows = batch.select(list(columns)).take(at)
            yield from ((keys[i], (rows, j)) for j, i in enumerate(at))


def _python(rows: Sequence[_Row]) -> dict[str, Any]:
    """Turns a row into Python objects, with the columns of the second where the first has no entropies."""
    own, *token_rows = (batch.slice(i, 1).to_pylist()[0] for batch, i in rows)
    row: dict[str, Any] = own
    return {**row, **token_rows[0]} if token_rows and row["entropies"] is None else row


class _Words:
    """Every text of a chunk, once."""

    def __init__(self) -> None:
        self.list: list[str] = []
        self._place: dict[str, int] = {}

    def place(self, text: str) -> int:
        shown = visible(text)
        if shown not in self._place:
            self._place[shown] = len(self.list)
            self.list.append(shown)
        return self._place[shown]


_COLUMNS_OF_INDEX = (
    *("problem", "arm", "run", "sample", "correct", "size", "words", "advantage", "finish", "chunk", "place"),
)


class _Packer:
    """Fills chunks trace by trace."""

    def __init__(self, arms: Sequence[SampleArm], chosen: Sequence[ListedSample], marker: Marker) -> None:
        self.problems = sorted({sample.key[1] for sample in chosen})
        self.runs = sorted({sample.key[0] for sample in chosen})
        self.finishes: list[str] = []
        self.index: dict[str, list[Any]] = {name: [] for name in _COLUMNS_OF_INDEX}
        self.chunks: list[str] = []
        self.used = 0
        """Number of bytes in the closed chunks."""
        self._several = {a for a, arm in enumerate(arms) if len(arm.runs) > 1}
        self._marker = marker
        self._colours: list[FloatArray] = []
        self._words, self._size = _Words(), 0
        self._traces: list[dict[str, Any]] = []

    def add(self, sample: ListedSample, row: Mapping[str, Any]) -> None:
        """Packs one more trace."""
        pieces = len(row["tokens"] or (row["completion"] or "").split())
        if self._size + pieces > _CHUNK:
            self.close()
        trace = _trace(row, sample.key, self._marker, self._words)
        if coloured := trace["h"] or trace["l"]:
            self._colours.append(np.abs([x for x in coloured if x is not None]) / 1000)
        finish = one_line(row["finish_reason"], 30) if row["finish_reason"] else None
        if finish is not None and finish not in self.finishes:
            self.finishes.append(finish)
        in_words = not trace["tokens"] and sample.n_tokens is None
        values = (
            self.problems.index(sample.key[1]),
            sample.arm,
            self.runs.index(sample.key[0]) if sample.arm in self._several else None,
            sample.key[2],
            None if sample.correct is None else int(sample.correct),
            len(trace["t"]) if trace["tokens"] or in_words else sample.n_tokens,
            int(in_words),
            None if sample.advantage is None else round(sample.advantage, 4),
            None if finish is None else self.finishes.index(finish),
            len(self.chunks),
            len(self._traces),
        )
        for name, value in zip(_COLUMNS_OF_INDEX, values, strict=True):
            self.index[name].append(value)
        self._traces.append(trace)
        self._size += pieces

    def close(self) -> None:
        """Ends the chunk, if it holds anything."""
        if not self._traces:
            return
        content = {"words": self._words.list, "traces": self._traces}
        text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
        self.chunks.append(base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode())
        self.used += len(self.chunks[-1])
        self._words, self._size, self._traces = _Words(), 0, []

    def highest(self) -> float:
        colours = np.concatenate(self._colours) if self._colours else np.zeros(0)
        return float(np.quantile(colours, 0.995)) if colours.size else 0.0


def _pack(
    arms: Sequence[SampleArm],
    samples: Sequence[ListedSample],
    chosen: Sequence[ListedSample],
    marker: Marker,
    token_tables: Sequence[Path],
    limit: int,
) -> Traces:
    """Packs the chosen samples.

    Raises:
        _TooLargeError: they exceed the limit.
    """
    rows = dict(_read(arms, chosen, token_tables))
    packer = _Packer(arms, chosen, marker)
    for i, sample in enumerate(chosen):
        if (sample.arm, sample.key) in rows:
            packer.add(sample, _python(rows[sample.arm, sample.key]))
        if i == len(chosen) - 1:
            packer.close()
        if packer.used > limit:
            raise _TooLargeError((i + 1) / len(chosen) * limit / packer.used)
    return Traces(
        {
            "rows": packer.index,
            "problems": [one_line(problem, 60) for problem in packer.problems],
            "arms": [one_line(arm.name, 60) for arm in arms],
            "runs": [one_line(run, 60) for run in packer.runs],
            "finishes": packer.finishes,
        },
        packer.chunks,
        len(packer.index["arm"]),
        len(samples),
        tuple(arm.name for arm in arms),
        len(packer.problems),
        len({sample.key[1] for sample in samples}),
        packer.highest(),
    )


def _trace(row: Mapping[str, Any], key: Key, marker: Marker, words: _Words) -> dict[str, Any]:
    """Makes a trace: texts `t`, entropies `h` and log-probs `l` (1/1000 nat), alternatives `a`, marks `p`, `r`, `q`."""
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
        "t": [words.place(piece) for piece in pieces],
        "tokens": bool(tokens),
        "h": _thousandths(row["entropies"], len(pieces)) if tokens else None,
        "l": _thousandths(row["logprobs"], len(pieces)) if tokens else None,
        "a": _alternatives(row["top_logprobs"], len(pieces), words) if tokens else None,
        "p": [],
        "r": [],
        "q": [],
        "prompt": words.place(row["prompt"] or ""),
        "note": note,
    }
    if spans:
        trace["p"] = _ranges(spans, [(match.start, match.end) for match in marker.lexicon.matches(text)])
        reflective = reflective_spans(text, marker.reflective, marker.breaks)
        trace["r"] = _ranges(spans, [(span.start, span.end) for span, _ in reflective])
        trace["q"] = _ranges(spans, marker.rare.get(key, ()))
    return trace


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


def _thousandths(values: Sequence[float | None] | None, pieces: int) -> list[int | None] | None:
    if values is None or len(values) != pieces:
        return None
    return [None if v is None or not math.isfinite(v) else round(1000 * v) for v in values]


def _alternatives(
    lists: Sequence[Sequence[Mapping[str, Any]] | None] | None, pieces: int, words: _Words
) -> list[list[int]] | None:
    if lists is None or len(lists) != pieces:
        return None
    packed = []
    for candidates in lists:
        likely = [c for c in candidates or () if c["logprob"] is not None and c["logprob"] > _LEAST]
        best = sorted(likely, key=lambda c: -c["logprob"])[:_ALTERNATIVES]
        packed.append([x for c in best for x in (words.place(c["token"] or ""), round(1000 * c["logprob"]))])
    return packed if any(packed) else None
