"""Opens TRL's clip of the ratio for a method that has a clip of its own, and refuses what would close it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forkwise.errors import InputError
from forkwise.methods import Method
from forkwise.methods.clips import CLIP

if TYPE_CHECKING:
    from trl import GRPOConfig

_OPEN = {"epsilon": 1.0, "epsilon_high": 1e9, "delta": None}  # ratios from 0 to a billion
_CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo")  # losses whose weight of a token is its clipped ratio


def open_clip(config: GRPOConfig, methods: Sequence[Method], defaults: dict[str, object]) -> None:
    """Sets TRL's fields so that a token's weight is its ratio, if one of the methods replaces the clip.

    Args:
        config: TRL's config, changed in place.
        methods: those of the run.
        defaults: TRL's defaults of the fields of the clip.

    Raises:
        InputError: fields that were set to something else, and losses that weigh tokens in another way.
    """
    opening = [method for method in methods if method.slot == CLIP]
    if not opening:
        return
    name = opening[0].name
    for field, value in _OPEN.items():
        now = getattr(config, field)
        if now not in (value, defaults[field]):
            raise InputError(f"The method '{name}' replaces the clip that {field}={now} sets: leave one of them out.")
        setattr(config, field, value)
    if config.loss_type not in _CLIPPED or config.importance_sampling_level != "token":
        raise InputError(
            f"The method '{name}' replaces the clip of each token's ratio, which loss_type={config.loss_type!r} with "
            f"importance_sampling_level={config.importance_sampling_level!r} does not have: use "
            f"{', '.join(_CLIPPED[:-1])} or {_CLIPPED[-1]}, and 'token'."
        )
