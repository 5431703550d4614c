"""Run by `test_trl.py` on two processes: each computes the loss of its half of a batch, then trains for two steps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tiny_trl as tiny
import torch
from torch.nn.parallel import DistributedDataParallel

from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer


def main(out: Path) -> None:
    rank = int(os.environ["RANK"])
    args = EntropyShapedGRPOConfig(
        str(out), **{**tiny.QUIET, "ddp_backend": "gloo", "alpha": 0.2, "max_steps": 2, "log_level": "error"}
    )
    trainer = EntropyShapedGRPOTrainer(
        tiny.policy(), tiny.reward, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer()
    )
    half = {
        name: value if name == "num_items_in_batch" else value[4 * rank : 4 * rank + 4]
        for name, value in tiny.microbatch(8).items()
    }
    model = trainer.accelerator.prepare_model(trainer.model)
    assert isinstance(model, DistributedDataParallel)
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(model, half)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    trainer.log({})
    logged = trainer.state.log_history[-1]
    trainer.model.zero_grad()
    trainer.train()
    results = {"loss": loss.detach(), "gradient": gradient, "logged": logged, "run": trainer.state.log_history}
    torch.save(results, out / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
