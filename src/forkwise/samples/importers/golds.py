"""Whether a column named `answer` holds the gold answer of each problem, or the answer that each sample gave.

Both are common. The gold is the same for all samples of a problem and for right and wrong ones alike; a sample's own
answer is what its completion says. The whole file is looked at before a row is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forkwise.samples.importers.base import Source, chat_text, gold_text
from forkwise.samples.importers.reader import Record
from forkwise.tasks.answers import extract_answer
from forkwise.tasks.base import question_id
from forkwise.tasks.dataset import PROMPT_COLUMNS

_COMPARED = 2000  # samples whose completion is compared with the column; all are looked at otherwise
_RIGHT, _WRONG = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")
_OURS = frozenset({"run", "model", "problem_id", "sample_id", "verdict_by"})


def is_undecided(record: Record, columns: Mapping[str, str]) -> bool:
    """Whether a record has a column `answer` of which nobody said what it is; in a samples table it is the sample's."""
    return record.get("answer") is not None and "answer" not in columns.values() and not record.keys() >= _OURS


@dataclass
class _Problem:
    """What is known of the samples of one problem."""

    answer: str | None
    completion: str | None
    varies: bool = False
    several: bool = False
    """Whether there are different completions."""
    right: bool = False
    wrong: bool = False


@dataclass
class _Evidence:
    """Over the file: samples whose completion says what the column says, or something else, by their verdict."""

    listed: bool = False
    """Whether a record has a list of answers, one for each of its samples."""
    scalar: bool = False
    """Whether a record has one answer for a list of samples."""
    compared: int = 0
    other: int = 0
    right_same: int = 0
    right_other: int = 0
    wrong_same: int = 0
    wrong_other: int = 0


def survey(records: Iterable[Record], source: Source) -> None:
    """Decides how `answer` is read, and says so."""
    problems: dict[str, _Problem] = {}
    evidence = _Evidence()
    for record in records:
        _look(record, source, problems, evidence)
    reading, why = _decide(list(problems.values()), evidence)
    source.readings["answer"] = reading
    if reading == "gold":
        said = f"is read as the gold answer ({why}); --map answer=answer takes it as what each sample answered"
    elif "answer" in source.options.columns:  # another field was named for that
        said = f"is left out ({why}); --map gold=answer takes it as the gold answer"
    else:
        said = f"is read as what each sample answered ({why}); --map gold=answer takes it as the gold answer"
    source.remarks.append(f"'answer' {said}")


def _look(record: Record, source: Source, problems: dict[str, _Problem], evidence: _Evidence) -> None:
    columns = source.options.columns
    prompt = next((record[name] for name in (columns.get("prompt", "prompt"), *PROMPT_COLUMNS) if name in record), None)
    problem_id = record.get(columns.get("problem_id", "problem_id"))
    key = str(problem_id) if problem_id is not None else question_id(chat_text(prompt) or "")
    answer, texts = record.get("answer"), record.get(columns.get("completion", "completion"))
    verdicts = record.get(columns.get("correct", "correct"), record.get(columns.get("score", "score")))
    n = max((len(v) for v in (texts, verdicts, answer) if isinstance(v, list)), default=1)
    evidence.listed = evidence.listed or (isinstance(answer, list) and len(answer) == n > 1)
    evidence.scalar = evidence.scalar or (n > 1 and not isinstance(answer, list))
    for i in range(n):
        text, own, verdict = (_entry(value, i) for value in (texts, answer, verdicts))
        text = text if isinstance(text, str) else chat_text(text)
        gold = gold_text(own)
        known = problems.setdefault(key, _Problem(gold, text))
        known.varies = known.varies or gold != known.answer
        known.several = known.several or text != known.completion
        right, wrong = (str(verdict).lower() in values for values in (_RIGHT, _WRONG))
        known.right, known.wrong = known.right or right, known.wrong or wrong
        if gold is not None and text and evidence.compared < _COMPARED:
            same = _says(text, gold)
            evidence.compared += 1
            if same is None:
                continue
            evidence.other += not same
            evidence.right_same += right and same
            evidence.right_other += right and not same
            evidence.wrong_same += wrong and same
            evidence.wrong_other += wrong and not same


def _entry(value: Any, i: int) -> Any:
    return value[i] if isinstance(value, list) and i < len(value) and not isinstance(value[i], dict) else value


def _says(text: str, answer: str) -> bool | None:
    """Whether the completion gives this answer; None where no answer can be taken from it."""
    own = extract_answer(text)
    if own is None:
        return None
    return _bare(own) == _bare(extract_answer(answer) or answer)


def _bare(answer: str) -> str:
    """An answer without what may be written otherwise; good enough for a vote over many samples."""
    return "".join(answer.split()).strip("$.").replace(",", "").replace("\\dfrac", "\\frac").casefold()


def _decide(problems: list[_Problem], evidence: _Evidence) -> tuple[str, str]:
    varied = sum(problem.varies for problem in problems)
    mixed = sum(problem.right and problem.wrong and not problem.varies for problem in problems)
    if evidence.listed:
        return "own", "there is one for each sample"
    if evidence.scalar:
        return "gold", "there is one for all samples of a problem"
    if varied:
        if mixed > varied:
            return "gold", "right and wrong samples of a problem share it, but for a few problems"
        if evidence.wrong_other > evidence.wrong_same and evidence.right_same > evidence.right_other:
            return "gold", "right samples say the same and wrong ones something else"
        return "own", "it differs between samples of a problem"
    if mixed:
        return "gold", "it is the same for right and wrong samples of a problem"
    if evidence.wrong_same > evidence.wrong_other:
        return "own", "it is what wrong samples say"
    if any(problem.several for problem in problems):
        return "gold", "it is the same for all samples of a problem"
    if evidence.wrong_other:
        return "gold", "wrong samples say something else"
    if evidence.other:
        return "gold", "some completions say something else"
    return "own", "nothing in the file says that it is anything else"
