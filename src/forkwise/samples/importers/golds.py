"""Which column holds the gold answers, and whether one named `answer` does or tells what each sample answered.

Both are common. The gold is the same for all samples of a problem and for right and wrong ones alike; a sample's own
answer is what its completion says. The whole file is looked at before a row is written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from forkwise.samples.fields import field_at
from forkwise.samples.importers.base import Source, gold_text
from forkwise.samples.importers.groups import SampleGroup, SurveyedSample
from forkwise.samples.importers.reader import Record
from forkwise.tasks.answers import extract_answer

_NAMES = (
    *("gold", "gold_answer", "golden_answer", "ground_truth", "gt", "reference_answer", "expected_answer", "target"),
    *("reward_model.ground_truth", "solution"),
)
"""Fields that hold the gold answer, where nothing else was named."""

_COMPARED = 2000  # samples whose completion is compared with the column; all are looked at otherwise
_OURS = frozenset({"run", "model", "problem_id", "sample_id", "verdict_by"})


def gold_of(record: Record, columns: Mapping[str, str]) -> tuple[str | None, str]:
    """Returns the gold answer and the field where it stands, unless that is mapped to something else; else None."""
    for name in _NAMES:
        text = None if name in columns.values() else gold_text(field_at(record, name))
        if text is not None:
            return text, name.split(".")[0]
    return None, ""


def is_undecided(record: Record, columns: Mapping[str, str]) -> bool:
    """Tells whether a record has a column `answer` that nobody explained; in a samples table it is the sample's."""
    return record.get("answer") is not None and "answer" not in columns.values() and not record.keys() >= _OURS


@dataclass
class Evidence:
    """Counts samples whose completion says what the column says, or something else, by their verdict."""

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

    def look(self, sample: SurveyedSample, text: str | None, gold: str | None) -> None:
        """Compares a completion with the column, for the first samples."""
        if gold is None or not text or self.compared >= _COMPARED:
            return
        same = _says(text, gold)
        self.compared += 1
        if same is None:
            return
        self.other += not same
        self.right_same += sample.right and same
        self.right_other += sample.right and not same
        self.wrong_same += sample.wrong and same
        self.wrong_other += sample.wrong and not same


def decide(problems: Collection[SampleGroup], evidence: Evidence, source: Source) -> None:
    """Decides how `answer` is read, and says so."""
    reading, why = _reading(problems, evidence)
    source.readings["answer"] = reading
    if reading == "gold":
        sentence = f"is read as the gold answer ({why}); --map answer=answer takes it as what each sample answered"
    elif "answer" in source.options.columns:  # another field was named for that
        sentence = f"is left out ({why}); --map gold=answer takes it as the gold answer"
    else:
        sentence = f"is read as what each sample answered ({why}); --map gold=answer takes it as the gold answer"
    source.remarks.append(f"'answer' {sentence}")


def _says(text: str, answer: str) -> bool | None:
    """Tells whether the completion gives this answer; None where no answer can be taken from it."""
    said_answer = extract_answer(text)
    if said_answer is None:
        return None
    return _bare(said_answer) == _bare(extract_answer(answer) or answer)


def _bare(answer: str) -> str:
    """Strips an answer of what may be written otherwise; good enough for a vote over many samples."""
    return "".join(answer.split()).strip("$.").replace(",", "").replace("\\dfrac", "\\frac").casefold()


def _reading(problems: Collection[SampleGroup], evidence: Evidence) -> tuple[str, str]:
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
