"""What a study is: model, problems, recipe, arms, seeds, evaluation, and what is claimed from it and when.

A study file is YAML with the fields of `Study`; docs/study.md explains them. Nothing here trains, samples or writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from forkwise.errors import InputError, nearest
from forkwise.folders import json_text
from forkwise.methods import parse_methods, settings_of
from forkwise.passk.design import FEWEST_PAIRS
from forkwise.passk.intervals import check_margin
from forkwise.reading import parse_json
from forkwise.study.yardstick import Yardstick
from forkwise.tasks.base import Split
from forkwise.terminal import counted

BASE = "base"
"""The name of the base model among the runs."""

_MOST = 10_000_000  # of anything that is counted

Algorithm = Literal["grpo", "ppo"]
Device = Literal["cpu", "cuda"]

# What the study says for all arms: neither the recipe nor an arm may.
_STUDYS = ("model", "task", "dataset", "seed", "train_problems", "first_problem", "use_cpu", "output_dir", "resume")
# Settings of the recipe that no arm can change: number of prompts, completions and updates are the same for all.
_EQUAL = frozenset(
    {
        *(*_STUDYS, "seeds", "data_seed", "max_steps", "num_train_epochs", "num_iterations", "num_generations"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation"),
        "generation_batch_size",
    }
)


@dataclass(frozen=True)
class TrainingArm:
    """A name, `grpo` or `ppo`, and the settings in which the arm differs from the recipe."""

    name: str
    algorithm: Algorithm
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.algorithm not in ("grpo", "ppo"):
            raise InputError(f"There is no algorithm '{self.algorithm}': use grpo or ppo.")
        if "seeds" in self.settings:
            raise InputError(
                f"The arm '{self.name}' has seeds of its own: seeds are paired, so all arms have the study's."
            )
        for name in self.settings:
            if name in _EQUAL:
                raise InputError(
                    f"The arm '{self.name}' sets {name}, which has to be the same in all arms: leave it out."
                )
        methods = self.settings.get("method", [])
        if not isinstance(methods, str) and not (
            isinstance(methods, list | tuple) and all(isinstance(method, str) for method in methods)
        ):
            raise InputError(
                f"method of the arm '{self.name}' must be a text, NAME[:key=value,...], or a list of them."
            )

    @property
    def slug(self) -> str:
        """Returns the arm's name in the form that folders take."""
        return "".join(c if c.isalnum() or c in ".+=" else "-" for c in self.name.lower().replace(" + ", "-"))

    def run(self, seed: int) -> str:
        """Returns the name of the run with this seed."""
        return f"{self.slug}-seed{seed}"


@dataclass(frozen=True)
class EvaluationPlan:
    """Which problems every trained model gets, and how its samples are drawn.

    Attributes:
        problems, first_problem, split: problems of the split, from the one in place `first_problem` on.
        n: samples per problem: the largest K.
        task, dataset: where the problems are from; those of the study's task if neither is given.
        max_tokens: longest completion; None is the recipe's `max_completion_length`.
        seed: of the draws. All runs have the same one: common random numbers pair them.
        traces: samples per problem whose tokens, log-probabilities and entropies are kept.
        base: whether the model before training is sampled too.
    """

    problems: int
    n: int
    first_problem: int = 0
    split: Split = "test"
    task: str | None = None
    dataset: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    engine: Literal["transformers", "vllm"] = "transformers"
    batch_size: int = 64
    seed: int = 0
    traces: int = 0
    base: bool = True


@dataclass(frozen=True)
class Primary:
    """The one comparison that the study is about: `arm` minus the first arm at `endpoint`.

    Attributes:
        arm: None is the second arm.
        endpoint: a K, or `curve`: the mean of Pass@K over K = 1, 2, 4, ... up to n.
        margin: differences within ±margin count as none.
        secondary: the same arms at these K, adjusted by Holm; they confirm nothing.
        gate: an arm, such as a placebo; the primary arm minus it is tested only if the primary difference is shown.
    """

    arm: str | None = None
    endpoint: int | Literal["curve"] = "curve"
    margin: float = 0.05
    level: float = 0.95
    secondary: list[int] = field(default_factory=list)
    gate: str | None = None


@dataclass(frozen=True)
class Futility:
    """A look ends the study where the chance to show a difference of `effect` at its end is below `power`."""

    effect: float
    power: float = 0.1


@dataclass(frozen=True)
class Stopping:
    """What ends a study at a look, besides a difference that is shown there.

    Attributes:
        equivalence: whether the interval of the primary difference within its margin does.
        futility: whether a hopeless difference does, and which.
    """

    equivalence: bool = False
    futility: Futility | None = None


