"""A model run with something else in place of the product of its last layer, or with its gradients recorded.

What stands before that layer is the model's own, adapters and sharding included, and so is what stands behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = [
    "HeadError",
    "beside_head",
    "causal_model",
    "in_place_of_head",
    "nearest_trained",
    "no_logits",
    "recorded",
    "sheltered",
]


_T = TypeVar("_T")


class HeadError(RuntimeError):
    """The model's last layer is not one that our operator can stand in for; the message says why."""


def causal_model(model: Any) -> Any:
    """Returns the model of transformers inside wrappers and adapters."""
    while hasattr(model, "module"):  # DDP, FSDP, DeepSpeed
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def no_logits(hidden: Tensor, _computed: Any) -> Tensor:
    """Stands for the logits, of which one would be as good as all: nobody looks at them."""
    return hidden.new_zeros(*hidden.shape[:-1], 1)


def sheltered(tensor: Tensor) -> Tensor:
    """Makes complex numbers of a tensor in single or double precision, to be undone by `.real`.

    Mixed precision that is wrapped around a model (FSDP2's, accelerate's) rounds and widens the floats that leave it,
    and no other numbers.
    """
    return torch.complex(tensor, torch.zeros_like(tensor)) if tensor.dtype.itemsize >= 4 else tensor


class _Answer:
    """What the model returns in place of its output; `make` gets what the head computed, and the output."""

    def __init__(self) -> None:
        self.make: Callable[[Any, Any], Any] = lambda computed, output: output

    def use(self, make: Callable[[Any, Any], Any]) -> None:
        self.make = make


@contextmanager
def in_place_of_head(
    causal: Any, compute: Callable[[nn.Linear, Tensor], Any], stand_in: Callable[[Tensor, Any], Tensor]
) -> Iterator[_Answer]:
    """Lets `compute(layer, hidden)` take the place of the product of the head, while the model runs.

    The layer is called as ever, so that what gathers its weight before and during the backward pass does so. The layers
    behind it get `stand_in(hidden, computed)`. What was computed leaves the model in its output: DDP looks there for
    what was used. What goes wrong is raised when the model has run to its end: the other processes of a sharded model
    wait for this one until then.
    """
    computed: list[Any] = []
    failed: list[Exception] = []
    answer = _Answer()
    layers: list[nn.Linear] = []
    try:
        layers = _linear_layers(causal)
    except HeadError as error:
        failed.append(error)

    def of(layer: nn.Linear) -> Callable[[Tensor], Any]:
        def instead(hidden: Tensor) -> Any:
            try:
                return compute(layer, hidden)
            except Exception as error:
                failed.append(error)
                return None

        return instead

    def keep(_layer: Any, inputs: tuple[Tensor, ...], output: Any) -> Tensor:
        computed.append(output)
        return no_logits(inputs[0], None) if output is None else stand_in(inputs[0], output)

    def answering(forward: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            del computed[:]
            try:
                output = forward(*args, **kwargs)
            except Exception:
                if failed:
                    raise failed[0] from None
                raise
            if failed:
                raise failed[0]
            if len(computed) != 1:
                raise HeadError(f"it calls its head {len(computed)} times")
            return answer.make(computed[0], output)

        return instead

    hooks = []
    try:
        for layer in layers:
            layer.forward = of(layer)  # type: ignore[assignment, method-assign]
            hooks.append(layer.register_forward_hook(keep))
        with _forward_replaced(causal, answering):
            yield answer
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            vars(layer).pop("forward", None)


@contextmanager
def beside_head(
    causal: Any, compute: Callable[[nn.Linear, Tensor], _T]
) -> Iterator[Callable[[], tuple[_T, torch.dtype]]]:
    """Lets `compute(layer, hidden)` run where the head gets its hidden states, while the model runs as ever.

    The layer's own hooks act on its own product, as they do in use. What goes wrong is kept, as by `in_place_of_head`.

    Yields:
        A function that gives what was computed, and the dtype of the head's product; or raises what went wrong.
    """
    computed: list[_T] = []
    dtypes: list[torch.dtype] = []
    failed: list[Exception] = []
    layers: list[nn.Linear] = []
    try:
        layers = _linear_layers(causal)
    except HeadError as error:
        failed.append(error)

    def before(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        try:
            computed.append(compute(layer, inputs[0]))
        except Exception as error:
            failed.append(error)

    def after(_layer: Any, _inputs: Any, product: Tensor) -> None:
        dtypes.append(product.dtype)

    def given() -> tuple[_T, torch.dtype]:
        if failed:
            raise failed[0]
        if len(computed) != 1:
            raise HeadError(f"it calls its head {len(computed)} times")
        return computed[0], dtypes[0]

    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    hooks += [layer.register_forward_hook(after, prepend=True) for layer in layers]  # before what rounds or widens
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def recorded(causal: Any) -> Iterator[list[Any]]:
    """Lets gradients be recorded in the model, and not in what is wrapped around it and would wait for them.

    Yields:
        What the model returns, before anything around it changes that.
    """
    outputs: list[Any] = []

    def recording(forward: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            with torch.enable_grad():
                outputs.append(forward(*args, **kwargs))
            return outputs[-1]

        return instead

    with _forward_replaced(causal, recording):
        yield outputs


@contextmanager
def _forward_replaced(causal: Any, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    had_own, forward = "forward" in vars(causal), causal.forward
    causal.forward = make(forward)
    try:
        yield
    finally:
        if had_own:
            causal.forward = forward
        else:
            vars(causal).pop("forward", None)


def _linear_layers(causal: Any) -> list[nn.Linear]:
    """Finds the linear layer that makes the logits: with adapters, one of several copies."""
    embeddings = causal.get_output_embeddings()
    if embeddings is None:
        raise HeadError("it does not say which layer makes its logits")
    layers = [module for module in embeddings.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        if type(layer).forward is not nn.Linear.forward:
            raise HeadError(f"its head is a {type(layer).__name__}")
        if "forward" in vars(layer):
            raise HeadError("its head's forward pass is replaced, as cast_lm_head_to_fp32 does")
    if not layers:
        raise HeadError(f"its head is a {type(embeddings).__name__}")
    return layers


def nearest_trained(causal: Any, tensor: Tensor) -> str | None:
    """Names the trained parameter nearest to a tensor on the way of its gradient back; None where it has no gradient.

    Where shards are gathered into other tensors, it stays without a name.
    """
    if tensor.grad_fn is None:
        return None
    names = {id(parameter): name for name, parameter in causal.named_parameters()}
    ahead: list[Any] = [tensor.grad_fn]
    visited: set[Any] = set()
    for step in ahead:
        if step is None or step in visited:
            continue
        visited.add(step)
        if hasattr(step, "variable"):  # where a parameter's gradients add up
            name = names.get(id(step.variable))
            return "one of its parameters" if name is None else f"its parameter {name}"
        ahead += [before for before, _ in step.next_functions]
    return None
