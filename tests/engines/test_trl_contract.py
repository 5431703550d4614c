"""The contract's kit on TRL's synchronous loss, by advantages (our trainer) and by weights (Unsloth's mixin).

The forward pass is given; the loss, and all that it does with entropies and advantages, is TRL's. With the policy's own
entropies: `test_trl.py`, `test_hooks.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from engine_interfaces import behind_prompts, each, holds, of_two_processes
from test_trl import make
from trl import GRPOTrainer

from forkwise.engines.hooks.unsloth import WeightShapingMixin
from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.engines.trl.head import HeadChoice
from forkwise.testing.engines import Batch, Outcome

COLUMNS = "TRL's loss has columns of completions alone"


class Given(GRPOTrainer):
    """TRL's trainer with the log-probs and entropies of a forward pass that somebody else has made."""

    scores: tuple[torch.Tensor, torch.Tensor]

    def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> Any:
        return (*self.scores, None)


class Ours(EntropyShapedGRPOTrainer, Given):
    def _way(self, *_: Any) -> HeadChoice:
        return HeadChoice("trl")  # a head is proved on a model's logits, and there are none


class Bypassed(EntropyShapedGRPOTrainer):
    def _compute_loss(self, *args: Any) -> Any:
        return GRPOTrainer._compute_loss(self, *args)


class Weighted(WeightShapingMixin, Given):
    pass


def outcome(trainer: Any, batch: Batch) -> Outcome:
    """A tool's tokens are part of the completion, and not of the mask of the loss; a padding row has no completion."""
    mask, entropy, advantages = behind_prompts(batch._replace(prompts=()), "mask", "entropy", "advantages")
    lengths = torch.tensor([len(m) if any(m) else 0 for _, _, m, _ in each(batch._replace(prompts=()))])
    completion_mask = (torch.arange(mask.shape[1]) < lengths[:, None]).long()
    logps = torch.linspace(-1.5, -0.1, 20, dtype=torch.float64).view(4, 5)[: len(mask)].requires_grad_()
    trainer.scores = logps, entropy.requires_grad_()
    ones = torch.ones(len(mask), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": ones,
        "prompt_mask": ones,
        "completion_ids": torch.full(mask.shape, 3),
        "completion_mask": completion_mask,
        "tool_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": torch.full_like(advantages, -0.8),
        "num_items_in_batch": mask.sum(),
    }
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    assert entropy.grad is None
    assert torch.equal(inputs["advantages"], advantages)
    log = getattr(trainer, "_action_log", None)
    totals = log.totals.get("shaping") if log else None
    return Outcome(loss.detach(), logps.grad, totals)


def set_methods(trainer: Any, alpha: float, kappa: float) -> None:
    """Lets a trainer go on with other constants, and with nothing counted."""
    trainer.args.alpha, trainer.args.kappa = alpha, kappa
    trainer._action_log.totals = {}


def set_weights(trainer: Any, alpha: float, kappa: float) -> None:
    trainer.shape(alpha=alpha, kappa=kappa)


def test_advantages_hold_the_contract(tmp_path: Path) -> None:
    ours, stock = make(Ours, tmp_path, entropy_backend="trl"), make(Given, tmp_path)
    bypassed = make(Bypassed, tmp_path, entropy_backend="trl", max_steps=1).train
    check(ours, stock, set_methods, bypassed)


def test_weights_hold_the_contract(tmp_path: Path) -> None:
    """TRL's loss asks for a mask of high-entropy tokens as Unsloth's does, and multiplies its terms with it."""
    ours, stock = make(Weighted, tmp_path, top_entropy_quantile=0.99), make(Given, tmp_path)
    deaf = make(type("Deaf", (WeightShapingMixin, GRPOTrainer), {}), tmp_path, top_entropy_quantile=0.99, max_steps=1)
    deaf.shape(alpha=0.4)
    deaf.top_entropy_quantile = 1.0  # TRL's loss reads this one
    check(ours, stock, set_weights, deaf.train)


def check(ours: Any, stock: Any, put: Callable[[Any, float, float], None], bypassed: Callable[[], Any]) -> None:
    def adapter(batch: Batch, alpha: float, kappa: float) -> Outcome:
        put(ours, alpha, kappa)
        return outcome(ours, batch)

    def logged(batch: Batch, alpha: float, kappa: float) -> dict[str, float]:
        ours.accelerator = of_two_processes()
        rows = 3 - len(batch.mask)  # of padding: TRL's processes have equally many
        filled = Batch(*([*values, *[[0.0]] * rows] for values in batch.columns))
        adapter(filled, alpha, kappa)
        ours.log({})
        return dict(ours.state.log_history[-1])

    holds(
        lambda batch: outcome(stock, batch),
        adapter,
        bypassed=bypassed,
        logged=logged,
        without_prompts=COLUMNS,
    )
