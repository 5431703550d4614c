"""Countdown is sound: nothing false is accepted, nothing true in either notation is refused, no text is too hostile,
and no seed can carry a problem from one split to another."""

from __future__ import annotations

import time
from itertools import permutations
from random import Random

import pytest

from forkwise.errors import InputError
from forkwise.tasks.base import Problem, Verdict
from forkwise.tasks.countdown import (
    INSTRUCTION_PROMPT,
    LARGEST_NUMBER,
    TARGETS,
    Countdown,
    reachable,
    solve,
)

SPLITS = ("train", "validation", "test")


def verdict(completion: str, numbers: list[int], target: int) -> Verdict:
    problem = Problem("p", "", None, {"numbers": numbers, "target": target})
    return Countdown().verify([completion], [problem])[0]


@pytest.mark.parametrize(
    ("completion", "numbers", "target"),
    [
        pytest.param("answer: (3 + 5) * 8 - 13", [3, 5, 8, 13], 51, id="infix"),
        pytest.param("answer: (3+5)*8-13 = 51", [3, 5, 8, 13], 51, id="infix_with_result"),
        pytest.param("so answer : 5 + 3 = 8 , 8 * 8 = 64 , 64 - 13 = 51", [3, 5, 8, 13], 51, id="steps"),
        pytest.param("answer: 5 + 3 = 8, 8 * 8 - 13", [3, 5, 8, 13], 51, id="steps_and_infix_mixed"),
        pytest.param("answer: ((((3))+((5)))) * 8", [3, 5, 8], 64, id="redundant_parentheses"),
        pytest.param("ANSWER IS nothing yet\n**Answer:** (3 + 5) × 8.", [3, 5, 8], 64, id="markdown_and_signs"),
        pytest.param("<think>no</think><answer> (3+5)*8 </answer>", [3, 5, 8], 64, id="tags"),
        pytest.param("answer: 1 + 1\nwait\nanswer: 8 / (5 - 3)", [3, 5, 8], 4, id="last_answer_counts"),
        pytest.param("answer: 3 + 5 * 8\nDone.", [3, 5, 8], 43, id="precedence_and_next_line"),
        pytest.param("answer: 8 - 5 - 3", [3, 5, 8], 0, id="left_to_right"),
    ],
)
def test_right_answers_are_accepted(completion: str, numbers: list[int], target: int) -> None:
    assert verdict(completion, numbers, target).correct is True


