"""Our operator as verl's head: `actor_rollout_ref.model.fused_kernel_options.impl_backend=forkwise`.

verl's own fused kernels replace the forward pass of a model class by one that multiplies the last hidden states with
the weight of the head, whatever else the model does to its logits, and rounds entropies to the model's dtype. Ours lets
the model run as it is, with the operator in place of its last layer, returns float32, and is proved on a few tokens of
the first batch, once for each set of adapters that act: none for log-probs of the reference.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from forkwise.core import Head, HeadError, HiddenStatesError, Places, adapters_in_use, prove_head, score_tokens
from forkwise.engines.verl.settings import HEAD, IMPL_BACKEND
from forkwise.errors import InputError, NotFiniteError

_TOKENS = 24  # in the proof


def offer_head(module: ModuleType) -> None:
    """Makes `patch_forward_with_backends` of this module of verl know our backend beside verl's own."""
    patch = module.patch_forward_with_backends

    @functools.wraps(patch)
    def patched(
        model: Any, use_fused_kernels: bool = False, fused_kernels_backend: str | None = None, **more: Any
    ) -> None:
        if use_fused_kernels and fused_kernels_backend == HEAD:
            use_operator(model)
        else:
            patch(model, use_fused_kernels=use_fused_kernels, fused_kernels_backend=fused_kernels_backend, **more)

    module.patch_forward_with_backends = patched  # type: ignore[attr-defined]


def use_operator(model: Any) -> None:
    """Makes a causal model return log-probs and entropies `(B, L)` instead of logits, when verl gives a temperature.

    Raises:
        InputError: it is no text model. In a forward pass, that our operator cannot, or no longer, stand in for its
            head.
        NotFiniteError: in a forward pass, hidden states are no numbers; the trainer adds the step (see `guard`).
    """
    name = type(model).__name__
    if getattr(model.config, "vision_config", None) is not None:
        raise InputError(f"{IMPL_BACKEND}={HEAD} is for text models, and {name} sees images: use torch or triton.")
    models_forward = model.forward
    proved: dict[frozenset[Any], Head] = {}

    def forward(
        *args: Any,
        temperature: float | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> Any:
        if temperature is None:
            targets = {"labels": labels, "shift_labels": shift_labels, "return_dict": return_dict}
            return models_forward(
                *args, **{name: value for name, value in targets.items() if value is not None}, **inputs
            )
        ids = inputs["input_ids"]
        adapters = adapters_in_use(model)
        if adapters not in proved:
            proved[adapters] = _prove(model, ids, name, float(temperature))
        from verl.utils.model import CausalLMOutputForPPO

        if shift_labels is None:
            shift_labels = torch.roll(ids if labels is None else labels, shifts=-1, dims=-1)
        rows, columns = torch.ones_like(shift_labels).nonzero().unbind(1)
        places = Places(rows, columns - shift_labels.shape[1], shift_labels.reshape(-1))
        inputs["use_cache"] = False
        try:
            scores = score_tokens(_Inner(model), inputs, places, proved[adapters], temperature=float(temperature))
        except HiddenStatesError as error:
            raise NotFiniteError(str(error)) from error
        except HeadError as error:
            raise InputError(_refusal(name, str(error))) from error
        return CausalLMOutputForPPO(
            log_probs=scores.logprob.view(shift_labels.shape), entropy=scores.entropy.view(shift_labels.shape)
        )

    model.forward = forward


class _Inner:
    """Calls a model past what is wrapped around it, since we are inside all of that already."""

    def __init__(self, model: Any) -> None:
        self.module = model

    def __call__(self, **inputs: Any) -> Any:
        return self.module.forward(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def _prove(model: Any, ids: Tensor, name: str, temperature: float) -> Head:
    """Proves the head on tokens of this process; all processes agree, since those of a sharded model go on together."""
    few = ids[:1, :_TOKENS]
    head, why = None, "another process finds that our operator cannot stand in for its head"
    try:
        head = prove_head(_Inner(model), few if few.shape[1] > 1 else few.repeat(1, 2), temperature=temperature)
    except HeadError as error:
        why = str(error)
    broken = _any_process(head is None, ids.device)
    if broken or head is None:
        raise InputError(_refusal(name, why))
    return head


def _refusal(name: str, why: str) -> str:
    return (
        f"{IMPL_BACKEND}={HEAD} cannot be used with {name}: {why}; set actor_rollout_ref.model.use_fused_kernels "
        "to False, so that verl goes by the logits."
    )


def _any_process(flag: bool, device: torch.device) -> bool:
    if not torch.distributed.is_initialized():
        return flag
    raised = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(raised)
    return bool(raised > 0)
