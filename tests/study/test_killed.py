"""Processes that we start do not outlive us, even when we are killed; what was interrupted goes on, and once."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_studies import content
from processes import alive, descendants, ended, kill, parent, start, until, with_word

pytest.importorskip("trl")
if not Path("/proc/self/task").exists():
    pytest.skip("needs /proc to see what is left", allow_module_level=True)

from forkwise.folders import is_held
from forkwise.study import work
from forkwise.study.reading import read_study
from forkwise.study.receipts import Receipt, read_receipt
from forkwise.training.folder import only_writer

# sympy thinks about this sum for longer than the test lasts.
VERIFYING = r"""
from forkwise.tasks.workers import WorkerPool

pool = WorkerPool("math", timeout=600)
pool.map([{"gold": "1", "prediction": r"$\boxed{1}$"}])
print("busy", flush=True)
pool.map([{"gold": "1", "prediction": r"$\boxed{\sum_{k=1}^{100000} \sin(k)}$"}])
"""


def small(folder: Path, steps: int = 12, seeds: str = "0-1") -> Path:
    """A study of two arms that saves every step, without a primary comparison."""
    recipe = {**content()["recipe"], "max_steps": steps, "save_steps": 1}
    plan = content(
        **{"recipe": recipe, "primary": None, "seeds": seeds, "problems": 16},
        arms={"GRPO": {"alpha": 0}, "shaped": {"alpha": 0.4}},
        evaluation={"problems": 3, "n": 8, "batch_size": 4, "base": False},
    )
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(plan))
    return file


def command(file: Path, out: Path, *words: str) -> list[str]:
    return ["-m", "forkwise", "study", "run", str(file), "--out", str(out), "--device", "cpu", *words]


def receipts(file: Path, out: Path) -> dict[str, Receipt]:
    names = read_study(file).runs()[1:]
    return {name: read_receipt(out / "receipts" / f"{name}.json") for name in names}


def what_counts(receipt: Receipt) -> Any:
    """All that must not depend on whether and where a run was interrupted."""
    return (receipt.c, receipt.n, receipt.tokens, receipt.hashes["configuration"], receipt.hashes["weights"])


def test_a_run_ends_with_the_command_and_the_next_one_finds_it_gone(tmp_path: Path) -> None:
    file, study_folder = small(tmp_path, steps=500), tmp_path / "out"
    process = start(*command(file, study_folder, "--jobs", "1"))
    folder = study_folder / "arms" / "grpo-seed0"
    assert until(lambda: (folder / "run.yaml").exists() or process.poll() is not None, 120)
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    assert is_held(folder)
    below = kill(process)
    assert below
    assert ended(below)
    assert until(lambda: not is_held(folder), 10)  # the last thread holds the lock a little longer
    assert not (folder / "complete").exists()
    assert not (study_folder / "receipts" / "grpo-seed0.json").exists()
    assert (study_folder / "receipts" / "grpo-seed0.started").exists()


def test_an_interrupt_ends_the_runs_and_says_how_to_go_on(tmp_path: Path) -> None:
    file, study_folder = small(tmp_path, steps=500), tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, *command(file, study_folder, "--jobs", "2")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A suite that runs in the background hands an ignored SIGINT down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    folders = [study_folder / "arms" / f"{arm}-seed0" for arm in ("grpo", "shaped")]
    assert until(lambda: all((f / "run.yaml").exists() for f in folders) or process.poll() is not None, 150)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command continues" in said
    for folder in folders:
        with only_writer(folder):
            assert not (folder / "complete").exists()


def test_a_verification_worker_ends_in_the_middle_of_a_request() -> None:
    process = start("-c", VERIFYING)
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    time.sleep(0.5)
    below = kill(process)
    assert len(below) == 1
    assert ended(below)


def test_a_run_waits_for_another_writer_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = "import sys, time; from pathlib import Path; from forkwise.training.folder import only_writer\n"
    held += "with only_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(1.5)"
    process = start("-c", held, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    begin = time.monotonic()
    work._wait_for(tmp_path)
    assert 0.5 < time.monotonic() - begin < 10
    assert process.wait() == 0
    monkeypatch.setattr(work, "_WAIT", 0.2)
    with only_writer(tmp_path):
        work._wait_for(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Receipt]:
    folder = tmp_path_factory.mktemp("undisturbed")
    file = small(folder)
    subprocess.run([sys.executable, *command(file, folder / "out", "--jobs", "2")], check=True, timeout=1500)
    return receipts(file, folder / "out")


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path: Path, undisturbed: dict[str, Receipt]
) -> None:
    file, study_folder = small(tmp_path), tmp_path / "out"
    moments = [
        ("arms/shaped-seed0/checkpoint-2", "complete"),
        ("samples/grpo-seed0", "*.parquet"),
        ("receipts", "shaped-seed0.json"),
        ("arms/grpo-seed1", "complete"),
    ]
    for folder, name in moments:
        process = start(*command(file, study_folder, "--jobs", "2"))

        def reached(folder: str = folder, name: str = name, process: subprocess.Popen[str] = process) -> bool:
            return any((study_folder / folder).glob(name)) or process.poll() is not None

        assert until(reached, 400)
        assert ended(kill(process))
    first = (study_folder / "receipts" / "shaped-seed0.json").read_bytes()
    subprocess.run([sys.executable, *command(file, study_folder, "--jobs", "2")], check=True, timeout=900)
    finished = receipts(file, study_folder)
    assert {name: what_counts(r) for name, r in finished.items()} == {n: what_counts(r) for n, r in undisturbed.items()}
    assert (study_folder / "receipts" / "shaped-seed0.json").read_bytes() == first  # done is done
    assert len(finished["shaped-seed0"].attempts) > 1
    assert not list((study_folder / "receipts").glob("*.started"))
    # Receipts are enough: without the runs and their samples, nothing is run again.
    again = subprocess.run(
        [sys.executable, *command(file, tmp_path / "new", "--receipts", str(study_folder / "receipts"))],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert "Done: 4 runs" in again.stdout
    assert not (tmp_path / "new" / "arms").exists()


LENGTH = """
def length(completions, **_):
    return [float(sum(map(ord, text)) % 7) for text in completions]
