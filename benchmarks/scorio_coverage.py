"""Coverage of scorio's interval for Pass@K of one model on the very problems: with the uniform prior, and a fitted one.

    python benchmarks/scorio_coverage.py [--sets 300]

Populations as in docs/statistics.md: AIME-like, 40 % of the problems never solved, 45 % hard, 15 % easy; 64 samples.
"""

from __future__ import annotations

import argparse

import numpy as np
from scorio import eval as evaluation

from forkwise.passk.bayesian import fit_prior

KS, N = (1, 8, 64), 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=300, help="data sets of each size")
    sets = parser.parse_args().sets
    rng = np.random.default_rng(0)
    print("problems | prior | coverage at K = 1, 8, 64")
    for problems in (30, 100):
        hits = {"uniform": np.zeros(len(KS)), "fitted": np.zeros(len(KS))}
        for _ in range(sets):
            kind = rng.random(problems)
            hard, easy = rng.beta(0.6, 6, problems), rng.beta(6, 2, problems)
            rate_Q = np.where(kind < 0.4, 0.0, np.where(kind < 0.85, hard, easy))
            c_Q = rng.binomial(N, rate_Q)
            outcomes_QN = (np.arange(N) < c_Q[:, None]).astype(int)
            for name, (a, b) in (("uniform", (1.0, 1.0)), ("fitted", fit_prior(N, c_Q))):
                for i, k in enumerate(KS):
                    _, _, low, high = evaluation.pass_at_k_ci(outcomes_QN, k, alpha0=a, beta0=b)
                    hits[name][i] += low <= (1 - (1 - rate_Q) ** k).mean() <= high
        for name, hit in hits.items():
            print(f"{problems} | {name} | {' '.join(f'{share:.3f}' for share in hit / sets)}")


if __name__ == "__main__":
    main()
