"""Kills at any moment, damaged checkpoints, full disks: `forkwise grpo --resume` goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl")

import torch
from preloaded import Started
from quiet import QUIET
from safetensors.torch import load_file

from forkwise.errors import InputError
from forkwise.training.folder import checkpoints, damage, mark_complete, newest_complete_checkpoint, read_metrics
from forkwise.training.grpo import main

# 4 updates a rollout (2 slices x 2 passes), 2 rollouts an epoch, a checkpoint after every update and a log after every
# third: kills fall within rollouts, epochs, savings and logging windows.
COMMON: dict[str, Any] = {
    "model": "embedded",
    "task": "countdown:3",
    "train_problems": 8,
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_completion_length": 24,
    "reward": ["test_resume:letters"],
    "learning_rate": 1e-3,
    # The first remembers its alpha from rollout to rollout, the second where it is in an order of prompts of its own.
    "method": ["entropy_advantage:alpha=0.4@target:2", "dynamic_sampling:draws=3"],
    "max_steps": 10,
    "logging_steps": 3,
    "save_steps": 1,
    **QUIET,
    "seed": 3,
}
CLOCK = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
ENVIRONMENT |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}",
}


def letters(completions: list[str], **_: Any) -> list[float]:
    """Depends on every letter, so that the completions of a group differ and every update learns."""
    return [sum(text.encode()) % 7 / 6 for text in completions]


def config_file(path: Path, **settings: object) -> str:
    path.write_text(yaml.safe_dump({**COMMON, **settings}))
    return str(path)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each logged step, without the clock."""
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(folder)]


def start(path: str, out: Path, *flags: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "forkwise", "grpo", "--config", path, "--output_dir", str(out), *flags]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **options
    )


def start_loaded(path: str, out: Path, *flags: str) -> Started:
    """The same command in a process that has loaded torch already."""
    return Started(["-m", "forkwise", "grpo", "--config", path, "--output_dir", str(out), *flags], ENVIRONMENT)


def same_runs(ours: Path, theirs: Path) -> None:
    """Tolerance: none. The same operations run on the same numbers in the same order."""
    assert min(row["grad_norm"] for row in rows(theirs) if "grad_norm" in row) > 0  # every update learned something
    assert rows(ours) == rows(theirs)
    a, b = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never interrupted, with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole")
    main(["--config", config_file(folder / "c.yaml"), "--output_dir", str(folder / "run")])
    return folder / "run"


def interrupted(whole: Path, out: Path, step: int, *, keep: int = 3) -> Path:
    """What a kill after the checkpoint of `step` leaves of that run."""
    out.mkdir()
    shutil.copy(whole / "run.yaml", out)
    for n in range(max(1, step - keep + 1), step + 1):
        shutil.copytree(whole / f"checkpoint-{n}", out / f"checkpoint-{n}")
    lines = [line for line in (whole / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] <= step]
    cut = '{"step": 11, "lo' if step < 10 else ""
    (out / "metrics.jsonl").write_text("\n".join([*lines, cut]))
    return out


def resume(out: Path, *flags: str) -> None:
    main(["--config", str(out / "run.yaml"), "--output_dir", str(out), "--resume", *flags])


# After 7: the middle of a rollout and of a logging window; 8: between two rollouts and between two epochs;
# 10: at the end, before the model was written.
@pytest.mark.parametrize("step", [7, 8, 10])
def test_a_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, whole: Path, step: int) -> None:
    folder = interrupted(whole, tmp_path / "run", step)
    resume(folder)
    assert [row["step"] for row in rows(folder) if "loss" in row] == [3, 6, 9]
    same_runs(folder, whole)


def test_a_run_that_ends_with_an_epoch_goes_on_at_its_end(tmp_path: Path) -> None:
    path = config_file(tmp_path / "c.yaml", max_steps=8)
    main(["--config", path, "--output_dir", str(tmp_path / "run")])
    assert rows(tmp_path / "run")[-1]["step"] == 8  # the metrics of 7 and 8, logged when training ends
    folder = interrupted(tmp_path / "run", tmp_path / "resumed", 8)
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text().partition('{"step": 8')[0])
    resume(folder)
    same_runs(folder, tmp_path / "run")


