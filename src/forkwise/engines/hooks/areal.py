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
from forkwise.core import shape_advantages
from forkwise.engines.hooks.levels import warn_of_sequences
from forkwise.errors import InputError

Loss = Callable[..., Any]
_SHAPES = "_forkwise_shapes"


def shaped(loss_fn: Loss, *, alpha: float, kappa: float = KAPPA) -> Loss:
    """Returns the loss on advantages shaped with the entropy that AReaL hands in; with alpha 0, the loss itself.

    Raises:
        InputError: a constant is out of range, or the loss shapes already (the line may stand in the file twice); in a
            loss, if it is a distillation without advantages.
        RuntimeError: in a loss to which no entropies or advantages come.
    """
    check_alpha(alpha)
    check_kappa(kappa)
    if getattr(loss_fn, _SHAPES, False):
        raise InputError("This loss shapes advantages already, and twice would break the cap: call shaped() once.")
    if alpha == 0:
        return loss_fn

    @functools.wraps(loss_fn)
    def of_shaped(logprobs: Tensor, entropy: Tensor | None, input_data: dict[str, Any], *args: Any, **more: Any) -> Any:
        if "teacher_logp" in input_data and input_data.get("rl_loss_weight", 1.0) == 0:
            raise InputError("This loss is a distillation without advantages (rl_loss_weight 0): set alpha to 0.")
        missing = [name for name in ("advantages", "loss_mask") if name not in input_data]
        if entropy is None or missing:
            missed = "entropies" if entropy is None else f"'{missing[0]}'"
            raise RuntimeError(f"Advantages were not entropy-shaped: AReaL's loss was given no {missed}.")
        level = more.get("importance_sampling_level", "token")
        warn_of_sequences("actor.importance_sampling_level=sequence", per_sequence=level == "sequence")
        before, mask = input_data["advantages"], input_data["loss_mask"]
        advantages = shape_advantages(before, entropy.detach(), alpha=alpha, kappa=kappa, mask=mask)
        counted = mask.bool() & (before != 0)
        capped = before.abs() / kappa < alpha * entropy.detach()
        _track(before, advantages - before, counted, capped)
        return loss_fn(logprobs, entropy, {**input_data, "advantages": advantages}, *args, **more)

    setattr(of_shaped, _SHAPES, True)  # a further functools.wraps carries it on
    return of_shaped


def _track(before: Tensor, psi: Tensor, counted: Tensor, capped: Tensor) -> None:
    """Tells AReaL's tracker what shaping did, which averages over the tokens of all micro-batches and processes."""
    from areal.utils import stats_tracker

    positive, negative = counted & (before > 0), counted & (before < 0)
    stats_tracker.denominator(shaping_tokens=counted, shaping_pos=positive, shaping_neg=negative)
    ratio = (psi / before.abs()).nan_to_num(0.0).float()  # 0 / 0 at tokens that are not counted
    stats_tracker.stat(
        **{"shaping/psi_over_adv": ratio, "shaping/capped_frac": capped.float()}, denominator="shaping_tokens"
    )
    stats_tracker.stat(**{"shaping/psi_pos": psi.float()}, denominator="shaping_pos")
    stats_tracker.stat(**{"shaping/psi_neg": psi.float()}, denominator="shaping_neg")
