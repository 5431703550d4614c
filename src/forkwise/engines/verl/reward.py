"""forkwise's verdicts as verl's reward:

    reward.custom_reward_function.path=pkg://forkwise.engines.verl.reward
    reward.custom_reward_function.name=compute_score

Rows that `forkwise verl-data TASK` wrote are judged by their task; any other row by its gold answer, as `forkwise
verify` judges it. verl calls this in several threads of each of its reward workers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

from forkwise.engines.verl.data import SOURCE
from forkwise.errors import InputError
from forkwise.tasks import Problem, Task, load_task
from forkwise.tasks.answers import MathVerifier, require_math_verify

_one_at_a_time = threading.Lock()


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Judges one response.

    Returns:
        `score`, 1 for a right answer and -1 for any other; `acc`, whether it is right; `pred`, the answer that was
        found; and `unscored`, 1 where no verdict could be reached (which earns -1 as well: verl needs a number).

    Raises:
        InputError: a row of a task whose `extra_info` has been lost; a package that the verdict needs is missing.
    """
    with _one_at_a_time:
        if data_source.startswith(SOURCE):
            if extra_info is None or "id" not in extra_info or "meta" not in extra_info:
                raise InputError(
                    f"A row of '{data_source}' has no id and meta in its extra_info, by which its answer is judged: "
                    "write the file again with forkwise verl-data."
                )
            task = _task(data_source.removeprefix(SOURCE))
            meta = json.loads(extra_info["meta"])
            (verdict,) = task.verify([solution_str], [Problem(extra_info["id"], "", ground_truth or None, meta)])
        else:
            (verdict,) = _math().verify([str(ground_truth)], [solution_str])
    right = bool(verdict.correct)
    unscored = int(verdict.correct is None)
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": verdict.answer or "", "unscored": unscored}


@cache
def _task(spec: str) -> Task:
    return load_task(spec)


@cache
def _math() -> MathVerifier:
    require_math_verify()
    return MathVerifier()