def test_totals_that_an_older_forkwise_kept_apart_are_taken_up(tmp_path: Path, whole: Path) -> None:
    folder = interrupted(whole, tmp_path / "run", 7)
    checkpoint = folder / "checkpoint-7"
    rollout = torch.load(checkpoint / "rollout_0.pt", weights_only=True)
    totals = rollout["unlogged"].pop("totals")
    rollout["unlogged"]["shaping"] = totals.pop("shaping")
    rollout["unlogged"]["methods"] = {name.removeprefix("method/"): total for name, total in totals.items()}
    assert list(rollout["unlogged"]["methods"]) == ["entropy_advantage"]
    torch.save(rollout, checkpoint / "rollout_0.pt")
    mark_complete(checkpoint)
    resume(folder)
    same_runs(folder, whole)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("model.safetensors", shorten, "has .* bytes instead of"),
        ("optimizer.pt", flip, "is not what was written"),
        ("rollout_0.pt", Path.unlink, "is missing"),
        ("complete", lambda file: file.write_text(file.read_text()[:200]), "cut short"),
        ("complete", lambda file: file.write_text(""), "cut short"),
    ],
)
def test_a_damaged_checkpoint_is_never_used(
    tmp_path: Path, whole: Path, file: str, harm: Callable[[Path], None], message: str
) -> None:
    folder = interrupted(whole, tmp_path / "run", 7)
    harm(folder / "checkpoint-7" / file)
    with pytest.warns(UserWarning, match=message):
        assert newest_complete_checkpoint(folder) == folder / "checkpoint-6"


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path: Path, whole: Path) -> None:
    folder = interrupted(whole, tmp_path / "run", 7)
    flip(folder / "checkpoint-7" / "model.safetensors")
    (folder / "checkpoint-8").mkdir()  # and one that was only begun
    (folder / "checkpoint-8" / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="checkpoint-7 is damaged .model.safetensors is not what was written"):
        resume(folder)
    assert (folder / "damaged-checkpoint-7").exists()
    assert all(damage(checkpoint) is None for checkpoint in checkpoints(folder))
    same_runs(folder, whole)


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(tmp_path: Path, whole: Path) -> None:
    folder = interrupted(whole, tmp_path / "run", 3, keep=1)
    shorten(folder / "checkpoint-3" / "trainer_state.json")
    with (
        pytest.warns(UserWarning, match="trainer_state.json has"),
        pytest.raises(InputError, match="Every checkpoint in .* is damaged"),
    ):
        resume(folder)
    assert (folder / "checkpoint-3").exists()


def test_another_number_of_processes_or_of_updates_is_refused(tmp_path: Path, whole: Path) -> None:
    folder = interrupted(whole, tmp_path / "run", 3, keep=1)
    path = folder / "checkpoint-3" / "rollout_0.pt"
    rollout = torch.load(path, weights_only=True)
    torch.save({**rollout, "processes": 2}, path)
    mark_complete(folder / "checkpoint-3")
    with pytest.raises(InputError, match="written by 2 processes and this run has 1"):
        resume(folder)
    torch.save({**rollout, "updates_per_rollout": 6}, path)
    mark_complete(folder / "checkpoint-3")
    with pytest.raises(InputError, match="has 6 micro-batches per rollout and this run 4; resume with the same"):
        resume(folder)
    path.rename(path.with_name("rollout_1.pt"))
    mark_complete(folder / "checkpoint-3")
    with pytest.raises(InputError, match="holds nothing of process 0 of 1"):
        resume(folder)
    path.with_name("rollout_1.pt").unlink()
    mark_complete(folder / "checkpoint-3")
    with pytest.raises(InputError, match="a model and no training state, as save_only_model"):
        resume(folder)


# ------------------------------------------------------------------------------------------------------- real kills


def kill_at(path: str, out: Path, seconds: float) -> bool:
    """Runs, and sends SIGKILL after so many seconds; whether the run was still going on."""
    process = start(path, out, "--resume")
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        return True
    assert process.returncode == 0, errors[-2000:]
    return False


