"""The two exceptions that the command line turns into a sentence: exit code 2 for input, 1 for a run that cannot go on.

Both messages are one sentence that says what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one sentence that says what to do instead."""


class RunError(RuntimeError):
    """A run cannot go on: a full disk, a loss that is not a number. The message says what is left, and what to do."""


class NotFiniteError(RunError):
    """A run cannot go on because its numbers are not finite: started again, it would come to the same end."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"` for the candidate most like `word`, or `""` when none is close."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception that says something, without its last full stop."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip(" -=|")]
    text = lines[0] if lines else ""
    if text.endswith(":") and len(lines) > 1:
        text += " " + re.sub(r"^\w+Error: ", "", lines[1])
    return text.rstrip(".:")[:200] or type(error).__name__
