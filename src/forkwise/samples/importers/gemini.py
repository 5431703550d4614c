"""Gemini's generateContent responses, with `responseLogprobs` or without.

Shape: ai.google.dev/api/generate-content.
"""

from __future__ import annotations

from collections.abc import Iterator

from forkwise.samples.importers.base import Row, Source, finish_reason, token_columns
from forkwise.samples.importers.openai import problem_of
from forkwise.samples.importers.reader import Record
from forkwise.samples.reasoning import join_reasoning

USES = frozenset({"candidates", "modelVersion", "usageMetadata", "prompt"})


def matches(record: Record) -> bool:
    """Candidates with content."""
    candidates = record.get("candidates")
    return isinstance(candidates, list) and bool(candidates) and isinstance(candidates[0].get("content"), dict)


def rows(record: Record, source: Source) -> Iterator[Row]:
    """One row per candidate."""
    candidates = record["candidates"]
    prompt = record["prompt"] if isinstance(record.get("prompt"), str) else None
    for candidate in candidates:
        parts = [p for p in candidate.get("content", {}).get("parts") or [] if isinstance(p.get("text"), str)]
        thoughts = "".join(part["text"] for part in parts if part.get("thought"))
        usage = record.get("usageMetadata") or {}
        row: Row = {
            "run": source.run(),
            "model": record.get("modelVersion"),
            "problem_id": problem_of(record, prompt, source),
            "prompt": prompt,
            "completion": join_reasoning(thoughts, "".join(part["text"] for part in parts if not part.get("thought"))),
            # The count adds up all candidates.
            "n_tokens": usage.get("candidatesTokenCount") if len(candidates) == 1 else None,
            "finish_reason": finish_reason(candidate.get("finishReason")),
        }
        result = candidate.get("logprobsResult") or {}
        chosen, top = result.get("chosenCandidates"), result.get("topCandidates")
        if chosen:
            row |= token_columns(
                source,
                [c["token"] for c in chosen],
                [c["logProbability"] for c in chosen],
                [[(c["token"], c["logProbability"]) for c in t.get("candidates") or []] for t in top] if top else None,
                [c["tokenId"] for c in chosen] if all("tokenId" in c for c in chosen) else None,
            )
        yield row
