"""GSM8K's example solutions: a line per problem with one solution of each of several models.

openai/grade-school-math, grade_school_math/data/example_model_solutions.jsonl, commit 3101c7d.
"""

from __future__ import annotations

from collections.abc import Iterator

from forkwise.samples.fields import ABSENT, WrongField, optional, required
from forkwise.samples.importers.base import Row, Source, gold_text
from forkwise.samples.importers.reader import Record
from forkwise.tasks.base import question_id

_NAMES = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
USES = frozenset({"question", "ground_truth", *_NAMES})


def matches(record: Record) -> bool:
    """Tells whether a record has a question, its solution, and a model's solution with a verdict."""
    return "question" in record and "ground_truth" in record and bool(_models(record))


def _models(record: Record) -> list[str]:
    return [k for k, v in record.items() if isinstance(v, dict) and {"is_correct", "solution"} <= v.keys()]


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields one row per model, each model its own run. The answer is what stands after the last `A: `."""
    question = required(record, "question", str)
    gold = gold_text(record.get("ground_truth"))
    if gold is None:
        raise WrongField("ground_truth", "text", record.get("ground_truth", ABSENT))
    problem = source.problem(question_id(question), gold)
    for model in _NAMES:
        optional(record, model, dict)
    for model in _models(record):
        solution = required(record[model], "solution", str, f"{model}.")
        _, separator, answer = solution.rpartition("A: ")
        yield {
            "run": source.run(model),
            "model": model,
            "problem_id": problem,
            "prompt": question,
            "completion": solution,
            "gold": gold,
            "answer": answer.strip() or None if separator else None,
            "correct": source.verdict(record[model]["is_correct"]),
            "verdict_by": "grade-school-math",
        }
