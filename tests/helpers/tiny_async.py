"""What the tests of asynchronous GRPO share: samples that were drawn beforehand, and a trainer that is given them.

TRL's own: trainer, packing, loss. Not TRL's: the kernel of the packed attention (`vllm_stand_in`).
"""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import quiet
import tiny_trl as tiny
import torch
from datasets import Dataset
from trl.experimental.async_grpo import async_grpo_trainer, async_rollout_worker, packing
from vllm_stand_in import KERNELS

from forkwise.engines.trl.async_grpo import (
    AsyncGRPOConfig,
    EntropyShapedAsyncGRPOConfig,
    EntropyShapedAsyncGRPOTrainer,
)
from forkwise.testing.engines import Batch, expected_advantages

QUIET: dict[str, Any] = {
    **quiet.QUIET,
    "save_strategy": "no",
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 8,
    "temperature": tiny.TEMPERATURE,
    "max_steps": 2,
    "token_budget": 24,  # a micro-batch takes fewer than six of the samples
    "max_staleness": 100,
}


def on_a_cpu(put: Any = setattr) -> None:
    """Puts the definition of the packed attention into the place of its kernel, and asks no GPU for its name."""
    put(packing, "_flash_attn", lambda: KERNELS)
    put(async_grpo_trainer, "get_peak_flops_per_device", lambda *_: None)


class Given:
    """A rollout worker that has drawn everything beforehand: TRL's `RolloutWorkerProtocol`."""

    def __init__(self, samples: list[Any]) -> None:
        self.rollout_buffer: queue.Queue[Any] = queue.Queue()
        self.metrics_queue: queue.Queue[Any] = queue.Queue()
        for sample in samples:
            self.rollout_buffer.put(sample)

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def update_model_version(self, model_version: int) -> None:
        pass

    def check_health(self, stale_after_s: float) -> None:
        pass


class Nowhere:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def drawn() -> list[Any]:
    """Four answers to each of six prompts, of different lengths; in some of them a tool speaks."""
    draw = np.random.default_rng(0)
    samples = []
    for group in range(6):
        prompt = draw.integers(3, len(tiny.WORDS), 3 + group % 2)
        for i, advantage in enumerate((1.5, -0.9, 0.0, -0.6)):
            answer = draw.integers(3, len(tiny.WORDS), 3 + i)
            mask = np.r_[np.zeros(len(prompt), int), np.ones(len(answer), int)]
            if i % 2:
                mask[len(prompt) + 1] = 0  # a tool's token
            samples.append(
                async_rollout_worker.RolloutSample(
                    prompt=[],
                    completion=[],
                    input_ids=np.r_[prompt, answer],
                    completion_mask=mask,
                    old_log_probs=np.where(mask, draw.uniform(-3.5, -2, len(mask)), 0).astype(np.float32),
                    advantage=advantage,
                    model_version=0,
                    group_id=group,
                    metrics={"reward": advantage},
                )
            )
    return samples


def make(kind: Any, saved: str, where: Path, **changes: Any) -> Any:
    ours = issubclass(kind, EntropyShapedAsyncGRPOTrainer)
    config = EntropyShapedAsyncGRPOConfig if ours else AsyncGRPOConfig
    inner = {"rollout_worker": Given(drawn()), "weight_transfer": Nowhere()}
    inner |= {name: changes.pop(name) for name in list(changes) if name in inner}
    args = changes.pop("args", None) or config(str(where), **{**QUIET, **changes})
    dataset = Dataset.from_dict({"prompt": [[{"role": "user", "content": f"{i} + 1 ="}] for i in range(10)]})
    return kind(saved, tiny.reward, args, train_dataset=dataset, **inner)


def packed(trainer: Any, *rows: list[Any]) -> dict[str, Any]:
    """A micro-batch with a row of samples for each process, as TRL's planner and collator make it."""
    planned = [packing.TreeRow() for _ in rows]
    for row, samples in zip(planned, rows, strict=True):
        for sample in samples:
            row.add(vars_of(sample))
    collator = async_grpo_trainer.DataCollatorForRollout(tiny.PAD, len(rows), metrics=trainer._metrics["train"])
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return collator.torch_call([planned])


def vars_of(sample: Any) -> dict[str, Any]:
    names = ("completion_mask", "old_log_probs", "advantage", "group_id", "metrics")
    return {"input_ids": sample.input_ids, **{name: getattr(sample, name) for name in names}}


def entropies(samples: list[Any]) -> list[list[float]]:
    """Of the policy at the trained tokens of each sample alone, by float64 softmax of the full logits."""
    policy, entropy = tiny.policy(), []
    for sample in samples:
        ids = torch.as_tensor(sample.input_ids)[None]
        with torch.no_grad():
            logp = (policy(input_ids=ids).logits[0, :-1].double() / tiny.TEMPERATURE).log_softmax(-1)
        h = -(logp.exp() * logp).sum(-1)
        entropy.append(h[torch.as_tensor(sample.completion_mask)[1:].bool()].tolist())
    return entropy


def tokens_of(samples: list[Any]) -> Batch:
    """The trained tokens of the samples, as checks of metrics want them."""
    entropy = entropies(samples)
    advantages = [[sample.advantage] * len(row) for sample, row in zip(samples, entropy, strict=True)]
    return Batch(advantages, entropy, [[1] * len(row) for row in entropy])


def shaped_by_hand(samples: list[Any], *, alpha: float, kappa: float) -> torch.Tensor:
    """Eq. 5-7 of the paper at the trained tokens of the samples, `(1, M)`."""
    rows = expected_advantages(*tokens_of(samples).columns, alpha=alpha, kappa=kappa)
    return torch.tensor([[a for row in rows for a in row]])


def loss_and_gradient(trainer: Any, batch: dict[str, Any], model: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one micro-batch; `model` is the trainer's, or what it was wrapped in."""
    model = trainer.model if model is None else model
    model.zero_grad()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
