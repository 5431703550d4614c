"""What the PPO tests share: a trainer on the tiny policy of the TRL tests, and references that know nothing of ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import tiny_trl as tiny
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from forkwise.training.ppo import EntropyShapedPPOConfig, EntropyShapedPPOTrainer


def make(
    where: Path, *, reward: Any = tiny.reward, lora: Any = None, cls: type = EntropyShapedPPOTrainer, **options: Any
) -> EntropyShapedPPOTrainer:
    """A PPO trainer on `tiny.policy()`; 4 completions of 4 prompts a step unless `options` say otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = EntropyShapedPPOConfig(str(where), **{**tiny.QUIET, "num_generations": 1, **options})
        return cls(
            tiny.policy(),
            reward,
            args,
            train_dataset=tiny.prompts(),
            eval_dataset=tiny.prompts(4),
            processing_class=tiny.tokenizer(),
            peft_config=lora,
        )


def stir(module: torch.nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Random weights, so that a critic has something to say."""
    draw = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.data = scale * torch.randn(weight.shape, generator=draw)


def rollout(trainer: EntropyShapedPPOTrainer, prompts: int = 4) -> dict[str, Any]:
    """One generation batch as TRL's loss gets it, advantages and all."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    torch.manual_seed(1)
    return trainer._generate_and_score_completions(list(tiny.prompts(prompts)))


def flat(module: torch.nn.Module) -> Tensor:
    return parameters_to_vector(module.parameters()).detach().clone()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


def gradient(loss: Tensor, module: torch.nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])


def logps_with_gradient(model: torch.nn.Module, batch: dict[str, Any]) -> Tensor:
    """log pi of the chosen tokens at the sampling temperature, (B, T), from the full logits of an unpatched model."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    n = batch["completion_ids"].size(1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -n - 1 : -1] / tiny.TEMPERATURE
    return logits.log_softmax(-1).gather(2, batch["completion_ids"][..., None])[..., 0]


def history(trainer: EntropyShapedPPOTrainer) -> list[dict[str, float]]:
    """What each step logged, without the clock."""
    return [
        {k: v for k, v in row.items() if k != "step_time"}
        for row in trainer.state.log_history
        if "critic/value_loss" in row
    ]
