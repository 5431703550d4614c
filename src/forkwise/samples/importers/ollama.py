"""Ollama's responses of /api/generate and /api/chat, not streamed; log-probs from version 0.12.11 on.

Shape: github.com/ollama/ollama, docs/api.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from forkwise.samples.fields import objects, optional, required
from forkwise.samples.importers.base import Row, Source
from forkwise.samples.importers.openai import logprob_columns, problem_of
from forkwise.samples.importers.reader import Record
from forkwise.samples.importers.texts import finish_reason, logged_prompt, message_text

USES = frozenset(
    {"model", "response", "message", "thinking", "done", "done_reason", "logprobs", "eval_count", "prompt", "messages"}
)


def matches(record: Record) -> bool:
    """Tells whether a record is an answer with `done`."""
    return "done" in record and "model" in record and ("response" in record or "message" in record)


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields one row per response; `eval_count` is the number of tokens generated."""
    if not required(record, "done", bool):
        raise source.error('this is a piece of a streamed answer: ask Ollama with "stream": false.')
    message, where = optional(record, "message", dict), "message."
    if message is None:
        message, where = {"content": required(record, "response", str), "thinking": record.get("thinking")}, ""
    prompt = logged_prompt(record, source)
    row: Row = {
        "run": source.run(),
        "model": optional(record, "model", str),
        "problem_id": problem_of(record, prompt, source),
        "prompt": prompt,
        "completion": message_text(message, where) or "",
        "n_tokens": optional(record, "eval_count", int),
        "finish_reason": finish_reason(record, "done_reason", source),
    }
    places = objects(record, "logprobs")
    yield row | (logprob_columns(places, source, "logprobs") if places else {})
