"""The lines of docs/verl.md for forks of verl 0.7 and older, as pasted, on tensors of the shapes that stand there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from forkwise.testing.engines import expected_advantages

PAGE = (Path(__file__).parents[2] / "docs" / "verl.md").read_text()
A = [[1.0, 1.0, 1.0], [-1.5, -1.5, 0.0]]
H = [[0.5, 2.0, 0.0], [3.0, 0.1, 9.0]]
MASK = [[1, 1, 1], [1, 1, 0]]
WANT = expected_advantages(A, H, MASK, alpha=0.4, kappa=2.0)


def lines(name: str) -> str:
    (block,) = re.findall(rf"```python\n# {name}\n(.*?)```", PAGE, re.DOTALL)
    return str(block)


def test_of_the_policy_under_update() -> None:
    before = torch.tensor(A)
    entropy = torch.tensor(H, requires_grad=True)
    scope: dict[str, Any] = {"advantages": before, "entropy": entropy, "response_mask": torch.tensor(MASK)}
    exec(lines("current"), scope)
    assert torch.allclose(scope["advantages"], torch.tensor(WANT))
    assert not scope["advantages"].requires_grad
    assert torch.equal(before, torch.tensor(A))  # a second epoch starts from the same
    with pytest.raises(RuntimeError, match="not shaped: no entropies. Set calculate_entropy = True"):
        exec(lines("current"), {**scope, "entropy": None})


def test_of_the_old_policy() -> None:
    before = torch.tensor(A)
    batch = SimpleNamespace(batch={"advantages": before, "returns": before, "response_mask": torch.tensor(MASK)})
    exec(lines("old"), {"batch": batch, "old_log_prob": SimpleNamespace(batch={"entropys": torch.tensor(H)})})
    assert torch.allclose(batch.batch["advantages"], torch.tensor(WANT))
    assert torch.equal(batch.batch["returns"], torch.tensor(A))  # what a critic learns stays, shared memory or not
