"""Run by `test_ppo.py` on two processes: each credits and learns from its half of a batch, then trains and resumes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tiny_ppo as ppo
import torch
from tiny_ppo import make, tiny


def main(out: Path) -> None:
    rank = int(os.environ["RANK"])
    quiet = {"ddp_backend": "gloo", "log_level": "error"}
    trainer = make(out, optim="sgd", critic_learning_rate=0.1, max_grad_norm=0.0, **quiet)
    ppo.stir(trainer.critic)
    start = ppo.flat(trainer.critic)
    batch = {
        name: value if name == "num_items_in_batch" else value[4 * rank : 4 * rank + 4]
        for name, value in tiny.microbatch(8).items()
        if name not in ("advantages", "old_per_token_logps")
    }
    trainer.model.train()
    trainer._scored_rewards = torch.linspace(-1, 1, 8)[:, None]  # of all processes, as TRL gathers them
    trainer._credit(batch)
    trainer.create_optimizer_and_scheduler(num_training_steps=1)
    assert isinstance(trainer.critic, torch.nn.parallel.DistributedDataParallel)
    trainer.current_gradient_accumulation_steps = 1
    trainer._update_critic(batch)
    several = make(
        out,
        optim="sgd",
        critic_learning_rate=0.1,
        max_grad_norm=0.0,
        critic_epochs=3,
        cliprange_value=1e6,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        steps_per_generation=2,
        **quiet,
    )
    ppo.stir(several.critic)
    several.create_optimizer_and_scheduler(num_training_steps=1)
    several.current_gradient_accumulation_steps = 2
    for half in (0, 1):
        several.accelerator.gradient_state._set_sync_gradients(half == 1)
        rows = slice(2 * half, 2 * half + 2)
        several._update_critic({k: v if k == "num_items_in_batch" else v[rows] for k, v in batch.items()})
    results = {
        "several": ppo.flat(several.critic) - start,
        "advantages": batch["advantages"],
        "step": ppo.flat(trainer.critic) - start,
        "logged": {name: value for name, value in trainer._metrics["train"].items() if name.startswith("critic/")},
    }

    options = {
        "steps_per_generation": 4,
        "gradient_accumulation_steps": 2,
        "num_iterations": 2,
        "max_steps": 5,
        "critic_warmup_steps": 1,
        "learning_rate": 0.01,
        "critic_learning_rate": 0.01,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        **quiet,
    }
    whole = make(out, **options)
    whole.train()
    resumed = make(out, **options)
    resumed.train(resume_from_checkpoint=str(out / "checkpoint-3"))
    results |= {"run": ppo.history(whole), "resumed": ppo.history(resumed)}
    torch.save(results, out / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
