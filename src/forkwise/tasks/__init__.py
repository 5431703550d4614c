"""Problem sets and their verifiers. `load_task` finds one by name; nothing heavy is imported before it is used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from forkwise.errors import InputError, nearest
from forkwise.tasks.base import Problem, Prompt, Split, Task, Verdict, problem_range

if TYPE_CHECKING:
    from forkwise.tasks.answers import MathVerifier

__all__ = ["Problem", "Prompt", "Split", "Task", "Verdict", "load_task", "problem_range"]

_BENCHMARKS = ("aime24", "aime25", "amc23", "math500", "gsm8k", "minerva")
_SPECS = {
    "countdown": "countdown, countdown:3 or countdown:4",
    "story": "story, story:2, story:3 or story:4",
    "catalog": "catalog, catalog:one or catalog:set",
    "math": "math, math:boxed or math:dapo",
    "reasoning-gym": "reasoning-gym:NAME[,setting=value...]",
    **{name: f"{name} or {name}:dapo" for name in _BENCHMARKS},
}


def load_task(spec: str, *, verifier: MathVerifier | None = None) -> Task:
    """Finds a task by its `spec`: `"countdown:4"`, `"aime24:dapo"`, `"reasoning-gym:chain_sum,max_terms=3"`, ...

    Args:
        spec: name and, after a colon, options.
        verifier: for tasks with mathematical answers: its workers, limits and cache instead of new ones.

    Raises:
        InputError: no such task, a setting it does not have, or the package it needs is not installed.
    """
    name, _, options = spec.partition(":")
    if name == "countdown" and options in ("", "3", "4"):
        from forkwise.tasks.countdown import Countdown

        return Countdown((int(options),)) if options else Countdown()
    if name == "story" and options in ("", "2", "3", "4"):
        from forkwise.tasks.story import Stories

        return Stories((int(options),)) if options else Stories()
    if name == "catalog" and options in ("", "one", "set"):
        from forkwise.tasks.catalog import Catalogs

        return Catalogs((options,)) if options else Catalogs()
    if name == "math" and options in ("", "boxed", "dapo"):
        from forkwise.tasks.math import MathTask

        return MathTask("dapo" if options == "dapo" else "boxed", verifier=verifier)
    if name in _BENCHMARKS and options in ("", "boxed", "dapo"):
        from forkwise.tasks.benchmarks import BenchmarkTask

        return BenchmarkTask(name, "dapo" if options == "dapo" else "boxed", verifier=verifier)
    if name == "reasoning-gym" and options:
        from forkwise.tasks.reasoning_gym import ReasoningGym

        dataset, *settings = options.split(",")
        return ReasoningGym(dataset, dict(_setting(spec, setting) for setting in settings))
    known = "; ".join(_SPECS.values())
    hint = f" Write it as {_SPECS[name]}." if name in _SPECS else nearest(name, _SPECS)
    raise InputError(f"There is no task '{spec}'.{hint} Tasks are: {known}; for a file or Hub dataset use --dataset.")


def _setting(spec: str, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"'{text}' in '{spec}' is not a setting: write NAME=VALUE.")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value.strip()
