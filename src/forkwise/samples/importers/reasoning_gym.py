"""reasoning-gym's evaluation results: one JSON document, either one dataset or categories of datasets.

Scores are fractional by design (a gold answer inside a longer text, partial credit): only 1.0 is a pass.
open-thought/reasoning-gym-eval, commit 5f09fec.
"""

from __future__ import annotations

from collections.abc import Iterator

from forkwise.samples.importers.base import Row, Source, gold_text, sampling
from forkwise.samples.importers.reader import Record
from forkwise.tasks.base import question_id

USES = frozenset({"metadata", "categories", "results"})


def matches(record: Record) -> bool:
    """Results with a question and a score, at the top or in categories of datasets."""
    datasets = _datasets(record)
    results = next((d["results"] for d in datasets if d.get("results")), None)
    if not isinstance(results, list) or not isinstance(results[0], dict):
        return False
    return "question" in results[0] and ("completions" in results[0] or "full_model_response" in results[0])


def _datasets(record: Record) -> list[Record]:
    categories = record.get("categories")
    if isinstance(categories, list):
        return [d for c in categories if isinstance(c, dict) for d in c.get("datasets", []) if isinstance(d, dict)]
    return [record]


def rows(record: Record, source: Source) -> Iterator[Row]:
    """One row per completion of every problem of every dataset."""
    settings = record.get("metadata") or {}
    for dataset in _datasets(record):
        for result in dataset.get("results") or []:
            completions = result.get("completions", [result])
            if not completions:
                source.dropped["problems without completions"] += 1
            gold = result.get("expected_answer")
            problem = source.problem(question_id(result["question"]), gold)
            for completion in completions:
                yield {
                    "run": source.run(),
                    "model": settings.get("model"),
                    "problem_id": problem,
                    "prompt": result["question"],
                    "gold": gold_text(gold),
                    "completion": completion.get("full_model_response"),
                    "answer": completion.get("model_answer"),
                    "correct": source.verdict(completion.get("score")),
                    "verdict_by": "reasoning-gym",
                    "sampling": sampling(settings),
                }
