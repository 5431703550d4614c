"""The quickstart: GRPO or PPO without and with the entropy-shaped advantage, side by side, compared by Pass@K.

Both arms start from the embedded base model with the same seeds, data and settings; only alpha differs.
"""

from __future__ import annotations

from forkwise.constants import ALPHA, ALPHA_PPO, check_alpha, check_kappa
from forkwise.errors import InputError
from forkwise.lab.options import QuickstartOptions
from forkwise.study.reading import parse_study
from forkwise.study.recipes import problems_for
from forkwise.study.spec import Study

TASK = "countdown:4"

_ALPHA = {"grpo": ALPHA, "ppo": ALPHA_PPO}

_TRACES = 16  # samples per problem whose tokens, log-probabilities and entropies are kept
_BATCH = 256  # samples drawn at once


def quickstart(options: QuickstartOptions) -> Study:
    """Sets up the study of `forkwise quickstart`.

    Raises:
        InputError: no such algorithm, an alpha that is not above 0, a kappa that is not above 1.
    """
    algorithm, kappa = options.algorithm, options.kappa
    if algorithm not in _ALPHA:
        raise InputError(f"There is no algorithm '{algorithm}': use {' or '.join(_ALPHA)}.")
    alpha = _ALPHA[algorithm] if options.alpha is None else options.alpha
    check_alpha(alpha, "alpha of the shaped arm", above_zero=True)
    check_kappa(kappa)
    name = algorithm.upper()
    like = "quickstart" if algorithm == "grpo" else "quickstart-ppo"
    content = {
        "title": f"quickstart, {name} without and with the entropy-shaped advantage",
        "model": "embedded",
        "task": TASK,
        "problems": problems_for(like, options.steps),
        "recipe": {"like": like, "max_steps": options.steps},
        "algorithm": algorithm,
        "arms": {
            name: {"alpha": 0.0, "kappa": kappa},
            f"{name} + entropy advantage": {"alpha": alpha, "kappa": kappa},
        },
        "seeds": list(range(options.seeds)),
        "evaluation": {
            **{"problems": options.problems, "n": options.samples},
            **{"batch_size": min(_BATCH, options.samples), "traces": min(_TRACES, options.samples)},
        },
    }
    return parse_study(content, "quickstart")
