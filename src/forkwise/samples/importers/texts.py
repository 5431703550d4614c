"""What several formats write in the same way: messages, prompts beside responses, reasons to finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forkwise.samples.fields import WrongField, checked, optional
from forkwise.samples.importers.base import Source
from forkwise.samples.importers.reader import Record
from forkwise.samples.reasoning import answer_of, check_message, join_reasoning, reasoning_of


def chat_text(messages: Any, path: str) -> str | None:
    """Joins a prompt to one text: itself, the only message's text, or all messages with roles; `path` leads to it."""
    if messages is None or isinstance(messages, str):
        return messages
    if not isinstance(messages, list):
        raise WrongField(path, "text or a list of messages", messages)
    texts = []
    for i, message in enumerate(messages):
        text = message_text(checked(message, dict, f"{path}[{i}]"), f"{path}[{i}].")
        texts.append((str(message.get("role", "")), text))
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{role}: {text or ''}" for role, text in texts) or None


def message_text(message: Mapping[str, Any], where: str) -> str | None:
    """Returns the text of a message, with the reasoning that a server split off; None where there is neither."""
    check_message(message, where)
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise WrongField(f"{where}content", "text or a list of parts", content)
    reasoning, text = reasoning_of(message), answer_of(content)
    return join_reasoning(reasoning, text) if reasoning else text


def covers(tokens: Sequence[str], text: str) -> bool:
    """Tells whether tokens begin as the text does, white space and an opening think tag aside, and reach its end.

    Tokens that are unreadable alone end the comparison.
    """
    joined, squeezed = "".join("".join(tokens).split()), "".join(text.split())
    readable = joined.partition("\N{REPLACEMENT CHARACTER}")[0]
    for whole in (squeezed, squeezed.removeprefix("<think>")):
        if readable == joined and joined.startswith(whole):
            return True
        if readable != joined and whole.startswith(readable):
            return True
    return False


_FINISHED = {
    **dict.fromkeys(("stop", "end_turn", "eos", "eos_token", "stop_sequence", "complete"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "limit"), "length"),
}
_OTHERWISE = {
    "content_filter",
    "tool_calls",
    "tool_use",
    "function_call",
    "abort",
    "error",
    "unknown",
    "other",
    "refusal",
    "safety",
    "recitation",
    "language",
    "blocklist",
    "prohibited_content",
    "spii",
    "malformed_function_call",
    "finish_reason_unspecified",
    "insufficient_system_resource",
    "pause_turn",
    "load",
    "unload",
}
"""Other reasons to finish that OpenAI, Anthropic, DeepSeek, Gemini, Ollama and vLLM give."""


def finish_reason(owner: Mapping[str, Any], name: str, source: Source, where: str = "") -> str | None:
    """Returns `stop` or `length` for all their names, and other reasons in lower case; unknown ones are noted."""
    reason = (optional(owner, name, str, where) or "").lower()
    if reason and reason not in _FINISHED and reason not in _OTHERWISE:
        first = source.memo.setdefault("finish reason", reason)
        source.notes[f"with a finish reason that is not known here, such as {first!r:.40}, kept as it is"] += 1
    return _FINISHED.get(reason, reason) or None


def logged_prompt(record: Record, source: Source) -> str | None:
    """Returns the prompt that a logger kept beside a response: `prompt`, one of token ids aside, or `messages`."""
    prompt = record.get("prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(part, str) for part in prompt):
        if len(prompt) > 1:
            raise source.error(f"this response is for {len(prompt)} prompts at once: ask with one prompt at a time.")
        prompt = prompt[0]
    elif isinstance(prompt, list) and all(type(part) is int for part in prompt):
        prompt = None
    return optional({"prompt": prompt}, "prompt", str) or chat_text(record.get("messages"), "messages")
