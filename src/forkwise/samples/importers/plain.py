"""Any JSONL, JSON, CSV or Parquet file with a record per sample, or per problem with lists; fields named by --map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from forkwise.errors import InputError, nearest
from forkwise.samples.fields import ABSENT, WrongField, field_at, objects, optional
from forkwise.samples.importers import golds, identity, trl
from forkwise.samples.importers import survey as surveys
from forkwise.samples.importers.base import Row, Source, Undecided, gold_of, gold_text, scored, token_columns
from forkwise.samples.importers.reader import Record
from forkwise.samples.importers.survey import is_chat, prompt_of
from forkwise.samples.importers.texts import chat_text, finish_reason, message_text
from forkwise.samples.store import SCHEMA, TOKEN_COLUMNS
from forkwise.tasks.base import question_id
from forkwise.tasks.dataset import PROMPT_COLUMNS

_SAMPLING = ("temperature", "top_p", "max_tokens")
COLUMNS = (*(name for name in SCHEMA.names if name != "sampling"), *_SAMPLING, "score")
"""What `--map` can name: the columns of the samples table, the sampling settings, and `score` for a number."""

USES = frozenset({*COLUMNS, *PROMPT_COLUMNS, "sampling"})

_PER_SAMPLE = ("sample_id", "completion", "answer", "correct", "score", "n_tokens", "finish_reason", "seed")
"""Columns of which a record may hold a list, one entry per sample of its problem."""

_ENTRIES: dict[str, type] = {
    **{"token_ids": int, "tokens": str},
    **dict.fromkeys(("logprobs", "entropies", "varentropies"), float),
}
"""What the token-level lists hold; candidates are checked elsewhere."""

_WHOLE = ("sample_id", "n_tokens", "seed", "max_tokens", "step")

survey = surveys.survey


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuses a mapping to columns that do not exist."""
    for column in columns:
        if column not in COLUMNS:
            raise InputError(
                f"--map names '{column}', which is no column of the samples table.{nearest(column, COLUMNS)} "
                f"Columns: {', '.join(COLUMNS)}."
            )


