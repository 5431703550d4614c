"""Run by `test_trl_methods.py` on two processes, and imported by it: what methods make of one rollout of 8 completions.

Each process holds half, in two micro-batches. The rollout, its rewards included, is given.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tiny_trl as tiny
import torch

from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer

SPECS = (
    *("placebo_permuted", "placebo_constant", "forking_tokens:share=0.3", "clip_cov:share=0.2,low=-9,high=9"),
    *("kl_cov:share=0.3", "steer", "gtpo", "grpo_s", "ucpo:tau=1", "qae", "entropy_advantage"),
    *("eapo", "edge_grpo", "opefo", "m2po:largest=0.05", "miner", "nsr", "opo", "unlikeliness", "fipo", "gppo"),
    "heal:column=domain,target=a,shortest=1",
    *(("shear:window=2,stride=1",) if find_spec("ot") else ()),
    *(("meds:marker=9,layers=2",) if find_spec("sklearn") else ()),
)


def made(out: Path, rank: int, processes: int) -> dict[str, tuple[torch.Tensor, dict[str, float]]]:
    """Spec -> the advantages `(B, T)` that the loss was given, and what was logged."""
    return {spec: _made(spec, out, rank, processes) for spec in SPECS}


def _made(spec: str, out: Path, rank: int, processes: int) -> tuple[torch.Tensor, dict[str, float]]:
    given = []

    class Spy(EntropyShapedGRPOTrainer):
        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
            loss = super()._compute_loss(model, inputs)
            batch = self.last
            a = batch["advantages"]
            given.append(a if a.dim() == 2 else a[:, None].expand_as(batch["completion_mask"]))
            return loss

        @property
        def _shaping_batch(self) -> Any:
            return self.held

        @_shaping_batch.setter
        def _shaping_batch(self, batch: Any) -> None:
            self.last, self.held = (batch or getattr(self, "last", None)), batch

        held: Any = None

    rows = 8 // processes
    options = {
        **tiny.QUIET,
        "method": [spec],
        "per_device_train_batch_size": rows // 2,
        "gradient_accumulation_steps": 2,
        "num_iterations": 2,
        "log_level": "error",
        **({"ddp_backend": "gloo"} if processes > 1 else {}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = EntropyShapedGRPOConfig(str(out), **options)
        trainer = Spy(tiny.policy(), tiny.reward, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer())
    whole = tiny.microbatch(8)
    mine = {
        name: value if name == "num_items_in_batch" else value[rows * rank : rows * (rank + 1)]
        for name, value in whole.items()
    }
    if rank == 1:  # padded to another width than the other process, as rollouts are
        width = int(mine["completion_mask"].sum(dim=1).max())
        mine = {n: v[:, :width] if v.dim() == 2 and not n.startswith("prompt") else v for n, v in mine.items()}
    trainer.model.train()
    # Groups of four: the first is of one domain, the second of another.
    mine_of_all = range(rows * rank, rows * (rank + 1))
    trainer._rollout_inputs = [{"prompt": "", "domain": "a" if i < 4 else "b"} for i in mine_of_all]
    trainer._scored_rewards = torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1])[:, None]
    if spec != "entropy_advantage":  # which needs nothing of the rollout
        with torch.no_grad():
            for _ in range(2 if spec.startswith("meds") else 1):  # which knows nothing before the first one
                trainer._run_rollout_methods(mine, args.methods)
    halves = [
        {n: v if v.dim() == 0 else v[i * rows // 2 : (i + 1) * rows // 2] for n, v in mine.items()} for i in (0, 1)
    ]
    trainer._buffered_inputs = halves
    trainer.current_gradient_accumulation_steps = 2
    for half in halves:
        trainer._compute_loss(trainer.model, half)
    advantages = torch.cat(given)
    full = torch.zeros(len(advantages), whole["completion_ids"].shape[1])
    full[:, : advantages.shape[1]] = advantages * mine["completion_mask"]
    trainer.log({})
    logged = trainer.state.log_history[-1]
    return full, {name: value for name, value in logged.items() if name.startswith("method/")}


if __name__ == "__main__":
    found = made(Path(sys.argv[1]), int(os.environ["RANK"]), 2)
    torch.save(found, Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")
