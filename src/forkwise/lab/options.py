"""What a user may choose about experiments on the embedded model; each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from forkwise.tasks import Split

_AT_LEAST_ONE, _AT_LEAST_TWO = {"min": 1}, {"min": 2}


@dataclass(frozen=True)
class QuickstartOptions:
    """The options of `forkwise quickstart`."""

    algorithm: Annotated[str, "grpo, or ppo with a critic."] = "grpo"
    steps: Annotated[int, "Training steps per arm.", _AT_LEAST_ONE] = 70
    seeds: Annotated[int, "Training seeds per arm (0, 1, ...).", _AT_LEAST_ONE] = 1
    alpha: Annotated[float | None, "Entropy coefficient of the shaped arm (default: the paper's 0.4; ppo: 0.1)."] = None
    kappa: Annotated[float, "Cap: the bonus is at most |advantage| / kappa (> 1)."] = 2.0
    problems: Annotated[int, "Held-out problems for Pass@K.", _AT_LEAST_TWO] = 64
    samples: Annotated[int, "Samples per held-out problem: the largest K.", _AT_LEAST_ONE] = 256


@dataclass(frozen=True)
class StudyOptions:
    """The options of `forkwise lab compare`; None keeps what the study says."""

    study: Annotated[str | None, "A YAML file, or the name of a study of ours."] = None
    methods: Annotated[list[str] | None, "Instead: NAME[:key=value,...][+NAME...] of one arm; repeatable."] = None
    algorithm: Annotated[str, "Of --methods: grpo or ppo."] = "grpo"
    only: Annotated[list[str] | None, "Only this arm, against the reference; repeatable."] = None
    seeds: Annotated[int | None, "Training seeds per arm.", _AT_LEAST_ONE] = None
    steps: Annotated[int | None, "Training steps per arm.", _AT_LEAST_ONE] = None
    problems: Annotated[int | None, "Held-out problems.", _AT_LEAST_TWO] = None
    samples: Annotated[int | None, "Samples per problem: the largest K.", _AT_LEAST_ONE] = None
    split: Annotated[Split | None, "Of the task (default test)."] = None
    device: Annotated[str, "cpu, cuda, or auto: the GPUs if there are any."] = "auto"
