"""A worker that is killed while it starts is replaced; only one that says that it cannot start is the user's affair."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from forkwise.errors import InputError, RunError
from forkwise.tasks.workers import WorkerPool

pytest.importorskip("math_verify")
REQUESTS = [{"gold": "x", "prediction": "x"}, {"gold": "x", "prediction": "y"}]


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of the next workers are killed at once, as by the memory killer; and how many were started."""
    counts = [0, 0]

    class Killed(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            counts[1] += 1
            if counts[1] <= counts[0]:
                self.kill()

    monkeypatch.setattr("forkwise.tasks.workers.subprocess.Popen", Killed)
    return counts


@pytest.mark.parametrize(("kills", "workers"), [(1, 1), (4, 1), (3, 2)])
def test_another_worker_starts(killed: list[int], kills: int, workers: int) -> None:
    killed[0] = kills
    with WorkerPool("math", workers=workers) as pool:
        assert [reply["correct"] for reply in pool.map(REQUESTS)] == [True, False]
        assert pool.stats.started == killed[1] == kills + workers


def test_the_tries_are_bounded_and_nothing_is_left_behind(killed: list[int]) -> None:
    killed[0] = 1000
    with WorkerPool("math") as pool:
        with pytest.raises(RunError, match=r"5 times a process died \(signal 9\) before it was ready"):
            pool.map(REQUESTS)
        assert pool.pids() == []
        killed[0] = 0
        assert [reply["correct"] for reply in pool.map(REQUESTS)] == [True, False]


def test_a_worker_that_says_that_it_cannot_start_is_asked_once(
    killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = 'import os; os.write(1, b\'{"detail": "ImportError: no math_verify"}\\n\')'
    monkeypatch.setattr("forkwise.tasks.workers._CHILD", child)
    with WorkerPool("math") as pool, pytest.raises(InputError, match="did not start: ImportError: no math_verify"):
        pool.map(REQUESTS)
    assert killed[1] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"timeout": float("inf")}, "timeout"), ({"timeout": 1e300}, "timeout"), ({"memory_mb": -1}, "memory_mb")],
)
def test_limits_that_no_system_takes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorkerPool("math", **settings)
