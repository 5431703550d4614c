"""reasoning-gym's evaluation results: one JSON document, either one dataset or categories of datasets.

Scores are fractional by design (a gold answer inside a longer text, partial credit): only 1.0 is a pass.
open-thought/reasoning-gym-eval, commit 5f09fec.
"""

from __future__ import annotations

from collections.abc import Iterator

from forkwise.samples.fields import objects, optional, required
from forkwise.samples.importers.base import Row, Source, gold_of, sampling
from forkwise.samples.importers.reader import Record
from forkwise.tasks.base import question_id

USES = frozenset({"metadata", "categories", "results"})


def matches(record: Record) -> bool:
    """Tells whether a record has results with a question and a score, at the top or in categories of datasets."""
    results = next((dataset["results"] for dataset, _ in _datasets(record) if dataset.get("results")), None)
    if not isinstance(results, list) or not isinstance(results[0], dict):
        return False
    return "question" in results[0] and ("completions" in results[0] or "full_model_response" in results[0])


def _datasets(record: Record) -> list[tuple[Record, str]]:
    """Returns the datasets, each with the path to it."""
    if record.get("categories") is None:
        return [(record, "")]
    return [
        (dataset, f"categories[{i}].datasets[{j}].")
        for i, category in enumerate(objects(record, "categories"))
        for j, dataset in enumerate(objects(category, "datasets", f"categories[{i}]."))
    ]


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields one row per completion of every problem of every dataset."""
    settings = optional(record, "metadata", dict) or {}
    for dataset, path in _datasets(record):
        for i, result in enumerate(objects(dataset, "results", path)):
            where = f"{path}results[{i}]."
            completions = objects(result, "completions", where) if "completions" in result else [result]
            if not completions:
                source.dropped["problems without completions"] += 1
            gold, question = result.get("expected_answer"), required(result, "question", str, where)
            problem = source.problem(question_id(question), gold)
            for completion in completions:
                yield {
                    "run": source.run(),
                    "model": optional(settings, "model", str, "metadata."),
                    "problem_id": problem,
                    "prompt": question,
                    "gold": gold_of(gold, source),
                    "completion": completion.get("full_model_response"),
                    "answer": completion.get("model_answer"),
                    "correct": source.verdict(completion.get("score")),
                    "verdict_by": "reasoning-gym",
                    "sampling": sampling(settings, "metadata."),
                }
