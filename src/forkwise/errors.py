"""The one exception that the command line turns into a sentence and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one sentence that says what to do instead."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the candidate most like `word`, or `""` when none is close."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
