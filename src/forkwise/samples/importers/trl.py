"""TRL's completions (`log_completions=True` of GRPO, RLOO and kin): `completions/completions_STEP.parquet`.

A row per sample: step, prompt and completion (text or messages), a column per reward function, what these logged
themselves (`log_extra`), and the advantage. huggingface/trl 1.16, trl/trainer/grpo_trainer.py `log`; older versions
write one column `reward`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from forkwise.samples.fields import optional, required
from forkwise.samples.importers.base import Row, Source, Undecided, gold_text
from forkwise.samples.importers.reader import Record
from forkwise.samples.importers.texts import chat_text
from forkwise.tasks.base import question_id

_NAMED = frozenset({"step", "prompt", "completion", "advantage"})
_GOLDS = ("gold", "ground_truth", "golden_answer", "reference_answer", "target", "solution", "gold_parsed")
"""Columns that reward functions log for the gold answer; TRL's own log `solution` and `gold_parsed`."""

USES = _NAMED | {*_GOLDS}


def matches(record: Record) -> bool:
    """Tells whether a record has step, prompt, completion and what training adds, and is no row of a samples table."""
    return (
        {"step", "prompt", "completion"} <= record.keys()
        and bool({"advantage", "reward"} & record.keys())
        and "sample_id" not in record
    )


def survey(records: Iterable[Record], source: Source) -> None:
    """Finds the reward columns, those of numbers, and the one that decides what is correct.

    That is the one the user chose, or the only one, if its values are 0 and 1 alone or the user gave a threshold. Of
    several, one may reward the form and not the answer.
    """
    values: dict[str, set[Any] | None] = {}  # None: not a column of numbers
    for record in records:
        for name in record.keys() - _NAMED:
            value = record[name]
            if value is None or (isinstance(value, float) and math.isnan(value)):
                continue
            numbers = values.setdefault(name, set())
            if isinstance(value, bool) or not isinstance(value, int | float):
                values[name] = None
            elif numbers is not None and len(numbers) < 3:
                numbers.add(value)
    rewards = {name: numbers for name, numbers in values.items() if numbers is not None}
    chosen = source.options.score
    if chosen and chosen not in rewards:
        raise source.error(
            f"there is no reward '{chosen}': choose --score from {', '.join(sorted(rewards)) or 'none'}."
        )
    source.readings = dict.fromkeys(rewards, "reward")
    source.used.update(rewards)
    if chosen:
        source.readings[chosen] = _DECIDES
    elif len(rewards) == 1:
        ((name, numbers),) = rewards.items()
        if numbers <= {0, 1} or source.options.threshold is not None:
            source.readings[name] = _DECIDES
            source.remarks.append(f"'{name}', the only reward, decides what is correct")
        else:
            source.remarks.append(
                f"'{name}' has values other than 0 and 1, so it decides nothing: say with --threshold from which one "
                "on a sample is correct, or run forkwise verify"
            )
    elif rewards:
        source.remarks.append(
            "there are several rewards, so none decides what is correct: choose --score from "
            f"{', '.join(sorted(rewards))}, or run forkwise verify"
        )


_DECIDES = "decides"


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields a row per line; each step is a run, because it is another policy. Problems are told apart by prompt."""
    if not source.surveyed:
        raise Undecided
    prompt = chat_text(record.get("prompt"), "prompt")
    if prompt is None:
        raise source.error(f"the prompt is {record.get('prompt')!r:.40}: it must be text or a list of messages.")
    completion = record.get("completion")
    gold = next((text for name in _GOLDS if (text := gold_text(record.get(name))) is not None), None)
    decides = next((name for name, reading in source.readings.items() if reading == _DECIDES), None)
    step = record.get("step")
    step = required({"step": int(step) if isinstance(step, str) and step.isdecimal() else step}, "step", int)
    yield {
        "run": source.run(f"step{step}"),
        "problem_id": source.problem(question_id(prompt), gold),
        "prompt": prompt,
        "completion": (chat_text(completion, "completion") or "") if isinstance(completion, list) else completion,
        "gold": gold,
        "correct": None if decides is None else source.verdict(record.get(decides)),
        "verdict_by": f"trl:{decides}",
        "step": step,
        "rewards": [{"name": name, "value": _known(record, name)} for name in source.readings],
        "advantage": _known(record, "advantage"),
    }


def _known(record: Record, name: str) -> float | None:
    value = optional(record, name, float)
    return None if value is None or math.isnan(value) else float(value)
