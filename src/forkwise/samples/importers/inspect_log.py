"""inspect_ai logs, `.json` or `.eval`: samples with an epoch, an output and the scores of one or more scorers.

UKGovernmentBEIS/inspect_ai, src/inspect_ai/log/_log.py and scorer/_metric.py, commit 499e615.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from forkwise.samples.fields import ABSENT, WrongField, objects, optional, required
from forkwise.samples.importers.base import Row, Source, gold_of, sampling
from forkwise.samples.importers.openai import logprob_columns
from forkwise.samples.importers.reader import Record
from forkwise.samples.importers.texts import chat_text, finish_reason, message_text

USES = frozenset({"eval", "plan", "samples", "status"})

_ATTACHMENT = re.compile(r"attachment://([0-9a-zA-Z]+)")

_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""inspect_ai's own reading of correct, incorrect, partial and no answer (`value_to_float`)."""


def matches(record: Record) -> bool:
    """Tells whether a record is a log: a header, and samples or their absence."""
    return isinstance(record.get("eval"), dict) and "task" in record["eval"] and "model" in record["eval"]


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields one row per sample and epoch. Ids are the log's own, `TASK/ID`; NaN and missing scores mean unscored."""
    header = required(record, "eval", dict)
    plan = optional(record, "plan", dict) or {}
    settings = {
        **(optional(plan, "config", dict, "plan.") or {}),
        **(optional(header, "model_generate_config", dict, "eval.") or {}),
    }
    status = record.get("status", "unfinished")
    for i, sample in enumerate(objects(record, "samples")):
        where = f"samples[{i}]."
        if status != "success":
            source.notes[f"of a log whose status is '{status}'"] += 1
        if sample.get("invalidation"):
            source.dropped["samples that were invalidated"] += 1
            continue
        if sample.get("error"):
            source.notes["that ended in an error, taken as unscored unless scored"] += 1
        name, score = _score(optional(sample, "scores", dict, where) or {}, f"{where}scores.", source)
        value = score.get("value")
        number = sample.get("id")
        if isinstance(number, bool) or not isinstance(number, str | int):
            raise WrongField(f"{where}id", "text or a whole number", sample.get("id", ABSENT))
        row: Row = {
            "run": source.run(),
            "model": required(header, "model", str, "eval."),
            "problem_id": source.problem(f"{header['task']}/{number}", number=json.dumps(number)),
            "sample_id": required(sample, "epoch", int, where) - 1,
            "gold": gold_of(sample.get("target"), source),
            "correct": source.verdict(_LETTERS.get(value, value) if isinstance(value, str) else value),
            "verdict_by": f"inspect:{name}",
            "seed": optional(settings, "seed", int, "plan.config."),
            "sampling": sampling(settings, "plan.config."),
            **_output(sample, where, source),
        }
        if score.get("answer") is not None:
            row["answer"] = score["answer"]
        yield row


def _output(sample: Record, where: str, source: Source) -> Row:
    """Returns the prompt of a sample and the model's output."""
    output = optional(sample, "output", dict, where) or {}
    usage = optional(output, "usage", dict, f"{where}output.") or {}
    choice = next(iter(objects(output, "choices", f"{where}output.")), {})
    path = f"{where}output.choices[0]."
    message = optional(choice, "message", dict, path) or {}
    logprobs = optional(choice, "logprobs", dict, path) or {}
    content = objects(logprobs, "content", f"{path}logprobs.")
    attachments = optional(sample, "attachments", dict, where) or {}
    return {
        "prompt": _attached(chat_text(sample.get("input"), f"{where}input"), attachments, where),
        "completion": _attached(message_text(message, f"{path}message."), attachments, where),
        "n_tokens": optional(usage, "output_tokens", int, f"{where}output.usage."),
        "finish_reason": finish_reason(choice, "stop_reason", source, path),
        **(logprob_columns(content, source, f"{path}logprobs.content") if content else {}),
    }


def _score(scores: Record, where: str, source: Source) -> tuple[str, Record]:
    """Returns the deciding scorer's name and score; `SCORER/KEY` chooses one value of a score that has several."""
    chosen = source.options.score
    if not scores:
        return "", {}
    scorer, _, key = (chosen or "").partition("/")
    if not chosen and len(scores) == 1:
        scorer = next(iter(scores))
    if scorer not in scores:
        problem = f"there is no scorer '{scorer}'" if chosen else "the log has several scorers"
        raise source.error(f"{problem}: choose --score from {', '.join(scores)}.")
    score = required(scores, scorer, dict, where)
    if not isinstance(score.get("value"), dict):
        return scorer, score
    if key not in score["value"]:
        names = ", ".join(f"{scorer}/{name}" for name in score["value"])
        raise source.error(f"scorer '{scorer}' gives several values: choose --score from {names}.")
    return chosen or scorer, {**score, "value": score["value"][key]}


def _attached(text: str | None, attachments: Record, where: str) -> str | None:
    """Replaces a pointer by its text: inspect_ai stores long texts once, as `attachment://HASH`."""
    return text and _ATTACHMENT.sub(
        lambda match: optional(attachments, match[1], str, f"{where}attachments.") or match[0], text
    )
