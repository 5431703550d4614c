"""Stories: answers are those of a reader who knows only the sentences, splits are disjoint, verdicts are strict."""

from __future__ import annotations

import re

import pytest

from forkwise.errors import InputError
from forkwise.tasks import load_task
from forkwise.tasks.base import Problem, question_id
from forkwise.tasks.story import KINDS, Stories


def read(text: str) -> int:
    """Solves a story from its text alone, with rules of its own."""
    *sentences, question = re.split(r"(?<=[.?]) ", text)
    hero = re.fullmatch(r"How many \w+ does (\w+) have\?", question)[1]  # type: ignore[index]
    have = int(re.fullmatch(rf"{hero} has (\d+) \w+\.", sentences[0])[1])  # type: ignore[index]
    for sentence in sentences[1:]:
        words = sentence.rstrip(".").split()
        number = next((int(word) for word in words if word.isdigit()), 0)
        if "twice" in words:
            have *= 2
        elif "three" in words:
            have *= 3
        elif "half" in words:
            assert have % 2 == 0
            have //= 2
        elif words[:3] == [words[0], "gives", hero] or (words[0] == hero and words[1] in ("buys", "finds")):
            have += number
        elif words[0] == hero:
            assert words[1] in ("sells", "loses", "gives")
            have -= number
        assert 0 <= have < 100
    return have


@pytest.mark.parametrize("size", [2, 3, 4])
def test_answers_are_those_of_a_careful_reader(size: int) -> None:
    problems = Stories((size,)).problems("test", 300)
    for problem in problems:
        assert str(read(str(problem.prompt))) == problem.answer
        assert str(problem.prompt).count(". ") == size + 1
    assert {kind for problem in problems for kind in problem.meta["events"]} == set(KINDS)


def test_the_splits_are_disjoint_whatever_the_seed_and_more_only_appends() -> None:
    task = Stories()
    splits = [
        {p.id for p in task.problems(split, seed=seed)}
        for split, seed in (("train", 0), ("test", 1), ("validation", 2))
    ]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 30_000
    assert 0.78 < len(splits[0]) / 30_000 < 0.82
    assert task.problems("test", 50, seed=3)[:20] == task.problems("test", 20, seed=3)
    assert task.problems("test", 20, seed=3) != task.problems("test", 20, seed=4)
    problem = task.problems("test", 1)[0]
    assert problem.id == question_id(str(problem.prompt))


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("Step by step, Anna has 7. Gets 5, so 7 + 5 = 12. So that makes 12. So the answer is 12.", True),
        ("So the answer is 12.", True),
        ("Answer: 12", True),
        ("7 + 5 is \\boxed{12}.", True),
        ("So the answer is 13.", False),
        ("So the answer is 12. Wait, it is 13.", False),
        ("Step by step, Anna has 7. Gets 5, so 7 + 5 =", False),
        ("", False),
    ],
)
def test_verdicts_go_by_the_answer_that_a_text_states(completion: str, right: bool) -> None:
    [verdict] = Stories().verify([completion], [Problem("x", "?", "12")])
    assert verdict.correct is right


def test_the_task_is_found_by_name_and_refuses_what_it_has_not() -> None:
    assert load_task("story:3").problems("test", 2) == Stories((3,)).problems("test", 2)
    with pytest.raises(InputError, match="Write it as story, story:2"):
        load_task("story:9")
    with pytest.raises(InputError, match="2, 3 or 4 events"):
        Stories((5,))
    with pytest.raises(InputError, match="1 completions but 0 problems"):
        Stories().verify(["x"], [])
