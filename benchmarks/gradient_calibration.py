"""How often the intervals of `forkwise credit --groups` hold the truth, on updates whose distribution is known.

    python benchmarks/gradient_calibration.py [--tables 500]

A table has 60, 120 or 480 problems with two groups of 16 completions. A group's update is a direction that all problems
share, one of its problem, and noise, times a size that differs by problem and is 0 in groups without contrast. GRPO's
and the methods' updates share noise with the reference, as they do in `forkwise credit`. The first method has less
noise, the second another direction. Printed is how often intervals of 95 % held the cosine with 256 completions, that
minus GRPO's, the direction, and the completions needed; the truth is by a million groups. Of 500 tables, a share is
within .02 of what it is in the long run.

Suffixes: F entries, M methods (GRPO, two others, the reference), Q problems.
"""

from __future__ import annotations

import argparse

import numpy as np

from forkwise.credit.agreement import Jackknife
from forkwise.credit.gradients import Products, needed, numbers
from forkwise.explore.contrast import FloatArray

ENTRIES, GROUPS, SIZE, COMPLETIONS = 40, 2, 16, 256
TURN = 0.3  # radians, by which the second method points elsewhere
KINDS = {"as on stories": (0.2, 0.98, 0.16), "as on Countdown": (1.2, 0.6, 0.25)}
"""How long the noise of an entry is (in lengths of the shared direction), how many groups have contrast, and how much
the logarithm of the size differs: squared updates of problems vary as much as on the tables of docs/credit.md."""


def updates(problems: int, groups: int, kind: str, rng: np.random.Generator) -> FloatArray:
    """Draws the updates of groups, `(Q, groups, M, F)`."""
    noise, contrast, spread = KINDS[kind]
    shared_MF = np.zeros((4, ENTRIES))
    shared_MF[:, 0] = 1.0
    shared_MF[2, :2] = np.cos(TURN), np.sin(TURN)
    own_QF = rng.standard_t(5, (problems, 1, 1, ENTRIES)) * 0.15
    common, further = (rng.standard_t(5, (problems, groups, 1, ENTRIES)) * noise for _ in range(2))
    each = rng.standard_t(5, (problems, groups, 4, ENTRIES)) * noise
    noise_M = np.array([0.8, 0.5, 0.7, 0.9])[:, None]
    size = rng.lognormal(0, spread, (problems, 1, 1, 1)) * (rng.random((problems, groups, 1, 1)) < contrast)
    of_groups: FloatArray = size * (shared_MF + own_QF + noise_M * (0.8 * common + 0.2 * further) + 0.1 * each)
    return of_groups


def inner_products(u: FloatArray) -> Products:
    """Computes the products of updates `(Q, groups, M, F)`, by definition."""
    mean = u.mean(axis=1)
    total = mean.sum(axis=0)
    square = np.einsum("qgmf,qgnf->qmn", u, u) / u.shape[1]
    own, with_sum = np.einsum("qmf,qnf->qmn", mean, mean), np.einsum("qmf,nf->qmn", mean, total)
    return Products(square, own, with_sum, total @ total.T, 3, SIZE)


def truth(kind: str) -> dict[str, FloatArray]:
    """Computes the numbers of GRPO and the two methods from a million groups."""
    mean_MF, square_M, drawn = np.zeros((4, ENTRIES)), np.zeros(4), 0
    for seed in range(100):
        u = updates(10_000, 1, kind, np.random.default_rng([7, seed]))[:, 0]
        mean_MF += u.sum(axis=0)
        square_M += (u**2).sum(axis=(0, 2))
        drawn += len(u)
    mean_MF /= drawn
    length_M = np.linalg.norm(mean_MF, axis=1)
    direction = mean_MF @ mean_MF[3] / (length_M * length_M[3])
    noise_M = SIZE * (square_M / drawn - length_M**2)
    cosine = direction * length_M / np.sqrt(length_M**2 + noise_M / COMPLETIONS)
    # the n with direction * length / sqrt(length^2 + noise / n) = GRPO's cosine
    room = (direction * length_M / cosine[0]) ** 2 - length_M**2
    ratio = np.log(noise_M / room / COMPLETIONS)
    return {"cosine": cosine[:3], "direction": direction[:3], "needed": ratio[:3]}


def covers(jack: Jackknife, value: float) -> float:
    """Whether the interval holds a value: 1, 0, or NaN where there is none."""
    interval = jack.estimate(0.95)
    if interval.low is None or interval.high is None:
        return np.nan
    return float(interval.low <= value <= interval.high)


def main() -> None:
    """Prints how often intervals held the truth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tables", type=int, default=500)
    tables = parser.parse_args().tables
    print(f"{'intervals of 95 % that hold the truth':46s}cosine  minus GRPO  direction  needed  no interval")
    for name in KINDS:
        true = truth(name)
        for problems in (60, 120, 480):
            held = np.empty((tables, 3, 4))
            for seed in range(tables):
                of = inner_products(updates(problems, GROUPS, name, np.random.default_rng([1, problems, seed])))
                of_methods = [numbers(of, m, COMPLETIONS) for m in range(3)]
                for m, one in enumerate(of_methods):
                    held[seed, m] = [
                        covers(one.cosine, true["cosine"][m]),
                        covers(one.cosine - of_methods[0].cosine, true["cosine"][m] - true["cosine"][0]),
                        covers(one.direction, true["direction"][m]),
                        covers(needed(of, m, 0, COMPLETIONS), true["needed"][m]),
                    ]
            for m, method in enumerate(("GRPO", "less noise", "other direction")):
                cosine, more, direction, completions = np.nanmean(held[:, m], axis=0)
                row = f"{name}, {problems} problems, {method} ({true['cosine'][m]:.2f})"
                beside = (
                    f"{more:12.3f}{direction:11.3f}{completions:8.3f}" if m else f"{'':12s}{direction:11.3f}{'':8s}"
                )
                print(f"{row:46s}{cosine:6.3f}{beside}{np.isnan(held[:, m, 0]).mean():9.3f}")


if __name__ == "__main__":
    main()
