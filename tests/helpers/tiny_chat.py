"""The tiny tokenizer in conversations: an answer begins behind `=`, and the words `b` to `i` in it call tools."""

from __future__ import annotations

import tiny_models
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}{{ '= ' if m.role == 'assistant' }}{{ (m.content or '') + ' ' }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name + ' ' }}"
    "{% for key, value in call.function.arguments.items() %}{{ key + ' ' + value + ' ' }}{% endfor %}"
    "{% endfor %}{% endfor %}"
    "{{ '=' if add_generation_prompt }}"
)
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "=",
    "fields": {
        "tool_calls": {
            "open_pattern": r"(?P<name>[b-i])\b",
            "close_pattern": r"\s|$",
            "content": "kv-lines",  # there are no arguments: {}
            "repeats": True,
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close_pattern": r"<eos>|$", "content": "text"},
    },
}


def b() -> str:
    """Says something.

    Returns:
        Two words.
    """
    return "h i"


def tokenizer() -> PreTrainedTokenizerFast:
    made = tiny_models.tokenizer()
    made.chat_template = TEMPLATE
    made.response_template = RESPONSE
    return made