"""


@pytest.mark.slow
def test_a_run_whose_numbers_are_not_finite_counts_as_collapsed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_reward.py").write_text(LENGTH)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    file = small(tmp_path, steps=4, seeds="0-0")
    plan = yaml.safe_load(file.read_text())
    plan["recipe"] |= {"reward": ["odd_reward:length"]}
    plan["arms"]["shaped"] |= {"learning_rate": 1e30}
    file.write_text(yaml.safe_dump(plan))
    subprocess.run([sys.executable, *command(file, tmp_path / "out", "--jobs", "2")], check=True, timeout=900)
    finished = receipts(file, tmp_path / "out")
    assert finished["grpo-seed0"].collapsed is None
    dead = finished["shaped-seed0"]
    assert "not finite" in str(dead.collapsed)
    assert (dead.c, dead.n) == ([0, 0, 0], [8, 8, 8])
    assert len(dead.attempts) == 1  # it would come to the same end
    assert not (tmp_path / "out" / "samples" / "shaped-seed0").exists()


@pytest.mark.slow
def test_a_run_may_take_several_processes(tmp_path: Path) -> None:
    file = small(tmp_path, steps=2, seeds="0-0")
    plan = yaml.safe_load(file.read_text())
    plan["processes"] = 2
    plan["recipe"] |= {"per_device_train_batch_size": 4}
    file.write_text(yaml.safe_dump(plan))
    subprocess.run([sys.executable, *command(file, tmp_path / "out", "--jobs", "1")], check=True, timeout=1500)
    assert "# processes 2" in (tmp_path / "out" / "arms" / "grpo-seed0" / "run.yaml").read_text()
    assert set(receipts(file, tmp_path / "out")) == {"grpo-seed0", "shaped-seed0"}


_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from forkwise.errors import RunError
from forkwise.study import work
from forkwise.study.reading import read_study
work.FULL_DISK_PAUSE = 0.0
study, out = read_study(Path(sys.argv[1])), Path(sys.argv[2])
run = work.Work(study, study.sha256(), None, None, out, out / "receipts")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    work.perform(run)
except RunError as error:
    print(error)
"""


def test_a_full_disk_is_no_refusal_and_the_run_is_tried_again(tmp_path: Path) -> None:
    """The limit is that of a file's size, which the run inherits: what a disk without room is on a node of its own."""
    file, folder = small(tmp_path), tmp_path / "out"
    (folder / "receipts").mkdir(parents=True)
    words = [sys.executable, "-c", _ON_A_FULL_DISK, str(file), str(folder)]
    full = subprocess.run([*words, "2048"], check=True, capture_output=True, text=True, timeout=600)
    assert "cannot be written: File too large" in full.stdout
    assert not list((folder / "receipts").glob("*.json"))
    roomy = subprocess.run([*words, str(1 << 30)], check=True, capture_output=True, text=True, timeout=600)
    assert roomy.stdout == ""
    assert len(read_receipt(folder / "receipts" / "base.json").attempts) == 2


