"""What is drawn and how: the recipe of a samples folder, from what the user gave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkwise.errors import InputError
from forkwise.sampling.options import SamplingOptions
from forkwise.tasks import Split, Task, load_task


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        temperature: divides the logits; 0 always takes the likeliest token.
        top_p: keeps the smallest set of likeliest tokens that holds this probability; 1 keeps all.
        max_tokens: longest completion, in tokens.
        batch_size: completions of one problem per block, and with the transformers engine generated side by side. Float
            rounding depends on it, so it belongs to the recipe.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature}: it must be 0 (greedy) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p is {self.top_p}: it must be more than 0 and at most 1.")
        for name in ("max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} is {getattr(self, name)}: it must be at least 1.")


@dataclass(frozen=True)
class Job:
    """What a samples folder holds; recorded in its `sampling.json` and compared before anything is added.

    Attributes:
        run: the name of the run, the first key of the samples table.
        model: the model, as the user named it.
        task: the name of the task, or None with `dataset`.
        dataset: a file or Hub id, instead of a task.
        split: the split of the task that the problems are from.
        n: completions per problem.
        seed: the run's seed.
        sampling: how the completions are drawn.
        engine: the name of the engine that draws.
        verify: whether completions are verified as they arrive.
        first_problem: how many problems of the split are left out before those that are sampled.
    """

    run: str
    model: str
    task: str | None
    n: int
    seed: int
    sampling: Sampling
    dataset: str | None = None
    split: Split = "test"
    engine: str = "transformers"
    verify: bool = True
    first_problem: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"n is {self.n}: ask for at least one completion per problem.")


def plan(options: SamplingOptions) -> Job:
    """Settles a job from what the user gave; options left out come from the preset, or from the defaults.

    Without a preset: 16 completions, temperature 1, the whole distribution, up to 1,024 tokens. The run is named after
    the model.

    Raises:
        InputError: there is no such preset, the preset says nothing of this task, or a value is out of range.
    """
    from forkwise.sampling.extra import parse_extra
    from forkwise.tasks.benchmarks import SamplingPreset, sampling_preset

    parse_extra(options.extra)  # refused now, and not when the engine is made
    settled = SamplingPreset(n=16, temperature=1.0, top_p=1.0, max_tokens=1024)
    if options.preset is not None:
        settled = sampling_preset(options.preset, options.task or str(options.dataset))

    def chosen(name: str) -> Any:
        return getattr(settled if getattr(options, name) is None else options, name)

    return Job(
        run=options.run or Path(options.model).name or options.model,
        model=options.model,
        task=options.task,
        dataset=options.dataset,
        split=options.split,
        n=chosen("n"),
        seed=options.seed,
        sampling=Sampling(
            temperature=chosen("temperature"),
            top_p=chosen("top_p"),
            max_tokens=chosen("max_tokens"),
            batch_size=options.batch_size,
        ),
        engine=options.engine if options.server is None else "server",
        verify=options.verify,
        first_problem=options.first_problem,
    )


def open_task(task: str | None, dataset: str | None, verifier: Any = None) -> Task:
    """Opens the task of that name, or a whole dataset (file or Hub id) as a task.

    Raises:
        InputError: both or neither is given, or the one given cannot be found.
    """
    if (task is None) == (dataset is None):
        raise InputError("Give either --task or --dataset.")
    if task is not None:
        return load_task(task, verifier=verifier)
    from forkwise.tasks.dataset import DatasetTask

    return DatasetTask(str(dataset), test_fraction=1.0, math_verifier=verifier)
