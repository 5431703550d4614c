"""A reward for `forkwise grpo --reward row_noise:letters` whose import makes generation the same however it is spread.

TRL seeds each process's sampling on its own, so that one and two processes draw different completions. Here noise that
depends on prompt, row of the global batch and position only is added to the logits; with top_k 1, adding Gumbel noise
is sampling from the softmax (Gumbel-max). Everything else is the real command.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList

_generate = GenerationMixin.generate


class RowNoise(LogitsProcessor):
    """Gumbel noise from (prompt, row of the global batch, position)."""

    def __init__(self, prompts: list[int], first: int, width: int) -> None:
        self.prompts, self.first, self.width = prompts, first, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noisy = scores.clone()
        for i, prompt in enumerate(self.prompts):
            seed = (prompt * 1000 + self.first + i) * 1000 + input_ids.size(1) - self.width
            draw = torch.rand(scores.size(1), generator=torch.Generator().manual_seed(seed))
            noisy[i] -= draw.clamp(min=1e-9).log().neg().log()
        return noisy


def _same_however_spread(self: Any, *args: Any, **kwargs: Any) -> Any:
    ids = kwargs["input_ids"]
    prompts = (ids * kwargs["attention_mask"]).sum(dim=1).tolist()
    noise = RowNoise(prompts, int(os.environ.get("RANK", "0")) * len(ids), ids.size(1))
    return _generate(self, *args, **kwargs, logits_processor=LogitsProcessorList([noise]))


GenerationMixin.generate = _same_however_spread


def letters(completions: list[str], **_: Any) -> list[float]:
    """Depends on every letter, so that the advantages of a group differ."""
    return [sum(text.encode()) % 7 / 6 for text in completions]
