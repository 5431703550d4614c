"""The quickstart: GRPO or PPO without and with the entropy-shaped advantage, side by side, compared by Pass@K.

Both arms start from the embedded base model with the same seeds, data and settings; only alpha differs.
"""

from __future__ import annotations

from forkwise.constants import check_alpha, check_kappa
from forkwise.errors import InputError
from forkwise.lab.spec import ALPHA, Experiment, TrainingArm


def quickstart(
    algorithm: str = "grpo",
    *,
    alpha: float | None = None,
    kappa: float = 2.0,
    seeds: int = 1,
    steps: int = 70,
    problems: int = 64,
    samples: int = 256,
) -> Experiment:
    """Sets up the experiment of `forkwise quickstart`.

    Args:
        algorithm: `grpo` or `ppo`.
        alpha: the shaped arm's alpha; None is the paper's value for the algorithm.
        kappa: the shaped arm's kappa.
        seeds, steps, problems, samples: as in `Experiment`.

    Raises:
        InputError: no such algorithm, an alpha that is not above 0, a kappa that is not above 1.
    """
    if algorithm not in ALPHA:
        raise InputError(f"There is no algorithm '{algorithm}': use {' or '.join(ALPHA)}.")
    alpha = ALPHA[algorithm] if alpha is None else alpha
    check_alpha(alpha, "alpha of the shaped arm", above_zero=True)
    check_kappa(kappa)
    name = algorithm.upper()
    return Experiment(
        arms=(
            TrainingArm(name, algorithm, {"alpha": 0.0, "kappa": kappa}),
            TrainingArm(f"{name} + entropy advantage", algorithm, {"alpha": alpha, "kappa": kappa}),
        ),
        seeds=seeds,
        steps=steps,
        problems=problems,
        samples=samples,
        title=f"quickstart, {name} without and with the entropy-shaped advantage",
    )
