"""What tokens have to do with the images in their prompt, on TRL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import split_pixel_values_by_grid

from forkwise.core import causal_model
from forkwise.core.hidden import last_hidden_states
from forkwise.errors import InputError

_OF_IMAGES = (
    *("pixel_values", "image_grid_thw", "image_position_ids", "image_sizes", "pixel_attention_mask"),
    *("spatial_shapes", "token_type_ids", "mm_token_type_ids"),
)


@torch.no_grad()
def image_similarity(model: Any, batch: dict[str, Any], rows_at_once: int) -> Tensor:
    """Computes the cosine of each completion token's last hidden state with the mean of those at its images, `(B, T)`.

    Both are at the tokens' own positions. Rows without an image have 0, and so does padding.

    Args:
        model: the policy.
        batch: TRL's rollout, before it is shuffled.
        rows_at_once: completions in one forward pass.

    Raises:
        InputError: the model does not say which token stands for an image, or the prompts have none of it.
    """
    counted = batch["completion_mask"] != 0
    kept = torch.zeros(counted.shape, device=counted.device)
    if "pixel_values" not in batch:
        return kept
    token = _image_token(model)
    at_images = (batch["prompt_ids"] == token) & (batch["prompt_mask"] != 0)
    if not bool(at_images.any()):
        raise InputError(
            f"The prompts of this model have no token {token}, which its config names as that of images, so that "
            "vgpo cannot find them."
        )
    parts = split_pixel_values_by_grid(batch)
    for start in range(0, len(counted), rows_at_once):
        some = slice(start, start + rows_at_once)
        inputs = {
            "input_ids": torch.cat([batch["prompt_ids"][some], batch["completion_ids"][some]], dim=1),
            "attention_mask": torch.cat([batch["prompt_mask"][some], batch["completion_mask"][some]], dim=1),
            "use_cache": False,
        }
        for name in _OF_IMAGES:
            if name in parts:
                part = parts[name][some]
                inputs[name] = torch.cat(list(part)) if isinstance(part, list | tuple) else part
        images = torch.cat([at_images[some], torch.zeros_like(counted[some])], dim=1)
        answers = torch.cat([torch.zeros_like(at_images[some]), counted[some]], dim=1)
        rows, columns = (images | answers).nonzero().unbind(1)
        states = last_hidden_states(model, inputs, rows, columns - images.shape[1]).float()
        spread = states.new_zeros(*images.shape, states.shape[1])
        spread[rows, columns] = states
        number = images.sum(dim=1, keepdim=True)
        mean = (spread * images[:, :, None]).sum(dim=1) / number.clamp(min=1)
        cosine = torch.nn.functional.cosine_similarity(spread, mean[:, None], dim=2)[:, -counted.shape[1] :]
        kept[some] = torch.where(counted[some] & (number > 0), cosine, 0)
    return kept


def _image_token(model: Any) -> int:
    """Returns the id of the token that stands for a piece of an image."""
    config = causal_model(model).config
    for name in ("image_token_id", "image_token_index"):
        if (token := getattr(config, name, None)) is not None:
            return int(token)
    raise InputError(
        f"The method 'vgpo' looks for the tokens of images, and the config of {type(causal_model(model)).__name__} "
        "does not name them (image_token_id): train another model."
    )
