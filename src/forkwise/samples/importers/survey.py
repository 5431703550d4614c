"""The look at a whole plain file before a row of it is written: what some of its columns mean shows only there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from forkwise.samples.fields import ABSENT, field_at
from forkwise.samples.importers import golds, identity
from forkwise.samples.importers.base import Source, gold_text
from forkwise.samples.importers.groups import NOTHING, Grouping, SurveyedSample, digest
from forkwise.samples.importers.reader import Record
from forkwise.samples.importers.texts import chat_text
from forkwise.tasks.base import question_id
from forkwise.tasks.dataset import PROMPT_COLUMNS

_RIGHT, _WRONG = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")


def is_undecided(record: Record, columns: Mapping[str, str]) -> bool:
    """Tells whether a record has a column of which only the whole file says what it is."""
    return golds.is_undecided(record, columns) or bool(identity.ids_of(record, columns))


def survey(records: Iterable[Record], source: Source) -> None:
    """Decides how `answer` and ids are read, and notes it."""
    contents = _SurveyedRecords(source.options.columns)
    for record in records:
        contents.look(record)
    if contents.undecided:
        column = identity.column_of(identity.read(contents.by_id, answers=False), contents.by_id)
        golds.decide((contents.by_id[column] if column else contents.by_prompt).groups(), contents.evidence, source)
    answers = source.readings.get("answer") == "gold"
    identity.decide(contents.by_id, source, contents.prompt_field, answers=answers)


class _SurveyedRecords:
    """The contents of the records so far."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns
        self.by_prompt = Grouping()
        self.by_id: dict[str, Grouping] = {}
        self.evidence = golds.Evidence()
        self.undecided = False
        """Whether there is a column `answer` of which nobody said what it is."""
        self.prompt_field = "prompt"

    def look(self, record: Record) -> None:
        """Adds the samples of a record."""
        columns, get = self._columns, self._get
        self.undecided = self.undecided or golds.is_undecided(record, columns)
        prompt, self.prompt_field = prompt_of(record, columns)
        problem_id = get(record, "problem_id")
        key = (
            question_id(chat_text(prompt, self.prompt_field) or "")
            if problem_id in (None, "")
            else question_id(str(problem_id))
        )
        ids = identity.ids_of(record, columns)
        gold = gold_text(get(record, "gold")) or golds.gold_of(record, columns)[0]
        content = identity.content_of(record, columns) | ({"gold": gold} if gold else {})
        answer, texts, verdicts = record.get("answer"), get(record, "completion"), get(record, "correct")
        verdicts = get(record, "score") if verdicts is None else verdicts
        listed = [len(v) for v in (texts, verdicts) if isinstance(v, list) and not is_chat(v)]
        n = max([*listed, len(answer) if isinstance(answer, list) else 1])
        self.evidence.listed = self.evidence.listed or (isinstance(answer, list) and len(answer) == n > 1)
        self.evidence.scalar = self.evidence.scalar or (n > 1 and answer is not None and not isinstance(answer, list))
        for i in range(n):
            text, gold_or_answer, verdict = (_entry(value, i) for value in (texts, answer, verdicts))
            text, gold_or_answer = chat_text(text, "completion") if is_chat(text) else text, gold_text(gold_or_answer)
            text = text if isinstance(text, str) else None
            sample = SurveyedSample(
                prompt=int(key, 16),
                run=digest(f"{get(record, 'run')} {get(record, 'model')}"),
                completion=digest(text),
                content=_digest(content),
                named=_digest(identity.named(ids)),
                answer=digest(gold_or_answer),
                right=str(verdict).lower() in _RIGHT,
                wrong=str(verdict).lower() in _WRONG,
                listed=bool(listed),
            )
            self.evidence.look(sample, text, gold_or_answer)
            self.by_prompt.add(sample)
            for name, value in ids.items():
                self.by_id.setdefault(name, Grouping()).add(sample, digest(value))

    def _get(self, record: Record, column: str) -> Any:
        value = field_at(record, self._columns.get(column, column))
        return None if value is ABSENT else value


def prompt_of(record: Record, columns: Mapping[str, str]) -> tuple[Any, str]:
    """Returns the prompt, and the field where it stands; None without one."""
    names = (columns.get("prompt", "prompt"), *PROMPT_COLUMNS)
    return next(((v, name) for name in names if (v := field_at(record, name)) not in (ABSENT, None)), (None, names[0]))


def is_chat(value: Any) -> bool:
    """Tells whether a list is one conversation, not a list of samples."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def _entry(value: Any, i: int) -> Any:
    return value[i] if isinstance(value, list) and i < len(value) and not is_chat(value) else value


def _digest(content: Mapping[str, Any]) -> int:
    return digest(json.dumps(content, sort_keys=True, default=str)) if content else NOTHING
