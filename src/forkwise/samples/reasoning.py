"""Reasoning and answer of a reply that came in two fields, as the one text that the model wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forkwise.samples.fields import checked, optional

_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """Returns the reasoning that a server split off a chat message, from whichever field holds it, or None.

    vLLM, DeepSeek, Ollama and others have a text field, OpenRouter a list `reasoning_details`, Mistral and Anthropic
    parts of the content whose type is `thinking`.
    """
    text = next((message[name] for name in _FIELDS if isinstance(message.get(name), str) and message[name]), None)
    if text is not None:
        return str(text)
    content = message.get("content")
    return _texts(message.get("reasoning_details")) or _texts([part for part in _parts(content) if _is_reasoning(part)])


def check_message(message: Mapping[str, Any], where: str) -> None:
    """Refuses what would be passed over: reasoning that is no text, parts that are no objects, texts that are none.

    Raises:
        WrongField: names the field; `where` is the path to the message.
    """
    for name in _FIELDS:
        optional(message, name, str, where)
    content = message.get("content")
    for i, part in enumerate(content if isinstance(content, list) else ()):
        text = checked(part, dict, f"{where}content[{i}]").get("text")
        if not isinstance(text, list):
            optional(part, "text", str, f"{where}content[{i}].")


def answer_of(content: Any) -> str | None:
    """Returns the text of a message's content: a string, or a list of parts without those that are reasoning."""
    if isinstance(content, str):
        return content
    return _texts([part for part in _parts(content) if not _is_reasoning(part)]) if isinstance(content, list) else None


def _parts(content: Any) -> list[Mapping[str, Any]]:
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _is_reasoning(part: Mapping[str, Any]) -> bool:
    return any(isinstance(part.get(name), str | list) for name in ("thinking", "reasoning"))


def _texts(parts: Any) -> str:
    """Returns the texts of parts put together; a part may hold a list of parts."""
    texts = []
    for part in _parts(parts):
        value = next((part[name] for name in ("text", "thinking", "reasoning", "summary") if part.get(name)), "")
        texts.append(value if isinstance(value, str) else _texts(value))
    return "".join(texts)


def join_reasoning(reasoning: str | None, content: str | None) -> str:
    """Joins a completion: reasoning between think tags, then the answer; a reasoning without an answer stays open."""
    if not reasoning:
        return content or ""
    if not content:
        return f"<think>\n{reasoning}"
    return f"<think>\n{reasoning}\n</think>\n\n{content}"
