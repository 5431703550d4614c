"""Seeded damage to tables, JSON, YAML and bytes, and a command run in this process under a limit of time."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forkwise import cli

Draw = random.Random
HOSTILE = "\x1b]0;pwned\x07\x1b[2J\u202egnp\x9b31m $x_1$ [/red] \\"
SECONDS = 20

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**63 - 1, 2**70, -(2**80), 1e308, 0.5, float("nan"), float("inf"), -float("inf")),
    *("", " ", "x", "nan", "-0", "1e999", "\0", HOSTILE, "\ud800", "é" * 300, "A" * 200_000, "9" * 5000),
    *([], {}, [[]], [None], [1, "a", None], {"a": {"b": []}}, [[[[[[]]]]]], {"": 0}, [{"token": "a", "logprob": None}]),
]


class OutOfTimeError(BaseException):
    """A command took longer than it may; nothing of forkwise catches this."""


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(*words: object, seconds: int = SECONDS) -> tuple[int, str]:
    """Exit code and everything printed; an AssertionError for any other end than exit code 0, 1 or 2."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    code: Any = None
    trace = ""
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = stdout
    try:
        with limit(seconds):
            cli.run([str(word) for word in words])
    except SystemExit as error:
        code = error.code
    except BaseException:
        trace = traceback.format_exc()
    finally:
        sys.stdout, sys.stderr = before
    text = stdout.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]
    where = " ".join(str(word)[:300] for word in words)
    assert not trace, f"{where}\n{trace[-3000:]}"
    assert code in (0, 1, 2), f"{where}: exit code {code}\n{text[-2000:]}"
    assert "Traceback" not in text, f"{where}\n{text[-3000:]}"
    if code:
        said = [line for line in text.splitlines() if line.startswith("forkwise: ")]
        assert len(said) == 1 or "Usage" in text, f"{where}: {len(said)} sentences\n{text[-2000:]}"
    hidden = [c for c in text if (ord(c) < 32 and c not in "\n\t\r") or 127 <= ord(c) < 160 or c in "\u202e\u2066"]
    assert not hidden, f"{where}: {hidden[:5]}\n{text[:500]!r}"
    return code, text


# ---- bytes and text


def damaged_bytes(data: bytes, draw: Draw) -> bytes:
    kind = draw.randrange(5)
    if kind == 0:
        return data[: draw.randrange(len(data) + 1)]
    if kind == 1:
        start = draw.randrange(len(data) + 1)
        return data[:start] + draw.randbytes(draw.randrange(1, 64)) + data[start:]
    if kind == 2:
        changed = bytearray(data)
        for _ in range(draw.choice([1, 3, 30])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)
    if kind == 3:
        start = draw.randrange(len(data) + 1)
        return data[:start] + data[start + draw.randrange(1, 200) :]
    return draw.choice(
        [b"", b"\0" * 100, b"PAR1", draw.randbytes(500), b"PK\3\4" + draw.randbytes(90), b"\x1f\x8b" + data]
    )


