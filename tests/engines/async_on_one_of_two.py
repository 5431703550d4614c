"""Run by `test_trl_async.py` on two processes: each has a row of a micro-batch, then both train for two steps."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_async import drawn, loss_and_gradient, make, on_a_cpu, packed
from torch.nn.parallel import DistributedDataParallel

from forkwise.engines.trl.async_grpo import EntropyShapedAsyncGRPOTrainer

SAMPLES = drawn()[:8]
ROWS = (SAMPLES[:5], SAMPLES[5:])
"""Of different lengths, so that what one process has is not half."""
STEPS: dict[str, Any] = {"alpha": 0.1, "token_budget": 0, "optim": "sgd", "learning_rate": 0.5, "log_level": "error"}
"""Eight samples an update, in whatever number of processes; SGD, whose update is proportional to the gradient."""


def main(saved: str, where: Path) -> None:
    rank = int(os.environ["RANK"])
    on_a_cpu()
    trainer = make(EntropyShapedAsyncGRPOTrainer, saved, where, ddp_backend="gloo", **STEPS)
    mine = {name: value[rank : rank + 1] for name, value in packed(trainer, *ROWS).items()}
    model = trainer.accelerator.prepare_model(trainer.model)
    assert isinstance(model, DistributedDataParallel)
    model.train()
    loss, gradient = loss_and_gradient(trainer, mine, model)
    trainer.log({})
    results = {"loss": loss, "gradient": gradient, "logged": trainer.state.log_history.pop()}
    trainer.model.zero_grad()
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.accelerator.unwrap_model(trainer.model).parameters()])
    torch.save({**results, "run": trainer.state.log_history, "weights": weights}, where / f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
