"""Reward functions as TRL calls them, from the verdicts of a task or from a function of the user."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forkwise.errors import InputError, nearest
from forkwise.tasks.base import Problem, Prompt, Task

if TYPE_CHECKING:
    from datasets import Dataset

Completion = str | list[dict[str, Any]]
Reward = Callable[..., list[float]]

REWARDS: dict[str, tuple[float, float]] = {"correct": (1.0, 0.0), "signed": (1.0, -1.0)}
"""Reward of a right and of a wrong answer. `signed` is that of arXiv 2506.14758."""


def training_dataset(problems: Sequence[Problem]) -> Dataset:
    """Returns the problems as TRL reads them: columns `prompt`, `problem_id`, `answer` and `meta` (JSON text).

    Where problems have clusters there is a column `cluster` too.

    Raises:
        InputError: no problems, plain and chat prompts mixed, or `datasets` is not installed.
    """
    if importlib.util.find_spec("datasets") is None:
        raise InputError('Training needs the datasets library: pip install "forkwise[train]".')
    from datasets import Dataset

    if not problems:
        raise InputError("There are no problems to train on.")
    if len({isinstance(problem.prompt, str) for problem in problems}) > 1:
        raise InputError("Some prompts are text and some are chat messages: use one form for all of them.")
    clusters = [problem.cluster for problem in problems]
    return Dataset.from_dict(
        {
            "prompt": [problem.prompt for problem in problems],
            "problem_id": [problem.id for problem in problems],
            "answer": [problem.answer for problem in problems],
            # As text, because the keys and types of meta differ between problems and Arrow wants them equal.
            "meta": [json.dumps(dict(problem.meta)) for problem in problems],
            **({"cluster": clusters} if any(clusters) else {}),
        }
    )


def load_reward(spec: str, task: Task) -> Reward:
    """Loads the reward function that `spec` names; TRL logs it as `rewards/<its __name__>/mean`.

    `"correct"` gives 1 for a right answer and 0 for a wrong one, `"signed"` +1 and -1. Both give 0 where the verifier
    reached no verdict, log the share of such completions as `unscored`, and need the columns of `training_dataset`.

    `"package.module:function"` is imported, also from the working directory, and called as TRL calls a reward:
    `function(prompts, completions, completion_ids, **columns)`. It must return one finite number per completion.

    Raises:
        InputError: unknown name; module or function missing; not callable; later, when it returns something else.
    """
    if spec in REWARDS:
        return _verified_reward(spec, task)
    if ":" in spec:
        return _checked_reward(_imported(spec), spec)
    raise InputError(
        f"There is no reward '{spec}': use {', '.join(REWARDS)} or package.module:function.{nearest(spec, REWARDS)}"
    )


def completion_text(completion: Completion) -> str:
    """Returns the text of a completion; of chat messages, the content of the last one."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    return content if isinstance(content, str) else ""


def _verified_reward(name: str, task: Task) -> Reward:
    right, wrong = REWARDS[name]

    def reward(
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        *,
        problem_id: Sequence[str],
        answer: Sequence[str | None],
        meta: Sequence[str],
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float]:
        columns = zip(problem_id, prompts, answer, meta, strict=True)
        problems = [Problem(i, prompt, gold, json.loads(facts)) for i, prompt, gold, facts in columns]
        verdicts = task.verify([completion_text(completion) for completion in completions], problems)
        if log_extra is not None:
            log_extra("verdict_by", [verdict.by for verdict in verdicts])
        if log_metric is not None:
            log_metric("unscored", sum(verdict.correct is None for verdict in verdicts) / max(1, len(verdicts)))
        value: Mapping[bool | None, float] = {True: right, False: wrong, None: 0.0}
        return [value[verdict.correct] for verdict in verdicts]

    reward.__name__ = reward.__qualname__ = name
    return reward


def _imported(spec: str) -> Callable[..., Any]:
    module_name, _, attribute = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it hides no installed package
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise InputError(f"The reward '{spec}' needs a module {error.name}, which cannot be found.") from error
        raise InputError(f"Importing {module_name} for the reward '{spec}' failed: {error}.") from error
    except Exception as error:  # user code
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"Importing {module_name} for the reward '{spec}' failed: {reason}.") from error
    if not hasattr(module, attribute):
        raise InputError(f"The module {module_name} has no '{attribute}'.{nearest(attribute, dir(module))}")
    function = getattr(module, attribute)
    if not callable(function):
        raise InputError(f"The reward '{spec}' is of type {type(function).__name__}, not a function.")
    if inspect.iscoroutinefunction(function):
        raise InputError(f"The reward '{spec}' is asynchronous: write it with def, not async def.")
    checked: Callable[..., Any] = function
    return checked


def _checked_reward(function: Callable[..., Any], spec: str) -> Reward:
    @functools.wraps(function)
    def reward(*args: Any, **kwargs: Any) -> list[float]:
        completions = kwargs["completions"] if "completions" in kwargs else args[1]
        return _finite(f"reward '{spec}'", function(*args, **kwargs), len(completions), float)

    # An instance of a class has no __name__, and the name of a lambda says nothing.
    if getattr(function, "__name__", "<lambda>") == "<lambda>":
        reward.__name__ = spec.partition(":")[2]
    return reward


def finite_reward(reward: Any) -> Any:
    """Wraps a reward function: refuses a wrong number of values and values not finite (None is TRL's "n/a")."""
    if not callable(reward):
        return reward
    function: Callable[..., Any] = reward
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__name__", type(inner).__name__)  # as TRL names it

    def checked(values: Any, completions: Sequence[Any]) -> list[float | None]:
        return _finite(f"reward function '{name}'", values, len(completions), _number)

    async def later(*args: Any, **kwargs: Any) -> list[float | None]:
        return checked(await function(*args, **kwargs), kwargs["completions"])

    def now(*args: Any, **kwargs: Any) -> list[float | None]:
        return checked(function(*args, **kwargs), kwargs["completions"])

    is_later = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)
    wrapped: Callable[..., Any] = functools.update_wrapper(later if is_later else now, function)
    wrapped.__name__ = name  # a partial and an instance of a class have none
    return wrapped


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _finite(function: str, returned: Any, expected: int, convert: Callable[[Any], Any]) -> list[Any]:
    try:
        values = [convert(value) for value in returned]
    except (TypeError, ValueError) as error:
        raise InputError(f"The {function} must return a list of numbers: {error}.") from error
    if len(values) != expected:
        raise InputError(f"The {function} returned {len(values)} values for {expected} completions.")
    for i, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            raise InputError(f"The {function} returned {value} for completion {i}; it must be finite.")
    return values