@pytest.mark.parametrize(
    ("completion", "numbers", "target"),
    [
        pytest.param("answer: (3 + 5) * 8", [3, 5, 8], 63, id="another_target"),
        pytest.param("answer: 64", [3, 5, 8], 64, id="bare_target"),
        pytest.param("answer: 8 * 8", [3, 5, 8], 64, id="number_used_twice"),
        pytest.param("answer: 3 + 5", [3, 5, 8], 8, id="number_left_over"),
        pytest.param("answer: 3 + 5, 8", [3, 5, 8], 8, id="two_results_left_over"),
        pytest.param("answer: 3 + 5 = 8 , 8 * 8 = 64 , 64", [3, 5, 8, 13], 64, id="number_left_over_in_steps"),
        pytest.param("answer: 3 + 5 = 9 , 9 * 8 = 72", [3, 5, 8], 72, id="false_arithmetic"),
        pytest.param("answer: (3 + 5) * 8 = 65", [3, 5, 8], 64, id="false_result"),
        pytest.param("answer: 7 + 8 + 49", [3, 5, 8], 64, id="other_numbers"),
        pytest.param("answer: 3 - 5 + 8", [3, 5, 8], 6, id="negative_intermediate"),
        pytest.param("answer: 5 / 3 * 3", [3, 3, 5], 5, id="inexact_division"),
        pytest.param("answer: 12 * 13 / 12", [12, 12, 13], 13, id="intermediate_of_100_or_more"),
        pytest.param("answer: 8 / (3 - 3)", [3, 3, 8], 8, id="division_by_zero"),
        pytest.param("answer: 3 + 5 = 8 , 8 * 8 = 64 , 64 - 0 = 64", [3, 5, 8], 64, id="number_from_nowhere"),
        pytest.param("answer: 16 = 16 , 3 + 5 + 8", [3, 5, 8], 16, id="borrowed_and_paid_back"),
        pytest.param("answer: 3 + 5 + 8 and 1", [3, 5, 8], 16, id="words_behind_the_answer"),
        pytest.param("answer: -3 + 5 + 8", [3, 5, 8], 10, id="unary_minus"),
        pytest.param("answer: 3 + 5 8", [3, 5, 8], 16, id="missing_operator"),
        pytest.param("answer: (3 + 5 * 8", [3, 5, 8], 64, id="unbalanced"),
        pytest.param("answer: 3 + 5 + 8)", [3, 5, 8], 16, id="trailing_parenthesis"),
        pytest.param("answer: 3 + 5 + 8 = 16 = 16", [3, 5, 8], 16, id="two_results"),
        pytest.param("answer: 3 ** 5 + 8", [3, 5, 8], 16, id="power"),
        pytest.param("answer: 35 + 8", [3, 5, 8], 43, id="glued_digits"),
        pytest.param("answer: 003 + 5 + 8", [3, 5, 8], 16, id="leading_zeros"),
        pytest.param("answer: ٣ + 5 + 8", [3, 5, 8], 16, id="unicode_digit"),
        pytest.param("answer: 3 + 5 + 8\0", [3, 5, 8], 16, id="null_byte_at_the_end"),
        pytest.param("answer: 3\0 + 5 + 8", [3, 5, 8], 16, id="null_byte"),
        pytest.param("answer: __import__('os').system('true')", [3, 5, 8], 16, id="code"),
        pytest.param("answer: 3 + 5 + 8\nanswer: 3", [3, 5, 8], 16, id="only_the_last_answer_counts"),
    ],
)
def test_wrong_answers_are_refused(completion: str, numbers: list[int], target: int) -> None:
    judged = verdict(completion, numbers, target)
    assert judged.correct is False
    assert judged.answer is not None
    assert judged.by == "countdown"


@pytest.mark.parametrize("completion", ["", "3 + 5 + 8 = 16", "the answer", "answer:", "answer: \n", "unanswered: 3"])
def test_no_answer_is_wrong_and_has_no_text(completion: str) -> None:
    assert verdict(completion, [3, 5, 8], 16) == Verdict(False, None, "countdown")


TEN_MEGABYTES = 10_000_000


