"""verl's rollout and validation dumps (`trainer.rollout_data_dir`): `STEP.jsonl`, a line per sample.

verl-project/verl, verl/trainer/ppo/ray_trainer.py `_write_generations`, commit 1dda039.
"""

from __future__ import annotations

from collections.abc import Iterator

from forkwise.samples.fields import required
from forkwise.samples.importers.base import Row, Source, gold_of
from forkwise.samples.importers.reader import Record
from forkwise.tasks.base import question_id

USES = frozenset({"input", "output", "gts", "score", "acc", "pred", "step"})


def matches(record: Record) -> bool:
    """Tells whether a record has prompt and response as text, with a score and the training step."""
    return {"input", "output", "score", "step"} <= record.keys() and isinstance(record["output"], str)


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields one row per line; each step is a run, because it is another policy.

    `acc` decides where it is there (verl's own main metric), else `score`, which may be a reward such as -1 and 1.
    Problems are told apart by the decoded prompt, so checkpoints pair when they share the chat template, and by the
    gold answer where that differs.
    """
    name = source.options.score or ("acc" if "acc" in record else "score")
    if name not in record:
        raise source.error(f"there is no field '{name}': choose --score from the fields {', '.join(record)}.")
    step, prompt = required(record, "step", int), required(record, "input", str)
    row: Row = {
        "run": source.run(f"step{step}"),
        "problem_id": source.problem(question_id(prompt), record.get("gts")),
        "prompt": prompt,
        "completion": required(record, "output", str),
        "gold": gold_of(record.get("gts"), source),
        "step": step,
        "correct": source.verdict(record[name]),
        "verdict_by": f"verl:{name}",
    }
    if record.get("pred") is not None:
        row["answer"] = record["pred"]
    yield row
