"""A run's health: numbers that are not finite stop it, an entropy that collapses or lengths that explode warn.

What is not finite is found before the optimizer sees it, so that the weights and the last checkpoint stay good, and
the batch is kept for inspection. The warnings compare a run with its own start, since good values depend on the model
and the task.

Its sentences stay here: they stop or warn a run that is going on, and are no result that anyone reads back.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from forkwise.engines.trl.guard import finite_draws
from forkwise.errors import InputError, NotFiniteError

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

__all__ = ["FiniteMixin", "HealthLimits", "HealthWarnings"]

KEPT = "non_finite"  # folder in the run folder for batches that stopped it
_ADVICE = "Try a lower learning_rate, a smaller max_grad_norm, or float32; `forkwise doctor run` shows what led here."


class FiniteMixin(_Trainer):
    """Stops any `GRPOTrainer` at the first number that is not finite: `class Mine(FiniteMixin, MyGRPOTrainer)`.

    Looked at: the weights before each rollout; advantages, log-probabilities, entropies (at the tokens that count) and
    the loss of each micro-batch; the gradients after each backward pass, unless a loss scaler expects infinities there
    or DeepSpeed keeps them to itself.

    Raises:
        NotFiniteError: naming the step, the tensor, and the file `non_finite/step_N_process_I.pt` in `output_dir`. It
            is read with `torch.load`, and holds the micro-batch, its entropies and log-probabilities, and its texts.
    """

    check_finite = True
    advice = _ADVICE  # of a step from which no token can be drawn
    _scored: tuple[Tensor, Tensor | None] | None = None  # log-probabilities and entropies of the loss, both (B, T)
    _micro_batch_seen: Mapping[str, Any] | None = None

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        if self.check_finite and self.model.training:
            trained = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
            self.require_finite_tensors("weight", trained)
        with finite_draws(self):
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return batch

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the trainer's step, followed by a look at the gradients."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.check_finite and self.accelerator.scaler is None:
            gradients = ((name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None)
            self.require_finite_tensors("gradient", gradients)
        self._micro_batch_seen = self._scored = None
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        scored = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if torch.is_grad_enabled() and self.model.training:  # the policy under update, no reference
            self._scored = scored[0].detach(), None if scored[1] is None else scored[1].detach()
        return scored

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._scored = None
        watched = self.check_finite and self.model.training
        if watched:
            self._micro_batch_seen = inputs
        try:
            loss: Tensor = super()._compute_loss(model, inputs)
        except NotFiniteError as error:  # of the last hidden states, which our head looks at
            if not watched:
                raise
            kept = self._keep_batch(self.state.global_step + 1, [str(error)])
            raise NotFiniteError(f"{error} {kept}{_ADVICE}") from error
        except ValueError as error:
            name, marker, _ = str(error).partition(" holds NaN or infinity")  # what forkwise.core says
            if not (marker and watched):
                raise
            self._stop([name])
        if watched:
            mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
            logps, entropy = self._scored or (None, None)
            at_tokens = {
                "log-probabilities of the rollout": inputs.get("old_per_token_logps"),
                "log-probabilities": logps,
                "entropy": entropy,
            }
            counted = {name: torch.where(mask.bool(), x, 0) for name, x in at_tokens.items() if x is not None}
            self.require_finite({"advantages": inputs["advantages"], **counted, "loss": loss.detach()})
        return loss

    def require_finite(self, tensors: Mapping[str, Tensor]) -> None:
        """Stops the run if one of these is not finite on any process; every process must name the same ones."""
        nonfinite = torch.stack([(~tensor.isfinite()).sum() for tensor in tensors.values()])
        self._stop_if(nonfinite, list(tensors), [tensor.numel() for tensor in tensors.values()])

    def require_finite_tensors(self, kind: str, named: Iterable[tuple[str, Tensor]]) -> None:
        """Stops the run if one of a model's weights or gradients is not finite; on shards, of any process."""
        names, locals_ = [], []
        for name, tensor in named:
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            if local.numel() and local.is_floating_point():
                names.append(name)
                locals_.append(local.detach())
        bad = torch.zeros(len(names), dtype=torch.bool)
        if locals_:
            # The largest absolute value: one pass, no temporary, and no overflow that the tensor itself has not.
            peaks = [torch.linalg.vector_norm(local, ord=math.inf).float() for local in locals_]
            bad = ~torch.stack(peaks).isfinite()
        worst = [f"{kind} of {name.replace('module.', '')}" for name, b in zip(names, bad.tolist(), strict=True) if b]
        count = torch.tensor([len(worst)], device=self.accelerator.device)
        self._stop_if(count, [worst[0] if worst else f"a {kind}"], [len(names)], unit="tensors")

    def _stop_if(self, nonfinite: Tensor, names: list[str], sizes: list[int], unit: str = "values") -> None:
        here = nonfinite.tolist()
        everywhere = self.accelerator.reduce(nonfinite, reduction="sum").tolist() if self._is_distributed() else here
        if not any(everywhere):
            return
        parts = [
            f"{name} ({count} of {size} {unit})" if count else f"{name} (on another process)"
            for name, count, total, size in zip(names, here, everywhere, sizes, strict=True)
            if total
        ]
        self._stop(parts)

    def _stop(self, parts: list[str]) -> NoReturn:
        step = self.state.global_step + 1
        kept = self._keep_batch(step, parts)
        raise NotFiniteError(
            f"Step {step}: not finite: {', '.join(parts)}; the run stops before its weights are changed. {kept}"
            f"{_ADVICE}"
        )

    def _is_distributed(self) -> bool:
        return bool(self.accelerator.num_processes > 1)

    def _keep_batch(self, step: int, names: list[str]) -> str:
        batch = self._micro_batch_seen
        if batch is None:
            return ""
        logps, entropy = self._scored or (None, None)
        tensors = {name: value.cpu() for name, value in batch.items() if isinstance(value, Tensor)}
        texts = {
            name: self.processing_class.batch_decode(batch[f"{name}_ids"], skip_special_tokens=False)
            for name in ("prompt", "completion")
        }
        path = Path(self.args.output_dir) / KEPT / f"step_{step}_process_{self.accelerator.process_index}.pt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = {"step": step, "not_finite": names, "batch": tensors, "logps": logps, "entropy": entropy}
            torch.save({**kept, "texts": texts}, path)
        except (OSError, RuntimeError) as error:
            return f"The batch could not be saved ({str(error).splitlines()[0]}). "
        return f"The batch is in '{path}'. "


