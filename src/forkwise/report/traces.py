"""Traces for the viewer, packed in chunks of gzip-compressed JSON, so that a browser unpacks only what is looked at."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forkwise.progress import Meter
from forkwise.report.distributions import FloatArray
from forkwise.report.problems import short_name
from forkwise.report.selection import ListedSample, choose
from forkwise.report.sources import SampleArm
from forkwise.report.trace import JUDGED, Marker, Rendered, render_trace
from forkwise.samples.store import Key, read_batches
from forkwise.terminal import visible

_CHUNK = 6000  # pieces after which a new chunk begins; a trace is never split
_TOKEN_COLUMNS = ("tokens", "logprobs", "entropies", "top_logprobs")
_COLUMNS = ("prompt", "completion", "finish_reason", *JUDGED.values(), *_TOKEN_COLUMNS)


@dataclass(frozen=True)
class Traces:
    """Packed traces: `index` for the page's data, one base64 text per chunk."""

    index: dict[str, Any]
    chunks: list[str]
    shown: int
    available: int
    names: tuple[str, ...]
    """Names of the arms, in the order of the index."""
    problem_ids: tuple[str, ...]
    """Ids of the problems, in the order of the index."""
    all_problems: int
    highest: float
    """99.5 % quantile of the numbers that colour tokens, entropies or else -log p, nats; 0 without any."""

    measured: bool
    """Whether any was continued from its tokens."""

    @property
    def problems(self) -> int:
        """Returns how many problems have traces."""
        return len(self.problem_ids)


