"""Rewards as TRL calls them: from verdicts, or from a function of the user that is checked."""

import sys

import pytest

from forkwise.errors import InputError
from forkwise.tasks import Problem, Verdict
from forkwise.training.rewards import completion_text, load_reward, training_dataset


class Parity:
    """Right if the completion has an even number of characters; no verdict on "?"; keeps the problems it was given."""

    name = "parity"

    def problems(self, split, n=None, *, seed=0):
        return [Problem("p1", "one", "1", {"a": [1, 2]}), Problem("p2", "two", None, {"b": {"c": None}})]

    def verify(self, completions, problems):
        self.seen = list(problems)
        return [Verdict(None if text == "?" else len(text) % 2 == 0, text, "parity") for text in completions]


def call(reward, completions, rows, **more):
    """As `GRPOTrainer._calculate_rewards` does: each column but the prompt, one entry per completion."""
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    return reward(
        prompts=[row["prompt"] for row in rows],
        completions=completions,
        completion_ids=[[0]] * len(rows),
        trainer_state=None,
        **columns,
        **more,
    )


@pytest.fixture
def rows():
    pytest.importorskip("datasets")
    return list(training_dataset(Parity().problems("train")))


@pytest.mark.parametrize(("name", "expected"), [("correct", [1.0, 0.0]), ("signed", [1.0, -1.0])])
def test_a_verdict_is_a_reward_and_its_name_is_what_trl_logs(rows, name, expected):
    task = Parity()
    reward = load_reward(name, task)
    assert reward.__name__ == name
    assert call(reward, ["ab", "abc"], rows) == expected
    assert task.seen == task.problems("train")  # ids, prompts, answers and meta survive the dataset


def test_no_verdict_is_worth_nothing_and_is_logged(rows):
    logged = {}
    reward = load_reward("signed", Parity())
    values = call(reward, ["?", "abc"], rows, log_extra=logged.__setitem__, log_metric=logged.__setitem__)
    assert values == [0.0, -1.0]
    assert logged == {"verdict_by": ["parity", "parity"], "unscored": 0.5}


def test_of_chat_messages_the_last_is_the_completion(rows):
    message = [{"role": "assistant", "content": "thinking"}, {"role": "assistant", "content": "ab"}]
    assert call(load_reward("correct", Parity()), [message, "abc"], rows) == [1.0, 0.0]
    assert completion_text([{"role": "assistant", "content": None}]) == ""
    assert completion_text([]) == ""


def test_conversations_survive_the_dataset():
    pytest.importorskip("datasets")
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    dataset = training_dataset([Problem("a", messages, "1")])
    assert dataset[0] == {"prompt": messages, "problem_id": "a", "answer": "1", "meta": "{}"}


def test_clusters_are_a_column_where_there_are_any():
    pytest.importorskip("datasets")
    problems = [Problem("a", "p", "1", cluster="physics"), Problem("b", "q", "2")]
    assert training_dataset(problems)["cluster"][:] == ["physics", None]
    assert "cluster" not in training_dataset(problems[1:]).column_names


def test_prompts_of_two_kinds_or_none_are_refused():
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match="use one form"):
        training_dataset([Problem("a", "x"), Problem("b", [{"role": "user", "content": "x"}])])
    with pytest.raises(InputError, match="no problems"):
        training_dataset([])


USER_MODULE = """
import math
def lengths(prompts, completions, completion_ids, **columns):
    return [len(completion) for completion in completions]
def short(completions, **_): return [1.0]
def nan(completions, **_): return [0.0, math.nan]
def nothing(completions, **_): return [None, 0.0]
def one(completions, **_): return 1.0
async def later(completions, **_): return [0.0, 0.0]
class Rubric:
    def __call__(self, completions, **_): return [2, 3]
rubric = Rubric()
number = 5
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "my_rewards.py").write_text(USER_MODULE)
    (tmp_path / "broken_rewards.py").write_text("1 / 0")
    (tmp_path / "hungry_rewards.py").write_text("import a_module_that_nobody_has")
    monkeypatch.chdir(tmp_path)  # found there, as the command line promises
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield "my_package.my_rewards"
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


@pytest.mark.parametrize(("function", "expected"), [("lengths", [2.0, 3.0]), ("rubric", [2.0, 3.0])])
def test_a_function_of_the_user_is_called_as_trl_calls_it(rows, user_module, function, expected):
    reward = load_reward(f"{user_module}:{function}", Parity())
    assert reward.__name__ == function
    assert call(reward, ["ab", "abc"], rows) == expected


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("short", "my_rewards:short' returned 1 values for 2 completions"),
        ("nan", "my_rewards:nan' returned nan for completion 1"),
        ("nothing", "my_rewards:nothing' must return a list of numbers"),
        ("one", "my_rewards:one' must return a list of numbers"),
    ],
)
def test_what_a_function_returns_is_checked(rows, user_module, function, sentence):
    with pytest.raises(InputError, match=sentence):
        call(load_reward(f"{user_module}:{function}", Parity()), ["ab", "abc"], rows)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("corect", "no reward 'corect': use correct, signed or package.module:function. Did you mean 'correct'"),
        ("my_package.no_such:f", "needs a module my_package.no_such, which cannot be found"),
        ("no_such_package.module:f", "needs a module no_such_package, which cannot be found"),
        ("my_package.my_rewards:length", "has no 'length'. Did you mean 'lengths'"),
        ("my_package.my_rewards:number", "is of type int, not a function"),
        ("my_package.my_rewards:later", "is asynchronous"),
        ("broken_rewards:f", "Importing broken_rewards .* failed: ZeroDivisionError"),
        ("hungry_rewards:f", "Importing hungry_rewards .* failed: No module named 'a_module_that_nobody_has'"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(user_module, spec, sentence):
    with pytest.raises(InputError, match=sentence):
        load_reward(spec, Parity())
