r"""Sizes beyond which nothing is read: a reward must not pay for answers that nobody can check."""

from __future__ import annotations

LONGEST_ANSWER = 2_000
"""Characters. The longest of MATH-500 has 53; what is longer counts as wrong without being parsed."""
LONGEST_TEXT = 200_000
"""Characters from the end of a completion in which an answer is looked for."""
