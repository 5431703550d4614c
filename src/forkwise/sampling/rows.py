"""A completion as a row of the samples table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from forkwise.sampling.engine import Completion
from forkwise.sampling.recipe import Job
from forkwise.tasks import Problem, Verdict


def table_row(
    job: Job, problem: Problem, sample_id: int, completion: Completion, verdict: Verdict | None
) -> dict[str, Any]:
    """Makes one row of the samples table; token-level columns only where the engine gives them."""
    row: dict[str, Any] = {
        "run": job.run,
        "model": job.model,
        "problem_id": problem.id,
        "cluster": problem.cluster,
        "sample_id": sample_id,
        "prompt": _storable(completion.prompt),
        "completion": _storable(completion.text),
        "answer": verdict.answer if verdict else None,
        "correct": verdict.correct if verdict else None,
        "verdict_by": verdict.by if verdict else None,
        "gold": None if problem.answer is None else _storable(problem.answer),
        "n_tokens": completion.n_tokens,
        "finish_reason": completion.finish_reason,
        "seed": job.seed,
        "sampling": {key: asdict(job.sampling)[key] for key in ("temperature", "top_p", "max_tokens")},
    }
    if completion.token_ids is not None:
        row["token_ids"] = completion.token_ids
    if completion.tokens is not None:
        row["tokens"] = [_storable(token) for token in completion.tokens]
    if completion.logprobs is not None:
        row["logprobs"] = completion.logprobs
    if completion.entropies is not None:
        row["entropies"] = completion.entropies
    if completion.varentropies is not None:
        row["varentropies"] = completion.varentropies
    if completion.top_logprobs is not None:
        row["top_logprobs"] = [
            [{"token": _storable(token), "logprob": logprob} for token, logprob in candidates]
            for candidates in completion.top_logprobs
        ]
    return row


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be stored as UTF-8