def test_a_killed_run_goes_on(tmp_path: Path, whole: Path) -> None:
    path, folder = config_file(tmp_path / "c.yaml", save_total_limit=2), tmp_path / "run"
    process = start_loaded(path, folder)
    while process.poll() is None and not (folder / "checkpoint-5").exists():
        time.sleep(0.002)
    time.sleep(0.02)  # while it is saved, or in the next step
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors[-2000:]
    process = start_loaded(path, folder, "--resume")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    same_runs(folder, whole)


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Uniformly over the time that a run takes, its start included; a finished run is compared, and a new one begun."""
    path = config_file(tmp_path / "c.yaml", max_steps=40, save_total_limit=2)
    began = time.monotonic()
    process = start(path, tmp_path / "whole")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    lasts = time.monotonic() - began
    draw, kills, moments = random.Random(0), 0, []
    for n in range(100):
        folder = tmp_path / f"run{n}"
        alive = True
        while alive and kills < 20:
            alive = kill_at(path, folder, draw.uniform(0, lasts))
            kills += alive
            moments.append(max([row["step"] for row in rows(folder)], default=0))
            newest = newest_complete_checkpoint(folder) if folder.exists() else None
            # The newest is first; behind the one that counts some may be half deleted.
            for checkpoint in checkpoints(folder):
                if checkpoint == newest:
                    break
                assert damage(checkpoint) == "it was not written to its end"
        if alive:
            process = start(path, folder, "--resume")
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors[-2000:]
        same_runs(folder, tmp_path / "whole")
        if kills == 20:
            break
    assert kills == 20
    with capsys.disabled():
        print(f"\n20 kills in {n + 1} runs of {lasts:.0f} s, after steps {moments}")


# ------------------------------------------------------------------------- disks that are full, folders that are shut


def small_files(completions: list[str], **_: Any) -> list[float]:
    """From the second rollout on, this process may write no file beyond 1 MiB: as on a full disk, but for the name."""
    small_files.calls += 1
    if small_files.calls == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    return [0.0] * len(completions)


small_files.calls = 0


def shut(completions: list[str], **_: Any) -> list[float]:
    """From the second rollout on, nothing can be made in the run folder."""
    shut.calls += 1
    if shut.calls == 2:
        set_shut(Path(os.environ["RUN_FOLDER"]), True)
    return [0.0] * len(completions)


def set_shut(folder: Path, on: bool) -> bool:
    """Takes away the right to write, from root (who may write anywhere) by the file system's own flag; if it worked."""
    if os.geteuid():
        folder.chmod(0o500 if on else 0o700)
        return True
    command = shutil.which("chattr")
    return (
        command is not None
        and subprocess.run([command, "+i" if on else "-i", str(folder)], check=False).returncode == 0
    )


shut.calls = 0


def test_a_checkpoint_that_cannot_be_written_ends_in_a_sentence(tmp_path: Path) -> None:
    path, folder = config_file(tmp_path / "c.yaml", reward=["test_resume:small_files"], method=[]), tmp_path / "run"
    process = start_loaded(path, folder)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1, errors[-2000:]
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"forkwise: The checkpoint of step 5 could not be written to '{folder}': File too large"), (
        last
    )
    assert last.endswith("checkpoint-4 is whole, and --resume continues from it.")
    assert "Traceback" not in errors
    assert not (folder / "checkpoint-5").exists()
    assert newest_complete_checkpoint(folder) == folder / "checkpoint-4"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_in_a_sentence_and_room_lets_it_go_on(tmp_path: Path, small_disk: Path, whole: Path) -> None:
    path, folder = config_file(tmp_path / "c.yaml"), small_disk / "run"
    process = start(path, folder)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1, errors[-2000:]
    last = errors.strip().splitlines()[-1]
    assert re.match(r"forkwise: The checkpoint of step \d could not be written to .*: No space left on device", last), (
        last
    )
    assert "Traceback" not in errors
    kept = newest_complete_checkpoint(folder)
    assert kept is not None
    assert [damage(checkpoint) for checkpoint in checkpoints(folder)] == [None] * len(checkpoints(folder))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    process = start(path, folder, "--resume")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    same_runs(folder, whole)


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not set_shut(tmp_path, True):
        pytest.skip("this user may write anywhere")
    set_shut(tmp_path, False)
    path, folder = config_file(tmp_path / "c.yaml", reward=["test_resume:shut"], method=[]), tmp_path / "run"
    monkeypatch.setitem(ENVIRONMENT, "RUN_FOLDER", str(folder))
    process = start(path, folder)
    _, errors = process.communicate(timeout=600)
    set_shut(folder, False)
    assert process.returncode == 1, errors[-2000:]
    last = errors.strip().splitlines()[-1]
    assert last.startswith("forkwise: The checkpoint of step 5 could not be written to"), last
    assert re.search(r"(Permission denied|Operation not permitted); checkpoint-4 is whole", last), last
    assert newest_complete_checkpoint(folder) == folder / "checkpoint-4"
