"""One run of a study: an ordinary `forkwise grpo` or `ppo` run, then `forkwise sample`, then its receipt.

It is a function that any process on any machine can call that sees the study's folders, and that can be killed at any
moment: called again, it goes on from what is there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from forkwise.embedded import is_embedded
from forkwise.errors import InputError, RunError
from forkwise.folders import is_held, write_text
from forkwise.folders.metrics import read_metrics
from forkwise.processes import PARENT_PIPE
from forkwise.reading import read_yaml
from forkwise.study.receipts import (
    SCHEMA,
    Receipt,
    clusters_of,
    counts,
    note_start,
    receipt_file,
    samples_sha256,
    sha256_of,
    starts,
    training_summary,
    versions,
    write_receipt,
)
from forkwise.study.spec import BASE, Device, Study, TrainingArm
from forkwise.tasks import problem_range
from forkwise.training.folder import COLLAPSED, SETTINGS, finished
from forkwise.version import __version__

FULL_DISK_PAUSE = 60.0
"""Seconds for which a run that met a full disk holds its place."""

_FULL = re.compile(r"No space left on device|File too large|Disk quota exceeded")
_WAIT = 60.0  # seconds for the process of an earlier attempt to end
_POLL = 0.2  # seconds
_PLACES = ("output_dir", "resume")  # settings that say where a run is, and not what it is
_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    # glibc keeps the memory of large tensors: giving it back and getting it again is a tenth of the CPU time.
    "MALLOC_MMAP_THRESHOLD_": "4294967295",
    "MALLOC_TRIM_THRESHOLD_": "4294967295",
    "MALLOC_TOP_PAD_": "67108864",
}


@dataclass(frozen=True)
class Work:
    """One run: what it is, where its files go, and what it runs on.

    Attributes:
        study, plan: the study and its hash.
        arm, seed: None for the model before training, which is only sampled.
        out: folder of the study, which every machine sees.
        receipts: folder of the receipts.
        threads: cores of the run.
    """

    study: Study
    plan: str
    arm: TrainingArm | None
    seed: int | None
    out: Path
    receipts: Path
    device: Device = "cpu"
    threads: int = 1

    @property
    def run(self) -> str:
        """Returns the run's name."""
        return BASE if self.arm is None or self.seed is None else self.arm.run(self.seed)

    @property
    def folder(self) -> Path:
        """Returns the folder of the training run."""
        return self.out / "arms" / self.run

    @property
    def samples(self) -> Path:
        """Returns the folder of the samples table."""
        return self.out / "samples" / self.run

    def configuration(self) -> dict[str, Any]:
        """Returns the settings of the training run."""
        assert self.arm is not None
        assert self.seed is not None
        return self.study.configuration(self.arm, self.seed, self.folder, self.device)

    def evaluated(self) -> tuple[str | None, str | None]:
        """Returns task and dataset that the model is evaluated on."""
        e = self.study.evaluation
        return (e.task, e.dataset) if e.task or e.dataset else (self.study.task, None)

    def evaluated_on(self) -> str:
        """Returns the name of what the model is evaluated on."""
        return str(next(filter(None, self.evaluated())))

    def sample_words(self) -> list[str]:
        """Returns the words of the command that samples the run."""
        study, e = self.study, self.study.evaluation
        task, dataset = self.evaluated()
        options = {
            "model": study.model if self.arm is None else self.folder,
            "task": task,
            "dataset": dataset,
            "split": e.split,
            "first-problem": e.first_problem,
            "problems": e.problems,
            "temperature": e.temperature,
            "top-p": e.top_p,
            "max-tokens": e.max_tokens or study.recipe.get("max_completion_length", 256),
            "engine": e.engine,
            "batch-size": e.batch_size,
            "seed": e.seed,
            "run": self.run,
            "out": self.samples,
        }
        if e.engine == "transformers":
            options |= {"device": self.device, "traces": e.traces or None}
        words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
        words += ["-n", str(e.n), "--token-data" if e.traces else "--no-token-data"]
        words += [f"--{name.replace('_', '-')}" for name in ("chat", "trust_remote_code") if study.recipe.get(name)]
        return ["sample", *words]


def perform(work: Work, gpus: str | None = None, stopped: Callable[[], bool] = lambda: False) -> None:
    """Brings a run to its receipt: trains it, or goes on training, samples it, and writes the receipt.

    Args:
        work: the run.
        gpus: what CUDA_VISIBLE_DEVICES names; None leaves the environment as it is.
        stopped: whether the run is to end now; it is asked all the time.

    Raises:
        InputError: what `forkwise grpo`, `ppo` or `sample` refuses: the same would happen again.
        RunError: a process ended otherwise than well, or a disk is full; it can be tried again.
    """
    try:
        _perform(work, gpus, stopped)
    except InputError as error:
        if not _FULL.search(str(error)):
            raise
        # Another node may have room: this one holds its place for a while, so as not to take and fail every run.
        deadline = time.monotonic() + FULL_DISK_PAUSE
        while time.monotonic() < deadline and not stopped():
            time.sleep(_POLL)
        raise RunError(str(error)) from error


