"""How often the intervals of `forkwise credit` hold the truth, on policies that can be enumerated.

    python benchmarks/credit_calibration.py [--tables 200]

The policies are those of `forks_calibration.py`. A bank has groups of eight completions of problems that are solved now
and then, GRPO's advantages, and states by strata of entropy, whose true advantages are known but for an error (none
where the next token is sure). Printed is how often intervals of 95 % held the correlation with the true advantages over
all tokens, and what a method has more than GRPO; the truth is that of all tokens of all banks. Of 200 banks, a share is
within .03 of what it is in the long run.

Suffixes: K states, N tokens, S samples.
"""

from __future__ import annotations

import argparse

import numpy as np
from forks_policies import FAMILIES, POLICIES, Policies

from forkwise.credit.agreement import Jackknife, Truth, correlation, jackknife, moments
from forkwise.explore.contrast import FloatArray
from forkwise.forks.states import draw, strata

GROUP, ERROR = 8, 0.3


def methods(advantage_N: FloatArray, entropy_N: FloatArray) -> dict[str, FloatArray]:
    """Returns the advantages of GRPO, with the term of the entropy advantage, and times an entropy of at most 1."""
    return {
        "grpo": advantage_N,
        "entropy advantage": advantage_N + np.minimum(0.4 * entropy_N, np.abs(advantage_N) / 2),
        "A min(H, 1)": advantage_N * np.minimum(entropy_N, 1),
    }


def bank(
    policies: Policies, problems: int, states: int, seed: int
) -> tuple[dict[str, Jackknife], dict[str, FloatArray]]:
    """Makes a bank; returns the correlation of each method, and the sums over all of its tokens: the truth."""
    rng, length = np.random.default_rng([seed, states]), policies.family.length
    policy_Q = rng.choice(POLICIES, 3 * problems, replace=False)
    node_SN, _ = policies.texts(np.repeat(policy_Q, GROUP), rng)
    right = policies.value_NC[node_SN[:, -1], 0].reshape(-1, GROUP)
    kept = np.flatnonzero((right.min(axis=1) == 0) & (right.max(axis=1) == 1))[:problems]
    right, node_SN = right[kept], node_SN[(kept[:, None] * GROUP + np.arange(GROUP)).ravel()]
    group = (right - right.mean(axis=1, keepdims=True)) / (right.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    node_N, value = node_SN[:, :-1].ravel(), policies.value_NC[:, 0].clip(0, 1)
    true_N, entropy_N = value[node_SN[:, 1:].ravel()] - value[node_N], policies.entropy_N[node_N]
    problem_N = np.repeat(np.arange(kept.size), GROUP * length)
    of_methods = methods(np.repeat(group.ravel(), length), entropy_N)
    every = Truth(true_N, np.stack([true_N, true_N], axis=1), np.ones(true_N.size), problem_N, kept.size)
    drawn = draw(strata(entropy_N, np.zeros(true_N.size, dtype=np.int64))[0], entropy_N, problem_N, states, seed)
    node_K = node_N[drawn.index]
    open_K = value[node_K] * (1 - value[node_K]) * (1 - (policies.probs_NW[node_K] ** 2).sum(axis=1))
    spread_K = ERROR * np.sqrt(2 * open_K)
    half_K2 = true_N[drawn.index, None] + rng.normal(size=(drawn.index.size, 2)) * spread_K[:, None]
    known = Truth(half_K2.mean(axis=1), half_K2, 1 / drawn.chance, problem_N[drawn.index], kept.size)
    return (
        {name: jackknife(moments(x[drawn.index][None], known), correlation) for name, x in of_methods.items()},
        {name: moments(x[None], every).sum(axis=0) for name, x in of_methods.items()},
    )


def main() -> None:
    """Prints how often intervals held the truth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tables", type=int, default=200)
    options = parser.parse_args()
    print(f"{'intervals of 95 % that hold the truth':58s}    r  minus GRPO")
    for family, of_family in FAMILIES.items():
        policies = Policies(of_family, 0)
        for problems, states in ((30, 600), (60, 1500)):
            banks = [bank(policies, problems, states, seed) for seed in range(options.tables)]
            true = {name: float(correlation(np.sum([sums[name] for _, sums in banks], axis=0))) for name in banks[0][1]}
            for name, expected in true.items():
                beyond = expected - true["grpo"]
                held = np.mean([covers(jack[name], expected) for jack, _ in banks])
                more = np.mean([covers(jack[name] - jack["grpo"], beyond) for jack, _ in banks])
                row = f"{family}, {problems} problems, {states} states, {name}"
                print(f"{row:58s}{held:.3f}" + (f"{more:11.3f}" if name != "grpo" else ""))


def covers(jack: Jackknife, truth: float) -> bool:
    """Whether the interval exists and holds the truth."""
    interval = jack.estimate(0.95)
    return interval.low is not None and interval.high is not None and interval.low <= truth <= interval.high


if __name__ == "__main__":
    main()
