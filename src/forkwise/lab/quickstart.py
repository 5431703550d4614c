"""The quickstart: GRPO or PPO without and with the entropy-shaped advantage, side by side, compared by Pass@K.

Both arms start from the embedded base model with the same seeds, data and settings; only alpha differs.
"""

from __future__ import annotations

from forkwise.constants import check_alpha, check_kappa
from forkwise.errors import InputError
from forkwise.lab.options import QuickstartOptions
from forkwise.lab.spec import ALPHA, Experiment, TrainingArm


def quickstart(options: QuickstartOptions) -> Experiment:
    """Sets up the experiment of `forkwise quickstart`.

    Raises:
        InputError: no such algorithm, an alpha that is not above 0, a kappa that is not above 1.
    """
    algorithm, kappa = options.algorithm, options.kappa
    if algorithm not in ALPHA:
        raise InputError(f"There is no algorithm '{algorithm}': use {' or '.join(ALPHA)}.")
    alpha = ALPHA[algorithm] if options.alpha is None else options.alpha
    check_alpha(alpha, "alpha of the shaped arm", above_zero=True)
    check_kappa(kappa)
    name = algorithm.upper()
    return Experiment(
        arms=(
            TrainingArm(name, algorithm, {"alpha": 0.0, "kappa": kappa}),
            TrainingArm(f"{name} + entropy advantage", algorithm, {"alpha": alpha, "kappa": kappa}),
        ),
        seeds=options.seeds,
        steps=options.steps,
        problems=options.problems,
        samples=options.samples,
        title=f"quickstart, {name} without and with the entropy-shaped advantage",
    )
