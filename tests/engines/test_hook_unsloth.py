"""Weights in Unsloth's own released loss, where `unsloth_zoo` is installed: its file, and none of what it imports.

`pip install --no-deps --target FOLDER unsloth_zoo`, with FOLDER on PYTHONPATH. Importing the package needs a GPU; its
`grpo_compute_loss` needs torch only, and is taken out of its file.
"""

from __future__ import annotations

import ast
import importlib.metadata
import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from engine_interfaces import padded

from forkwise.engines.weights import HOMOGENEOUS, shaping_weights
from forkwise.testing.engines import Batch, check_outcome, expected_advantages, made_batches
from forkwise.testing.engines import Outcome as Result

try:
    FILES = importlib.metadata.files("unsloth_zoo") or []
except importlib.metadata.PackageNotFoundError:
    pytest.skip("unsloth_zoo is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def grpo_compute_loss() -> Any:
    """The loss as released, without the decorators that compile it."""
    (path,) = [Path(str(file.locate())) for file in FILES if str(file) == "unsloth_zoo/rl_replacements.py"]
    tree = ast.parse(path.read_text())
    (loss,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "grpo_compute_loss"]
    loss.decorator_list = []
    names: dict[str, Any] = {"torch": torch, "math": math, "os": os, "logger": logging.getLogger("unsloth")}
    exec(compile(ast.Module([loss], []), str(path), "exec"), names)
    return names["grpo_compute_loss"]


@pytest.mark.parametrize("loss_type", HOMOGENEOUS)
@pytest.mark.parametrize("number", [0, 1])
def test_weights_are_unsloths_loss_on_shaped_advantages(grpo_compute_loss: Any, loss_type: str, number: int) -> None:
    batch = made_batches()[number]
    mask, entropy = padded(batch.mask), padded(batch.entropy)

    def outcome(batch: Batch, **more: Any) -> Result:
        new = torch.linspace(-1.5, -0.1, mask.numel(), dtype=torch.float64).view(mask.shape).requires_grad_()
        old = torch.full_like(mask, -0.8)
        options: dict[str, Any] = {
            **{"loss_type": loss_type, "epsilon_low": 0.2, "epsilon_high": 0.28, "delta": None, "temperature": 1.0},
            **{"max_completion_length": mask.shape[1], "num_items_in_batch": mask.sum(), "num_processes": 1},
            "current_gradient_accumulation_steps": 1,
        }
        ids = torch.zeros(mask.shape, dtype=torch.long)
        advantages = padded(batch.advantages)
        loss = grpo_compute_loss(None, new, old, None, ids, mask, 0.0, advantages, **options, **more)[0]
        loss.backward()
        return Result(loss.detach(), new.grad)

    weights = shaping_weights(padded(batch.advantages), entropy, alpha=0.4, kappa=2.0, mask=mask)
    by_hand = batch._replace(advantages=expected_advantages(*batch.columns, alpha=0.4, kappa=2.0))
    check_outcome(outcome(batch, entropy_mask=weights), outcome(by_hand), unshaped=outcome(batch), tolerance=1e-12)
    of_one = shaping_weights(padded(batch.advantages), entropy, alpha=0.0, kappa=2.0, mask=mask)
    alone, at_zero = outcome(batch), outcome(batch, entropy_mask=of_one)
    assert torch.equal(alone.loss, at_zero.loss)
    assert torch.equal(alone.gradient, at_zero.gradient)
