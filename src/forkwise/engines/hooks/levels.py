"""Warns of losses in which the tokens of a sequence share one ratio (GSPO), where an engine's settings say so."""

from __future__ import annotations

import functools
import warnings


def warn_of_sequences(setting: str, *, per_sequence: bool) -> None:
    """Warns, once per process, that shaped advantages lose their selectivity where the ratio is one per sequence.

    Args:
        setting: the engine's setting that makes it so, as its user writes it.
        per_sequence: whether it does in this run.
    """
    if per_sequence:
        _warn(setting)


@functools.cache
def _warn(setting: str) -> None:
    warnings.warn(
        f"With {setting} the tokens of a sequence share one ratio, so that only the mean of their shaped advantages "
        "reaches the gradient: they lose their selectivity. Train with ratios of tokens to keep it.",
        stacklevel=3,
    )
