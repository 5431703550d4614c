"""Trains reasoning language models with methods meant to keep them exploring, and measures whether they do.

The public names are loaded when first used, so that `import forkwise` stays light and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from forkwise.version import __version__

_HOME = {
    "token_entropy": "forkwise.core",
    "logprob_and_entropy": "forkwise.core",
    "shape_advantages": "forkwise.core",
    "shape_and_measure": "forkwise.core",
    "group_advantages": "forkwise.core",
    "leave_one_out": "forkwise.core",
    "gae": "forkwise.core",
    "EntropyShapingMixin": "forkwise.engines.trl",
    "EntropyShapedGRPOConfig": "forkwise.engines.trl",
    "EntropyShapedGRPOTrainer": "forkwise.engines.trl",
    "EntropyShapedAsyncGRPOConfig": "forkwise.engines.trl.async_grpo",
    "EntropyShapedAsyncGRPOTrainer": "forkwise.engines.trl.async_grpo",
    "EntropyShapedPPOConfig": "forkwise.training.ppo",
    "EntropyShapedPPOTrainer": "forkwise.training.ppo",
    "pass_at_k": "forkwise.passk",
}
__all__ = [
    "EntropyShapedAsyncGRPOConfig",
    "EntropyShapedAsyncGRPOTrainer",
    "EntropyShapedGRPOConfig",
    "EntropyShapedGRPOTrainer",
    "EntropyShapedPPOConfig",
    "EntropyShapedPPOTrainer",
    "EntropyShapingMixin",
    "__version__",
    "gae",
    "group_advantages",
    "leave_one_out",
    "logprob_and_entropy",
    "pass_at_k",
    "shape_advantages",
    "shape_and_measure",
    "token_entropy",
]

if TYPE_CHECKING:
    from forkwise.core import (
        gae,
        group_advantages,
        leave_one_out,
        logprob_and_entropy,
        shape_advantages,
        shape_and_measure,
        token_entropy,
    )
    from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer, EntropyShapingMixin
    from forkwise.engines.trl.async_grpo import EntropyShapedAsyncGRPOConfig, EntropyShapedAsyncGRPOTrainer
    from forkwise.passk import pass_at_k
    from forkwise.training.ppo import EntropyShapedPPOConfig, EntropyShapedPPOTrainer


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'forkwise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
