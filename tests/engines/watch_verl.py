"""Keeps what verl's own policy loss is given in a whole run: a file per call, in the folder `$WATCHED_LOSSES`.

verl loads it in every process through `VERL_USE_EXTERNAL_MODULES`, before anything imports the loss.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

import torch
from verl.workers.utils import losses

KEPT = ("prompts", "responses", "response_mask", "advantages")

_calls = count()
_loss = losses.ppo_loss


def watched(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> Any:
    folder = Path(os.environ["WATCHED_LOSSES"])
    folder.mkdir(exist_ok=True)
    rows = {name: [row.detach().cpu().clone() for row in data[name].unbind()] for name in KEPT}
    torch.save(rows, folder / f"{next(_calls)}.pt")
    return _loss(config, model_output, data, dp_group)


if "WATCHED_LOSSES" in os.environ:
    losses.ppo_loss = watched
