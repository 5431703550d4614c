"""What length matching finds between training runs of one arm, where there is nothing to find.

    python benchmarks/length_matching.py runs/central-grpo/samples/grpo-seed*

Every run against every other. One way: K samples of the one at the lengths of K of the other's, minus the other. Both
ways: as `forkwise compare` does. Means over pairs of runs and problems, with the standard error over problems.
"""

from __future__ import annotations

import argparse
from itertools import permutations

import numpy as np

from forkwise.passk import load_arm, pass_at_k
from forkwise.passk.length import match_curves, match_lengths


def main() -> None:
    """Prints one row per K."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="samples tables, one per run of the arm")
    parser.add_argument("--k", default="1,8,32")
    arguments = parser.parse_args()
    ks = [int(k) for k in arguments.k.split(",")]
    arm = load_arm(arguments.runs, name="arm")
    length, groups = arm.lengths(), arm.groups()
    one_way = np.full((len(arm.problems), len(groups), len(groups), len(ks)), np.nan)
    for (s, own), (t, other) in permutations(enumerate(groups), 2):
        for q, (here, there) in enumerate(zip(own, other, strict=True)):
            match = match_lengths(length[here], arm.correct_N[here], length[there], ks)
            if match is not None:
                right = int(arm.correct_N[there].sum())
                one_way[q, s, t] = match.pass_at_k - pass_at_k(len(there), [right], ks)[0]
    ours, theirs, _ = match_curves(arm, arm, ks)
    print(f"{len(groups)} runs, {len(arm.problems)} problems\n{'K':>4}  {'one way':>16}  both ways")
    for i, k in enumerate(ks):
        pairs = one_way[..., i].reshape(len(arm.problems), -1)
        use = np.isfinite(pairs).any(axis=1)
        mean = np.nanmean(pairs[use], axis=1)
        error = mean.std(ddof=1) / np.sqrt(mean.size)
        print(f"{k:>4}  {mean.mean():+.4f} +- {error:.4f}  {np.nanmean(ours[..., i] - theirs[..., i]):+.4f}")


if __name__ == "__main__":
    main()