@pytest.mark.parametrize(
    "completion",
    [
        pytest.param("answer: " + "(" * TEN_MEGABYTES, id="parentheses"),
        pytest.param("answer: " + "(" * 90 + "3" + ")" * 90 + "+ 5 + 8", id="nesting_within_the_length_limit"),
        pytest.param("answer: " + "9" * TEN_MEGABYTES, id="digits"),
        pytest.param("answer: " * (TEN_MEGABYTES // 8), id="answers"),
        pytest.param("answer" + " " * TEN_MEGABYTES, id="spaces"),
        pytest.param("answer " * (TEN_MEGABYTES // 7) + ":", id="answers_without_colon"),
        pytest.param("answer:" + "\n" * TEN_MEGABYTES, id="newlines"),
        pytest.param("answer: " + "3+" * (TEN_MEGABYTES // 2), id="sum"),
        pytest.param("answer: " + "\0" * TEN_MEGABYTES, id="null_bytes"),
        pytest.param("answer: 3 + 5 + 8" + " " * 300 + "+ 1", id="hidden_behind_spaces"),
    ],
)
def test_hostile_text_is_refused_in_bounded_time(completion: str) -> None:
    start = time.process_time()
    judged = verdict(completion, [3, 5, 8], 16)
    assert judged.correct is False
    assert len(judged.answer or "") <= 200
    assert time.process_time() - start < 2


@pytest.mark.parametrize("numbers", [(1, 1, 2), (3, 5, 8), (9, 9, 10), (1, 2, 3, 4), (2, 2, 6, 9), (7, 9, 10, 10)])
def test_solver_agrees_with_exhaustive_search_over_expressions(numbers: tuple[int, ...]) -> None:
    """All permutations x operators x the two or five ways to put parentheses, judged by Python's own arithmetic."""

    def join(a: int | None, operator: str, b: int | None) -> int | None:
        if a is None or b is None or (operator == "/" and (b == 0 or a % b)):
            return None
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[operator]
        return value if 0 <= value <= 99 else None

    def values(row: tuple[int, ...]) -> set[int | None]:
        if len(row) == 1:
            return set(row)
        return {
            join(a, operator, b)
            for cut in range(1, len(row))
            for a in values(row[:cut])
            for b in values(row[cut:])
            for operator in "+-*/"
        }

    expected = set().union(*(values(row) for row in permutations(numbers))) - {None}
    assert reachable(tuple(sorted(numbers))) == expected
    for target in range(100):
        solutions = solve(numbers, target)
        assert bool(solutions) == (target in expected)
        for steps in solutions[:5]:
            text = "answer : " + " , ".join(f"{a} {operator} {b} = {c}" for a, operator, b, c in steps)
            assert verdict(text, list(numbers), target).correct is True


def test_problems_are_solvable_and_say_what_they_are() -> None:
    for problem in Countdown().problems("test", 100):
        numbers, target = problem.meta["numbers"], problem.meta["target"]
        assert solve(numbers, target)
        assert target in TARGETS
        assert numbers == sorted(numbers)
        assert 1 <= numbers[0] <= numbers[-1] <= LARGEST_NUMBER
        assert problem.id == f"countdown-{'-'.join(map(str, numbers))}={target}"
        assert problem.prompt == f"use {' '.join(map(str, numbers))} to make {target} :"
        assert problem.answer is None


def test_splits_are_disjoint_whatever_the_seeds() -> None:
    owner: dict[tuple[tuple[int, ...], int], str] = {}
    for i, split in enumerate(SPLITS):
        for seed in range(3):
            for problem in Countdown().problems(split, 500 if split == "train" else 150, seed=10 * i + seed):
                content = (tuple(sorted(problem.meta["numbers"])), problem.meta["target"])
                assert owner.setdefault(content, split) == split
    sizes = {split: len(Countdown().problems(split)) for split in SPLITS}
    assert sum(sizes.values()) == 1255 + 14_542
    assert sizes["train"] / sum(sizes.values()) == pytest.approx(0.8, abs=0.01)


def test_order_is_decided_by_the_seed_and_a_larger_n_only_appends() -> None:
    task = Countdown()
    assert task.problems("train", 50) == task.problems("train", 100)[:50]
    assert task.problems("train", 50) != task.problems("train", 50, seed=1)
    assert [len(p.meta["numbers"]) for p in task.problems("train", 6)] == [3, 4] * 3
    # Ids pinned: they pair samples across machines and versions, so a change of the generator must be noticed.
    assert [p.id for p in Countdown(sizes=(4,)).problems("test", 2)] == PINNED


PINNED = ["countdown-8-8-8-9=11", "countdown-4-6-6-6=28"]


def test_sizes_and_prompt_can_be_chosen() -> None:
    task = Countdown(sizes=[3], prompt=INSTRUCTION_PROMPT)
    problem = task.problems("train", 20)[Random(0).randrange(20)]
    assert len(problem.meta["numbers"]) == 3
    assert f"to make {problem.meta['target']}." in problem.prompt
    assert "{" not in problem.prompt


def test_bad_input_is_refused_with_advice() -> None:
    with pytest.raises(InputError, match="3 or 4 numbers"):
        Countdown(sizes=(2,))
    with pytest.raises(InputError, match="3 or 4 numbers"):
        Countdown(sizes=())
    with pytest.raises(InputError, match=r"\{target\}"):
        Countdown(prompt="use {numbers}")
    with pytest.raises(InputError, match="ask for fewer"):
        Countdown(sizes=(3,)).problems("test", 100_000)
    with pytest.raises(InputError, match="'train', 'validation' or 'test'"):
        Countdown().problems("dev", 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one problem for each"):
        Countdown().verify(["answer: 1"], [])
