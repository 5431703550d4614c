"""Pivotal tokens and reflective sentences live in the trainer, logged with TRL's metrics (`--log_behaviours`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from forkwise.explore.live import TOTALS, BehaviourCounter, metrics

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

__all__ = ["BehavioursMixin"]


class BehavioursMixin(_Trainer):
    """Counts behaviours in the completions of any `GRPOTrainer`: `class Mine(BehavioursMixin, MyGRPOTrainer)`.

    Nothing is counted until `log_behaviours` is set. Logged over all completions since the last log, of all processes,
    under `behaviours/`: counts per response, entropies (nats, of the policy under update) and the repetition rate; see
    `forkwise.explore.live.metrics`. The training itself does not change.
    """

    log_behaviours = False
    behaviour_breaks: Sequence[str] = ()
    """Words that begin a sentence besides punctuation."""
    _behaviour_counter: BehaviourCounter | None = None
    _behaviour_totals: np.ndarray | None = None
    _behaviour_batch: Mapping[str, Any] | None = None  # set while a training loss is computed, until it is counted

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._behaviour_batch = inputs if self.log_behaviours and self.model.training else None
        try:
            loss: torch.Tensor = super()._compute_loss(model, inputs)
        finally:
            self._behaviour_batch = None
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        scored = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        batch = self._behaviour_batch
        if batch is not None and torch.is_grad_enabled():
            self._behaviour_batch = None
            self._count_behaviours(batch, scored[1])
        return scored

    def _count_behaviours(self, batch: Mapping[str, Any], entropies: torch.Tensor | None) -> None:
        if self._behaviour_counter is None:
            tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
            self._behaviour_counter = BehaviourCounter(
                decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
                decode_one=lambda i: tokenizer.decode([i]),
                breaks=self.behaviour_breaks,
                end=tokenizer.eos_token_id,
            )
        ids = batch["completion_ids"].tolist()
        mask = batch["completion_mask"].bool().tolist()
        values = None if entropies is None else entropies.detach().double().cpu().numpy()
        total = np.zeros(len(TOTALS)) if self._behaviour_totals is None else self._behaviour_totals
        for i, (row, kept) in enumerate(zip(ids, mask, strict=True)):
            chosen = [token for token, keep in zip(row, kept, strict=True) if keep]
            total = total + self._behaviour_counter.count(chosen, None if values is None else values[i][np.array(kept)])
        self._behaviour_totals = total

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Logs as TRL does and adds, in training, the behaviours of the window."""
        if self.log_behaviours and self.model.training:
            total = np.zeros(len(TOTALS)) if self._behaviour_totals is None else self._behaviour_totals
            self._behaviour_totals = None
            summed = self.accelerator.reduce(
                torch.tensor(total, dtype=torch.float32, device=self.accelerator.device), reduction="sum"
            )
            if float(summed[0]) > 0:
                for name, value in metrics(summed.double().cpu().numpy()).items():
                    self._metrics["train"][f"behaviours/{name}"].append(value)
        super().log(*args, **kwargs)