def pack_traces(
    arms: Sequence[SampleArm],
    samples: Sequence[ListedSample],
    marker: Marker,
    *,
    limit: float,
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
    shelf = _Shelf(arms, marker, token_tables)
    meter: Meter | None = None
    with ExitStack() as stack:
        while shown:
            chosen = choose(samples, shown, per_arm)
            # No token takes less than a byte, so do not even read what cannot fit.
            share = limit / max(sum(sample.n_tokens or 0 for sample in chosen), 1)
            if share >= 1:
                if meter is None:
                    meter = stack.enter_context(Meter(len(chosen), phase="packing traces", unit="traces"))
                try:
                    return _pack(shelf, samples, chosen, limit, meter)
                except _TooLargeError as error:
                    share = error.share
            if per_arm > 2:
                per_arm = max(2, min(per_arm - 1, int(per_arm * share)))
            elif shown > 1:
                shown = max(1, min(shown - 1, int(shown * share)))
            else:
                shown, per_arm = per_arm - 1, 1
    return _pack(shelf, samples, [], limit, None)


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
    trace_row, *token_rows = (batch.slice(i, 1).to_pylist()[0] for batch, i in rows)
    row: dict[str, Any] = trace_row
    return {**row, **token_rows[0]} if token_rows and row["entropies"] is None else row


class _Shelf:
    """Keeps what was rendered and compressed, so that a choice that is too large costs nothing the next time."""

    def __init__(self, arms: Sequence[SampleArm], marker: Marker, token_tables: Sequence[Path]) -> None:
        self.arms = arms
        self._marker, self._token_tables = marker, token_tables
        self._rendered: dict[tuple[int, Key], Rendered] = {}
        self._chunks: dict[tuple[tuple[int, Key], ...], str] = {}

    def read(self, chosen: Sequence[ListedSample]) -> dict[tuple[int, Key], list[_Row]]:
        """Reads the rows of the chosen samples that were not rendered yet."""
        missing = [sample for sample in chosen if (sample.arm, sample.key) not in self._rendered]
        return dict(_read(self.arms, missing, self._token_tables))

    def render(self, sample: ListedSample, rows: Mapping[tuple[int, Key], list[_Row]]) -> Rendered | None:
        """Returns the trace of a sample; None where there is no such row."""
        at = (sample.arm, sample.key)
        if at not in self._rendered and at in rows:
            self._rendered[at] = render_trace(_python(rows[at]), sample.key, self._marker)
        return self._rendered.get(at)

    def chunk(self, members: Sequence[tuple[int, Key]]) -> str:
        """Packs rendered traces into one chunk."""
        if tuple(members) not in self._chunks:
            words = _Words()
            traces = [words.indexed(self._rendered[at].trace) for at in members]
            text = json.dumps({"words": words.list, "traces": traces}, ensure_ascii=True, separators=(",", ":"))
            packed = gzip.compress(text.encode(), 6, mtime=0)
            self._chunks[tuple(members)] = base64.b64encode(packed).decode()
        return self._chunks[tuple(members)]

    def __len__(self) -> int:
        return len(self._rendered)


class _Words:
    """Every text of a chunk, once."""

    def __init__(self) -> None:
        self.list: list[str] = []
        self._index: dict[str, int] = {}

    def index(self, text: str) -> int:
        if text not in self._index:
            self._index[text] = len(self.list)
            self.list.append(visible(text))  # here: the page embeds the chunk packed, and cannot look into it
        return self._index[text]

    def indexed(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a trace with the index of each of its texts."""
        places = {key: None if trace[key] is None else self.index(trace[key]) for key in ("prompt", *JUDGED)}
        pieces, alternatives = [self.index(piece) for piece in trace["t"]], trace["a"]
        if alternatives is not None:
            alternatives = [[x for text, p in best for x in (self.index(text), p)] for best in alternatives]
        return {**trace, **places, "t": pieces, "a": alternatives, "f": [self._state(state) for state in trace["f"]]}

    def _state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        def placed(text: str | None) -> int | None:
            return None if text is None else self.index(text)

        ways = [
            {**way, "t": placed(way["t"]), "ends": [(placed(text), placed(a), c) for text, a, c in way["ends"]]}
            for way in state["ways"]
        ]
        return {**state, "ways": ways}


_COLUMNS_OF_INDEX = (
    *("problem", "arm", "run", "sample", "correct", "size", "words", "advantage", "finish", "chunk", "place", "known"),
)


class _Packer:
    """Fills chunks trace by trace."""

    def __init__(self, shelf: _Shelf, chosen: Sequence[ListedSample]) -> None:
        self.problems = sorted({sample.key[1] for sample in chosen})
        self.runs = sorted({sample.key[0] for sample in chosen})
        self.finishes: list[str] = []
        self.index: dict[str, list[Any]] = {name: [] for name in _COLUMNS_OF_INDEX}
        self.chunks: list[str] = []
        self.measured = False
        self.used = 0
        """Number of bytes in the closed chunks."""
        self._several = {a for a, arm in enumerate(shelf.arms) if len(arm.runs) > 1}
        self._shelf = shelf
        self._colours: list[FloatArray] = []
        self._members: list[tuple[int, Key]] = []
        self._size = 0

    def add(self, sample: ListedSample, rendered: Rendered) -> None:
        """Packs one more trace."""
        trace, pieces = rendered.trace, len(rendered.trace["t"])
        if self._size + pieces > _CHUNK:
            self.close()
        self._colours.append(rendered.coloured)
        self.measured |= bool(trace["v"] or trace["f"])
        if rendered.finish is not None and rendered.finish not in self.finishes:
            self.finishes.append(rendered.finish)
        in_words = not trace["tokens"] and sample.n_tokens is None
        values = (
            self.problems.index(sample.key[1]),
            sample.arm,
            self.runs.index(sample.key[0]) if sample.arm in self._several else None,
            sample.key[2],
            None if sample.correct is None else int(sample.correct),
            pieces if trace["tokens"] or in_words else sample.n_tokens,
            int(in_words),
            None if sample.advantage is None else round(sample.advantage, 4),
            None if rendered.finish is None else self.finishes.index(rendered.finish),
            len(self.chunks),
            len(self._members),
            max(len(trace["v"]), len(trace["f"])),
        )
        for name, value in zip(_COLUMNS_OF_INDEX, values, strict=True):
            self.index[name].append(value)
        self._members.append((sample.arm, sample.key))
        self._size += pieces

    def close(self) -> None:
        """Ends the chunk, if it holds anything."""
        if self._members:
            self.chunks.append(self._shelf.chunk(self._members))
            self.used += len(self.chunks[-1])
            self._size, self._members = 0, []

    def highest(self) -> float:
        colours = np.concatenate([np.zeros(0), *self._colours])
        return float(np.quantile(colours, 0.995)) if colours.size else 0.0


def _pack(
    shelf: _Shelf, samples: Sequence[ListedSample], chosen: Sequence[ListedSample], limit: float, meter: Meter | None
) -> Traces:
    """Packs the chosen samples.

    Raises:
        _TooLargeError: they exceed the limit.
    """
    rows = shelf.read(chosen)
    packer = _Packer(shelf, chosen)
    for i, sample in enumerate(chosen):
        rendered = shelf.render(sample, rows)
        if rendered is not None:
            packer.add(sample, rendered)
        if meter is not None:
            meter.reach(len(shelf))
        if i == len(chosen) - 1:
            packer.close()
        if packer.used > limit:
            raise _TooLargeError((i + 1) / len(chosen) * limit / packer.used)
    return Traces(
        {
            "rows": packer.index,
            "problems": [short_name(problem) for problem in packer.problems],
            "arms": [short_name(arm.name) for arm in shelf.arms],
            "runs": [short_name(run) for run in packer.runs],
            "finishes": packer.finishes,
        },
        packer.chunks,
        len(packer.index["arm"]),
        len(samples),
        tuple(arm.name for arm in shelf.arms),
        tuple(packer.problems),
        len({sample.key[1] for sample in samples}),
        packer.highest(),
        packer.measured,
    )
