"""Tasks are found by name, and a wrong name is answered by the nearest and all of them."""

import importlib.util

import pytest

from forkwise.errors import InputError
from forkwise.tasks import load_task


@pytest.mark.parametrize(("spec", "sizes"), [("countdown", (3, 4)), ("countdown:3", (3,)), ("countdown:4", (4,))])
def test_countdown_by_size(spec, sizes):
    task = load_task(spec)
    assert {len(problem.meta["numbers"]) for problem in task.problems("test", 10)} == set(sizes)


def test_math_by_name():
    if importlib.util.find_spec("math_verify") is None:
        pytest.skip("math-verify is not installed")
    assert load_task("math").name == "math"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "countdwn",
            "no task .countdwn.. Did you mean .countdown.*countdown:4; .*; math, .*math:dapo.*reasoning-gym:NAME",
        ),
        ("countdown:5", "Write it as countdown, countdown:3 or countdown:4"),
        ("reasoning-gym", "Write it as reasoning-gym:NAME"),
        ("math:hard", "Write it as math"),
        ("", "no task ''"),
        ("data.jsonl", "use --dataset"),
    ],
)
def test_a_wrong_name_is_answered_by_the_nearest_and_by_all(spec, sentence):
    with pytest.raises(InputError, match=sentence):
        load_task(spec)
