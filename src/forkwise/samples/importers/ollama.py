"""Ollama's responses of /api/generate and /api/chat, not streamed; log-probs from version 0.12.11 on.

Shape: github.com/ollama/ollama, docs/api.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from forkwise.samples.importers.base import Row, Source, chat_text, finish_reason
from forkwise.samples.importers.openai import logprob_columns, problem_of
from forkwise.samples.importers.reader import Record
from forkwise.samples.reasoning import join_reasoning

USES = frozenset(
    {"model", "response", "message", "thinking", "done", "done_reason", "logprobs", "eval_count", "prompt", "messages"}
)


def matches(record: Record) -> bool:
    """An answer with `done`."""
    return "done" in record and "model" in record and ("response" in record or "message" in record)


def rows(record: Record, source: Source) -> Iterator[Row]:
    """One row per response; `eval_count` is the number of tokens generated."""
    if not record["done"]:
        raise source.error('this is a piece of a streamed answer: ask Ollama with "stream": false.')
    message = record.get("message") or {"content": record.get("response"), "thinking": record.get("thinking")}
    prompt = record.get("prompt") if isinstance(record.get("prompt"), str) else chat_text(record.get("messages"))
    row: Row = {
        "run": source.run(),
        "model": record["model"],
        "problem_id": problem_of(record, prompt, source),
        "prompt": prompt,
        "completion": join_reasoning(message.get("thinking"), message.get("content")),
        "n_tokens": record.get("eval_count"),
        "finish_reason": finish_reason(record.get("done_reason")),
    }
    if record.get("logprobs"):
        row |= logprob_columns(record["logprobs"], source)
    yield row
