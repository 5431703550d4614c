"""Keeps what verl's own losses are given in a whole run: a file per call, in the folder `$WATCHED_LOSSES`.

Those of the policy are named by numbers, those of a critic `values` and a number.

verl loads it in every process through `VERL_USE_EXTERNAL_MODULES`, before anything imports the loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from verl.workers.utils import losses

KEPT = ("prompts", "responses", "response_mask")


def watched(loss: Callable[..., Any], prefix: str, *more: str) -> Callable[..., Any]:
    calls = count()

    def of_kept(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> Any:
        folder = Path(os.environ["WATCHED_LOSSES"])
        folder.mkdir(exist_ok=True)
        rows = {name: [row.detach().cpu().clone() for row in data[name].unbind()] for name in (*KEPT, *more)}
        torch.save(rows, folder / f"{prefix}{next(calls)}.pt")
        return loss(config, model_output, data, dp_group)

    return of_kept


if "WATCHED_LOSSES" in os.environ:
    losses.ppo_loss = watched(losses.ppo_loss, "", "advantages")
    losses.value_loss = watched(losses.value_loss, "values", "values", "returns")