def _perform(work: Work, gpus: str | None, stopped: Callable[[], bool]) -> None:
    if receipt_file(work.receipts, work.run).exists():
        return
    note_start(work.receipts, work.run, work.device)
    seconds, begin = {}, time.monotonic()
    if work.arm is not None:
        _train(work, gpus, stopped)
        seconds["training"] = round(time.monotonic() - begin, 1)
    begin = time.monotonic()
    collapsed = None if work.arm is None else _collapsed(work.folder)
    if collapsed is None:
        _wait_for(work.samples)
        _call(work, work.sample_words(), _log(work), gpus, stopped)
        seconds["sampling"] = round(time.monotonic() - begin, 1)
    write_receipt(work.receipts, _receipt(work, seconds, collapsed))


def _train(work: Work, gpus: str | None, stopped: Callable[[], bool]) -> None:
    assert work.arm is not None
    if finished(work.folder, work.study.steps) or _collapsed(work.folder) is not None:
        return
    file = work.folder.with_name(f"{work.run}.yaml")  # a name may hold dots
    write_text(file, yaml.safe_dump(work.configuration(), sort_keys=False))
    _wait_for(work.folder)
    words = [work.arm.algorithm, "--config", str(file)]
    try:
        _call(work, words, _log(work), gpus, stopped, processes=work.study.processes)
    except RunError:
        if _collapsed(work.folder) is None:
            raise
    if not finished(work.folder, work.study.steps) and _collapsed(work.folder) is None:
        raise RunError(f"The run '{work.run}' ended before its last step (whole log: {_log(work)}).")
    if f"# processes {work.study.processes}\n" not in (work.folder / SETTINGS).read_text(encoding="utf-8"):
        raise InputError(f"The run '{work.run}' was not trained by {work.study.processes} processes: see {_log(work)}.")


def _log(work: Work) -> Path:
    return work.folder.with_name(f"{work.run}.log")


def _collapsed(folder: Path) -> str | None:
    """Returns why training in the folder cannot go on, where its numbers are not finite."""
    try:
        return (folder / COLLAPSED).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _wait_for(folder: Path) -> None:
    """Waits for a process that still writes in the folder, such as one that is being killed, but not for ever."""
    deadline = time.monotonic() + _WAIT
    while is_held(folder) and time.monotonic() < deadline:
        time.sleep(_POLL)


def _call(
    work: Work,
    words: Sequence[str],
    log: Path,
    gpus: str | None,
    stopped: Callable[[], bool],
    processes: int = 1,
) -> None:
    """Runs a command of ours in a process of its own, which ends when this one does."""
    launcher = []
    if processes > 1:
        # With --cpu accelerate starts one process unless there is MPI; its torchrun launcher is called multi_gpu.
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launcher += ["--main_process_port", "0"]
    visible: Mapping[str, str] = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
    extra = {"HF_HUB_OFFLINE": "1"} if is_embedded(work.study.model) and work.study.task else {}
    extra |= {"ACCELERATE_USE_CPU": "true"} if processes > 1 and work.device == "cpu" else {}
    threads = {"OMP_NUM_THREADS": str(max(1, work.threads // processes))}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "forkwise", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,  # never written to: it closes when we end, and so does the process
            env={**os.environ, **_ENVIRONMENT, **extra, **threads, **visible, PARENT_PIPE: "0"},
            start_new_session=True,  # Ctrl-C reaches us alone; we end the process ourselves
        )
    try:
        while process.poll() is None:
            if stopped():
                raise RunError(f"The run '{work.run}' was stopped.")
            time.sleep(_POLL)
    finally:
        _end(process)
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no output"
        who = f"The run '{work.run}'" + ("" if work.arm is None else f" of the arm '{work.arm.name}'")
        sentence = f"{who} stopped with exit code {process.returncode}: {last} (whole log: {log})"
        raise InputError(sentence) if process.returncode == 2 else RunError(sentence)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _receipt(work: Work, seconds: dict[str, float], collapsed: str | None) -> Receipt:
    from forkwise.sampling.manifest import read_manifest
    from forkwise.sampling.recipe import open_task

    e = work.study.evaluation
    problems = problem_range(open_task(*work.evaluated()), e.split, e.problems, first=e.first_problem)
    ids, clusters = [problem.id for problem in problems], clusters_of(problems, work.evaluated_on())
    hashes: dict[str, str] = {}
    training, curves = training_summary([])
    if work.arm is not None:
        settings = read_yaml(work.folder.with_name(f"{work.run}.yaml"))
        hashes["configuration"] = sha256_of({key: value for key, value in settings.items() if key not in _PLACES})
        training, curves = training_summary(read_metrics(work.folder))
    if collapsed is None:
        hashes["samples"] = samples_sha256(work.samples)
        hashes["weights"] = str(read_manifest(work.samples).get("engine", {}).get("weights", ""))
        measured = counts(work.samples, ids)
    else:
        measured = {"problems": ids, "n": [e.n] * len(ids), "c": [0] * len(ids), "tokens": None, "cut": None}
    return Receipt(
        schema=SCHEMA,
        forkwise=__version__,
        plan=work.plan,
        run=work.run,
        arm=BASE if work.arm is None else work.arm.name,
        seed=work.seed,
        attempts=starts(work.receipts, work.run),
        collapsed=collapsed,
        seconds=seconds,
        versions=versions(),
        hashes=hashes,
        training=training,
        curves=curves,
        clusters=clusters,
        **measured,
    )
