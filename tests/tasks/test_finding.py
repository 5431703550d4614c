"""Where a completion states its answer: every rule by hand-made texts as models write them, and their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkwise.tasks.answers import extract_answer, extract_boxed, find_answer

@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{1}, no, \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} and then \boxed{2", "1"),  # cut off
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),  # one escaped brace alone
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {7}", "7"),
        (r"\boxed{}", ""),
        (r"\boxed{1} }}} {", "1"),
        ("no box, 5", None),
        (r"\boxed{", None),
        ("", None),
    ],
)
def test_the_last_closed_box_is_taken(text, boxed):
    assert extract_boxed(text) == boxed


balanced = st.recursive(
    st.text(st.characters(exclude_characters="\\{}"), max_size=8),
    lambda inner: st.builds("{0}{{{1}}}\\{{{2}".format, inner, inner, inner),
    max_leaves=8,
)


@given(balanced, st.text(max_size=20), st.text(st.characters(exclude_characters="\\"), max_size=20))
def test_whatever_is_boxed_comes_out_again(content, before, after):
    assert extract_boxed(before + r" \boxed{" + content + "}" + after) == content.strip()


@given(st.lists(st.sampled_from(["\\boxed{", "\\boxed", "{", "}", "\\", "1", " ", "answer is", "####", "\n", "$"])))
def test_extraction_never_raises(pieces):
    text = "".join(pieces)
    extract_boxed(text)
    extract_answer(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 3.5. I am sure.", "3.5"),
        ("Answer: **42**", "42"),
        ("**Answer**: 5", "5"),
        ("Answer:\n\n42", "42"),
        ("Answer: $42", "42"),  # the DAPO prompt says $Answer
        ("the final answer is: $\\frac12$. I hope it is correct.", r"\frac12"),
        (r"the answer is \[ x + 1 \]", "x + 1"),
        ("She sold 5.\n#### 1,234", "1,234"),
        ("The answer is 1. No, the answer is 2.", "2"),
        (r"\boxed{1}, so the answer is 2", "1"),  # a box wins, wherever it is
        ("#### Step 2: think", None),
        ("the answer to life is 42", None),
        (r"\boxed{ }", None),
        ("", None),
        ("answer is \ud800 7", "? 7"),  # what comes out can be stored as UTF-8
    ],
)
def test_an_answer_is_a_box_or_else_the_last_statement(text, answer):
    assert extract_answer(text) == answer


def test_an_answer_is_looked_for_in_the_last_200_000_characters():
    assert extract_boxed(r"\boxed{1}" + " " * 190_000) == "1"
    assert extract_boxed(r"\boxed{1}" + " " * 200_000) is None


