"""A completion's answer on TRL: where it begins, and the logits of its first token after each layer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from forkwise.core import causal_model
from forkwise.core.hidden import layer_logits


def answer_logits(
    model: Any, batch: Mapping[str, torch.Tensor], tokenizer: Any, marker: str, rows_at_once: int
) -> torch.Tensor:
    """Returns the logit of the token behind the last `marker` after each layer, `(B, layers)`; NaN where none is."""
    pieces = getattr(tokenizer, "tokenizer", tokenizer)
    counted = [
        ids[mask != 0].tolist() for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    places = [_behind(marker, [pieces.decode([token]) for token in ids]) for ids in counted]
    width = batch["completion_ids"].shape[1]
    layers = causal_model(model).config.get_text_config().num_hidden_layers
    kept = torch.full((len(places), layers), torch.nan, device=batch["completion_ids"].device)
    for start in range(0, len(places), rows_at_once):
        some = [i for i in range(start, min(start + rows_at_once, len(places))) if places[i] is not None]
        if not some:
            continue
        rows = torch.tensor(some, device=kept.device)
        columns = torch.tensor([places[i] for i in some], device=kept.device)
        part = {name: tensor[rows] for name, tensor in batch.items() if name.startswith(("prompt_", "completion_"))}
        ids, mask = (torch.cat([part[f"prompt_{k}"], part[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        rows_of_batch = torch.arange(len(some), device=kept.device)
        targets = batch["completion_ids"][rows, columns]
        kept[rows] = layer_logits(model, inputs, rows_of_batch, columns - width - 1, targets)
    return kept


def _behind(marker: str, pieces: Sequence[str]) -> int | None:
    """Returns the place of the token behind the one in which the last marker ends; None without one."""
    end = "".join(pieces).rfind(marker)
    if end < 0:
        return None
    end += len(marker)
    length = 0
    for index, piece in enumerate(pieces):
        length += len(piece)
        if length >= end:
            return index + 1 if index + 1 < len(pieces) else None
    return None


def prompt_keys(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns a number for each prompt's tokens, `(B,)` int64, the same in every run and on every process."""
    keys = []
    for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True):
        text = " ".join(map(str, ids[mask != 0].tolist()))
        keys.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))
    return torch.tensor(keys, device=batch["prompt_ids"].device)