@dataclass(frozen=True)
class HealthLimits:
    """When a run warns. "Start" and "now" are means over the first and the last `window` logged lines.

    Args:
        window: logged lines, at least 1.
        min_entropy: entropy now, as a fraction of that at the start, below which it has collapsed.
        max_length: mean completion length now, as a multiple of that at the start, above which it has exploded.
        max_truncated: rise of the share of completions that reach `max_completion_length`, above which too.

    Raises:
        InputError: for values out of range.
    """

    window: int = 10
    min_entropy: float = 0.1
    max_length: float = 3.0
    max_truncated: float = 0.5

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError(f"health_window is {self.window}; it must be at least 1 logged line.")
        if not 0 <= self.min_entropy < 1:
            raise InputError(f"health_min_entropy is {self.min_entropy}; it is a fraction of the start, in [0, 1).")
        if not self.max_length > 1:
            raise InputError(f"health_max_length is {self.max_length}; it is a multiple of the start, above 1.")
        if not 0 < self.max_truncated <= 1:
            raise InputError(f"health_max_truncated is {self.max_truncated}; it is a rise of a share, in (0, 1].")


class HealthWarnings(TrainerCallback):
    """Warns once of each: an entropy that has collapsed, lengths that have exploded."""

    def __init__(self, limits: HealthLimits) -> None:
        self.limits = limits
        self._said: set[str] = set()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Compares the newest logged lines with the first; a resumed run knows its first ones."""
        if not state.is_world_process_zero:
            return
        for name, message in alarms(state.log_history, self.limits).items():
            if name not in self._said:
                self._said.add(name)
                warnings.warn(f"Step {state.global_step}: {message}", stacklevel=2)


def alarms(history: list[dict[str, Any]], limits: HealthLimits) -> dict[str, str]:
    """Returns what is alarming in the logged lines of a run so far: name and sentence."""
    sentences: dict[str, str] = {}
    for key in ("entropy", "completions/mean_length", "completions/clipped_ratio"):
        values = [row[key] for row in history if isinstance(row.get(key), int | float)]
        if len(values) < 2 * limits.window:
            continue
        start, now = fmean(values[: limits.window]), fmean(values[-limits.window :])
        if key == "entropy" and now < limits.min_entropy * start:
            sentences[key] = (
                f"the entropy has collapsed from {start:.3g} to {now:.3g} nats: the policy hardly explores. Try a "
                "larger alpha or epsilon_high, a lower learning_rate, fewer num_iterations, or beta > 0; continue from "
                "an earlier checkpoint."
            )
        elif key == "completions/mean_length" and now > limits.max_length * start:
            sentences[key] = (
                f"completions have grown from {start:.0f} to {now:.0f} tokens. Read some (log_completions); if they "
                "ramble, try mask_truncated_completions, loss_type='dr_grpo', a length penalty, or a lower alpha."
            )
        elif key == "completions/clipped_ratio" and now - start > limits.max_truncated:
            sentences[key] = (
                f"{now:.0%} of the completions reach max_completion_length, {start:.0%} did at the start. Read some "
                "(log_completions); raise max_completion_length if they are sensible, else try "
                "mask_truncated_completions or a length penalty."
            )
    return sentences