def damaged_value(value: Any, draw: Draw) -> Any:
    """`value` with one thing in it changed, at any depth."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.25:
            return {(k if k != key else HOSTILE): v for k, v in value.items()}
        return {**value, key: damaged_value(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.75:
        at = draw.randrange(len(value))
        if draw.random() < 0.2:
            return value[:at] + value[at + 1 :]
        return [*value[:at], damaged_value(value[at], draw), *value[at + 1 :]]
    return draw.choice(VALUES)


def damaged_json(text: str, draw: Draw) -> bytes:
    """A damaged JSON document, or JSON lines of which one or two are."""
    kind = draw.randrange(10)
    if kind == 0:
        return damaged_bytes(text.encode(), draw)
    lines = text.splitlines() if text.count("\n{") else [text]
    for _ in range(draw.choice([1, 1, 2])):
        at = draw.randrange(len(lines))
        if kind == 1:
            depth = draw.choice([30, 3000, 200_000])
            lines[at] = draw.choice(["[" * depth, '{"a":' * depth, "[" * depth + "]" * depth])
        elif kind == 2:
            lines[at] = draw.choice(["9" * 6000, "NaN", '"\\ud800"', "{}", "[]", "null", "\ufeff" + lines[at]])
        else:
            with contextlib.suppress(ValueError):
                lines[at] = json.dumps(damaged_value(json.loads(lines[at]), draw))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damaged_yaml(content: Any, draw: Draw) -> bytes:
    import yaml

    def bomb(first: str, many: Callable[[str], str]) -> str:
        letters = "abcdefghij"
        later = (f"{b}: &{b} {many('*' + a)}\n" for a, b in itertools.pairwise(letters))
        return f"a: &a {first}\n" + "".join(later)

    kind = draw.randrange(4)
    if kind == 0:
        good = yaml.safe_dump(content)
        return draw.choice(
            [
                bomb("[x, x, x]", lambda a: f"[{', '.join([a] * 9)}]"),
                bomb("{k: 1, l: 2}", lambda a: f"{{<<: [{', '.join([a] * 9)}]}}"),
                good + bomb("x" * 50, lambda a: f"[{', '.join([a] * 9)}]"),
                *("a: &a [*a]", "&a {<<: *a}", "[" * 9000, "- " * 9000, "{a: " * 9000, "? " * 9000, "*x", "a: 1\na: 2"),
                *("!!python/object/apply:os.system [x]", "a: !!int ''", "a: !!float ''", "a: !!timestamp x", "\0"),
                *("a: 2001-99-99", "a: " + "1:" * 9000 + "1", "a: " + "9" * 9000, "? [a]\n: b", "a: !!binary '*'"),
                *(
                    "a: 1\n---\nb: 2",
                    "%YAML 9\n---\na",
                    "",
                    "null",
                    "3",
                    "[]",
                    "a: \x1b",
                    "<<: 3",
                    "= : 3",
                    "? {a: b}\n: c",
                ),
            ]
        ).encode()
    if kind == 1:
        return damaged_bytes(yaml.safe_dump(content).encode(), draw)
    changed = damaged_value(content, draw)
    if draw.random() < 0.2:
        import datetime

        changed = (
            {**changed, draw.choice(list(content)): datetime.date(2020, 1, 1)} if isinstance(changed, dict) else changed
        )
    try:
        return yaml.safe_dump(changed).encode("utf-8", "replace")
    except Exception:
        return b""


# ---- tables


def _other_type(column: pa.ChunkedArray, draw: Draw) -> pa.Array:
    values = column.to_pylist()
    n = len(values)
    made: list[Callable[[], pa.Array]] = [
        lambda: pa.array([str(v) for v in values], pa.large_string()),
        lambda: pa.array([str(v) for v in values]).dictionary_encode(),
        lambda: pa.array([str(v).encode() + b"\xff" for v in values], pa.binary()),
        lambda: pa.array([i - 1 for i in range(n)], pa.int64()),
        lambda: pa.array([draw.choice([0.5, float("nan"), float("inf"), None]) for _ in range(n)], pa.float64()),
        lambda: pa.array([i % 2 == 0 for i in range(n)]),
        lambda: pa.nulls(n),
        lambda: pa.nulls(n, column.type),
        lambda: pa.array([[str(v)] for v in values], pa.list_(pa.string())),
        lambda: pa.array([{"a": i} for i in range(n)]),
        lambda: pa.array([{"temperature": "hot"} for _ in range(n)]),
        lambda: (
            pa.array([draw.choice([b"", b"\xff\xfe"]) for _ in range(n)], pa.binary()).view(pa.string())
            if n
            else pa.nulls(0)
        ),
        lambda: pa.array([10**17 * i for i in range(n)], pa.timestamp("s")),
        lambda: pa.array([2**63 - 1 for _ in range(n)], pa.uint64()),
        lambda: pa.array([0.1 * i for i in range(n)], pa.float32()),
        lambda: pa.array([[[float(i)]] for i in range(n)]),
    ]
    return draw.choice(made)()


def _other_value(table: pa.Table, draw: Draw) -> pa.Table:
    """One or a few cells changed, keeping the types."""
    rows = table.to_pylist()
    for _ in range(draw.choice([1, 1, 5])):
        row = draw.choice(rows)
        key = draw.choice(list(row))
        value = row[key]
        if isinstance(value, str):
            row[key] = draw.choice(
                ["", HOSTILE, "A" * 100_000, "\0", " ", "é\u2028", None, "$\\frac{", "9" * 5000, "()" * 300]
            )
        elif isinstance(value, bool):
            row[key] = None
        elif isinstance(value, int):
            row[key] = draw.choice([-1, 0, 2**62, None])
        elif isinstance(value, list) and value:
            kind = draw.randrange(5)
            if kind == 0:
                row[key] = value[:-1]
            elif kind == 1:
                row[key] = [*value[:-1], None]
            elif kind == 2 and isinstance(value[0], float):
                row[key] = [draw.choice([float("nan"), float("inf"), -float("inf"), 5.0, -9999.0]), *value[1:]]
            elif kind == 3:
                row[key] = []
            else:
                row[key] = value * 50
        else:
            row[key] = None
    return pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in table.schema]))


def damaged_table(table: pa.Table, file: Path, draw: Draw) -> None:
    """Writes a damaged copy of the table."""
    kind = draw.randrange(10)
    name = draw.choice(table.column_names)
    at = table.column_names.index(name)
    if kind == 0:
        table = table.drop_columns([name])
    elif kind in (1, 2):
        table = table.set_column(at, name, _other_type(table[name], draw))
    elif kind == 3:
        table = draw.choice([table.slice(0, 0), table.slice(0, 1), pa.concat_tables([table, table]), table.select([])])
    elif kind == 4:
        table = table.rename_columns(
            [draw.choice(["run", HOSTILE, "", "a.b"]) if c == name else c for c in table.column_names]
        )
    elif kind == 5:
        extra = draw.choice([HOSTILE, "Correct", "score", name])
        table = table.append_column(extra, pa.array([HOSTILE] * table.num_rows))
    elif kind < 9:
        table = _other_value(table, draw)
    try:
        pq.write_table(table, file, row_group_size=draw.choice([1, 1000]))
    except (pa.ArrowException, ValueError):  # no Parquet file can hold that
        file.write_bytes(b"")
    if kind == 9:
        file.write_bytes(damaged_bytes(file.read_bytes(), draw))
