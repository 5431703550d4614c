"""inspect_ai logs, `.json` or `.eval`: samples with an epoch, an output and the scores of one or more scorers.

UKGovernmentBEIS/inspect_ai, src/inspect_ai/log/_log.py and scorer/_metric.py, commit 499e615.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from forkwise.samples.importers.base import Row, Source, chat_text, finish_reason, gold_text, message_text, sampling
from forkwise.samples.importers.openai import logprob_columns
from forkwise.samples.importers.reader import Record

USES = frozenset({"eval", "plan", "samples", "status"})

_ATTACHMENT = re.compile(r"attachment://([0-9a-zA-Z]+)")

_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""inspect_ai's own reading of correct, incorrect, partial and no answer (`value_to_float`)."""


def matches(record: Record) -> bool:
    """A log's header, and samples or their absence."""
    return isinstance(record.get("eval"), dict) and "task" in record["eval"] and "model" in record["eval"]


def rows(record: Record, source: Source) -> Iterator[Row]:
    """One row per sample and epoch. Ids are the log's own, `TASK/ID`; NaN and missing scores mean unscored."""
    header = record["eval"]
    settings = {**((record.get("plan") or {}).get("config") or {}), **(header.get("model_generate_config") or {})}
    status = record.get("status", "unfinished")
    for sample in record.get("samples") or []:
        if status != "success":
            source.notes[f"of a log whose status is '{status}'"] += 1
        if sample.get("invalidation"):
            source.dropped["samples that were invalidated"] += 1
            continue
        if sample.get("error"):
            source.notes["that ended in an error, taken as unscored unless scored"] += 1
        output = sample.get("output") or {}
        choice = (output.get("choices") or [{}])[0]
        attachments = sample.get("attachments") or {}
        name, score = _score(sample.get("scores") or {}, source)
        value = score.get("value")
        row: Row = {
            "run": source.run(),
            "model": header["model"],
            "problem_id": source.problem(f"{header['task']}/{sample['id']}", number=json.dumps(sample["id"])),
            "sample_id": int(sample["epoch"]) - 1,
            "prompt": _attached(chat_text(sample.get("input")), attachments),
            "completion": _attached(message_text(choice.get("message") or {}), attachments),
            "gold": gold_text(sample.get("target")),
            "correct": source.verdict(_LETTERS.get(value, value) if isinstance(value, str) else value),
            "verdict_by": f"inspect:{name}",
            "n_tokens": (output.get("usage") or {}).get("output_tokens"),
            "finish_reason": finish_reason(choice.get("stop_reason")),
            "seed": settings.get("seed"),
            "sampling": sampling(settings),
        }
        if score.get("answer") is not None:
            row["answer"] = str(score["answer"])
        content = (choice.get("logprobs") or {}).get("content")
        if content:
            row |= logprob_columns(content, source)
        yield row


def _score(scores: dict[str, Any], source: Source) -> tuple[str, Record]:
    """The deciding scorer's name and score; `SCORER/KEY` chooses one value of a score that has several."""
    wanted = source.options.score
    if not scores:
        return "", {}
    scorer, _, key = (wanted or "").partition("/")
    if not wanted and len(scores) == 1:
        scorer = next(iter(scores))
    if scorer not in scores:
        problem = f"there is no scorer '{scorer}'" if wanted else "the log has several scorers"
        raise source.error(f"{problem}: choose --score from {', '.join(scores)}.")
    score = scores[scorer]
    if not isinstance(score.get("value"), dict):
        return scorer, score
    if key not in score["value"]:
        names = ", ".join(f"{scorer}/{name}" for name in score["value"])
        raise source.error(f"scorer '{scorer}' gives several values: choose --score from {names}.")
    return wanted or scorer, {**score, "value": score["value"][key]}


def _attached(text: str | None, attachments: dict[str, str]) -> str | None:
    """`text` with what it points to: inspect_ai stores long texts once, as `attachment://HASH`."""
    return text and _ATTACHMENT.sub(lambda match: attachments.get(match[1], match[0]), text)
