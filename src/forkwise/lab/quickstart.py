"""The quickstart: GRPO or PPO without and with the entropy-shaped advantage, side by side, compared by Pass@K.

Both arms start from the embedded base model with the same seed, data and settings; only alpha differs. Each arm is an
ordinary `forkwise grpo` or `forkwise ppo` run in its own single-threaded process. Every stage leaves whole files
behind, so that an interrupted run continues where it stopped.
"""

from __future__ import annotations

import csv
import io
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.lab.base_model import MAX_NEW_TOKENS
from forkwise.passk import (
    Interval,
    bootstrap_interval,
    counts,
    k_grid,
    pass_at_k,
    sign_flip_p_values,
    student_interval,
)
from forkwise.report import Curve, passk_figure, training_figure, write_page
from forkwise.samples import read_samples, write_shard
from forkwise.samples.generate import Sampling, sample_problem
from forkwise.tasks import Problem, load_task
from forkwise.training.folder import COMPLETE, check_folder, create_folder, read_metrics, write_text

TASK = "countdown:4"


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
    "use_cpu": True,
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


# What PPO has besides; everything else is the recipe above.
PPO_RECIPE: dict[str, Any] = {
    "critic_learning_rate": 1e-3,
    "critic_lr_scheduler_type": "constant",
    "critic_warmup_steps": 10,
}
ALPHA = {"grpo": 0.4, "ppo": 0.1}
"""The paper's, by algorithm."""


@dataclass(frozen=True)
class Settings:
    """What a quickstart compares; two runs with the same settings do the same."""

    steps: int = 70
    seeds: int = 1
    alpha: float = 0.4
    kappa: float = 2.0
    problems: int = 64
    samples: int = 256
    algorithm: str = "grpo"

    def __post_init__(self) -> None:
        if self.algorithm not in ALPHA:
            raise InputError(f"There is no algorithm '{self.algorithm}': use {' or '.join(ALPHA)}.")
        if not 0 < self.alpha < math.inf:
            raise InputError(
                f"alpha is {self.alpha}: the shaped arm needs alpha > 0 (the paper's {self.algorithm.upper()} value is "
                f"{ALPHA[self.algorithm]})."
            )
        if not 1 < self.kappa < math.inf:
            raise InputError(f"kappa is {self.kappa}: it must exceed 1, or the bonus could flip an advantage's sign.")

    def arms(self) -> dict[str, float]:
        """Arm name -> alpha. The first is the baseline that the others are compared with."""
        name = self.algorithm.upper()
        return {name: 0.0, f"{name} + entropy advantage": self.alpha}


def _slug(arm: str) -> str:
    return arm.lower().replace(" + ", "-").replace(" ", "-")