# ----------------------------------------------------------------------------------------------------------------- Ray


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores and two nodes of one core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.two = [made.add_node(num_cpus=1), made.add_node(num_cpus=1)]
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_ray_cluster_loses_a_worker_a_node_and_the_command_and_the_study_ends_well(
    tmp_path: Path, cluster: Any, undisturbed: dict[str, Receipt]
) -> None:
    file, folder = small(tmp_path), tmp_path / "out"
    words = command(file, folder, "--ray", cluster.address)
    names = read_study(file).runs()[1:]

    def at_work() -> list[int]:
        """The processes that train."""
        return [pid for name in names for pid in with_word(str(folder / "arms" / f"{name}.yaml"))]

    def attempts() -> int:
        notes = [path.read_text().splitlines() for path in (folder / "receipts").glob("*.started")]
        return sum(map(len, notes)) + sum(
            len(read_receipt(p).attempts) for p in (folder / "receipts").glob("*-seed?.json")
        )

    process = start(*words)
    assert until(lambda: len(at_work()) == 2 or process.poll() is not None, 300)
    assert process.poll() is None, process.stdout.read() if process.stdout else ""

    # A worker: its training ends with it, and is taken up again.
    run, before = at_work()[0], attempts()
    os.kill(parent(run), signal.SIGKILL)
    assert until(lambda: not alive(run), 10)
    assert until(lambda: attempts() > before, 120)

    # The command: all that it started ends.
    assert until(lambda: len(at_work()) > 0, 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert until(lambda: not at_work(), 60)

    # A node: what it trains ends, and goes to the other one.
    process = start(*words)
    assert until(lambda: len(at_work()) == 2 or process.poll() is not None, 300)
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    both = at_work()
    cluster.remove_node(cluster.two[1], allow_graceful=False)
    assert until(lambda: not all(map(alive, both)), 30)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    assert "It is started again." in said
    finished = receipts(file, folder)
    assert {name: what_counts(r) for name, r in finished.items()} == {n: what_counts(r) for n, r in undisturbed.items()}
    assert sum(len(r.attempts) for r in finished.values()) >= 4 + 3


@pytest.mark.slow
def test_runs_of_a_node_with_a_full_disk_go_to_the_other_one(
    tmp_path: Path, cluster: Any, undisturbed: dict[str, Receipt]
) -> None:
    """Nothing of more than 1 MiB can be written on the second node: no checkpoint, on whichever run it tries."""
    file, folder = small(tmp_path), tmp_path / "out"
    raylet = cluster.two[1].all_processes["raylet"][0].process.pid
    for pid in [raylet, *descendants(raylet)]:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    done = subprocess.run(
        [sys.executable, *command(file, folder, "--ray", cluster.address)],
        capture_output=True,
        text=True,
        check=True,
        timeout=1500,
    )
    assert "File too large" in done.stderr
    assert "It is started again." in done.stderr
    finished = receipts(file, folder)
    assert {name: what_counts(r) for name, r in finished.items()} == {n: what_counts(r) for n, r in undisturbed.items()}


@pytest.mark.slow
def test_a_cluster_without_the_resources_or_none_is_refused(tmp_path: Path, cluster: Any) -> None:
    file = small(tmp_path)
    for words, known, said in (
        (
            ["--ray", cluster.address, "--gpus-per-run", "1"],
            {},
            "No node of the cluster has 1 CPUs and 1 GPUs for a run",
        ),
        (["--ray", "127.0.0.1:1"], {}, "There is no Ray cluster at '127.0.0.1:1'"),
        (["--ray", "ray://127.0.0.1:1"], {}, "There is no Ray cluster at 'ray://127.0.0.1:1'"),
        (["--ray", "auto"], {"RAY_ADDRESS": "ray://127.0.0.1:1"}, "There is no Ray cluster at 'auto'"),
        (["--ray", "auto"], {"RAY_ADDRESS": "127.0.0.1:1"}, "There is no Ray cluster at 'auto'"),
    ):
        done = subprocess.run(
            [sys.executable, *command(file, tmp_path / "out", *words)],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,  # Ray itself tries for many minutes where nobody listens
            env={**os.environ, **known},
        )
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
