"""Run by `test_trl_methods.py` on two processes: the gradient of a loss with a term in the entropies.

Each process holds half of a batch of 8 in two micro-batches. Its gradient is DDP's, averaged over the processes.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import tiny_trl as tiny
import torch

from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer
from forkwise.engines.trl.update import POSITIONS

SPEC = "siren:coef=3"


def gradient(out: Path, rank: int, processes: int) -> torch.Tensor:
    """The gradient of one update."""
    rows = 8 // processes
    options: dict[str, Any] = {
        **tiny.QUIET,
        "method": [SPEC],
        "loss_type": "bnpo",
        "per_device_train_batch_size": rows // 2,
        "gradient_accumulation_steps": 2,
        "log_level": "error",
        **({"ddp_backend": "gloo"} if processes > 1 else {}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = EntropyShapedGRPOConfig(str(out), **options)
        trainer = EntropyShapedGRPOTrainer(
            tiny.policy(), tiny.reward, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer()
        )
    batch = tiny.microbatch(8)
    batch["advantages"] = torch.zeros(8)  # the term alone
    batch[POSITIONS] = torch.arange(8)
    halves = [
        {n: v if v.dim() == 0 else v[start : start + rows // 2] for n, v in batch.items()}
        for start in (rows * rank, rows * rank + rows // 2)
    ]
    trainer._method_states.states = {"siren": {"anchor": 0.5}}
    trainer._buffered_inputs = halves
    trainer.current_gradient_accumulation_steps = 2
    model = trainer.accelerator.prepare_model(trainer.model)
    model.train()
    for half in halves:
        trainer._compute_loss(model, half).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


if __name__ == "__main__":
    made = gradient(Path(sys.argv[1]), int(os.environ["RANK"]), 2)
    torch.save(made, Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")
