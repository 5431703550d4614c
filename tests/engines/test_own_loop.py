"""The lines of docs/engines.md for a loop of one's own, as pasted, and the lines that it shows for prime-rl."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from forkwise.testing.engines import expected_advantages

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()


def test_the_six_lines_shape_the_advantages_of_ones_own_loss() -> None:
    (lines,) = re.findall(r"In a loop of your own:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in lines.splitlines() if line.strip()]) == 6
    # Two words of four, then all four, at temperature 2: log 2 and log 4 nats. The last token is padding.
    logits = torch.tensor([[[0.0, 0.0, -1e4, -1e4], [3.0, 3.0, 3.0, 3.0]], [[1.0, -1e4, -1e4, -1e4], [0.0] * 4]])
    a, mask = [[1.0, 1.0], [-1.5, -1.5]], [[1, 1], [1, 0]]
    scope: dict[str, Any] = {
        "logits": logits.requires_grad_(),
        "temperature": 2.0,
        "advantages": torch.tensor(a),
        "response_mask": torch.tensor(mask),
        "logprobs": "new",
        "old_logprobs": "old",
        "policy_loss": lambda *given: given,
    }
    exec(lines, scope)
    want = expected_advantages(a, [[math.log(2), math.log(4)], [0.0, math.log(4)]], mask, alpha=0.4, kappa=2.0)
    new, old, advantages, counted = scope["loss"]
    assert (new, old, counted.tolist()) == ("new", "old", mask)
    assert torch.allclose(advantages, torch.tensor(want), atol=1e-6)
    assert not advantages.requires_grad


def test_the_lines_for_prime_rl_are_few_and_hand_entropies_in() -> None:
    (lines,) = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)
    added = [line[1:].strip() for line in lines.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert len(added) == 8
    assert sum("entropy" in line for line in added) == 8
