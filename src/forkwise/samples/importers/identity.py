"""Which columns of a plain file tell the problems of one prompt apart: ids of problems do, numbers of samples do not.

Names such as `id` and `index` are used for both, so the whole file decides. The values of an id of problems come back,
each with one prompt; or what rows say of their problem differs where they differ in the id.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forkwise.samples.fields import ABSENT, field_at
from forkwise.samples.importers.base import Source
from forkwise.samples.importers.groups import Grouping
from forkwise.samples.importers.reader import Record

_NAMED = (
    *("doc_hash", "doc_id", "question_id", "question_hash", "question_idx", "problem_hash", "problem_idx"),
    *("unique_id", "task_id"),
)
"""Fields whose names say that they are the problem's."""

_UNNAMED = (
    *("id", "_id", "uid", "uuid", "idx", "index", "qid", "hash", "example_id", "item_id", "prompt_id", "row_id"),
    *("instance_id", "query_id", "problem_index", "question_index", "problem_number"),
)
"""Fields that may number problems or samples."""

_CONTENT = ("options", "choices")


@dataclass(frozen=True)
class _Reading:
    of_problems: bool
    why: str
    certain: bool = True
    """Whether no name outweighs it."""


def ids_of(record: Record, columns: Mapping[str, str]) -> dict[str, str]:
    """Returns the values of fields that may be ids of problems, unless the record has a problem id or maps them."""
    if field_at(record, columns.get("problem_id", "problem_id")) not in (ABSENT, None, ""):
        return {}
    ids: dict[str, str] = {}
    for name in (*_NAMED, *_UNNAMED):
        value = record.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool) and name not in columns.values():
            ids[name] = str(value)
    return ids


def content_of(record: Record, columns: Mapping[str, str]) -> dict[str, Any]:
    """Returns what the record says of its problem besides the prompt and the gold answer."""
    return {name: record[name] for name in _CONTENT if record.get(name) is not None and name not in columns.values()}


def named(ids: Mapping[str, str]) -> dict[str, str]:
    """Returns those ids whose names say that they are the problem's."""
    return {name: ids[name] for name in _NAMED if name in ids}


def document_of(record: Record, source: Source) -> tuple[dict[str, Any], str | None]:
    """Returns what tells the record's problem apart from others with its prompt: what is said of it, and its number."""
    ids = ids_of(record, source.options.columns)
    content = content_of(record, source.options.columns)
    content |= {name: record[name] for name in named(ids) if source.readings.get(name) != _SAMPLE}
    number = source.readings.get(_NUMBER, "")
    source.used.update(content, {number} & ids.keys())
    return content, ids.get(number)


_SAMPLE = "sample"
_NUMBER = "number of the problem"


def decide(groupings: Mapping[str, Grouping], source: Source, prompt: str, *, answers: bool) -> None:
    """Decides which columns are ids of problems, and says so where it matters.

    Args:
        groupings: column -> the samples by prompt and value of that column.
        prompt: the field that holds the prompts.
        answers: whether a column `answer` is the gold answer.
    """
    readings = read(groupings, answers=answers)
    source.readings |= {name: _SAMPLE for name, reading in readings.items() if not reading.of_problems}
    number = column_of(readings, groupings, _UNNAMED)
    if number is not None:
        source.readings[_NUMBER] = number
    matter = [name for name, grouping in groupings.items() if grouping.shares_prompts()]
    if number in matter:
        source.remarks.append(
            f"'{number}' is read as the problem's id ({readings[number].why}); --map problem_id={prompt} takes all "
            "samples of one prompt for one problem"
        )
        return
    names_of: dict[str, list[str]] = defaultdict(list)
    for name in matter:
        if not readings[name].of_problems:
            names_of[readings[name].why].append(name)
    for why, names in names_of.items():
        listed = ", ".join(f"'{name}'" for name in names)
        source.remarks.append(
            f"{listed} {'is' if len(names) == 1 else 'are'} not read as the problem's id ({why}); --map "
            f"problem_id={names[0]} takes each value for a problem of its own"
        )


def read(groupings: Mapping[str, Grouping], *, answers: bool) -> dict[str, _Reading]:
    """Tells how each of the columns that may number problems is read."""
    readings = {}
    for name in _NAMED:
        if name in groupings:
            reading = _reading(groupings[name], answers=answers, names=False)
            readings[name] = reading if reading.certain else _Reading(True, "its name says so")
    rely = bool(readings) and all(reading.of_problems for reading in readings.values())
    return readings | {
        name: _reading(groupings[name], answers=answers, names=rely) for name in _UNNAMED if name in groupings
    }


def column_of(
    readings: Mapping[str, _Reading], groupings: Mapping[str, Grouping], names: Sequence[str] = (*_NAMED, *_UNNAMED)
) -> str | None:
    """Returns the column that tells problems apart; of several, the finest."""
    of_problems = [name for name in names if name in readings and readings[name].of_problems]
    return max(of_problems, key=lambda name: len(groupings[name].groups()), default=None)


def _reading(grouping: Grouping, *, answers: bool, names: bool) -> _Reading:
    """Reads from a column's values what it stands for; `names`: whether columns with a name tell problems apart."""
    groups = grouping.groups()
    prompt_of: dict[int, int] = {}
    if any(prompt_of.setdefault(group.value, group.prompt) != group.prompt for group in groups):
        return _Reading(False, "one value stands with several prompts", certain=False)
    if any(group.clashes or (answers and group.varies) or (names and group.renamed) for group in groups):
        return _Reading(False, "one value stands with several gold answers, options or ids", certain=False)
    # The hash of a completion comes back with the same completion, and with no other value does.
    copies = not grouping.crosses and not any(group.several or group.first.listed for group in groups)
    if groups and not copies and 2 * sum(group.repeated for group in groups) >= len(groups):
        return _Reading(True, "its values come back in several samples, each with one prompt")
    contents = [(group.prompt, group.content(answers=answers, names=names)) for group in groups]
    ids = Counter(content for content in contents if content[1])
    alone = sum(count == 1 for count in ids.values())
    differing = any(count > 1 for count in Counter(prompt for prompt, _ in ids).values())
    if differing and 2 * alone > len(ids):
        return _Reading(True, "gold answers or options differ with it where the prompt is the same")
    if len(ids) > alone:
        why = "it differs where prompt, gold answer and options are the same, as the number of a sample does"
        return _Reading(False, why, certain=not differing and not alone)
    return _Reading(False, "nothing in the file says whether it numbers problems or samples", certain=False)
