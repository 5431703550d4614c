"""Any JSONL, JSON, CSV or Parquet file with a record per sample, or per problem with lists; fields named by --map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from forkwise.errors import InputError, nearest
from forkwise.samples.importers.base import Row, Source, chat_text, finish_reason
from forkwise.samples.importers.reader import Record
from forkwise.samples.store import SCHEMA
from forkwise.tasks.base import question_id

_SAMPLING = ("temperature", "top_p", "max_tokens")
COLUMNS = (*(name for name in SCHEMA.names if name != "sampling"), *_SAMPLING, "score")
"""What `--map` can name: the columns of the samples table, the sampling settings, and `score` for a number."""

USES = frozenset({*COLUMNS, "sampling"})

_PER_SAMPLE = ("sample_id", "completion", "answer", "correct", "score", "n_tokens", "finish_reason", "seed")
"""Columns of which a record may hold a list, one entry per sample of its problem."""

_WHOLE = ("sample_id", "n_tokens", "seed", "max_tokens")


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuses a mapping to columns that do not exist."""
    for column in columns:
        if column not in COLUMNS:
            raise InputError(
                f"--map names '{column}', which is no column of the samples table.{nearest(column, COLUMNS)} "
                f"Columns: {', '.join(COLUMNS)}."
            )


def matches(record: Record) -> bool:
    """Our own names: a problem, and a completion or a verdict."""
    return bool({"problem_id", "prompt"} & record.keys()) and bool({"completion", "correct"} & record.keys())


def rows(record: Record, source: Source) -> Iterator[Row]:
    """One row per sample. `problem_id` may be left out where there is a prompt, `sample_id` always."""
    given = {name: _field(record, source.options.columns.get(name, name)) for name in COLUMNS}
    for name, path in source.options.columns.items():
        if given[name] is _ABSENT:
            raise source.error(f"there is no field '{path}' for {name}: its fields are {', '.join(record)}.")
    nested: Row = record["sampling"] if isinstance(record.get("sampling"), dict) else {}
    values = {name: value for name, value in given.items() if value is not _ABSENT}
    lists = {k: v for k, v in values.items() if k in _PER_SAMPLE and isinstance(v, list)}
    if len({len(v) for v in lists.values()}) > 1:
        sizes = ", ".join(f"{len(v)} of {k}" for k, v in lists.items())
        raise source.error(f"the lists differ in length ({sizes}): remove the record.")
    for i in range(len(next(iter(lists.values()))) if lists else 1):
        yield _row({**nested, **values, **{k: v[i] for k, v in lists.items()}}, source)


_ABSENT = object()


def _field(record: Record, path: str) -> Any:
    if path in record:
        return record[path]
    value: Any = record
    for key in path.split("."):
        value = value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _row(values: Row, source: Source) -> Row:
    values = {k: None if v == "" else v for k, v in values.items()}
    source.names_runs = values.get("run") is not None
    prompt = chat_text(values.get("prompt"))
    problem = values.get("problem_id")
    if problem is None:
        if prompt is None:
            raise source.error("there is no problem id and no prompt: name them with --map problem_id=FIELD.")
        problem = question_id(prompt)
    if values.get("correct") is None and values.get("completion") is None and values.get("score") is None:
        raise source.error("there is neither a completion nor a verdict: name them with --map completion=FIELD.")
    row: Row = {name: values[name] for name in SCHEMA.names if name in values}
    for name in _WHOLE:
        if values.get(name) is not None:
            values[name] = row[name] = _whole(values[name], name, source)
    row |= {
        "problem_id": str(problem),
        "prompt": prompt,
        "correct": source.verdict(
            values["score"] if values.get("correct") is None and "score" in values else values.get("correct")
        ),
        "finish_reason": finish_reason(values.get("finish_reason")),
        "run": source.run(str(values["run"])) if values.get("run") is not None else source.run(),
        "model": values.get("model"),
    }
    settings = {name: _number(values.get(name), name, source) for name in _SAMPLING}
    if any(v is not None for v in settings.values()):
        row["sampling"] = settings
    for name in ("completion", "answer"):
        if row.get(name) is not None:
            row[name] = chat_text(row[name]) if isinstance(row[name], list) else str(row[name])
    if row.get("sample_id") is None:
        row.pop("sample_id", None)
    row.pop("max_tokens", None)
    return row


def _number(value: Any, name: str, source: Source) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise source.error(f"{name} is {value!r:.40}: give a number.") from error


def _whole(value: Any, name: str, source: Source) -> int:
    number = _number(value, name, source)
    if number is None or not number.is_integer() or abs(number) >= 2**63:
        raise source.error(f"{name} is {value!r:.40}: give a whole number.")
    return int(value) if isinstance(value, int) else int(number)
