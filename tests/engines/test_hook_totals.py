"""What engines log of shaping, after they have added up micro-batches by their own rules, is what shaping did.

The rules are those of the engines' sources, at the commits that docs/engines.md names. The truth is worked out token by
token, over a batch whose micro-batches have one sign of A each, or none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from engine_rules import nemo_rl, openrlhf, roll, slime

from forkwise.core import shape_and_measure
from forkwise.engines.hooks.totals import named, ratios
from forkwise.testing.engines import check_metrics

A = [[1.0] * 3, [1.0] * 2, [-1.5] * 5, [0.0] * 4, [0.5] * 1, [-0.5] * 3]
H = [[(3 * i + 7 * j) % 11 / 4 for j in range(len(row))] for i, row in enumerate(A)]
MASK = [[1] * len(row) for row in A]
ALPHA, KAPPA = 0.4, 2.0


@pytest.mark.parametrize("engine", [slime, nemo_rl, roll, openrlhf])
def test_of_micro_batches_is_that_of_the_batch(engine: Callable[..., dict[str, float]]) -> None:
    tokens = [len(row) for row in A]
    parts = []
    for advantages, entropy in zip(A, H, strict=True):
        _, stats = shape_and_measure(torch.tensor(advantages), torch.tensor(entropy), alpha=ALPHA, kappa=KAPPA)
        parts.append(named(stats, per=len(advantages) if engine is openrlhf else 1))
    check_metrics(ratios(engine(parts, tokens)), A, H, MASK, alpha=ALPHA, kappa=KAPPA)


def test_of_ratios_is_not() -> None:
    """What the hooks once gave: a micro-batch without tokens of a sign counts as 0."""
    parts: list[dict[str, Any]] = []
    for advantages, entropy in zip(A, H, strict=True):
        _, stats = shape_and_measure(torch.tensor(advantages), torch.tensor(entropy), alpha=ALPHA, kappa=KAPPA)
        parts.append({f"shaping/{name}": number for name, number in stats.as_dict().items()})
    with pytest.raises(AssertionError, match="its definition gives"):
        check_metrics(roll(parts, []), A, H, MASK, alpha=ALPHA, kappa=KAPPA)
