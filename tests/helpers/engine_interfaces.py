"""What tests of hooks share: batches of the kit as tensors, a clipped loss, modules of engines that are not there."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from forkwise.engines.hooks.totals import ratios
from forkwise.testing.engines import Batch, check_metrics

LONGEST = 5


def padded(rows: Any) -> Any:
    """Rows of numbers as `(B, 5)`, with zeros behind."""
    return torch.tensor([[*row, *[0.0] * (LONGEST - len(row))] for row in rows], dtype=torch.float64)


def behind_a_prompt(values: Any) -> Any:
    """The same with a column for a prompt of one token."""
    return torch.cat([torch.zeros_like(values[:, :1]), values], dim=1)


def drawn() -> Any:
    return torch.linspace(-1.5, -0.1, 4 * LONGEST, dtype=torch.float64).view(4, LONGEST)


def clipped(logprobs: Any, advantages: Any, mask: Any) -> Any:
    """PPO's clipped loss, an average over the mask; the old policy gave every token -0.8 nats."""
    ratio = (logprobs + 0.8).exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    return (loss * mask).sum() / mask.sum()


def modules(monkeypatch: pytest.MonkeyPatch, **contents: Any) -> None:
    """Puts modules into this process, and those above them; two underscores stand for a dot."""
    for name, attributes in contents.items():
        path = name.replace("__", ".")
        for end in [i for i, letter in enumerate(path) if letter == "."] + [len(path)]:
            if path[:end] not in sys.modules:
                monkeypatch.setitem(sys.modules, path[:end], ModuleType(path[:end]))
        vars(sys.modules[path]).update(attributes)


def totals_of(metrics: Any) -> Any:
    """The sums that a hook gives to an engine, None where there are none."""
    sums = [float(value) for name, value in metrics.items() if name.startswith("shaping/total/")]
    return torch.tensor(sums, dtype=torch.float64) if sums else None


def check_logged(metrics: Any, batch: Batch, settings: Any) -> None:
    """What a hook logs: nothing with alpha 0, else the numbers of the tokens inside the mask."""
    logged = {name: float(value) for name, value in metrics.items() if name.startswith("shaping/")}
    if any(name.startswith("shaping/total/") for name in logged):
        logged = ratios(logged)
    if getattr(settings, "forkwise_alpha", 0):
        check_metrics(logged, *batch, alpha=settings.forkwise_alpha, kappa=settings.forkwise_kappa)
    else:
        assert not logged


def one_process() -> SimpleNamespace:
    """What is needed of accelerate's `Accelerator`, of a run in one process."""
    return SimpleNamespace(device=torch.device("cpu"), reduce=lambda tensor, reduction: tensor, is_main_process=True)


def constants(alpha: float, kappa: float = 2.0) -> SimpleNamespace:
    return SimpleNamespace(forkwise_alpha=alpha, forkwise_kappa=kappa)
