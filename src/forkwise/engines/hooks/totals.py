"""What shaping did, in the form that an engine's own averages leave right.

An engine adds up or averages what a loss reports, over micro-batches and processes, by a rule of its own. A ratio comes
out wrong there. Sums come out as sums with one common factor, and the ratio of two of them is right: engines with such
a rule get the six sums of `forkwise.core.ShapingStats` as `shaping/total/NAME`, and `ratios` gives what they come to.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from forkwise.core import ShapingStats
from forkwise.engines.base import LOGGED, ActionLog
from forkwise.methods.chain import SHAPING

TOTALS = ("tokens_pos", "tokens_neg", "psi_pos", "psi_neg", "psi_over_adv", "capped")
"""Names of the sums, in the order of `ShapingStats.totals`."""


def named(stats: ShapingStats, *, per: float = 1.0) -> dict[str, float]:
    """Returns the sums of a micro-batch as `shaping/total/NAME`, divided by what the engine multiplies them with."""
    return {f"shaping/total/{name}": total / per for name, total in zip(TOTALS, stats.totals.tolist(), strict=True)}


def ratios(logged: Mapping[str, float]) -> dict[str, float]:
    """Returns `shaping/...` as other engines log them, from `shaping/total/...` as an engine has added them up."""
    numbers = [float(logged[f"shaping/total/{name}"]) for name in TOTALS]
    stats = ShapingStats.from_totals(torch.tensor(numbers, dtype=torch.float64)).as_dict()
    return {f"shaping/{name}": stats[name] for name in LOGGED}


def report(trainer: Any, action_log: ActionLog) -> None:
    """Puts what shaping did since the last log, on all processes, among the metrics of a trainer over TRL."""
    device = trainer.accelerator.device
    none = torch.zeros(len(TOTALS), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    totals: Tensor = trainer.accelerator.reduce(action_log.totals.pop(SHAPING, none), reduction="sum")
    if not bool(totals.any()):
        return
    action_log.add({SHAPING: totals})
    metrics, warning = action_log.take()
    for name, value in metrics.items():
        trainer._metrics["train"][name].append(value)
    if warning and trainer.accelerator.is_main_process:
        warnings.warn(warning, stacklevel=2)