class _Out:
    """Where things lie in the output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = folder / "settings.json"
        self.samples = folder / "samples"

    def run(self, arm: str, seed: int) -> Path:
        return self.folder / "arms" / f"{_slug(arm)}-seed{seed}"


# ---------------------------------------------------------------------------------------------------------- training


def _train_problems(steps: int) -> int:
    """Enough problems that none is met twice."""
    completions = RECIPE["per_device_train_batch_size"] * RECIPE["gradient_accumulation_steps"]
    return max(1, steps * int(completions) // int(RECIPE["num_generations"]))


def _launch(out: _Out, arm: str, alpha: float, seed: int, settings: Settings) -> subprocess.Popen[bytes]:
    folder = out.run(arm, seed)
    config = {
        **RECIPE,
        **(PPO_RECIPE if settings.algorithm == "ppo" else {}),
        "output_dir": str(folder),
        "max_steps": settings.steps,
        "alpha": alpha,
        "kappa": settings.kappa,
        "seed": seed,
        "resume": True,
        "train_problems": _train_problems(settings.steps),
    }
    file = folder.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "forkwise", settings.algorithm, "--config", str(file)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **quiet},
            start_new_session=True,  # Ctrl-C reaches us alone; we end the arms ourselves
        )


def _finished(folder: Path) -> bool:
    return (folder / COMPLETE).exists()


def _progress_table(out: _Out, runs: Sequence[tuple[str, int]], steps: int) -> Table:
    table = Table(title="Training (mean of the last 5 steps)")
    for column in ("arm", "seed", "step", "reward", "entropy (nats)", "length", "at the cap"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, seed in runs:
        rows = read_metrics(out.run(arm, seed))
        last = rows[-5:]

        def mean(key: str, digits: int, last: list[dict[str, Any]] = last) -> str:
            values = [row[key] for row in last if key in row]
            return f"{np.mean(values):.{digits}f}" if values else "-"

        table.add_row(
            arm,
            str(seed),
            f"{rows[-1]['step'] if rows else 0}/{steps}",
            mean("reward", 3),
            mean("entropy", 3),
            mean("completions/mean_length", 0),
            mean("shaping/capped_frac", 3),
        )
    return table


def _train(out: _Out, settings: Settings, jobs: int, console: Console) -> None:
    runs = [(arm, seed) for seed in range(settings.seeds) for arm in settings.arms()]
    waiting = [run for run in runs if not _finished(out.run(*run))]
    running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
    last_said = 0.0
    try:
        with Live(console=console, refresh_per_second=1, transient=True) as live:
            while waiting or running:
                while waiting and len(running) < jobs:
                    arm, seed = waiting.pop(0)
                    running[arm, seed] = _launch(out, arm, settings.arms()[arm], seed, settings)
                time.sleep(0.5)
                if console.is_terminal:
                    live.update(_progress_table(out, runs, settings.steps))
                elif time.monotonic() - last_said > 30:
                    last_said = time.monotonic()
                    done = {f"{arm}/{seed}": len(read_metrics(out.run(arm, seed))) for arm, seed in runs}
                    console.print(f"training: steps logged {done} of {settings.steps}")
                for run, process in list(running.items()):
                    if process.poll() is not None:
                        del running[run]
                        if process.returncode != 0 or not _finished(out.run(*run)):
                            log = out.run(*run).with_suffix(".log")
                            lines = log.read_text(errors="replace").strip().splitlines()
                            raise InputError(
                                f"The arm '{run[0]}' (seed {run[1]}) stopped with exit code {process.returncode}: "
                                f"{lines[-1] if lines else 'no output'} (whole log: {log})"
                            )
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
    console.print(_progress_table(out, runs, settings.steps))


# ---------------------------------------------------------------------------------------------------------- sampling


@lru_cache(maxsize=1)
def _load(model: str) -> tuple[Any, Any]:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    policy = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    return policy.eval(), transformers.AutoTokenizer.from_pretrained(model)


def _sample_shard(model: str, run: str, problem: Problem, n: int, seed: int, folder: Path, name: str) -> None:
    policy, tokenizer = _load(model)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=MAX_NEW_TOKENS, batch_size=n)
    rows = sample_problem(policy, tokenizer, problem, load_task(TASK), n, run=run, seed=seed, sampling=sampling)
    write_shard(folder, name, [{**row, "model": Path(model).name} for row in rows])


@contextmanager
def _worker_environment() -> Iterator[None]:
    """Worker processes inherit one thread each, and no attempt to reach a hub."""
    wanted = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


def _sample(out: _Out, settings: Settings, jobs: int, console: Console) -> None:
    problems = load_task(TASK).problems("test", settings.problems)
    models = {"base": str(EMBEDDED_MODEL)}
    for seed in range(settings.seeds):
        models |= {out.run(arm, seed).name: str(out.run(arm, seed)) for arm in settings.arms()}
    work = []
    for run, model in models.items():
        for i, problem in enumerate(problems):
            name = f"{i:04d}"
            if not (out.samples / run / f"{name}.parquet").exists():
                # One sampling seed for all arms: common random numbers cost nothing and pair the draws.
                work.append((model, run, problem, settings.samples, 0, out.samples / run, name))
    if not work:
        return
    columns = (
        TextColumn("sampling {task.fields[per]} completions per problem"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    with _worker_environment(), Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("sampling", total=len(work), per=settings.samples)
        try:
            for future in as_completed([pool.submit(_sample_shard, *item) for item in work]):
                future.result()
                progress.advance(bar)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


# ---------------------------------------------------------------------------------------------------------- analysis


@dataclass(frozen=True)
class Results:
    """What the quickstart found. Curves average the seeds of an arm per problem; intervals resample problems."""

    ks: list[int]
    arms: dict[str, Interval]
    difference: Interval
    adjusted_p: list[float]
    mean_tokens: dict[str, float]
    seeds: int
    problems: int
    algorithm: str = "GRPO"

    def verdict(self) -> str:
        """One sentence that says what the paired difference is and whether it is evidence of anything."""
        first, last = 0, len(self.ks) - 1
        d = self.difference

        def at(i: int) -> str:
            return f"Pass@{self.ks[i]} {d.mean[i]:+.3f} [{d.low[i]:+.3f}, {d.high[i]:+.3f}]"

        found = [k for k, p in zip(self.ks, self.adjusted_p, strict=True) if p < 0.05]
        if found:
            wins = {bool(d.mean[self.ks.index(k)] > 0) for k in found}
            direction = "better" if wins == {True} else "worse" if wins == {False} else "different"
            meaning = (
                f"on these problems the entropy advantage is {direction} at K = {', '.join(map(str, found))} "
                "(max-T adjusted p < 0.05)"
            )
        else:
            meaning = (
                f"no K reaches an adjusted p below 0.05 (smallest {min(self.adjusted_p):.2f}), so this run is no "
                "evidence of a difference either way"
            )
        runs = "one training seed per arm" if self.seeds == 1 else f"{self.seeds} training seeds per arm, averaged"
        caveat = "; the interval covers the choice of problems, not of training seeds"
        return (
            f"{self.algorithm} + entropy advantage minus {self.algorithm}: {at(first)}, {at(last)} (paired over "
            f"{self.problems} problems, 95 % intervals, {runs}): {meaning}{caveat}."
        )


def analyse(out: Path, settings: Settings) -> Results:
    """Pass@K of base and arms from the stored samples, the paired difference, and its adjusted p-values."""
    place = _Out(out)
    ks = k_grid(settings.samples)
    runs = {"base": ["base"]} | {
        arm: [place.run(arm, seed).name for seed in range(settings.seeds)] for arm in settings.arms()
    }
    curves: dict[str, np.ndarray] = {}
    tokens: dict[str, float] = {}
    order: list[Any] | None = None
    for arm, names in runs.items():
        per_seed = []
        lengths = []
        for name in names:
            table = read_samples(place.samples / name, ["problem_id", "correct", "n_tokens"])
            ids, n_and_c = counts(table["problem_id"].to_pylist(), table["correct"].to_pylist())
            order = order or ids
            if ids != order:
                raise InputError(f"The samples of '{name}' are of other problems; start again in an empty folder.")
            per_seed.append(pass_at_k(n_and_c[:, 0], n_and_c[:, 1], ks))
            lengths.append(float(np.mean(table["n_tokens"].to_numpy())))
        curves[arm] = np.mean(per_seed, axis=0)
        tokens[arm] = float(np.mean(lengths))
    baseline, shaped = settings.arms()
    _, adjusted = sign_flip_p_values(curves[shaped] - curves[baseline])
    return Results(
        ks=ks,
        arms={arm: bootstrap_interval(curve) for arm, curve in curves.items()},
        difference=student_interval(curves[shaped] - curves[baseline]),
        adjusted_p=[float(p) for p in adjusted],
        mean_tokens=tokens,
        seeds=settings.seeds,
        problems=len(order or []),
        algorithm=settings.algorithm.upper(),
    )


def _cells(results: Results, wanted: tuple[int, ...] = (1, 4, 16, 64)) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table, at the wanted k and the largest one."""
    shown = [i for i, k in enumerate(results.ks) if k in wanted or i == len(results.ks) - 1]
    header = ["", *(f"Pass@{results.ks[i]}" for i in shown), "tokens"]

    def row(name: str, interval: Interval, sign: str, last: str) -> list[str]:
        cells = [
            f"{interval.mean[i]:{sign}.3f} [{interval.low[i]:{sign}.3f}, {interval.high[i]:{sign}.3f}]" for i in shown
        ]
        return [name, *cells, last]

    rows = [row(arm, interval, "", f"{results.mean_tokens[arm]:.1f}") for arm, interval in results.arms.items()]
    _, plain, shaped = results.mean_tokens.values()
    rows.append(row("difference (paired)", results.difference, "+", f"{shaped - plain:+.1f}"))
    rows.append(["adjusted p", *(f"{results.adjusted_p[i]:.3f}" for i in shown), ""])
    return header, rows


