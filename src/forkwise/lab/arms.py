"""Arms of an experiment: training runs side by side in processes of their own, and samples of what they learned.

An arm is the recipe and what it changes in it. Every run is an ordinary `forkwise grpo` or `forkwise ppo` run, on one
thread or one GPU, from the embedded base model. All arms see the same problems and seeds. Each stage leaves whole files
behind, so that an interrupted experiment continues where it stopped.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from forkwise.errors import InputError
from forkwise.folders import is_held, write_text
from forkwise.lab.base_model import MAX_NEW_TOKENS
from forkwise.lab.spec import TASK, Device, TrainingArm
from forkwise.loading import load_tokenizer, load_weights
from forkwise.methods import parse_methods, settings_of
from forkwise.processes import PARENT_PIPE, end_with
from forkwise.progress import Console, Meter
from forkwise.report.formats import number
from forkwise.report.terminal import print_tables
from forkwise.report.training import training_table
from forkwise.samples import write_shard
from forkwise.sampling.generate import Sampling, sample_problem
from forkwise.tasks import Problem, load_task
from forkwise.training.folder import finished, read_metrics

_WAIT = 60.0  # seconds for an arm of an interrupted experiment to end

# Found by hand on the embedded model: learns in minutes on one core, and does not collapse.
RECIPE: dict[str, Any] = {
    "model": "embedded",
    "task": TASK,
    "reward": ["correct"],
    "loss_type": "dapo",
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "beta": 0.0,
    "scale_rewards": "group",
    "importance_sampling_level": "token",
    "num_generations": 16,
    # 256 completions per rollout, used for 2 updates of 128.
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "num_iterations": 1,
    "max_completion_length": MAX_NEW_TOKENS,
    "temperature": 1.0,
    "attn_implementation": "eager",  # the fastest for a model of this size on a CPU
    "learning_rate": 3e-4,
    "lr_scheduler_type": "constant",
    "adam_beta2": 0.95,
    "max_grad_norm": 1.0,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 10,
    "save_total_limit": 2,
    "report_to": "none",
    "disable_tqdm": True,
}

# The settings that PPO adds to the recipe.
PPO_RECIPE: dict[str, Any] = {
    "critic_learning_rate": 1e-3,
    "critic_lr_scheduler_type": "constant",
    "critic_warmup_steps": 10,
    "critic_epochs": 3,
}
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # glibc keeps the memory of large tensors: giving it back and getting it again is a tenth of the CPU time.
    "MALLOC_MMAP_THRESHOLD_": "4294967295",
    "MALLOC_TRIM_THRESHOLD_": "4294967295",
    "MALLOC_TOP_PAD_": "67108864",
}


def train_problems(steps: int) -> int:
    """Counts the problems of `steps` steps of the recipe, none met twice, rounded up to whole rollouts."""
    size, groups = int(RECIPE["per_device_train_batch_size"]), int(RECIPE["num_generations"])
    completions = steps * size * int(RECIPE["gradient_accumulation_steps"])
    rollout = size * int(RECIPE["steps_per_generation"])
    return math.ceil(completions / rollout) * rollout // groups


def recipe(arm: TrainingArm, seed: int, steps: int, folder: Path, device: Device = "cpu") -> dict[str, Any]:
    """Returns the configuration of one training run, as it goes to `forkwise grpo --config`.

    Where a method sets a field of TRL that the recipe sets too, the method wins.
    """
    named = arm.settings.get("method", [])
    methods = parse_methods([named] if isinstance(named, str) else named)
    return {
        **RECIPE,
        "use_cpu": device == "cpu",
        **(PPO_RECIPE if arm.algorithm == "ppo" else {}),
        **settings_of(methods),
        "max_steps": steps,
        "train_problems": train_problems(steps),
        **arm.settings,
        "seed": seed,
        "output_dir": str(folder),
        "resume": True,
    }


def check(arm: TrainingArm, steps: int) -> None:
    """Raises the `InputError` with which `forkwise grpo` or `forkwise ppo` would refuse the arm's configuration."""
    from forkwise.engines.trl import EntropyShapedGRPOConfig
    from forkwise.training.arguments import parse_run
    from forkwise.training.ppo_config import EntropyShapedPPOConfig

    config = EntropyShapedPPOConfig if arm.algorithm == "ppo" else EntropyShapedGRPOConfig
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arm.yaml"
        file.write_text(yaml.safe_dump(recipe(arm, 0, steps, Path(folder) / "out")), encoding="utf-8")
        try:
            parse_run(["--config", str(file)], config, arm.algorithm)
        except InputError as error:
            raise InputError(f"The arm '{arm.name}' cannot be trained: {error}") from error


# ---------------------------------------------------------------------------------------------------------- training


