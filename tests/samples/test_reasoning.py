"""Reasoning that servers split off a reply, in each of the fields that they use."""

from __future__ import annotations

import pytest

from forkwise.samples.reasoning import answer_of, join_reasoning, reasoning_of


@pytest.mark.parametrize(
    ("message", "reasoning", "answer"),
    [
        ({"content": "4"}, None, "4"),
        ({"content": "4", "reasoning_content": "2 + 2"}, "2 + 2", "4"),
        ({"content": "4", "reasoning": "2 + 2"}, "2 + 2", "4"),
        ({"content": None, "reasoning": "2 + 2"}, "2 + 2", None),
        ({"content": "4", "reasoning_details": [{"type": "reasoning.text", "text": "2 + 2"}]}, "2 + 2", "4"),
        ({"content": "4", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, None, "4"),
        ({"content": [{"type": "text", "text": "4"}]}, None, "4"),
        ({"content": [{"type": "thinking", "thinking": "2 + 2"}, {"type": "text", "text": "4"}]}, "2 + 2", "4"),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "2 + 2"}]}, {"text": "4"}]},
            "2 + 2",
            "4",
        ),
    ],
)
def test_reasoning_and_answer_are_told_apart(message, reasoning, answer):
    assert (reasoning_of(message) or None, answer_of(message["content"])) == (reasoning, answer)


def test_a_reasoning_without_an_answer_stays_open():
    assert join_reasoning("2 + 2", None) == "<think>\n2 + 2"
    assert join_reasoning("2 + 2", "4") == "<think>\n2 + 2\n</think>\n\n4"
    assert join_reasoning(None, "4") == "4"
