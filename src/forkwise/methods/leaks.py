"""Marks by which a completion that was drawn with its answer shown gives that away, or teaches nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

BANNED = (
    r"\b(?:given|provided|known|stated|shown|supplied) (?:answer|label|solution|result|id)s?\b",
    r"\b(?:ground[ -]?truth|gold(?:en)? (?:answer|label)s?|answer key|reference (?:answer|text|solution))\b",
    r"\b(?:as|the) hints?\b",
    r"\b(?:i|we) (?:was|were|am|are) (?:told|given)\b",
)
"""Phrases that speak of an answer that was shown: ours, regular expressions that ignore case."""

_LONG = 40  # words from which on repetitions count
_REPEATED = {3: 0.85, 4: 0.9}  # by n: the largest share of n-grams that have stood before
_SHARED = 10  # words
_REFERENCE = 100  # characters from which on a reference text counts


@dataclass(frozen=True)
class LeakRules:
    """What a completion must not do.

    Attributes:
        banned: regular expressions that must not be found in it.
        shortest: characters that must stand before the answer.
        overlap: the least share of words that it has in common with the task, of all words of both.
        named: how often it may name each id of the answer.
    """

    banned: tuple[str, ...] = BANNED
    shortest: int = 100
    overlap: float = 0.05
    named: int = 3

    def leak(self, text: str, task: str, answer: str, reference: str = "") -> str | None:
        """Says what stands against a completion; None for a clean one.

        Args:
            text: the completion.
            task: the prompt without the hint.
            answer: ids, separated by commas, semicolons or blanks.
            reference: a text that was shown beside the answer.
        """
        if any(re.search(pattern, text, re.IGNORECASE) for pattern in self.banned):
            return "speaks of an answer that was shown"
        if len(reasoning(text).strip()) < self.shortest:
            return "has hardly any reasoning"
        words, asked = text.lower().split(), task.lower().split()
        if len(reference) >= _REFERENCE and _grams(words, _SHARED) & _grams(reference.lower().split(), _SHARED):
            return "copies the reference"
        every = {*words, *asked}
        if len({*words} & {*asked}) < self.overlap * len(every):
            return "is about something else"
        counts = [len(re.findall(rf"(?<!\w){re.escape(one)}(?!\w)", text)) for one in ids(answer)]
        if any(count > self.named for count in counts):
            return "names its answer too often"
        if len(words) >= _LONG and any(_repeated(words, n) > most for n, most in _REPEATED.items()):
            return "repeats itself"
        return None


def reasoning(text: str) -> str:
    """Returns what stands before the last box; all of a text without one."""
    return text.rpartition("\\boxed{")[0] or text


def ids(answer: str) -> list[str]:
    """Returns the ids of an answer."""
    return [part for part in re.split(r"[,;\s]+", answer) if part]


def _grams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _repeated(words: Sequence[str], n: int) -> float:
    """Returns the share of n-grams that have stood before."""
    total = len(words) - n + 1
    return 1 - len(_grams(words, n)) / total
