"""Words that may turn a line of reasoning, and sentences that look back at it: editable lists and their matching."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from forkwise.errors import InputError
from forkwise.explore.sentences import Span, split_sentences
from forkwise.reading import parse_yaml, read_bytes

SHIPPED = Path(__file__).parent


class LexiconMatch(NamedTuple):
    """Where an entry of the lexicon stands in a text: characters `[start, end)`."""

    start: int
    end: int
    entry: str


@dataclass(frozen=True)
class Lexicon:
    """Pivotal words and phrases by group. Matched on the text as whole words, so "so" is not found in "also".

    Attributes:
        name: of the file, and the first digits of its hash.
        groups: entry -> group, in the file's order.
    """

    name: str
    groups: dict[str, str]
    _before: Mapping[str, Sequence[str]]
    _after: Mapping[str, Sequence[str]]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.groups, key=len, reverse=True)
        entries = "|".join(self._part(entry) for entry in longest_first)
        # Neither inside a word, nor behind a backslash (LaTeX's \therefore), nor in a compound (first-order).
        return re.compile(rf"(?<![\w\\])(?<!\w-)(?:{entries})(?!\w|-\w|['’]\w)", re.IGNORECASE)

    def _part(self, entry: str) -> str:
        words = r"\s+".join(map(re.escape, entry.split()))
        # Looking back is of fixed width in Python, so one assertion for each word and kind of blank.
        behind = "".join(rf"(?<!\b{re.escape(w)}\s)" for w in self._after.get(entry, ()))
        ahead = self._before.get(entry, ())
        return behind + words + (rf"(?!\s+(?:{'|'.join(map(re.escape, ahead))})\b)" if ahead else "")

    def matches(self, text: str) -> list[LexiconMatch]:
        """Finds all matches in `text`, in order, none inside another."""
        matches = [
            LexiconMatch(match.start(), match.end(), " ".join(match[0].lower().split()))
            for match in self._pattern.finditer(text)
        ]
        # Without regard to case an i also finds the Turkish dotless one, and an s the long one: other letters.
        return [match for match in matches if match.entry in self.groups]


@dataclass(frozen=True)
class ReflectivePatterns:
    """Regular expressions that find sentences which verify, check or doubt.

    Attributes:
        name: of the file, and the first digits of its hash.
        patterns: name -> compiled expression.
    """

    name: str
    patterns: dict[str, re.Pattern[str]]

    def names(self, sentence: str) -> list[str]:
        """Returns the names of the patterns that match the sentence; it is reflective if there are any."""
        plain = sentence.replace("’", "'")
        return [name for name, pattern in self.patterns.items() if pattern.search(plain)]


def load_lexicon(path: Path | None = None) -> Lexicon:
    """Loads the lexicon from a YAML file (group -> entries); None is the one that comes with forkwise.

    Raises:
        InputError: the file cannot be read, is not of that form, or holds an entry twice.
    """
    path = path or SHIPPED / "lexicon.yaml"
    content, name = _load(path)
    groups: dict[str, str] = {}
    not_before: dict[str, Sequence[str]] = {}
    not_after: dict[str, Sequence[str]] = {}
    for group, entries in content.items():
        if not isinstance(entries, list):
            raise InputError(f"'{path}': the group '{group}' must be a list of words and phrases.")
        for item in entries:
            entry, limits = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, {})
            if not isinstance(entry, str) or not entry.strip() or not isinstance(limits, dict):
                raise InputError(f"'{path}': {item!r} in '{group}' is not a word or phrase: put it in quotes.")
            unknown = limits.keys() - {"not_before", "not_after"}
            if unknown:
                raise InputError(f"'{path}': '{entry}' has '{min(unknown)}': use not_before and not_after.")
            key = " ".join(entry.lower().split())
            if key in groups:
                raise InputError(f"'{path}' holds '{key}' twice: keep it in one group.")
            groups[key] = str(group)
            not_before[key] = [str(word) for word in limits.get("not_before") or ()]
            not_after[key] = [str(word) for word in limits.get("not_after") or ()]
    if not groups:
        raise InputError(f"'{path}' holds no words: list at least one.")
    return Lexicon(name, groups, not_before, not_after)


def load_reflective(path: Path | None = None) -> ReflectivePatterns:
    """Loads the patterns from a YAML file (name -> regular expression); None are those that come with forkwise.

    Raises:
        InputError: the file cannot be read, or holds something that is not a regular expression.
    """
    path = path or SHIPPED / "reflective.yaml"
    content, name = _load(path)
    patterns = {}
    for key, expression in content.items():
        try:
            patterns[str(key)] = re.compile(str(expression), re.IGNORECASE)
        except re.error as error:
            raise InputError(f"'{path}': '{key}' is not a regular expression ({error}).") from error
    if not patterns:
        raise InputError(f"'{path}' holds no patterns: give at least one.")
    return ReflectivePatterns(name, patterns)


def _load(path: Path) -> tuple[dict[str, Any], str]:
    data = read_bytes(path)
    content = parse_yaml(data, str(path))
    if not isinstance(content, dict):
        raise InputError(f"'{path}' must be a YAML mapping, such as the {path.suffix[1:]} file that forkwise ships.")
    return content, f"{path.name} {hashlib.sha256(data).hexdigest()[:8]}"


def reflective_spans(
    text: str, reflective: ReflectivePatterns | None = None, breaks: Sequence[str] = ()
) -> list[tuple[Span, list[str]]]:
    """Finds the reflective sentences of a text with the patterns that they match; viewers use this."""
    reflective = reflective or load_reflective()
    named = [(span, reflective.names(text[span.start : span.end])) for span in split_sentences(text, breaks)]
    return [(span, names) for span, names in named if names]
