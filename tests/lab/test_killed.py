"""Processes that we start do not outlive us, even when we are killed; what was interrupted goes on at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("trl")
if not Path("/proc/self/task").exists():
    pytest.skip("needs /proc to see what is left", allow_module_level=True)

from rich.console import Console

from forkwise.folders import is_held
from forkwise.lab import arms
from forkwise.training.folder import only_writer

SAMPLING = """
import sys
from pathlib import Path
from rich.console import Console
from forkwise.embedded import EMBEDDED_MODEL
from forkwise.lab import arms
from forkwise.tasks import load_task

if __name__ == "__main__":
    problems = load_task(arms.TASK).problems("train", 5000)
    models = {"base": str(EMBEDDED_MODEL)}
    arms.sample_runs(Path(sys.argv[1]), models, problems, 4, jobs=2, console=Console(quiet=True), traces=0)
"""
TRAINING = """
import sys
from pathlib import Path
from rich.console import Console
from forkwise.lab import arms
from forkwise.lab.options import QuickstartOptions
from forkwise.lab.quickstart import quickstart

arms.train(Path(sys.argv[1]), quickstart(QuickstartOptions()).arms[:1], 1, 500, jobs=1, console=Console(quiet=True))
"""
# sympy thinks about this sum for longer than the test lasts.
VERIFYING = r"""
from forkwise.tasks.workers import WorkerPool

pool = WorkerPool("math", timeout=600)
pool.map([{"gold": "1", "prediction": r"$\boxed{1}$"}])
print("busy", flush=True)
pool.map([{"gold": "1", "prediction": r"$\boxed{\sum_{k=1}^{100000} \sin(k)}$"}])
"""


def descendants(pid: int) -> list[int]:
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kill(process: subprocess.Popen[str]) -> list[int]:
    """Kills the process alone, by a signal that it cannot see; its descendants of that moment."""
    below = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return below


def ended(pids: list[int]) -> bool:
    left = until(lambda: not any(map(alive, pids)), 10)
    for pid in filter(alive, pids):
        os.kill(pid, signal.SIGKILL)
    return left


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_arms_end_with_the_command_and_the_next_one_finds_them_gone(tmp_path: Path) -> None:
    process = start("-c", TRAINING, str(tmp_path))
    arm = tmp_path / "grpo-seed0"
    assert until(lambda: (arm / "run.yaml").exists() or process.poll() is not None, 120)
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    assert is_held(arm)
    below = kill(process)
    assert below
    assert ended(below)
    assert until(lambda: not is_held(arm), 10)  # the last thread holds the lock a little longer
    assert not (arm / "complete").exists()


def test_sampling_workers_end_with_the_command(tmp_path: Path) -> None:
    script = tmp_path / "sampling.py"
    script.write_text(SAMPLING)
    process = start(str(script), str(tmp_path))
    assert until(lambda: any(tmp_path.glob("base/*.parquet")) or process.poll() is not None, 120)
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    assert ended(kill(process))


def test_a_verification_worker_ends_in_the_middle_of_a_request() -> None:
    process = start("-c", VERIFYING)
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    time.sleep(0.5)
    below = kill(process)
    assert len(below) == 1
    assert ended(below)


def test_an_arm_waits_for_another_writer_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = "import sys, time; from pathlib import Path; from forkwise.training.folder import only_writer\n"
    held += "with only_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(1.5)"
    process = start("-c", held, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    console = Console(record=True, width=200, file=(tmp_path / "said").open("w"))
    begin = time.monotonic()
    arms._wait_for_writer(tmp_path, console)
    assert 0.5 < time.monotonic() - begin < 10
    assert "waiting for its end" in console.export_text()
    assert process.wait() == 0
    # Not for ever, however: then the arm itself refuses.
    monkeypatch.setattr(arms, "_WAIT", 0.2)
    with only_writer(tmp_path):
        arms._wait_for_writer(tmp_path, console)
