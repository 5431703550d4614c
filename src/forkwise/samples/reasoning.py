"""Reasoning that a server or another tool split off an answer, put back in front of it."""

from __future__ import annotations


def join_reasoning(reasoning: str | None, content: str | None) -> str:
    """The completion as the model wrote it: reasoning between `<think>` tags, then the answer.

    Reasoning without an answer stays open, so that nothing in it is taken for one.
    """
    if not reasoning:
        return content or ""
    if not content:
        return f"<think>\n{reasoning}"
    return f"<think>\n{reasoning}\n</think>\n\n{content}"
