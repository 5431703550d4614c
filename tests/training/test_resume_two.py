"""Kills of runs on two processes: both at once, or one of them, at any moment; the other ends, and the run goes on."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytest.importorskip("trl")

from test_resume import ENVIRONMENT, config_file, same_runs

from forkwise.training.folder import checkpoints, damage, newest_complete_checkpoint

KILLS, STEPS = 8, 16
TWO = ENVIRONMENT | {"ACCELERATE_USE_CPU": "true"}


def start(path: str, out: Path, *flags: str) -> subprocess.Popen[str]:
    """`forkwise grpo` on two processes, under accelerate's launcher."""
    accelerate = shutil.which("accelerate", path=str(Path(sys.executable).parent))
    assert accelerate, "accelerate is part of the train extra"
    # With --cpu accelerate starts one process unless there is MPI; its torchrun launcher is called multi_gpu.
    launcher = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    launcher += ["--dynamo_backend", "no", "--main_process_port", "0", "-m"]
    command = [accelerate, "launch", *launcher, "forkwise", "grpo", "--config", path, "--output_dir", str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=TWO)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train, in the order in which they were started."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        return sorted((child for child in children if _trains(child)), key=lambda child: child.pid)
    return []


def _trains(child: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "RANK" in child.environ() and "forkwise" in child.cmdline()
    return False


def kill_all(process: subprocess.Popen[str]) -> None:
    """What a node's power cut leaves of a run: nothing."""
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in everyone:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    psutil.wait_procs(everyone[1:], timeout=60)


def kill_one(process: subprocess.Popen[str], which: int) -> float:
    """Kills one of the two; seconds until launcher and the other have ended. Fails if they hang."""
    trained = workers(process)
    trained[which].send_signal(signal.SIGKILL)
    began = time.monotonic()
    process.communicate(timeout=120)
    assert process.returncode != 0
    _, alive = psutil.wait_procs(trained, timeout=60)
    assert not alive
    return time.monotonic() - began


def finish(path: str, out: Path) -> None:
    process = start(path, out, "--resume")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]


def check_checkpoints(out: Path) -> None:
    """The one that would be used is whole, with the rollouts of both; what is newer was begun and does not count."""
    newest = newest_complete_checkpoint(out) if out.exists() else None
    assert newest is None or {"rollout_0.pt", "rollout_1.pt"} <= {path.name for path in newest.iterdir()}
    for checkpoint in checkpoints(out):  # the newest first; behind the one that counts some may be half deleted
        if checkpoint == newest:
            break
        assert damage(checkpoint) == "it was not written to its end"


def reached(out: Path) -> int:
    """The step of the newest checkpoint, whole or not."""
    saved = checkpoints(out) if out.exists() else []
    return int(saved[0].name.rpartition("-")[2]) if saved else 0


def until_killed(process: subprocess.Popen[str], out: Path, draw: random.Random) -> None:
    """Waits for a random moment: while the run starts, or when it has saved up to four more checkpoints."""
    ahead = draw.randrange(5)
    if ahead == 0:
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=draw.uniform(0, 15))
        return
    target = reached(out) + ahead
    while process.poll() is None and reached(out) < target:
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.5))  # while that is written, or in the next step


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In turns both processes, the first and the second; a finished run is compared, and a new one begun."""
    path = config_file(tmp_path / "c.yaml", per_device_train_batch_size=2, max_steps=STEPS, save_total_limit=2)
    finish(path, tmp_path / "whole")
    draw, kills, runs, after, ends = random.Random(0), 0, 0, [], []
    while kills < KILLS:
        folder = tmp_path / f"run{runs}"
        runs += 1
        while kills < KILLS and reached(folder) < STEPS:
            process = start(path, folder, "--resume")
            until_killed(process, folder, draw)
            if process.poll() is not None:
                assert process.returncode == 0, process.communicate()[1][-2000:]
                break
            after.append(reached(folder))
            if kills % 3 and len(workers(process)) == 2:
                ends.append(kill_one(process, kills % 3 - 1))
            else:
                kill_all(process)
            kills += 1
            check_checkpoints(folder)
        if not (folder / "complete").exists():
            finish(path, folder)
        same_runs(folder, tmp_path / "whole")
    with capsys.disabled():
        print(
            f"\n{kills} kills in {runs} runs of {STEPS} steps on two processes, at steps {after}; {len(ends)} of one "
            f"of them, after which all had ended within {max(ends):.0f} s"
        )


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_without_a_launcher_the_other_process_ends_too(tmp_path: Path, which: int) -> None:
    """As on two nodes, where nobody watches both."""
    path, folder = config_file(tmp_path / "c.yaml", per_device_train_batch_size=2, max_steps=40), tmp_path / "run"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "forkwise", "grpo", "--config", path, "--output_dir", str(folder)]
    processes = []
    for rank in "01":
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment = TWO | where | {"MASTER_PORT": str(port)}
        processes.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        )
    while processes[0].poll() is None and not (folder / "checkpoint-5").exists():
        time.sleep(0.002)
    processes[which].send_signal(signal.SIGKILL)
    processes[which].communicate(timeout=60)
    _, errors = processes[1 - which].communicate(timeout=120)
    assert processes[1 - which].returncode not in (0, None), errors[-2000:]
    check_checkpoints(folder)
    assert newest_complete_checkpoint(folder) is not None
