"""Qwen2.5-Math's evaluation output, also written by SkyThought and others: a line per problem, a list per column.

`code` holds the completions, `pred` the answers taken from them, `score` the grader's verdicts (absent until graded).
QwenLM/Qwen2.5-Math, evaluation/math_eval.py, commit a45202b.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from forkwise.samples.fields import optional, required
from forkwise.samples.importers.base import Row, Source, gold_of, sampling
from forkwise.samples.importers.reader import Record
from forkwise.tasks.base import question_id

USES = frozenset({"idx", "question", "code", "pred", "score", "gt", "answer"})

# math_eval.py names its files test_PROMPT_-1_seed0_t0.6_s0_e-1.jsonl
_SETTINGS = re.compile(r"_seed(\d+)_t(\d+\.?\d*)_s\d+_e-?\d+$")


def matches(record: Record) -> bool:
    """Tells whether a record has lists of completions and answers beside a question."""
    return all(isinstance(record.get(key), list) for key in ("code", "pred")) and isinstance(
        record.get("question"), str
    )


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields one row per completion. Problems are told apart by text, and within the file by `idx` and gold answer."""
    question = required(record, "question", str)
    completions, answers = (required(record, name, list) for name in ("code", "pred"))
    scores = optional(record, "score", list) or [None] * len(completions)
    if not len(completions) == len(answers) == len(scores):
        raise source.error(
            f"there are {len(completions)} completions, {len(answers)} answers and {len(scores)} scores: "
            "remove the line."
        )
    idx = f"idx {record.get('idx')}"
    if "idx" in record and source.memo.setdefault(idx, source.place) != source.place:
        raise source.error(f"{idx} was on {source.memo[idx]} already: remove one of the two.")
    gold = record.get("gt", record.get("answer"))
    problem = source.problem(question_id(question), gold, record.get("idx"))
    named = _SETTINGS.search(source.stem)
    for completion, answer, score in zip(completions, answers, scores, strict=True):
        yield {
            "run": source.run(),
            "problem_id": problem,
            "prompt": question,
            "completion": completion,
            "gold": gold_of(gold, source),
            "answer": answer or None,
            "correct": source.verdict(score),
            "verdict_by": "qwen-math",
            "seed": int(named[1]) if named else None,
            "sampling": sampling({"temperature": float(named[2])}) if named else None,
        }
