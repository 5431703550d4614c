"""The samples of a plain file in groups, by what may be their problem; memory does not grow with the file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

_MOST_GROUPS = 1 << 15
_MOST_IDS = 256  # of one prompt; more say nothing new

NOTHING = 0
"""The digest of what is not there."""


def digest(text: str | None) -> int:
    """Returns a number of 64 bits that stands for a text."""
    if text is None:
        return NOTHING
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class SurveyedSample:
    """What a survey looks at in a sample; digests stand for texts."""

    prompt: int
    run: int
    completion: int
    content: int
    """What the record says of its problem beside the prompt: gold answer, options."""
    named: int
    """The record's ids whose names say that they are the problem's."""
    answer: int
    """What stands in a column `answer`."""
    right: bool
    wrong: bool
    listed: bool
    """Whether its record holds a list of samples."""


@dataclass(slots=True)
class SampleGroup:
    """What is known of the samples of one prompt, or of one prompt and one id."""

    prompt: int
    value: int
    """The digest of the id."""
    first: SurveyedSample
    repeated: bool = False
    """Whether there are several samples in one run."""
    several: bool = False
    """Whether there are different completions."""
    clashes: bool = False
    """Whether there are different contents."""
    renamed: bool = False
    """Whether there are different ids of a name that says what they are."""
    varies: bool = False
    """Whether there are different answers."""
    right: bool = False
    wrong: bool = False

    def content(self, *, answers: bool, names: bool) -> tuple[int, ...]:
        """Returns what is said of the problem, if wanted with the column `answer` and the named ids; () is nothing."""
        first = self.first
        parts = (first.content, first.answer if answers else NOTHING, first.named if names else NOTHING)
        return parts if any(parts) else ()


class Grouping:
    """The groups of a file. Of more than `_MOST_GROUPS`, those of a random part of the prompts are kept, in whole."""

    def __init__(self) -> None:
        self._groups: dict[int, SampleGroup] = {}
        self._ids: Counter[int] = Counter()  # of each prompt
        self._completions: dict[int, tuple[int, int]] = {}  # prompt -> the first completion and its id
        self._mask = 0
        self.crosses = False
        """Whether a completion stands under several ids of its prompt."""

    def groups(self) -> Collection[SampleGroup]:
        """Returns the groups that are kept."""
        return self._groups.values()

    def shares_prompts(self) -> bool:
        """Tells whether a prompt has several ids."""
        return any(count > 1 for count in self._ids.values())

    def add(self, sample: SurveyedSample, value: int = NOTHING) -> None:
        """Puts a sample into the group of its prompt and its id."""
        prompt = sample.prompt
        if prompt & self._mask:
            return
        key = hash((prompt, value))
        group = self._groups.get(key)
        if group is None:
            if self._ids[prompt] == _MOST_IDS:
                return
            self._ids[prompt] += 1
            group = self._groups[key] = SampleGroup(prompt, value, sample, repeated=sample.listed)
            self._thin_out()
        else:
            first = group.first
            group.repeated = group.repeated or sample.run == first.run
            group.several = group.several or sample.completion != first.completion
            group.varies = group.varies or sample.answer != first.answer
            group.clashes = group.clashes or (NOTHING != sample.content != first.content != NOTHING)
            group.renamed = group.renamed or sample.named != first.named
        group.right, group.wrong = group.right or sample.right, group.wrong or sample.wrong
        completion, owner = self._completions.setdefault(prompt, (sample.completion, value))
        self.crosses = self.crosses or (completion == sample.completion and owner != value)

    def _thin_out(self) -> None:
        while len(self._groups) > _MOST_GROUPS:
            self._mask = self._mask << 1 | 1
            self._groups = {key: group for key, group in self._groups.items() if not group.prompt & self._mask}
            self._ids = Counter({prompt: n for prompt, n in self._ids.items() if not prompt & self._mask})
            self._completions = {p: first for p, first in self._completions.items() if not p & self._mask}