def gpus() -> list[str]:
    """Returns the GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if named[0] else [str(i) for i in range(count)]


def _launch(
    folder: Path, arm: TrainingArm, seed: int, steps: int, device: Device, gpu: str | None
) -> subprocess.Popen[bytes]:
    file = folder.with_name(f"{folder.name}.yaml")  # a name may hold dots
    write_text(file, yaml.safe_dump(recipe(arm, seed, steps, folder, device), sort_keys=False))
    # One GPU per run: with several, transformers would spread one run over all of them.
    visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    with _log(folder).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "forkwise", arm.algorithm, "--config", str(file)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,  # never written to: it closes when we end, and so does the arm
            env={**os.environ, **_ENVIRONMENT, **visible, PARENT_PIPE: "0"},
            start_new_session=True,  # Ctrl-C reaches us alone; we end the arms ourselves
        )


def _wait_for_writer(folder: Path, console: Console) -> None:
    """Waits for a process that trains in the folder, such as one that has just been killed, but not for ever."""
    deadline = time.monotonic() + _WAIT
    if is_held(folder):
        console.print(f"Another process is training in '{folder}': waiting for its end.", soft_wrap=True, markup=False)
    while is_held(folder) and time.monotonic() < deadline:
        time.sleep(0.5)


def _places(device: Device, jobs: int) -> list[str | None]:
    """Returns the GPU of each of `jobs` processes, as evenly as they go; None for the CPU."""
    devices = gpus() if device == "cuda" else []
    return [devices[i % len(devices)] if devices else None for i in range(jobs)]


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def train(
    folder: Path,
    arms: Sequence[TrainingArm],
    seeds: int,
    steps: int,
    *,
    jobs: int,
    console: Console,
    device: Device = "cpu",
) -> None:
    """Trains every arm with every seed that has not finished yet, `jobs` at a time, in `folder/<run>`.

    On `cuda` the runs are spread over the GPUs that there are, each on one of them.

    Raises:
        InputError: an arm stopped before its end; the others are ended too, and all can be resumed.
    """
    runs = [(arm, seed) for seed in range(seeds) for arm in arms]
    waiting = [(arm, seed) for arm, seed in runs if not finished(folder / arm.run(seed), steps)]
    running: dict[str, tuple[TrainingArm, subprocess.Popen[bytes]]] = {}
    places = _places(device, jobs)
    place: dict[str, str | None] = {}  # of the runs that are running
    logs = {arm.run(seed): read_metrics(folder / arm.run(seed)) for arm, seed in runs}
    done = sum(map(_steps, logs.values()))
    with Meter(len(runs) * steps, done, console, "training (1 of 3)", "steps") as meter:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    arm, seed = waiting.pop(0)
                    run = arm.run(seed)
                    _wait_for_writer(folder / run, console)
                    place[run] = places.pop()
                    running[run] = arm, _launch(folder / run, arm, seed, steps, device, place[run])
                time.sleep(0.5)
                logs |= {run: read_metrics(folder / run) for run in running}
                note = f"{len(running)} runs at work{_reward([logs[run] for run in running])}, {len(waiting)} wait"
                meter.reach(sum(map(_steps, logs.values())), note)
                for run, (arm, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[run]
                        places.append(place.pop(run))
                        if process.returncode != 0 or not finished(folder / run, steps):
                            raise InputError(
                                f"The arm '{arm.name}' ({run}) stopped {_why(process, _log(folder / run))}"
                            )
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
    table = training_table({f"{arm.name}, seed {seed}": [read_metrics(folder / arm.run(seed))] for arm, seed in runs})
    print_tables(table, console)


def _steps(log: Sequence[Mapping[str, Any]]) -> int:
    """Returns the last step that was logged."""
    return log[-1]["step"] if log else 0


def _reward(logs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Returns the mean of the last rewards that were logged, in words."""
    rewards = [log[-1]["reward"] for log in logs if log and "reward" in log[-1]]
    return f" with reward {number(fmean(rewards))}" if rewards else ""


def _why(process: subprocess.Popen[bytes], log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"with exit code {process.returncode}: {lines[-1] if lines else 'no output'} (whole log: {log})"


# ---------------------------------------------------------------------------------------------------------- sampling


@lru_cache(maxsize=1)
def _load_model(model: str, device: Device) -> tuple[Any, Any]:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    policy = load_weights(model, dtype=torch.float32, attn_implementation="eager")
    return policy.eval().to(device), load_tokenizer(model)


_BATCH = 256  # samples drawn at once; the draws do not depend on it


def _sample_shard(
    model: str, run: str, problem: Problem, n: int, traces: int, folder: Path, name: str, device: Device
) -> None:
    policy, tokenizer = _load_model(model, device)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=MAX_NEW_TOKENS, batch_size=min(n, _BATCH))
    # One sampling seed for all arms: common random numbers cost nothing and pair the draws.
    rows = sample_problem(
        policy, tokenizer, problem, load_task(TASK), n, run=run, seed=0, sampling=sampling, traces=traces
    )
    write_shard(folder, name, [{**row, "model": Path(model).name} for row in rows])


def _take_place(places: SimpleQueue[str | None]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(parent.sentinel)
    gpu = places.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


@contextmanager
def _worker_environment() -> Iterator[None]:
    """Makes worker processes inherit one thread each, and no attempt to reach a hub."""
    before = {key: os.environ.get(key) for key in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


def sample_runs(
    folder: Path,
    models: Mapping[str, str],
    problems: Sequence[Problem],
    n: int,
    *,
    jobs: int,
    console: Console,
    traces: int,
    device: Device = "cpu",
) -> None:
    """Draws `n` completions of every problem from every model into `folder/<run>`, one shard per problem.

    Args:
        models: run -> folder of the model.
        traces: of how many samples per problem tokens, log-probabilities and entropies are kept.
    """
    shards = [(run, model, i) for run, model in models.items() for i in range(len(problems))]
    work = [
        (model, run, problems[i], n, traces, folder / run, f"{i:04d}", device)
        for run, model, i in shards
        if not (folder / run / f"{i:04d}.parquet").exists()
    ]
    if not work:
        return
    context = multiprocessing.get_context("spawn")
    places = context.SimpleQueue()
    for gpu in _places(device, jobs):
        places.put(gpu)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_take_place, initargs=(places,))
    total, missing = n * len(shards), n * len(work)
    with _worker_environment(), Meter(total, total - missing, console, "sampling (2 of 3)") as meter:
        try:
            for future in as_completed([pool.submit(_sample_shard, *item) for item in work]):
                future.result()
                meter.add(samples=n)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
