"""OpenAI's and vLLM's responses (chat or text completions), bare or as lines of a batch's output file.

Shapes: platform.openai.com/docs/api-reference/chat/object and /completions/object; vLLM's OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from forkwise.samples.importers.base import (
    Row,
    Source,
    chat_text,
    content_text,
    finish_reason,
    token_columns,
    with_reasoning,
)
from forkwise.samples.importers.reader import Record
from forkwise.tasks.base import question_id

USES = frozenset({"custom_id", "response", "error", "choices", "model", "usage", "prompt", "messages"})


def matches(record: Record) -> bool:
    """Choices with a message or a text, or a batch line around them."""
    if "custom_id" in record and "response" in record:
        return True
    choices = record.get("choices")
    return isinstance(choices, list) and bool(choices) and bool({"message", "text"} & set(choices[0]))


def rows(record: Record, source: Source) -> Iterator[Row]:
    """One row per choice. A response does not repeat its prompt: see `problem_of`."""
    response = record
    if "custom_id" in record and "choices" not in record:
        response = (record.get("response") or {}).get("body") or {}
        if record.get("error") or not response.get("choices"):
            source.dropped["requests that failed"] += 1
            return
    prompt = record.get("prompt") if isinstance(record.get("prompt"), str) else chat_text(record.get("messages"))
    choices, usage = response["choices"], response.get("usage") or {}
    for choice in choices:
        message = choice.get("message") or {}
        completion = choice["text"] if "text" in choice else content_text(message.get("content"))
        tokens = _tokens(choice, source)
        row: Row = {
            "run": source.run(),
            "model": response.get("model"),
            "problem_id": problem_of(record, prompt, source),
            "prompt": prompt,
            "completion": with_reasoning(message.get("reasoning_content") or message.get("reasoning"), completion),
            # `usage` adds up all choices.
            "n_tokens": usage.get("completion_tokens")
            if len(choices) == 1 and usage
            else len(tokens["tokens"])
            if tokens
            else None,
            "finish_reason": finish_reason(choice.get("finish_reason")),
            **tokens,
        }
        yield row


def problem_of(record: Record, prompt: str | None, source: Source) -> str:
    """A response's problem: `custom_id`, else the prompt's if a logger kept it, else file and line."""
    if record.get("custom_id") is not None:
        return str(record["custom_id"])
    if prompt:
        return question_id(prompt)
    source.notes["without a prompt or a custom_id: every response counts as its own problem"] += 1
    return f"{source.stem}:{source.place.removeprefix('line ')}" if source.place else source.stem


def _tokens(choice: Record, source: Source) -> Row:
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return {}
    if isinstance(logprobs.get("content"), list):
        return logprob_columns(logprobs["content"], source)
    if isinstance(logprobs.get("tokens"), list):  # text completions: parallel lists, candidates as objects
        top = logprobs.get("top_logprobs")
        candidates = [list((position or {}).items()) for position in top] if top else None
        return token_columns(source, logprobs["tokens"], logprobs["token_logprobs"], candidates)
    return {}


def logprob_columns(content: Sequence[Record], source: Source) -> Row:
    """The token-level columns from chat completions' `logprobs.content`, which Ollama and inspect_ai share."""
    top: list[list[tuple[str, Any]]] = [
        [(c["token"], c["logprob"]) for c in position.get("top_logprobs") or []] for position in content
    ]
    return token_columns(source, [p["token"] for p in content], [p["logprob"] for p in content], top)
