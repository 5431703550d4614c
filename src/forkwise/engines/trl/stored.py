"""TRL's own trainer on completions that are there already: its loss by itself, and updates of a stored rollout.

Nothing is generated. What happens to ratios, clips, means over tokens and entropy bonuses is TRL's code.
"""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from forkwise.engines.base import entropy_terms
from forkwise.engines.trl.config import EntropyShapedGRPOConfig
from forkwise.methods import Method, Tokens
from forkwise.methods.base import given
from forkwise.methods.chain import run_entropy_terms

_QUIET: dict[str, Any] = {
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_strategy": "no",
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}


class _Stored(GRPOTrainer):
    """A trainer whose scores of an update, and whose rollout, are given to it."""

    scores: tuple[Tensor, Tensor] | None = None
    rollout: Mapping[str, Any] | None = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if self.scores is None:
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        return (*self.scores, None) if _WITH_AUXILIARY else self.scores

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        if self.rollout is None:
            raise RuntimeError("a stored rollout was to be trained on, and there is none")
        return dict(self.rollout)


_WITH_AUXILIARY = "compute_aux_loss" in inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters


def _trainer(model: Any, tokenizer: Any, kind: type[GRPOConfig], prompts: int, **options: Any) -> _Stored:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cpu = {"use_cpu": True} if model.device.type == "cpu" else {}
        args = kind(output_dir=str(Path(folder)), **{**_QUIET, **cpu, **options})
        dataset = Dataset.from_dict({"prompt": ["x"] * prompts})
        return _Stored(model, _no_reward, args, train_dataset=dataset, processing_class=tokenizer)


def _no_reward(completions: Sequence[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


class TokenLoss:
    """TRL's loss under the settings of one method, and what it does to each token of an update.

    Args:
        model, tokenizer: as transformers loads them; they are not run.
        method: whose settings TRL gets; None for TRL's defaults.
        size: completions of a group.
        longest: the longest completion, in tokens.
        temperature: of sampling.

    Raises:
        InputError: TRL cannot train with the method.
    """

    def __init__(
        self, model: Any, tokenizer: Any, method: Method | None, *, size: int, longest: int, temperature: float
    ) -> None:
        self._terms = entropy_terms([method] if method is not None else [])
        self._trainer = _trainer(
            *(model, tokenizer, EntropyShapedGRPOConfig, 2),
            method=[str(method)] if method is not None else [],
            alpha=0.0,
            num_generations=size,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=1,
            steps_per_generation=2,  # updates of a rollout
            max_completion_length=longest,
            temperature=temperature,
        )
        self._trainer.current_gradient_accumulation_steps = 1
        self._model = model

    def slopes(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Returns by how much an update raises each log-prob and each entropy, `(B, T)` each, 0 outside the mask.

        These are the derivatives of minus the loss. The update itself is the sum over tokens of these times the
        gradients of log-probs and entropies.

        Args:
            tokens: of a whole update, with the advantages that the methods have made, and with log-probs and entropies
                of the policy under update and of the one that drew.
        """
        mask = tokens.mask
        logps = torch.where(mask, given(tokens.logprobs), 0.0).detach().clone().requires_grad_()
        entropies = torch.where(mask, given(tokens.entropy), 0.0).detach().clone().requires_grad_()
        nothing = torch.zeros(len(mask), 1, dtype=torch.int64)
        inputs = {
            "prompt_ids": nothing,
            "prompt_mask": nothing + 1,
            "completion_ids": torch.zeros_like(mask, dtype=torch.int64),
            "completion_mask": mask.to(torch.int64),
            "advantages": tokens.advantages,
            "old_per_token_logps": torch.where(mask, given(tokens.old_logprobs), 0.0),
            # TRL counts the tokens of a whole rollout; this one has two updates of equally many.
            "num_items_in_batch": 2 * mask.sum(),
        }
        trained = self._model.training
        self._model.train()
        self._trainer.scores = (logps, entropies)
        try:
            loss = self._trainer._compute_loss(self._model, inputs)
        finally:
            self._trainer.scores = None
            self._model.train(trained)
        if self._terms:
            _, slopes, _ = run_entropy_terms(self._terms, tokens)
            loss = loss + (slopes.to(entropies) * entropies).sum()
        of_logps, of_entropies = torch.autograd.grad(
            loss, (logps, entropies), allow_unused=True, materialize_grads=True
        )
        return -torch.where(mask, of_logps, 0.0), -torch.where(mask, of_entropies, 0.0)


def train_on(
    model: Any,
    tokenizer: Any,
    rollout: Mapping[str, Tensor],
    *,
    updates: int,
    size: int,
    learning_rate: float,
    temperature: float,
    seed: int,
) -> None:
    """Makes the updates of one stored rollout, by TRL's training loop: GRPO with TRL's defaults, a constant rate.

    TRL deals the completions to the updates at random. The model is changed in place.

    Args:
        rollout: what TRL keeps of one: `prompt_ids` and `completion_ids` with their masks, `advantages` `(N,)` and
            `old_per_token_logps` `(N, T)`; N is a multiple of `updates`, and of `size`.
        updates: how many; each sees N / updates completions once.
        size: completions of a group.
    """
    count = len(rollout["completion_ids"])
    if count % updates or count % size:
        raise ValueError(f"{count} completions cannot be dealt to {updates} updates, or are not in groups of {size}")
    caching = model.config.use_cache
    trainer = _trainer(
        *(model, tokenizer, GRPOConfig, count // size),
        num_generations=size,
        per_device_train_batch_size=count // updates,
        gradient_accumulation_steps=1,
        steps_per_generation=updates,
        max_steps=updates,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        max_completion_length=rollout["completion_ids"].shape[1],
        temperature=temperature,
        seed=seed,
    )
    trainer.remove_callback(PrinterCallback)  # TRL's last line would stand among ours
    trainer.rollout = {**rollout, "num_items_in_batch": rollout["completion_mask"].sum()}
    trainer.train()
    if trainer.state.global_step != updates:
        raise RuntimeError(f"TRL made {trainer.state.global_step} updates instead of {updates}")
    model.config.use_cache = caching
    model.eval()
