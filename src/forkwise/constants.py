"""The constants of the entropy-shaped advantage, and checks of ranges of numbers; both stand only here."""

from __future__ import annotations

import math

from forkwise.errors import InputError

ALPHA = 0.4
"""The weight of the entropy term with GRPO (arXiv 2506.14758)."""

ALPHA_PPO = 0.1
"""The weight of the entropy term with PPO."""

KAPPA = 2.0
"""The number that |A| is divided by to bound the entropy term."""

PAPER = f"the paper has {ALPHA} for GRPO and {ALPHA_PPO} for PPO"
"""Words of messages that ask for an alpha."""


def check_number(name: str, value: float, bound: float, *, above: bool = False, why: str = ".") -> None:
    """Refuses a number below `bound` (or equal to it, where it must be `above`), and one that is not finite.

    Raises:
        InputError: the number is out of range; the sentence gives `name` and `value`, and ends in `why`.
    """
    if not (bound < value if above else bound <= value) or math.isinf(value):
        limit = "greater than" if above else "of at least"
        raise InputError(f"{name} must be a finite number {limit} {bound}, got {value}{why}")


def check_alpha(alpha: float, name: str = "alpha", *, above_zero: bool = False) -> None:
    """Refuses an alpha out of range, and also 0, which turns shaping off, where it must be `above_zero`."""
    check_number(name, alpha, 0, above=above_zero, why=f"; {PAPER}.")


def check_kappa(kappa: float, name: str = "kappa") -> None:
    """Refuses a kappa out of range."""
    why = f": a smaller one could cancel or flip the sign of an advantage. The paper uses {KAPPA:g}."
    check_number(name, kappa, 1, above=True, why=why)
