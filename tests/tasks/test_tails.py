"""What stands behind a number changes it or does not, wherever the number stands: every dress with every tail."""

from __future__ import annotations

import pytest

from forkwise.tasks.answers import MathVerifier

DRESSES = (
    "The answer is {}", "Answer: {}", "**Answer:** {}", "#### {}", "So the final answer is {}",
    "<answer>{}</answer>", "\\boxed{{{}}}", "**Final Answer**\n\n{}", "The final answer is:\n{}",
    "Thus, x = {}", "So the total is {}", "答案是 {}",
)  # fmt: skip
CHANGES = (
    " or 6", " or more", "+", " to 6", " and 6", ", 6", " squared", " hundred", " thousand", " factorial",
    " minus 1", " divided by 2", " less than 6", "/6", ".5", ",000", "e3", "^2", "\\pi", "x", " percent of 20",
    " out of 6", " in 6", "-6", ":30", "? No.", " (or 6)", ". Wait, it is 6.", ". No, it is 6.", ", no wait, 6",
    " is wrong", " dozen", "k", " plus 1", " ± 1", " < x", "x + 1", " \\sqrt{2}", " and a half", " 1/2", " = 6",
    " → 6", " if n is odd, 6 otherwise", "... actually 6", "–9", " hundredths", " thirds", " choose 2",
    " pairs of 6", "0", " m g", " m x", "'s square",
)  # fmt: skip
KEEPS = (
    "", ".", " apples", " apples in total", " cm", " dollars", ".0", ".00", " only", "\n", " people", " units",
    " years old",
)  # fmt: skip


@pytest.mark.parametrize("dress", DRESSES)
def test_a_tail_that_changes_the_value_is_not_skipped_and_one_that_keeps_it_is(dress):
    pytest.importorskip("math_verify")
    texts = [dress.format("5" + tail) for tail in (*CHANGES, *KEEPS)]
    with MathVerifier() as verifier:
        verdicts = verifier.verify(["5"] * len(texts), texts)
    called_right = [text for text, verdict in zip(texts, verdicts, strict=True) if verdict.correct]
    assert called_right == texts[len(CHANGES) :]
