"""How many continuations of a state tell most of true advantages for a given number of continuations in all.

A correlation with true advantages is `C / sqrt(X S)`: C the sum of w x a over states, with x a method's advantage, and
S that of w times the product of two halves' estimates of a. With n continuations each, and so many fewer states, the
squared relative error of C is in proportion to `n (E w^2 x^2 A^2 + (m / n) E w^2 x^2 e^2) / (E w x A)^2`, and that of S
to `n (E w^2 A^4 + 4 (m / n) E w^2 A^2 e^2 + 4 (m / n)^2 E w^2 e^4) / (E w A^2)^2`; A the true advantage, e^2 the
variance of its estimate from the m continuations of the bank at hand. The correlation's is that of C plus a quarter of
that of S (the delta method, without their covariance). `A^2` is estimated by products of halves, and A^4 by their
squares without the error's part.

    python benchmarks/credit_allocation.py BANK ...        # without any: the package's own
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from forkwise.credit.arms import advantages
from forkwise.credit.bank import SHIPPED, Bank, read_bank
from forkwise.methods import parse_method

NUMBERS = (8, 12, 16, 24, 32, 48, 64, 96)


def relative_errors(bank: Bank, *, sized: bool = True) -> dict[int, float]:
    """Computes the correlation's relative error by n, for 16,000 continuations in all.

    Args:
        sized: tokens count by the size of their score.
    """
    given = int(bank.about["continuations"])
    x_K = advantages(bank.groups, parse_method("grpo"))[bank.at_K]
    weight_K = 1 / bank.chance_K
    if sized:
        weight_K = weight_K * bank.groups.score_N[bank.at_K]
    square_K, noise_K = bank.half_K2.prod(axis=1), bank.error_K**2
    c, s = float((weight_K * x_K * bank.advantage_K).mean()), float((weight_K * square_K).mean())

    def mean(values_K: np.ndarray) -> float:
        return float((weight_K**2 * values_K).mean())

    signal_c, noise_c = mean(x_K**2 * square_K), mean(x_K**2 * noise_K)
    mixed = max(mean(square_K * noise_K), 0.0)
    fourth = max(mean(square_K**2) - 4 * mixed - 4 * mean(noise_K**2), 0.0)
    errors = {}
    for n in NUMBERS:
        ratio = given / n
        of_c = (max(signal_c, 0.0) + ratio * noise_c) / c**2
        of_s = (fourth + 4 * ratio * mixed + 4 * ratio**2 * mean(noise_K**2)) / s**2
        errors[n] = float(np.sqrt(n / 16_000 * (of_c + of_s / 4)))
    return errors


def main() -> None:
    """Prints a row for each bank."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("banks", type=Path, nargs="*")
    print("relative error of GRPO's correlation, 16,000 continuations, by continuations of a state")
    print(f"{'bank':24}" + "".join(f"{n:8}" for n in NUMBERS))
    for path in parser.parse_args().banks or sorted(SHIPPED.glob("*.parquet")):
        bank = read_bank(path)
        print(f"{bank.name:24}" + "".join(f"{e:8.2f}" for e in relative_errors(bank).values()))


if __name__ == "__main__":
    main()