def matches(record: Record) -> bool:
    """Tells whether the record has our own names: a problem, and a completion or a verdict."""
    if trl.matches(record):
        return False
    return bool({"problem_id", *PROMPT_COLUMNS} & record.keys()) and bool({"completion", "correct"} & record.keys())


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields one row per sample. `problem_id` may be left out where there is a prompt, `sample_id` always."""
    columns = dict(source.options.columns)
    if surveys.is_undecided(record, columns) and not source.surveyed:
        raise Undecided
    if source.readings.get("answer") == "gold":
        columns |= {"answer": columns.get("answer", ""), "gold": columns.get("gold", "answer")}
    fields = {name: field_at(record, columns.get(name, name)) for name in COLUMNS}
    for name, path in source.options.columns.items():
        if fields[name] is ABSENT:
            raise source.error(f"there is no field '{path}' for {name}: its fields are {', '.join(record)}.")
    nested = optional(record, "sampling", dict) or {}
    values = {name: value for name, value in fields.items() if value is not ABSENT}
    lists = {k: v for k, v in values.items() if k in _PER_SAMPLE and isinstance(v, list) and not is_chat(v)}
    if len({len(v) for v in lists.values()}) > 1:
        sizes = ", ".join(f"{len(v)} of {k}" for k, v in lists.items())
        raise source.error(f"the lists differ in length ({sizes}): remove the record.")
    values["prompt"], prompt_field = prompt_of(record, columns)
    values["prompt"] = chat_text(values["prompt"], prompt_field)
    if gold_text(values.get("gold")) is None:
        gold_of(values.get("gold"), source)
        values["gold"], name = golds.gold_of(record, source.options.columns)
        source.used.add(name)
    values["problem_id"] = _problem(values, record, source)
    for i in range(len(next(iter(lists.values()))) if lists else 1):
        row = _row({**nested, **values, **{k: v[i] for k, v in lists.items()}}, source)
        if row is not None:
            yield row


def _problem(values: Row, record: Record, source: Source) -> str:
    """Returns the problem's id: the file's, else that of the prompt, with what else the record says of its problem."""
    prompt, gold = values["prompt"], gold_text(values.get("gold"))
    if values.get("problem_id") not in (None, ""):
        by_prompt = source.options.columns.get("problem_id") == prompt_of(record, source.options.columns)[1]
        problem = question_id(prompt or "") if by_prompt else _name(values["problem_id"], "problem_id", source)
        for kind, text in (("gold answer", gold), ("prompt", prompt)):
            if text is None:
                continue
            digest = question_id(text)
            if source.memo.setdefault(f"{kind} of {problem}", digest) != digest:
                source.notes[f"whose {kind} is not that of the first sample with its problem id"] += 1
        return problem
    if prompt is None:
        raise source.error("there is no problem id and no prompt: name them with --map problem_id=FIELD.")
    content, number = identity.document_of(record, source)
    if gold is not None:
        content["gold"] = gold
    return source.problem(question_id(prompt), content or None, number)


def _row(values: Row, source: Source) -> Row | None:
    values = {k: None if v == "" and k != "completion" else v for k, v in values.items()}
    source.names_runs = values.get("run") is not None
    verdict = next((values[name] for name in ("correct", "score") if values.get(name) is not None), None)
    completion = _completion(values.get("completion"), source)
    if verdict is None and completion is None:
        if "completion" in values:
            source.dropped["samples without a completion and without a verdict"] += 1
            return None
        raise source.error("there is neither a completion nor a verdict: name them with --map completion=FIELD.")
    row: Row = {name: values[name] for name in SCHEMA.names if name in values}
    for name in _WHOLE:
        if values.get(name) is not None:
            values[name] = row[name] = _whole(values[name], name, source)
    row |= {
        "prompt": values["prompt"],
        "completion": completion,
        "gold": gold_text(values.get("gold")),
        "correct": source.verdict(verdict),
        "finish_reason": finish_reason(values, "finish_reason", source),
        "run": source.run(_name(values["run"], "run", source)) if values.get("run") is not None else source.run(),
        "model": values.get("model"),
    }
    settings = {name: _number(values.get(name), name, source) for name in _SAMPLING}
    if any(v is not None for v in settings.values()):
        row["sampling"] = settings
    if row.get("answer") is not None:
        row["answer"] = chat_text(row["answer"], "answer") if is_chat(row["answer"]) else row["answer"]
    if row.get("cluster") is not None:
        row["cluster"] = _name(row["cluster"], "cluster", source)
    if row.get("sample_id") is None:
        row.pop("sample_id", None)
    row.pop("max_tokens", None)
    return _checked_tokens(row, source)


def _completion(value: Any, source: Source) -> str | None:
    """Returns the text of a completion that is a text, a number, a message or several."""
    if is_chat(value):
        return chat_text(value, "completion") or ""
    if isinstance(value, dict) and "content" in value:
        value = message_text(value, "completion.") or ""
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise source.error(f"the completion is {value!r:.40}: it must be text or messages.")
    return None if value is None else str(value)


def _checked_tokens(row: Row, source: Source) -> Row:
    """Returns the row with token-level columns of one length each and of numbers, as other importers leave them."""
    for i, reward in enumerate(objects(row, "rewards")):
        optional(reward, "name", str, f"rewards[{i}].")
        optional(reward, "value", float, f"rewards[{i}].")
    lists = {name: row[name] for name in TOKEN_COLUMNS.names if row.get(name) is not None}
    for name, value in lists.items():
        if not isinstance(value, list):
            raise source.error(f"{name} is {value!r:.40}: it must be a list with an entry per token.")
        for i, entry in enumerate(value if name in _ENTRIES else ()):
            try:
                optional({name: entry}, name, _ENTRIES[name])
            except WrongField as error:
                raise source.error(f"entry {i} of {name} is of the wrong type: it must be {error.wanted}.") from error
    sizes = {name: len(value) for name, value in lists.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} of {name}" for name, size in sizes.items())
        raise source.error(f"the token-level lists differ in length ({listed}): remove the record.")
    if "tokens" in lists and ("logprobs" in lists or "top_logprobs" in lists):
        logprobs = lists.get("logprobs") or [None] * len(lists["tokens"])
        columns = token_columns(source, lists["tokens"], logprobs, _candidates(lists.get("top_logprobs")))
        for name in ("logprobs", "top_logprobs"):
            if name in lists:
                row[name] = columns.get(name)
    return row


def _candidates(top: list[Any] | None) -> list[list[tuple[Any, Any]]] | None:
    return top and [
        [
            scored(candidate, f"top_logprobs[{i}][{j}].")
            for j, candidate in enumerate(objects({f"top_logprobs[{i}]": candidates}, f"top_logprobs[{i}]"))
        ]
        for i, candidates in enumerate(top)
    ]


def _name(value: Any, name: str, source: Source) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise source.error(f"{name} is {value!r:.40}: it must be text or a number.")
    return str(value)


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
