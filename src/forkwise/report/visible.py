"""Text from models and files, with the characters that hide or reorder other text made visible."""

from __future__ import annotations

import re

_HIDING = re.compile(
    "["
    "\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f"  # control characters but tab, line feed, carriage return
    "\\u061c\\u200b\\u200e\\u200f\\u202a-\\u202e\\u2060-\\u206f\\ufeff"  # direction, zero width
    "\\u2028\\u2029\\ufff9-\\ufffb"  # separators, annotations
    "\\ud800-\\udfff"  # lone surrogates: no valid text holds one
    "\\U000e0000-\\U000e007f"  # tags: text in an invisible alphabet
    "]|\\r(?!\\n)"
)


def visible(text: str) -> str:
    """`text` with each such character as `⟨U+202E⟩`; what is left can be encoded as UTF-8 and shown anywhere."""
    return _HIDING.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def one_line(text: str, width: int = 100) -> str:
    """`visible(text)` on one line, shortened in the middle to `width` characters."""
    line = " ".join(visible(text).split())
    if len(line) <= width:
        return line
    head = (width - 1) // 2
    return f"{line[:head]}…{line[-(width - 1 - head) :]}"
