"""Gemini's generateContent responses, with `responseLogprobs` or without.

Shape: ai.google.dev/api/generate-content.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forkwise.samples.fields import checked, objects, optional
from forkwise.samples.importers.base import Row, Source, scored, token_columns
from forkwise.samples.importers.openai import problem_of
from forkwise.samples.importers.reader import Record
from forkwise.samples.importers.texts import finish_reason, logged_prompt
from forkwise.samples.reasoning import join_reasoning

USES = frozenset({"candidates", "modelVersion", "usageMetadata", "prompt"})


def matches(record: Record) -> bool:
    """Tells whether a record has candidates with content."""
    candidates = record.get("candidates")
    return isinstance(candidates, list) and bool(candidates) and isinstance(candidates[0].get("content"), dict)


def rows(record: Record, source: Source) -> Iterator[Row]:
    """Yields a row per candidate."""
    candidates = objects(record, "candidates")
    if not candidates:
        source.dropped["responses without a candidate"] += 1
    prompt, usage = logged_prompt(record, source), optional(record, "usageMetadata", dict) or {}
    n_tokens = optional(usage, "candidatesTokenCount", int, "usageMetadata.")
    for i, candidate in enumerate(candidates):
        where = f"candidates[{i}]."
        parts = objects(optional(candidate, "content", dict, where) or {}, "parts", f"{where}content.")
        texts = [optional(part, "text", str, f"{where}content.parts[{j}].") or "" for j, part in enumerate(parts)]
        thoughts, answer = (
            "".join(text for text, part in zip(texts, parts, strict=True) if bool(part.get("thought")) == thought)
            for thought in (True, False)
        )
        row: Row = {
            "run": source.run(),
            "model": optional(record, "modelVersion", str),
            "problem_id": problem_of(record, prompt, source),
            "prompt": prompt,
            "completion": join_reasoning(thoughts, answer),
            # The count adds up all candidates.
            "n_tokens": n_tokens if len(candidates) == 1 else None,
            "finish_reason": finish_reason(candidate, "finishReason", source, where),
        }
        yield row | _tokens(optional(candidate, "logprobsResult", dict, where) or {}, f"{where}logprobsResult.", source)


def _tokens(result: Record, where: str, source: Source) -> Row:
    chosen, top = objects(result, "chosenCandidates", where), objects(result, "topCandidates", where)
    if not chosen:
        return {}
    ids = [optional(position, "tokenId", int, f"{where}chosenCandidates[{i}].") for i, position in enumerate(chosen)]
    chosen_tokens = _scored(chosen, f"{where}chosenCandidates")
    candidates = [
        _scored(objects(position, "candidates", f"{where}topCandidates[{i}]."), f"{where}topCandidates[{i}].candidates")
        for i, position in enumerate(top)
    ]
    return token_columns(
        source,
        [token for token, _ in chosen_tokens],
        [logprob for _, logprob in chosen_tokens],
        candidates or None,
        None if None in ids else [checked(number, int, "tokenId") for number in ids],
    )


def _scored(places: list[Record], path: str) -> list[tuple[Any, Any]]:
    return [scored(candidate, f"{path}[{i}].", "token", "logProbability") for i, candidate in enumerate(places)]
