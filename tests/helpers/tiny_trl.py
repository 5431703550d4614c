"""What the TRL tests share: settings, a reward, a micro-batch, a float64 reference; and the tiny policy.

Nothing is downloaded, and nothing of `forkwise.core` is used: the expectations are computed independently of it.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from tiny_models import EOS, PAD, WORDS, policy, tokenizer

from forkwise.testing.engines import expected_advantages, expected_metrics

__all__ = ["EOS", "PAD", "WORDS", "policy", "tokenizer"]

TEMPERATURE = 0.7
QUIET: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 10,
    "temperature": TEMPERATURE,
}


def prompts(n: int = 16) -> Dataset:
    return Dataset.from_dict({"prompt": [f"{i % 10} + {3 * i % 10} =" for i in range(n)]})


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Depends on every token, so that the advantages of a group differ."""
    return [sum((7 * token + i) % 5 for i, token in enumerate(ids)) / 10 for ids in completion_ids]


def microbatch(size: int = 4, seed: int = 1, *, model: torch.nn.Module | None = None) -> dict[str, Any]:
    """A micro-batch as TRL's loss gets it: lengths 6, 4, 2, 5, ..., signed advantages, pi_old and pi_ref near `model`.

    `model` (default: `policy()`) should be the policy that will be trained: the noise of 0.3 nats around its
    log-probabilities puts some ratios inside the clip range of 0.2 and some outside.
    """
    draw = torch.Generator().manual_seed(seed)
    prompt_mask = torch.ones(size, 4, dtype=torch.long)
    prompt_mask[1::2, 0] = 0  # left padding
    lengths = torch.tensor([6, 4, 2, 5]).repeat(size)[:size]
    completion_mask = (torch.arange(6) < lengths[:, None]).long()

    def tokens(mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask == 1, torch.randint(3, len(WORDS), mask.shape, generator=draw), PAD)

    batch: dict[str, Any] = {
        "prompt_ids": tokens(prompt_mask),
        "prompt_mask": prompt_mask,
        "completion_ids": tokens(completion_mask),
        "completion_mask": completion_mask,
        "advantages": torch.tensor([1.7, -2.1, 0.4, -1.8, 0.0, 2.1, -1.7, 0.9]).repeat(size)[:size],
        "num_items_in_batch": completion_mask.sum(),
    }
    logps = exact_logps(model or policy(), batch).gather(2, batch["completion_ids"][..., None])[..., 0].float()
    batch["old_per_token_logps"] = logps + 0.3 * torch.randn(logps.shape, generator=draw)
    batch["ref_per_token_logps"] = logps + 0.3 * torch.randn(logps.shape, generator=draw)
    return batch


def exact_logps(model: torch.nn.Module, batch: dict[str, Any], temperature: float = TEMPERATURE) -> torch.Tensor:
    """log softmax(logits / temperature) at every completion position, (B, T, V) float64, from the full logits."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    n = batch["completion_ids"].size(1)
    return (logits[:, -n - 1 : -1].double() / temperature).log_softmax(dim=-1)


def exact_entropy(model: torch.nn.Module, batch: dict[str, Any], temperature: float = TEMPERATURE) -> torch.Tensor:
    """-sum p log p in nats, (B, T) float64."""
    logp = exact_logps(model, batch, temperature)
    return -(logp.exp() * logp).sum(dim=-1)


def shaped(advantages: torch.Tensor, entropy: torch.Tensor, alpha: float = 0.4, kappa: float = 2.0) -> torch.Tensor:
    """Eq. 5-7 of the paper, token by token in Python; (B, T) float32."""
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand_as(entropy)
    ones = torch.ones_like(entropy).tolist()
    return torch.tensor(expected_advantages(advantages.tolist(), entropy.tolist(), ones, alpha=alpha, kappa=kappa))


def shaping_metrics(
    advantages: torch.Tensor, entropy: torch.Tensor, mask: torch.Tensor, alpha: float = 0.4, kappa: float = 2.0
) -> dict[str, float]:
    """What the adapter logs for these (B,) advantages, from the definitions in `docs/trl.md`, token by token."""
    rows = advantages[:, None].expand_as(entropy).tolist()
    return expected_metrics(rows, entropy.tolist(), mask.tolist(), alpha=alpha, kappa=kappa)
