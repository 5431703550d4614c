"""prime-rl: the entropy-shaped advantage as its custom loss, once its `LossInputs` carries entropies.

    [trainer.loss]
    type = "custom"
    import_path = "forkwise.engines.hooks.prime_rl.shaped_loss"
    [trainer.loss.kwargs]
    alpha = 0.4
    kappa = 2.0

prime-rl computes entropies beside its loss and does not hand them in. docs/engines.md has the lines that do; without
them the first loss raises. Other `kwargs` are those of prime-rl's default loss, which the shaped advantages enter.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from forkwise.constants import KAPPA, check_alpha, check_kappa
from forkwise.core import shape_advantages


def shaped_loss(inputs: Any, *, alpha: float, kappa: float = KAPPA, **options: Any) -> Any:
    """Computes prime-rl's default loss of one sample on advantages shaped with the entropy of the policy under update.

    Raises:
        InputError: a constant is out of range.
        RuntimeError: `LossInputs` has no entropies.
    """
    from prime_rl.configs.trainer import DefaultLossConfig
    from prime_rl.trainer.rl.loss import default_loss_fn

    check_alpha(alpha)
    check_kappa(kappa)
    config = DefaultLossConfig(**options)
    if alpha == 0:
        return default_loss_fn(inputs, config)
    entropy = getattr(inputs, "entropy", None)
    if entropy is None:
        raise RuntimeError(
            "Advantages were not entropy-shaped: prime-rl's LossInputs has no field 'entropy'. The page Engines of "
            "forkwise's documentation has the lines that add it."
        )
    before, entropy = inputs.advantages, entropy.detach()
    advantages = shape_advantages(before, entropy, alpha=alpha, kappa=kappa, mask=inputs.loss_mask)
    outputs = default_loss_fn(dataclasses.replace(inputs, advantages=advantages), config)
    size, psi = before.abs(), advantages - before
    counted = inputs.loss_mask & (before != 0)
    # prime-rl averages over all numbers of all samples: a number a token makes that the average over tokens.
    numbers = {
        "psi_over_adv": (psi / size)[counted],
        "capped_frac": (size / kappa < alpha * entropy)[counted].to(psi.dtype),
        "psi_pos": psi[counted & (before > 0)],
        "psi_neg": psi[counted & (before < 0)],
    }
    named = {f"shaping/{name}": values for name, values in numbers.items()}
    return dataclasses.replace(outputs, metrics={**outputs.metrics, **named})
