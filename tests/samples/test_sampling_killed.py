"""Killed at random moments and started again, a run ends with the table of a run that was never interrupted.

Real processes, real signals, the real engine: a helper loads torch once and forks one child per attempt, so that dozens
of kills cost seconds. What is not covered here: a cut of the power, which is the file system's and `write_shard`'s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from preloaded import Started

from forkwise.samples import read_samples

HELPER = """
    import io, json, os, random, signal, sys, time
    from pathlib import Path
    import torch
    from rich.console import Console
    from forkwise.sampling import generate
    from forkwise.sampling.recipe import plan
    from forkwise.sampling.run import sample
    from forkwise.sampling.options import SamplingOptions
    from forkwise.tasks import load_task

    torch.set_num_threads(1)
    how = {"n": 5, "max_tokens": 24, "batch_size": 2, "temperature": 0.7, "top_p": 0.9}
    job = plan(SamplingOptions(model="embedded", task="countdown:3", **how))
    task = load_task("countdown:3")
    problems = task.problems("test", 10)
    engine = generate.TransformersEngine("embedded", job.seed, job.sampling)
    silent = Console(file=io.StringIO())

    def run(out):
        sample(job, task, problems, lambda: engine, Path(out), console=silent)

    start = time.monotonic()
    run("whole")
    whole = time.monotonic() - start
    rng = random.Random(int(sys.argv[1]))
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                run("killed")
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        if kills < 12:
            time.sleep(rng.uniform(0.0, whole / 3))
            os.kill(child, rng.choice([signal.SIGKILL, signal.SIGINT]))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert code in (130, -signal.SIGKILL, -signal.SIGINT), code
        kills += 1
    print(kills)
"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_the_table_is_that_of_an_uninterrupted_run(tmp_path: Path, seed: int) -> None:
    (tmp_path / "helper.py").write_text(textwrap.dedent(HELPER))
    printed = tmp_path / "printed.txt"
    process = Started(["helper.py", str(seed)], os.environ, output=str(printed), folder=tmp_path)
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    assert int(printed.read_text()) >= 3  # kills
    whole, killed = read_samples(tmp_path / "whole"), read_samples(tmp_path / "killed")
    assert whole.num_rows == 10 * 5
    assert killed.equals(whole)
    # Not only the table: the files are the same, byte for byte, and nothing else was left behind.
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(files) == 10 * 3 + 1  # and sampling.json
    assert {p.name: p.read_bytes() for p in (tmp_path / "killed").iterdir() if not p.name.endswith(".tmp")} == files


def test_ctrl_c_on_the_command_says_how_to_go_on_and_the_same_command_does(tmp_path: Path) -> None:
    argv = ["sample", "--model", "embedded", "--task", "countdown:3", "-n", "8", "--batch-size", "2"]
    argv += ["--problems", "8", "--max-tokens", "60", "--out", str(tmp_path / "s")]
    command = [sys.executable, "-m", "forkwise", *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A suite that runs in the background hands an ignored SIGINT down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as first:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("s/*.parquet")):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
    assert first.returncode == 130
    assert said.strip().endswith("forkwise: interrupted; what was written stays, and the same command continues.")
    assert "Traceback" not in said
    files_before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("s/*.parquet")}
    assert 0 < len(files_before) < 32
    printed = tmp_path / "printed.txt"
    again = Started(command[1:], environment, output=str(printed))
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert "64 samples of 8 problems" in printed.read_text()
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("s/*.parquet")}
    assert len(after) == 32
    assert files_before.items() <= after.items()  # what was there was not drawn again
