"""The text that a model continues: plain, or made by a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forkwise.bounded import bounded
from forkwise.errors import InputError, first_line
from forkwise.tasks import Problem


def chat_messages(problem: Problem, chat: bool) -> list[dict[str, str]] | None:
    """Returns the conversation to continue; None for a plain problem, unless `chat` asks for a conversation."""
    if isinstance(problem.prompt, str):
        return [{"role": "user", "content": problem.prompt}] if chat else None
    return problem.prompt


def prompt_text(problem: Problem, tokenizer: Any, chat: bool) -> tuple[str, bool]:
    """Returns the text to continue, and whether a chat template made it (then its special tokens are there)."""
    messages = chat_messages(problem, chat)
    if messages is None:
        assert isinstance(problem.prompt, str)
        return problem.prompt, False
    return render_chat(tokenizer, messages, f"the conversation of problem '{problem.id}'"), True


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], subject: str, **options: Any) -> str:
    """Renders a conversation as the text that the model continues.

    Args:
        tokenizer: the model's tokenizer.
        messages: the messages of the conversation.
        subject: how messages to the user call it.
        options: keyword arguments of the template.

    Raises:
        InputError: there is no chat template, or one that refuses the conversation or does not come to an end.
    """
    name = getattr(tokenizer, "name_or_path", "") or "the model"
    if not tokenizer.chat_template:
        raise InputError(
            f"The tokenizer of '{name}' has no chat template for {subject}: choose a model that was tuned on "
            "conversations, or give prompts as text without --chat."
        )
    try:
        with bounded():
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))
        text.encode()  # a lone surrogate is no text, and no tokenizer takes it
        return text
    except Exception as error:  # a template refuses what it likes, in kinds of its own
        raise InputError(
            f"The chat template of '{name}' refuses {subject} ({first_line(error)}): change the prompt, or choose "
            "another model."
        ) from error