@dataclass(frozen=True)
class Study:
    """The content of a study file; the first arm is the reference. Equal studies give equal runs.

    Attributes:
        model: hub id, folder, or `embedded`.
        task, dataset: what is trained on: one of them.
        first_problem, problems: range of the training problems, in the order that each seed gives; None is all.
        algorithm: `grpo` or `ppo`, of arms that do not say.
        engine: `trl`.
        processes: processes (and, on GPUs, GPUs) per run.
        recipe: any setting of `forkwise grpo` or `ppo`, the same for all arms; `like: NAME` starts from a named one.
        seeds: the seeds of every arm.
        yardstick: where every arm has one seed: further seeds of the first arm, which say how much its runs differ.
        looks: numbers of seeds at which the primary comparison is made before the end.
        contents: SHA-256 of the local files and folders that model and data sets name, which `study` commands find.
        pilot: whether the study only measures what its successor is planned from: no difference between arms is shown.
    """

    model: str
    arms: tuple[TrainingArm, ...]
    seeds: list[int]
    evaluation: EvaluationPlan
    recipe: dict[str, Any]
    task: str | None = None
    dataset: str | None = None
    first_problem: int = 0
    problems: int | None = None
    algorithm: Algorithm = "grpo"
    engine: Literal["trl"] = "trl"
    processes: int = 1
    primary: Primary | None = None
    yardstick: Yardstick | None = None
    looks: list[int] = field(default_factory=list)
    stopping: Stopping = field(default_factory=Stopping)
    pilot: bool = False
    contents: dict[str, str] = field(default_factory=dict)
    title: str = "study"

    def __post_init__(self) -> None:
        _check_arms(self.arms)
        _check_numbers(self)
        _check_problems(self)
        _check_claims(self)

    @property
    def steps(self) -> int:
        """Returns the optimizer steps of each training run."""
        return int(self.recipe["max_steps"])

    @property
    def stages(self) -> list[list[int]]:
        """Returns the seeds that run before each look, and those before the end."""
        cuts = [0, *self.looks, len(self.seeds)]
        return [self.seeds[start:end] for start, end in pairwise(cuts)]

    def runs(self) -> list[str]:
        """Returns the names of all runs, that of the model before training included."""
        return [BASE, *(arm.run(seed) for arm, seed in self.pairs(self.seeds))]

    def pairs(self, seeds: Sequence[int]) -> list[tuple[TrainingArm, int]]:
        """Returns the runs with these seeds, all arms of a seed together, after those of the yardstick."""
        further = self.yardstick.seeds if self.yardstick else []
        return [*((self.arms[0], seed) for seed in further), *((arm, seed) for seed in seeds for arm in self.arms)]

    def reference_runs(self) -> list[str]:
        """Returns the names of all runs of the first arm."""
        further = self.yardstick.seeds if self.yardstick else []
        return [self.arms[0].run(seed) for seed in (*self.seeds, *further)]

    def arm(self, name: str) -> TrainingArm:
        """Returns the arm of that name, or with that folder name."""
        known = {key: arm for arm in reversed(self.arms) for key in (arm.slug, arm.name)}
        if name not in known:
            names = [arm.name for arm in self.arms]
            raise InputError(f"The study has no arm '{name}': its arms are {', '.join(names)}.{nearest(name, names)}")
        return known[name]

    @property
    def tested(self) -> TrainingArm:
        """Returns the arm whose difference from the reference is the primary one."""
        name = self.primary.arm if self.primary else None
        return self.arms[1] if name is None else self.arm(name)

    def configuration(self, arm: TrainingArm, seed: int, folder: Path, device: Device = "cpu") -> dict[str, Any]:
        """Returns the settings of one training run, as they go to `forkwise grpo --config`.

        Where a method sets a field of TRL that the recipe sets too, the method wins. TRL's head computes entropies
        unless the recipe says otherwise: studies from before there was a choice find their numbers again.
        """
        named = arm.settings.get("method", [])
        methods = parse_methods([named] if isinstance(named, str) else named)
        source = {"task": self.task, "dataset": self.dataset, "train_problems": self.problems}
        if self.first_problem:
            source["first_problem"] = self.first_problem
        return {
            "model": self.model,
            **{key: value for key, value in source.items() if value is not None},
            "entropy_backend": "trl",
            **self.recipe,
            **settings_of(methods),
            **arm.settings,
            "use_cpu": device == "cpu",
            "seed": seed,
            "output_dir": str(folder),
            "resume": True,
        }

    def plain(self) -> dict[str, Any]:
        """Returns the study as a study file holds it, without what is left at its default."""
        content = _without_defaults(self)
        content["arms"] = {
            arm.name: {**({} if arm.algorithm == self.algorithm else {"algorithm": arm.algorithm}), **arm.settings}
            for arm in self.arms
        }
        plain: dict[str, Any] = parse_json(json_text(content))
        return plain

    def sha256(self) -> str:
        """Returns a hash that depends on what the study says, and not on its title or on how its file is laid out."""
        return hashlib.sha256(json.dumps(self.settings_by_name(), sort_keys=True).encode()).hexdigest()

    def settings_by_name(self) -> dict[str, Any]:
        """Returns every setting under a name such as `evaluation.n`: what makes two studies the same."""
        settings = {key: value for key, value in self.plain().items() if key != "title"}
        return {**_flat(settings), "order of arms": [arm.name for arm in self.arms]}  # the first is the reference


