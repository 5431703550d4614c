"""tinker and its cookbook: surprisal as a bonus on advantages, which is not the entropy-shaped advantage.

The service hands out the log-probability of the token that was drawn, and no logits, so that there is no entropy to
shape with. `add_surprisal` acts on the data between the cookbook's `assemble_training_data` and `train_step`:

    datums, metadata = assemble_training_data(...)
    datums = add_surprisal(datums, alpha=0.4, kappa=2.0)
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from forkwise.constants import KAPPA, check_alpha, check_kappa
from forkwise.errors import InputError

_FIELDS = ("advantages", "logprobs", "mask")
_ROUNDING = 1e-3  # a log-prob of 0 may come out so much above it
_MADE: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # data with surprisal, by identity


def add_surprisal(datums: Sequence[Any], *, alpha: float, kappa: float = KAPPA) -> list[Any]:
    """Adds `min(alpha * -log p, |A| / kappa)` to the advantages of the sampled tokens; `p` of the token that was drawn.

    The tensors of `loss_fn_inputs` may be torch's or tinker's `TensorData`; new ones of the same kind take the place of
    the advantages, in copies of the data. Without a field `mask`, tokens with an advantage of 0 (the prompt) stay.

    Raises:
        InputError: a constant is out of range, or a datum has no advantages or log-probs, has one that is not a number
            or positive at a sampled token, or was made here.
    """
    check_alpha(alpha)
    check_kappa(kappa)
    if any(_MADE.get(id(datum)) is datum for datum in datums):
        raise InputError("These data have their surprisal already, and twice would break the cap: add it once.")
    if alpha == 0:
        return list(datums)
    result = [_with_bonus(datum, alpha, kappa) for datum in datums]
    _MADE.update((id(datum), datum) for datum in result)
    return result


def add_entropy(*_: Any, **__: Any) -> NoReturn:
    """Refuses: there is no entropy here.

    Raises:
        InputError: always.
    """
    raise InputError(
        "tinker hands out no logits, so there is no entropy to shape with: surprisal, -log p of the drawn token, is "
        "another quantity, large where luck was. forkwise.engines.hooks.tinker.add_surprisal offers it under its name."
    )


def _with_bonus(datum: Any, alpha: float, kappa: float) -> Any:
    inputs = dict(datum.loss_fn_inputs)
    if missing := [name for name in _FIELDS[:2] if name not in inputs]:
        raise InputError(f"A datum has no '{missing[0]}' among its loss_fn_inputs: {', '.join(inputs)}.")
    advantages, logprobs = (_tensor(inputs[name]) for name in _FIELDS[:2])
    if advantages.shape != logprobs.shape:
        raise InputError(
            f"A datum has advantages {tuple(advantages.shape)} and logprobs {tuple(logprobs.shape)}: one of each per "
            "token."
        )
    counted = _tensor(inputs["mask"]) != 0 if "mask" in inputs else advantages != 0
    wrong = counted & ~(logprobs.isfinite() & (logprobs <= _ROUNDING))
    if bool(wrong.any()):
        raise InputError(
            f"A datum has {float(logprobs[wrong][0])} as the log-prob of a sampled token: give numbers of at most 0, "
            "the logprobs that came with the samples."
        )
    bonus = torch.minimum(-alpha * logprobs.clamp(max=0), advantages.abs() / kappa)
    shaped = torch.where(counted, advantages + bonus, advantages)
    plain = inputs["advantages"]
    inputs["advantages"] = shaped if isinstance(plain, torch.Tensor) else type(plain).from_torch(shaped)
    if hasattr(datum, "model_copy"):
        return datum.model_copy(update={"loss_fn_inputs": inputs})
    return type(datum)(**{**vars(datum), "loss_fn_inputs": inputs})


def _tensor(values: Any) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else values.to_torch()
