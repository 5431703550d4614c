"""What the verl tests share: configurations composed by verl's own Hydra files, jagged micro-batches, a tiny policy."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HYDRA_FULL_ERROR", "1")

import torch
import verl
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from tensordict import TensorDict
from tiny_models import critic, policy, tokenizer
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass

from forkwise.testing.engines import expected_advantages, expected_metrics

SHAPED = ["trainer.v1.trainer_mode=entropy_sync", "+algorithm.entropy_shaping.alpha=0.4"]
CURRENT = [
    *SHAPED,
    "+algorithm.entropy_shaping.entropy=current",
    "actor_rollout_ref.actor.calculate_entropy=True",
]
TEMPERATURE = 0.7

# Prompts of 2, 3, 1 and 2 tokens; responses of 4, 2, 5 and 3.
PROMPTS = [[5, 6], [7, 8, 9], [4], [3, 3]]
RESPONSES = [[10, 11, 12, 13], [14, 15], [16, 17, 18, 19, 20], [1, 1, 1]]
# The third response has a tool's answer in the middle; the fourth is padding that verl adds to balance a batch.
MASK = [[1, 1, 1, 1], [1, 1], [1, 0, 0, 1, 1], [0, 0, 0]]
ADVANTAGES = [[1.0, 1.0, 1.0, 1.0], [-1.5, -1.5], [0.3, 0.0, 0.0, 0.3, 0.3], [0.0, 0.0, 0.0]]


def config(*overrides: str) -> DictConfig:
    """verl's configuration as its command line composes it."""
    return copy.deepcopy(_composed(overrides))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        minimal = ["actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2"]
        return compose("ppo_trainer", overrides=[*minimal, *overrides])


def actor_config(*overrides: str) -> Any:
    """verl's `ActorConfig`."""
    return omega_conf_to_dataclass(config(*overrides).actor_rollout_ref.actor)


def jagged(rows: list[list[Any]], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged)


def microbatch(**fields: torch.Tensor) -> TensorDict:
    """A micro-batch as verl's engines hand it to the loss; old log-probabilities are -1 unless given."""
    data = TensorDict(
        {
            "prompts": jagged(PROMPTS, torch.long),
            "responses": jagged(RESPONSES, torch.long),
            "input_ids": jagged([p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)], torch.long),
            "position_ids": jagged(
                [list(range(len(p + r))) for p, r in zip(PROMPTS, RESPONSES, strict=True)], torch.long
            ),
            "response_mask": jagged(MASK, torch.long),
            "loss_mask": jagged(MASK, torch.long),
            "old_log_probs": jagged([[-1.0] * len(r) for r in RESPONSES]),
            "advantages": jagged(ADVANTAGES),
            **fields,
        },
        batch_size=len(PROMPTS),
    )
    tokens = sum(map(sum, MASK))
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=tokens, global_batch_size=len(PROMPTS))
    return data


def of_sequences(rows: list[list[float]]) -> list[list[float]]:
    """Values of response tokens where a model puts them: at the position before each token; 99 everywhere else."""
    return [[99.0] * (len(p) - 1) + row + [99.0] for p, row in zip(PROMPTS, rows, strict=True)]


def shaped(advantages: list[list[float]], entropy: list[list[float]], alpha: float, kappa: float) -> list[list[float]]:
    """Eq. 5-7 of the paper where the mask is 1, token by token in Python."""
    return expected_advantages(advantages, entropy, MASK[: len(advantages)], alpha=alpha, kappa=kappa)


def metrics(advantages: list[list[float]], entropy: list[list[float]], alpha: float, kappa: float) -> dict[str, float]:
    """What is logged for them, from the definitions in `docs/trl.md`, token by token."""
    return expected_metrics(advantages, entropy, MASK[: len(advantages)], alpha=alpha, kappa=kappa)


def values_of(model: torch.nn.Module) -> list[list[float]]:
    """The critic's value at each response token of `microbatch`: its output at the token before, one row at a time."""
    rows = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        with torch.no_grad():
            values = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1, 0]
        rows.append(values.tolist())
    return rows


def exact_entropy(model: torch.nn.Module, temperature: float = TEMPERATURE) -> list[list[float]]:
    """-sum p log p in nats at each response token of `microbatch`, from one unpadded forward per row, in float64."""
    rows = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logp = (logits.double() / temperature).log_softmax(-1)
        rows.append((-(logp.exp() * logp).sum(-1)).tolist())
    return rows


def save_policy(folder: Path) -> None:
    """`policy()` as a checkpoint with a tokenizer, and `critic()` in a folder in it, for verl to load."""
    tokenizer().save_pretrained(folder)
    policy().save_pretrained(folder)
    tokenizer().save_pretrained(folder / "critic")
    critic().save_pretrained(folder / "critic")


def on_cpu(folder: Path, *overrides: str) -> DictConfig:
    """The configuration of a run with the policy in `folder`, in float32, one process, two rows per micro-batch."""
    return config(
        f"actor_rollout_ref.model.path={folder}",
        "actor_rollout_ref.model.use_remove_padding=False",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        "+actor_rollout_ref.model.override_config.attn_implementation=eager",
        "actor_rollout_ref.actor.strategy=fsdp2",
        "actor_rollout_ref.actor.fsdp_config.strategy=fsdp2",
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=fp32",
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2",
        f"actor_rollout_ref.rollout.temperature={TEMPERATURE}",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "trainer.device=cpu",
        "trainer.n_gpus_per_node=1",
        *overrides,
    )
