"""A check that TRL computes what the policy's own logits say: its fused head does not know every model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from packaging.version import Version

from forkwise.core import causal_model, compare_head, few_tokens
from forkwise.engines.trl.release import TRL
from forkwise.errors import InputError

if TYPE_CHECKING:
    from trl import GRPOTrainer

_REMEDY = "install trl==1.14.2, which goes by the logits" if Version("1.15") <= TRL else "train another model"


@torch.no_grad()
def check_head(
    trainer: GRPOTrainer, ids: torch.Tensor, mask: torch.Tensor, completion_length: int, *, images: bool
) -> bool:
    """Compares TRL's log-probs and entropies with those of the policy's logits, on a few tokens of one completion.

    All processes compare, since a sharded model needs them all, and all stop if one finds a difference.

    Returns:
        Whether there were tokens to compare.

    Raises:
        InputError: TRL computes something else, or cannot compute it for this model.
    """
    row = int(mask[:, -completion_length:].sum(dim=1).argmax())
    real = mask[row].bool()
    prompt, completion = (
        ids[row, part][real[part]] for part in (slice(-completion_length), slice(-completion_length, None))
    )
    # In a prompt with images, tokens stand for them, which mean nothing without.
    few = few_tokens(prompt[:0] if images else prompt, completion)
    if _any_process(trainer, few.shape[1] < 2):
        return False

    def by_trl(ids: torch.Tensor) -> list[torch.Tensor]:
        numbers = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, torch.ones_like(ids), ids.shape[1] - 1, compute_entropy=True
        )
        return [n for n in numbers[:2] if n is not None]  # without entropies (Unsloth) the loss will raise

    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(trainer.accelerator.mixed_precision)
    try:
        mismatch = compare_head(trainer.model, few, by_trl, temperature=trainer.temperature, precision=precision)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError, TypeError) as error:
        name = type(causal_model(trainer.model)).__name__
        raise InputError(
            f"trl {TRL} cannot compute the log-probs of {name} ({str(error).splitlines()[0]}); {_REMEDY}."
        ) from error
    if _any_process(trainer, mismatch is not None):
        what = str(mismatch or "another process found a log-prob or an entropy that is not the logits'")
        raise InputError(f"trl {TRL} would train on wrong numbers: {what}; {_REMEDY}.")
    return True


def _any_process(trainer: GRPOTrainer, flag: bool) -> bool:
    device = trainer.accelerator.device
    return bool(trainer.accelerator.reduce(torch.tensor(float(flag), device=device), reduction="sum") > 0)