def _traces(out: _Out, settings: Settings) -> dict[str, str]:
    """One completion per model of the same problem: the first sample, right or wrong."""
    texts = {}
    for name in ("base", *(out.run(arm, 0).name for arm in settings.arms())):
        row = read_samples(out.samples / name / "0000.parquet").slice(0, 1).to_pylist()[0]
        texts[f"A sample of {name} ({'correct' if row['correct'] else 'wrong'})"] = (
            f"{row['prompt']}\n{row['completion']}"
        )
    return texts


def _result_table(header: list[str], rows: list[list[str]]) -> Table:
    table = Table(title="Pass@K on held-out problems, mean [95 % interval over problems]")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=bool(i))
    for cells in rows:
        table.add_row(*cells)
    return table


def _write(out: _Out, settings: Settings, results: Results, seconds: float, console: Console) -> None:
    header, rows = _cells(results)
    wide = Console(width=160, record=True, file=io.StringIO())
    wide.print(_result_table(header, rows))
    wide.print(results.verdict(), soft_wrap=True)
    (out.folder / "summary.txt").write_text(wide.export_text(), encoding="utf-8")

    caption = (
        f"{results.problems} held-out {TASK} problems x {settings.samples} samples, T = 1; "
        f"bands: 95 % BCa over problems; {settings.steps} steps, {settings.seeds} seed(s)"
    )
    label = f"entropy advantage (alpha {settings.alpha:g}, kappa {settings.kappa:g}) minus plain {results.algorithm}"
    arms = {name: Curve(results.ks, interval) for name, interval in results.arms.items()}
    passk = passk_figure(arms, Curve(results.ks, results.difference), label, caption)
    training = training_figure(
        {arm: [read_metrics(out.run(arm, seed)) for seed in range(settings.seeds)] for arm in settings.arms()}
    )
    passk.savefig(out.folder / "passk.png", dpi=130, bbox_inches="tight")
    training.savefig(out.folder / "training.png", dpi=130)
    write_page(
        out.folder / "report.html",
        title=f"forkwise quickstart: {results.algorithm} without and with the entropy-shaped advantage",
        verdict=results.verdict(),
        header=header,
        rows=[[cell.replace(" [", "\n[") for cell in row] for row in rows],
        figures={"Pass@K": passk, "Training": training},
        texts=_traces(out, settings),
        footer=f"Settings: {json.dumps(asdict(settings))}. Recipe of both arms: arms/*.yaml beside this file.",
    )
    with (out.folder / "passk.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "k", "mean", "low", "high", "adjusted_p"])
        for arm, interval in {**results.arms, "difference": results.difference}.items():
            for i, k in enumerate(results.ks):
                p = results.adjusted_p[i] if arm == "difference" else ""
                writer.writerow([arm, k, interval.mean[i], interval.low[i], interval.high[i], p])
    (out.folder / "results.json").write_text(
        json.dumps(
            {"settings": asdict(settings), "seconds": round(seconds, 1), "verdict": results.verdict()}, indent=1
        ),
        encoding="utf-8",
    )
    console.print(_result_table(*(_cells(results) if console.width >= 140 else _cells(results, (1,)))))
    console.print(results.verdict(), soft_wrap=True)
    console.print(f"\nReport: {out.folder / 'report.html'}   ({seconds:.0f} s)", soft_wrap=True)


def run(folder: Path, settings: Settings, *, jobs: int, resume: bool, console: Console | None = None) -> Results:
    """Trains both arms, samples base and arms on held-out problems, and writes the comparison into `folder`.

    Raises:
        InputError: the folder is in use (without `resume`) or holds a quickstart with other settings, or an arm failed.
    """
    console = console or Console()
    start = time.monotonic()
    out = _Out(folder)
    check_folder(folder, resume=resume, mark=out.settings.name, flag="--out")
    # Refuse now, not after the training, what the task cannot give.
    task = load_task(TASK)
    task.problems("test", settings.problems)
    task.problems("train", _train_problems(settings.steps))
    create_folder(folder)
    wanted = json.loads(json.dumps(asdict(settings)))
    if out.settings.exists():
        found = json.loads(out.settings.read_text(encoding="utf-8"))
        if found != wanted:
            changed = ", ".join(f"{k} {found.get(k)} -> {v}" for k, v in wanted.items() if found.get(k) != v)
            raise InputError(f"'{folder}' holds a quickstart with other settings ({changed}): give another --out.")
    else:
        write_text(out.settings, json.dumps(wanted, indent=1))
    _train(out, settings, jobs, console)
    _sample(out, settings, jobs, console)
    results = analyse(folder, settings)
    _write(out, settings, results, time.monotonic() - start, console)
    return results
