"""Reasoning and answer of a reply that came in two fields, as the one text that the model wrote."""

from __future__ import annotations


def join_reasoning(reasoning: str | None, content: str | None) -> str:
    """The completion: reasoning between think tags, then the answer; a reasoning without an answer stays open."""
    if not reasoning:
        return content or ""
    if not content:
        return f"<think>\n{reasoning}"
    return f"<think>\n{reasoning}\n</think>\n\n{content}"
