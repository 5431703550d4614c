"""AReaL 1.0: the entropy-shaped advantage in its loss contract, `loss_fn(logprobs, entropy, input_data, **kwargs)`.

    from forkwise.engines.hooks.areal import shaped
    engine.train_batch(mb, loss_fn=shaped(loss_fn, alpha=0.4, kappa=2.0), loss_weight_fn=...)

AReaL computes entropies in any case, at the sampling temperature and with gradient, and packs responses behind one
another: tensors are `(N,)`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from forkwise.constants import KAPPA, check_alpha, check_kappa
from forkwise.core import shape_and_measure
from forkwise.engines.hooks.constants import log

Loss = Callable[..., Any]


def shaped(loss_fn: Loss, *, alpha: float, kappa: float = KAPPA) -> Loss:
    """Returns the loss on advantages shaped with the entropy that AReaL hands in; with alpha 0, the loss itself.

    Raises:
        InputError: a constant is out of range.
        RuntimeError: in a loss to which no entropies or advantages come.
    """
    check_alpha(alpha)
    check_kappa(kappa)
    if alpha == 0:
        return loss_fn

    @functools.wraps(loss_fn)
    def of_shaped(logprobs: Tensor, entropy: Tensor | None, input_data: dict[str, Any], *args: Any, **more: Any) -> Any:
        missing = [name for name in ("advantages", "loss_mask") if name not in input_data]
        if entropy is None or missing:
            what = "entropies" if entropy is None else f"'{missing[0]}'"
            raise RuntimeError(f"Advantages were not entropy-shaped: AReaL's loss was given no {what}.")
        advantages, stats = shape_and_measure(
            input_data["advantages"], entropy.detach(), alpha=alpha, kappa=kappa, mask=input_data["loss_mask"]
        )
        log(stats, "micro-batch")
        return loss_fn(logprobs, entropy, {**input_data, "advantages": advantages}, *args, **more)

    return of_shaped