def _flat(settings: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{section}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _without_defaults(value: Any) -> dict[str, Any]:
    kept = {}
    for f in fields(value):
        setting = getattr(value, f.name)
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if setting != default or (f.default is MISSING and f.default_factory is MISSING):
            kept[f.name] = _without_defaults(setting) if is_dataclass(setting) else setting
    return kept


# -------------------------------------------------------------------------------------------------------------- checks


def _check_arms(arms: Sequence[TrainingArm]) -> None:
    names = [arm.slug for arm in arms]
    if len(names) < 2:
        raise InputError("A comparison needs at least two arms.")
    if len(set(names)) < len(names):
        raise InputError(f"Two arms have the same name ({', '.join(names)}): name them apart.")
    if BASE in names:
        raise InputError(f"An arm cannot be called '{BASE}', which is the model before training: name it otherwise.")


def _check_numbers(study: Study) -> None:
    if not study.seeds or len(set(study.seeds)) < len(study.seeds) or min(study.seeds) < 0:
        raise InputError("seeds must be different whole numbers from 0 on, such as 0-4 or [0, 1, 2, 3, 4].")
    least = {"first_problem": 0, "problems": 1, "processes": 1}
    numbers = {name: (getattr(study, name), low) for name, low in least.items() if getattr(study, name) is not None}
    e = study.evaluation
    numbers |= {"evaluation.problems": (e.problems, 2)}  # one problem says nothing about others
    numbers |= {f"evaluation.{name}": (getattr(e, name), 1) for name in ("n", "batch_size")}
    numbers |= {f"evaluation.{name}": (getattr(e, name), 0) for name in ("first_problem", "traces")}
    numbers |= {"recipe.max_steps": (study.recipe.get("max_steps"), 1)}
    for name, (value, low) in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= _MOST:
            raise InputError(f"{name} is {value}: it must be a whole number from {low} to {_MOST:,}.")
    for name in study.recipe:
        if name in _STUDYS:
            raise InputError(f"The recipe sets {name}, which the study says by itself: leave it out of the recipe.")


def _check_problems(study: Study) -> None:
    if (study.task is None) == (study.dataset is None):
        raise InputError("A study trains on either a task or a dataset: give one of them.")
    e = study.evaluation
    if e.task is not None and e.dataset is not None:
        raise InputError("evaluation has a task and a dataset: give one of them, or neither for the study's task.")
    if study.task is None and e.task is None and e.dataset is None:
        raise InputError(
            f"evaluation needs a task or a dataset of its own: every row of '{study.dataset}' may be trained on."
        )
    if e.dataset is not None and e.dataset == study.dataset:
        raise InputError(f"evaluation would be on '{e.dataset}', which is trained on: give other problems.")


def _check_claims(study: Study) -> None:
    primary, e = study.primary, study.evaluation
    if study.yardstick is not None:
        if primary is not None or study.pilot:
            raise InputError("A study with a yardstick tests nothing else, and is no pilot: leave one of them out.")
        study.yardstick.check(study.seeds, study.arms[0].name, e.n)
    if primary is None:
        for name, changed in (("looks", study.looks), ("stopping", study.stopping != Stopping())):
            if changed:
                raise InputError(
                    f"The study has {name} but no primary comparison: say what is tested, or leave it out."
                )
        return
    if study.pilot:
        raise InputError("A pilot tests nothing: leave primary out, or pilot.")
    if len(study.seeds) < FEWEST_PAIRS:
        raise InputError(
            f"With {counted(len(study.seeds), 'seed')} per arm no difference between methods can be claimed, since "
            f"pairs of seeds are tested from {FEWEST_PAIRS} on: give at least {FEWEST_PAIRS} seeds, or leave primary "
            "out, and everything is exploratory."
        )
    if study.tested == study.arms[0]:
        raise InputError(f"primary compares '{study.arms[0].name}' with itself: name another arm.")
    if primary.gate is not None and study.arm(primary.gate) in (study.tested, study.arms[0]):
        raise InputError(f"gate is '{primary.gate}', which the primary comparison has already: name another arm.")
    asked = [*([primary.endpoint] if isinstance(primary.endpoint, int) else []), *primary.secondary]
    for k in asked:
        if not 1 <= k <= e.n:
            raise InputError(
                f"K = {k} cannot be estimated from n = {e.n} samples per problem: raise n, or ask for less."
            )
    check_margin(primary.margin)
    if not 0.5 < primary.level < 1:
        raise InputError(f"level is {primary.level}: it must be above 0.5 and below 1.")
    if study.looks and (
        study.looks != sorted(set(study.looks)) or study.looks[0] < FEWEST_PAIRS or study.looks[-1] >= len(study.seeds)
    ):
        raise InputError(
            f"looks are {study.looks}: they are rising numbers of seeds, from {FEWEST_PAIRS} on and below "
            f"{len(study.seeds)}."
        )
    futility = study.stopping.futility
    if futility is not None and not (0 < abs(futility.effect) < 1 and 0 < futility.power < 1):
        raise InputError("futility needs an effect that is not 0, between -1 and 1, and a power between 0 and 1.")
