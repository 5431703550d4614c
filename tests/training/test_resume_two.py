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

from test_resume import ENVIRONMENT, config_file, rows, same_runs

from forkwise.training.folder import checkpoints, damage, newest_complete_checkpoint

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
        found = psutil.Process(process.pid).children(recursive=True)
        return sorted((child for child in found if _trains(child)), key=lambda child: child.pid)
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


def no_half_checkpoint_is_used(out: Path) -> None:
    for checkpoint in checkpoints(out):
        assert damage(checkpoint) in (None, "it was not written to its end")
    newest = newest_complete_checkpoint(out) if out.exists() else None
    assert newest is None or {"rollout_0.pt", "rollout_1.pt"} <= {path.name for path in newest.iterdir()}


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Uniformly over the time that a run takes, in turns both processes, the first and the second."""
    path = config_file(tmp_path / "c.yaml", per_device_train_batch_size=2, max_steps=40, save_total_limit=2)
    began = time.monotonic()
    process = start(path, tmp_path / "whole")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    lasts = time.monotonic() - began
    draw, kills, seen, ends = random.Random(0), 0, [], []
    for n in range(100):
        out = tmp_path / f"run{n}"
        killed = True
        while killed and kills < KILLS:
            process = start(path, out, "--resume")
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=draw.uniform(0, lasts))
            killed = process.poll() is None
            if killed:
                which = kills % 3
                if which and len(workers(process)) == 2:
                    ends.append(kill_one(process, which - 1))
                else:
                    kill_all(process)
                kills += 1
            else:
                assert process.returncode == 0
            seen.append(max([row["step"] for row in rows(out)], default=0))
            no_half_checkpoint_is_used(out)
        if killed:
            finish(path, out)
        same_runs(out, tmp_path / "whole")
        if kills >= KILLS:
            break
    assert kills == KILLS
    with capsys.disabled():
        print(
            f"\n{KILLS} kills in {n + 1} runs of {lasts:.0f} s on two processes, after steps {seen}; {len(ends)} of one "
            f"of them, and all had ended within {max(ends):.0f} s"
        )


KILLS = 12


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_without_a_launcher_the_other_process_ends_too(tmp_path: Path, which: int) -> None:
    """As on two nodes, where nobody watches both."""
    path, out = config_file(tmp_path / "c.yaml", per_device_train_batch_size=2, max_steps=40), tmp_path / "run"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "forkwise", "grpo", "--config", path, "--output_dir", str(out)]
    processes = []
    for rank in "01":
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment = TWO | where | {"MASTER_PORT": str(port)}
        processes.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        )
    while processes[0].poll() is None and not (out / "checkpoint-5").exists():
        time.sleep(0.002)
    processes[which].send_signal(signal.SIGKILL)
    processes[which].communicate(timeout=60)
    _, errors = processes[1 - which].communicate(timeout=120)
    assert processes[1 - which].returncode not in (0, None), errors[-2000:]
    print(errors[-3000:])
    no_half_checkpoint_is_used(out)
    assert newest_complete_checkpoint(out) is not None
