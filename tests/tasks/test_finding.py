"""Where a completion states its answer: every rule by hand-made texts as models write them, and their order."""

from __future__ import annotations

import time

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
        (r"\boxed{}", None),
        (r"\boxed{3}, as asked within \boxed{}", "3"),  # an echo of the instruction
        (r"\fbox{3}", "3"),
        (r"so \boxed 25.", "25"),
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
    content = f"7{content}7"  # no echo of the instruction
    assert extract_boxed(before + r" \boxed{" + content + "}" + after) == content


@given(st.lists(st.sampled_from(["\\boxed{", "\\boxed", "{", "}", "\\", "1", " ", "answer is", "####", "\n", "$"])))
def test_extraction_never_raises(pieces):
    text = "".join(pieces)
    extract_boxed(text)
    extract_answer(text)


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        # 1. corrections
        ("<answer>5</answer> wait, it is 6", "6", "statement"),
        ("<answer>5</answer>\n\nActually, this is wrong.", None, "none"),
        ("<answer>5</answer>\n\nActually, 6 is too large.", "5", "tags"),
        ("<answer>5</answer> Oops. <answer>6</answer>", "6", "tags"),
        # 2. tags
        ("<answer>7</answer>", "7", "tags"),
        ("<answer>7</answer> and so on <answer>8</answer>", "8", "tags"),
        (r"<answer>So \boxed{7}.</answer>", "7", "tags"),
        (r"\boxed{6} <answer>7</answer>", "7", "tags"),
        ("<answer>7", "7", "tags"),  # the closing tag was a stop sequence
        ("<answer>your answer here</answer> The answer is 7.", "7", "statement"),
        # 3. a statement on its own line below the last box
        ("So \\boxed{x \\ll y}\n\n**Answer: D**", "D", "statement"),
        # 4. boxes
        ("(a) $\\boxed{3}$\n\n(b) $\\boxed{7}$", "3, 7", "box"),
        (r"Part (a): \boxed{3}. So part (b) is \boxed{7}", "7", "box"),
        (r"\boxed{7} is wrong.", None, "none"),
        (r"\boxed{7} is not a square.", "7", "box"),
        (r"\boxed{1}, so the answer is 2", "1", "box"),
        (r"\boxed{2}, \boxed{3} and \boxed{4}", "2, 3, 4", "box"),
        (r"$x = \boxed{2}$ and $y = \boxed{3}$", "x =2, y =3", "box"),
        (r"\boxed{24}. Wait, recheck. \boxed{25}", "25", "box"),
        (r"It is \boxed{24}, no, \boxed{25}", "25", "box"),
        (r"There are \boxed{3} ways, so the total is \boxed{12}", "12", "box"),
        (r"within \boxed{}: \boxed{\text{your answer}}, the answer is 5", "5", "statement"),
        # 5. ####
        ("#### US$5,600", "US$5,600", "hash"),
        ("She sold 5.\n#### 1,234", "1,234", "hash"),
        ("#### **18**", "18", "hash"),
        ("#### Step 2: think", None, "none"),
        # 6. statements
        ('```json\n{"answer": "B", "confidence": 7}\n```', "B", "statement"),
        (r'{"answer": "\sqrt{2}"}', r"\sqrt{2}", "statement"),  # as models write it, though it is no JSON
        (r'{"answer": "\\frac12"}', r"\frac12", "statement"),
        ("The final answer is:\n\n```\n42\n```", "42", "statement"),
        ("<b>Answer:</b> 42", "42", "statement"),
        ("Answer: ~~41~~ 42", "42", "statement"),
        ("Answer:\n1. 2\n2. 5", "2, 5", "statement"),
        ("The answer is not 6 but 5.", "5", "statement"),
        ("The answer is 5 rather than 6.", "5", "statement"),
        ("The correct option is B, since 3 = 3.", "B", "statement"),
        ("It is not true that the answer is 5.", None, "none"),
        ("I doubt that the answer is 5.", None, "none"),
        ("No doubt that the answer is 5.", "5", "statement"),
        ("Answer: Rs. 500", "Rs. 500", "statement"),
        ("故选：C", "C", "statement"),
        ("The answer is 3.5. I am sure.", "3.5", "statement"),
        ("Answer: **42**", "42", "statement"),
        ("**Answer**: 5", "5", "statement"),
        ("Answer:\n\n42", "42", "statement"),
        ("### Final Answer\n\n**73**", "73", "statement"),
        ("Thus the final answer is:\n\n$$\n73\n$$", "73", "statement"),
        ("the final answer is: $\\frac12$. I hope it is correct.", r"\frac12", "statement"),
        (r"the answer is \[ x + 1 \]", "x + 1", "statement"),
        ("The answer is 1. No, the answer is 2.", "2", "statement"),
        ("The answer is 2. If the answer is 3, we are lost.", "2", "statement"),
        ("The answer is 2. I hope this answer is correct.", "2", "statement"),
        ("The answer is $18 and she had $5.", "$18 and she had $5", "statement"),  # money, no formula
        ("The answer is $18 + x$ then.", "18 + x then", "statement"),  # a formula
        ("The answer is 4, not 5.", "4", "statement"),
        ("答案是 42", "42", "statement"),
        ("answer is \ud800 7", "? 7", "statement"),  # what comes out can be stored as UTF-8
        # 7. choices
        ("The correct option is **B**", "B", "statement"),
        ("I choose option (C)", "C", "choice"),
        ("It cannot be A.\n\n(B)", "B", "choice"),
        # 8. formulas
        ("Therefore, $x = 5$.", "x = 5", "formula"),
        ("The solutions are $x=2$ and $x=3$.", "x=2, x=3", "formula"),
        ("It is $4$, not $5$.", "4", "formula"),
        ("We start from $x^2 = 36$. Next, we", None, "none"),
        ("Therefore, x = 5.", "x = 5", "formula"),
        # 9. conclusions
        ("So 42 is the answer.", "42", "conclusion"),
        ("The ratio of boys to girls is 3:4.", "3:4", "conclusion"),
        ("The total cost is $12.50.", "$12.50", "conclusion"),
        ("So 2 + 3 = 5 and next we", None, "none"),
        ("She had 5 and found 2.\nTherefore, she has 7 nickels.", "7 nickels", "conclusion"),
        ("The total is **72**.", "72", "conclusion"),
        ("Therefore 3 of 7 remain.", None, "none"),  # which of the two?
        ("Let us see, 5", None, "none"),
        ("", None, "none"),
    ],
)
def test_the_first_rule_that_applies_decides(text, answer, rule):
    finding = find_answer(text)
    assert (finding.answer, finding.rule) == (answer, rule)
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{7}? no.</think>The final answer is $5$.", "5"),
        (r"\boxed{7}? no.</think>The final answer is $5$.", "5"),  # the prompt opened it
        ("<thinking>the answer is 7</thinking><answer>5</answer>", "5"),
        ("<|begin_of_thought|>answer: 7<|end_of_thought|>Answer: 5", "5"),
        ("[THINK]answer: 7[/THINK]Answer: 5", "5"),
        ("<|channel|>analysis<|message|>answer: 7<|end|><|start|>assistant<|channel|>final<|message|>Answer: 5", "5"),
        ("The answer is 5.<reflection>the answer is 7</reflection>", "5"),
        ("<think>the answer is 7</think>", None),
        ("<think>the answer is 7", None),
        (r"\boxed{5} <think>the answer is 7", None),
        ("<think>" + "the answer is 7. " * 20_000, None),  # the tag is farther back than what is read
    ],
)
def test_reasoning_never_decides(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "following",
    [
        "\n\nQuestion: what is 3 + 4?\nThe answer is 7.",
        "\n\nQ: what is 3 + 4?\nA: The answer is 7.",
        "\n\n### Problem 2\nWhat is 3 + 4? The answer is 7.",
        "\nHuman: what is 3 + 4?\nAssistant: The answer is 7.",
        "<|im_end|>\n<|im_start|>assistant\nThe answer is 7.",
        "</s>The answer is 7.",
        "\n\nExample 2. What is 3 + 4? The answer is 7.",
    ],
)
def test_what_follows_the_next_question_is_not_the_answer(following):
    assert extract_answer("2 + 3 makes 5, so the answer is 5." + following) == "5"
    assert extract_answer("We count on from two: three, four, and so on (2 + 3). " * 3 + following) is None


def test_a_question_that_is_only_restated_cuts_nothing():
    assert extract_answer("Sure.\n\nProblem: two and three.\n\nSolution: The answer is 5.") == "5"


def test_the_last_number_is_an_answer_only_where_the_task_says_so():
    assert find_answer("3 apples, then 4").answer is None
    assert find_answer("3 apples, then 4", last_number=True).answer == "4"


def test_an_answer_is_looked_for_in_the_last_200_000_characters():
    assert extract_boxed(r"\boxed{1}" + " " * 190_000) == "1"
    assert extract_boxed(r"\boxed{1}" + " " * 200_000) is None


@pytest.mark.parametrize("head", ["", "<answer>", r"\boxed{1} "])
@pytest.mark.parametrize(
    "unit", [r"\(", r"\[", "$", r"\boxed{", "<answer>", "answer: ", "\n", "Q: ", "1 ", "not ", "**"]
)
def test_the_answer_of_a_long_completion_is_found_in_bounded_time(head, unit):
    text = (head + unit * 200_000)[:200_000]
    began = time.process_time()
    find_answer(text, last_number=True)
    assert time.process_time() - began < 5  # measured: below 1 on an idle machine
