"""What an experiment is and what it finds: arms, settings, results. Nothing here trains, samples or writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from forkwise.errors import InputError
from forkwise.passk import Comparison, Evaluation
from forkwise.report.passk import conclusion
from forkwise.tasks.base import Split

BASE = "base"
"""The name of the base model among the runs."""

TASK = "countdown:4"

Device = Literal["cpu", "cuda"]

ALPHA = {"grpo": 0.4, "ppo": 0.1}
"""The paper's alpha, by algorithm."""

# Settings that no arm can change: start, problems, number of prompts and completions are the same for all.
_EQUAL = frozenset(
    {
        "model",
        "task",
        "seed",
        "data_seed",
        "max_steps",
        "num_train_epochs",
        "train_problems",
        "num_iterations",
        "num_generations",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "steps_per_generation",
        "generation_batch_size",
        "use_cpu",
        "output_dir",
        "resume",
    }
)


@dataclass(frozen=True)
class TrainingArm:
    """A name, `grpo` or `ppo`, and the settings in which the arm differs from the recipe."""

    name: str
    algorithm: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.algorithm, str) or self.algorithm not in ALPHA:
            raise InputError(f"There is no algorithm '{self.algorithm}': use {' or '.join(ALPHA)}.")
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
class Experiment:
    """The arms and problems of a comparison; the first arm is the reference. Equal settings give equal results."""

    arms: tuple[TrainingArm, ...]
    seeds: int = 1
    steps: int = 70
    problems: int = 64
    samples: int = 256
    split: Split = "test"
    traces: int = 16
    """Samples per problem whose tokens, log-probabilities and entropies are kept."""
    title: str = "experiment"
    device: Device = "cpu"

    def __post_init__(self) -> None:
        names = [arm.slug for arm in self.arms]
        if len(names) < 2:
            raise InputError("A comparison needs at least two arms.")
        if len(set(names)) < len(names):
            raise InputError(f"Two arms have the same name ({', '.join(names)}): name them apart.")
        for name, least in {"seeds": 1, "steps": 1, "problems": 1, "samples": 1, "traces": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} is {value}: it must be a whole number, at least {least}.")
        if self.split not in get_args(Split):
            raise InputError(f"split is '{self.split}': it must be one of {', '.join(get_args(Split))}.")
        if not isinstance(self.title, str):
            raise InputError(f"title is {self.title}: it must be text, in quotes if need be.")
        if self.device not in get_args(Device):
            raise InputError(f"device is '{self.device}': it must be {' or '.join(get_args(Device))}.")

    def runs(self) -> list[tuple[TrainingArm, int]]:
        """Pairs every arm with every seed."""
        return [(arm, seed) for arm in self.arms for seed in range(self.seeds)]


@dataclass(frozen=True)
class Results:
    """What an experiment found. The seeds of an arm are averaged per problem."""

    base: Evaluation
    comparison: Comparison
    seeds: int

    def evaluations(self) -> list[Evaluation]:
        """Returns the evaluations of the base model and of the arms."""
        return [self.base, *self.comparison.arms]

    def verdict(self) -> str:
        """Says what the paired differences are, and whether they are evidence of anything."""
        sentence = conclusion(self.evaluations(), self.comparison)
        if self.seeds > 1:
            return sentence
        return f"{sentence} Each arm was trained with one seed: other seeds may say otherwise."
