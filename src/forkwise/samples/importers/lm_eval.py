"""lm-evaluation-harness, `--log_samples`: `samples_TASK_DATE.jsonl`, a line per document and filter.

A line holds all `repeats` responses of a document but usually one score, which belongs to what its filter made of them.
So documents with a single response, or with a score of each (`exact_match: [...]`, or `exact_matches` as forks of the
harness write beside it), are scored here; `forkwise verify` scores the others.
EleutherAI/lm-evaluation-harness, lm_eval/evaluator.py and lm_eval/result_schema.py, commit 4e7e0d4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forkwise.samples.fields import ABSENT, WrongField, checked, optional, required
from forkwise.samples.importers.base import Row, Source, gold_of, sampling
from forkwise.samples.importers.reader import Record
from forkwise.tasks.base import question_id

USES = frozenset({"doc_id", "doc", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "target"})
_FIXED = USES | {"prompt_hash", "target_hash"}
_QUESTION = ("question", "problem", "Problem", "Question", "prompt", "input", "text")  # where tasks keep it in `doc`


def matches(record: Record) -> bool:
    """Tells whether a record is a document with its responses, raw and filtered."""
    return {"doc_id", "doc", "resps", "filtered_resps"} <= record.keys()


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields one row per response. The problem is the document, so runs with other prompts or templates pair."""
    for field in ("doc_id", "doc"):
        if record.get(field) is None:
            raise WrongField(field, "there", record.get(field, ABSENT))
    metric, chosen = _decide(record, source)
    if not chosen:
        source.dropped["lines of other filters, which hold the same samples"] += 1
        return
    completions = _responses(record)
    if completions is None:
        source.dropped["lines of multiple-choice or log-likelihood requests, for which nothing was sampled"] += 1
        return
    scores = _scores(record, metric, len(completions), source)
    prompt, settings = _request(record.get("arguments"))
    if prompt is None:
        source.notes["whose prompt is not in the file as text"] += len(completions)
    answers = _answers(record, completions)
    document: Any = record["doc"] if isinstance(record["doc"], dict) else {}
    name = record.get("doc_hash") or f"doc {record['doc_id']}"
    question = next((document[key] for key in _QUESTION if isinstance(document.get(key), str)), name)
    doc_id = f"doc_id {record['doc_id']}"
    if source.memo.setdefault(doc_id, source.place) != source.place:
        raise source.error(f"{doc_id} was on {source.memo[doc_id]} already: remove one of the two.")
    # Several lines may tell of one document, so its number is part of it.
    problem = source.problem(question_id(question), record.get("doc_hash") or record["doc"], record["doc_id"])
    for i, completion in enumerate(completions):
        row: Row = {
            "run": source.run(),
            "problem_id": problem,
            "prompt": prompt,
            "completion": completion,
            "gold": gold_of(record.get("target"), source),
            "correct": source.verdict(scores[i]),
            "verdict_by": f"lm-eval:{metric}",
            "sampling": settings,
        }
        if answers is not None:
            row["answer"] = answers[i]
        yield row


def _responses(record: Record) -> list[str] | None:
    """Returns all texts that were sampled for the document; None where requests were scored, not answered."""
    requests = required(record, "resps", list)
    if not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in requests):
        return None
    if len(requests) == 1:
        return list(requests[0])
    # Repeats that were asked as requests of their own are answers to one prompt.
    arguments = record.get("arguments")
    asked = list(arguments.values()) if isinstance(arguments, dict) else arguments
    same = isinstance(asked, list) and len(asked) == len(requests) and all(request == asked[0] for request in asked)
    return [text for texts in requests for text in texts] if same else None


def _scores(record: Record, metric: str | None, n: int, source: Source) -> list[Any]:
    """Returns the score of each response; None for all where one score is there for several."""
    if metric is None or metric == "bypass":
        return [None] * n
    score = record.get(metric)
    for name in (metric, f"{metric}es", f"{metric}s"):
        if n > 1 and isinstance(record.get(name), list):
            score = record[name]
    if isinstance(score, list):
        if len(score) != n:
            raise source.error(f"there are {n} responses but {len(score)} scores: remove the line.")
        return score
    if n > 1 and score is not None:
        source.notes["left unscored, since the file has one score for several samples"] += n
    return [score if n == 1 else None] * n


def _decide(record: Record, source: Source) -> tuple[str | None, bool]:
    """Returns the metric that decides, and whether this line is of the chosen filter."""
    here = str(record.get("filter", "none"))
    metrics = optional(record, "metrics", list)
    for i, metric in enumerate(metrics or ()):
        checked(metric, str, f"metrics[{i}]")
    if metrics is None:  # up to 0.4.3
        metrics = [k for k, v in record.items() if k not in _FIXED and isinstance(v, (int, float))]
    chosen, _, filter_ = (source.options.score or "").partition(",")
    filter_ = filter_ or source.memo.setdefault("filter", here)
    if here != filter_:
        if "," not in (source.options.score or ""):
            name = chosen or (metrics[0] if metrics else "METRIC")
            raise source.error(
                f"the file scores the same samples under several filters: choose with --score {name},{filter_} "
                f"or --score {name},{here}."
            )
        return None, False
    if chosen:
        if chosen not in metrics:
            raise source.error(f"there is no metric '{chosen}': choose --score from {', '.join(metrics)}.")
        return chosen, True
    if len(metrics) > 1:
        raise source.error(f"the file has several metrics: choose --score from {', '.join(metrics)}.")
    return (metrics[0] if metrics else None), True


def _request(arguments: Any) -> tuple[str | None, Row | None]:
    """Reads the prompt of the first request and the column `sampling`, from either shape that lm-eval has written."""
    if isinstance(arguments, dict):
        request, path = optional(arguments, "gen_args_0", dict, "arguments.") or {}, "arguments.gen_args_0.arg_1"
        prompt, settings = request.get("arg_0"), request.get("arg_1")
    elif arguments is None or isinstance(arguments, list):
        first, path = checked(arguments[0], list, "arguments[0]") if arguments else [], "arguments[0][1]"
        prompt, settings = [*first, None, None][:2]
    else:
        raise WrongField("arguments", "an object or a list", arguments)
    if isinstance(prompt, list) and len(prompt) == 1:  # as for chat interfaces
        prompt = prompt[0]
    settings = {} if settings is None else checked(settings, dict, path)
    return prompt if isinstance(prompt, str) else None, sampling(settings, f"{path}.", max_tokens="max_gen_toks")


def _answers(record: Record, completions: list[str]) -> list[str | None] | None:
    """Returns what the filter took from each response; None when it left them as they are."""
    filtered = required(record, "filtered_resps", list)
    if len(filtered) == 1 and isinstance(filtered[0], list):
        filtered = filtered[0]
    if len(filtered) != len(completions) or filtered == completions:
        return None
    return [None if text in ("", "[invalid]") else str(text) for text in filtered]
