"""Writes to a terminal, a log or a text file, and lets no hostile character of a name or text through.

Everything that a command prints goes through `echo` or through `forkwise.progress.Console`. Model output, and names in
files, may hold escape sequences, control characters and characters that hide or reorder other text; they are printed as
`⟨U+001B⟩`.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from typing import Any

_HIDING = re.compile(
    "["
    "\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f"  # control characters but tab, line feed, carriage return
    "\\u061c\\u200b\\u200e\\u200f\\u202a-\\u202e\\u2060-\\u206f\\ufeff"  # direction, zero width
    "\\u2028\\u2029\\ufff9-\\ufffb"  # separators, annotations
    "\\ud800-\\udfff"  # lone surrogates: no valid text holds one
    "\\U000e0000-\\U000e007f"  # tags: text in an invisible alphabet
    "]|\\r(?!\\n)"
)
_LONGEST_SENTENCE = 2000  # characters; a quotation from a file may be of any length


def visible(text: str) -> str:
    """Replaces each hostile character of `text`, as by `⟨U+202E⟩`, so that it is UTF-8 and can be shown anywhere."""
    return _HIDING.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def one_line(text: str, width: int = 100) -> str:
    """Puts `visible(text)` on one line, shortened in the middle to `width` characters."""
    line = " ".join(visible(text).split())
    if len(line) <= width:
        return line
    head = (width - 1) // 2
    return f"{line[:head]}…{line[-(width - 1 - head) :]}"


def counted(count: int, noun: str) -> str:
    """Writes a number with its noun: `1 sample`, `2 samples`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def echo(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Prints `visible(text)` to the standard output, or to the standard error."""
    print(visible(text), file=sys.stderr if error else sys.stdout, end=end, flush=True)


def complain(error: BaseException | str) -> None:
    """Prints the sentence of an error to the standard error, on one line."""
    echo(f"forkwise: {one_line(str(error), _LONGEST_SENTENCE)}", error=True)


def guard_libraries() -> None:
    """Makes visible what libraries log or warn of, and escapes characters that the terminal cannot encode."""
    make_record, format_warning = logging.getLogRecordFactory(), warnings.formatwarning

    def visible_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        try:
            record.msg, record.args = visible(record.getMessage()), None
        except Exception:  # a log call that does not fit its arguments: logging reports it by itself
            return record
        return record

    logging.setLogRecordFactory(visible_record)
    warnings.formatwarning = lambda *args, **kwargs: visible(format_warning(*args, **kwargs))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
