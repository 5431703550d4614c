"""Whether an engine's shortcut past the logits computes what the logits say, decided by numbers on a few tokens.

Engines often make log-probs and entropies from the last hidden states and the weight of the head, without the logits.
That is wrong for every model whose logits are more than `hidden @ weight + bias` (scales, soft caps, further layers)
unless the shortcut knows of it. No list of such models is complete, so both are computed and compared. Our own way
past the logits is `heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forkwise.core.heads import undisturbed
from forkwise.core.in_place import causal_model, nearest_trained, recorded
from forkwise.core.proof import softmax_of_products

__all__ = ["HeadMismatch", "compare_head", "trained_beside_head"]

_LARGE = 50.0  # logits of this size show soft caps that do not bind yet


@dataclass(frozen=True)
class HeadMismatch:
    """The token at which a shortcut is farthest from the model's own logits.

    Attributes:
        model: class of the model.
        quantity: `"entropy"` or `"log-probability"`.
        shortcut, logits: the quantity in nats, by the shortcut and by the logits.
        scaled: whether the hidden states had been scaled up, to show a soft cap that does not bind yet.
    """

    model: str
    quantity: str
    shortcut: float
    logits: float
    scaled: bool

    def __str__(self) -> str:
        where = f"the {self.quantity} of a token" + (" at large logits" if self.scaled else "")
        return f"{where} is {self.shortcut:.3f} nats where the logits of {self.model} give {self.logits:.3f}"


@torch.no_grad()
def compare_head(
    model: Any,
    ids: Tensor,
    shortcut: Callable[[Tensor], Sequence[Tensor]],
    *,
    temperature: float = 1.0,
    precision: torch.dtype | None = None,
    multiplies: bool = True,
) -> HeadMismatch | None:
    """Compares log-probs and entropies of a shortcut with those of the model's own logits; None where they agree.

    They are compared on the tokens as they are, and once more on the reversed tokens with the last hidden states scaled
    up, within what rounding to the model's dtype may do to the largest logit: 0.25 nats for logits of 8 in bfloat16. So
    the tokens as they are are also held against the products behind the logits, rounded to that dtype or not, where
    they are known: there a thousandth of a nat counts in any dtype.

    The model is in evaluation mode meanwhile; its modes and the random number generators are put back. It runs as
    often whatever is found: the processes of a sharded model run it together.

    Args:
        model: a causal language model of transformers; adapters and sharding may be wrapped around it.
        ids: `(1, L)`, L at least 2, of real tokens.
        shortcut: ids `(1, L)` to log-probs and, if it has them, entropies `(L - 1,)` of `ids[0, 1:]`, in nats.
        temperature: the number that the shortcut divides the logits by.
        precision: of the arithmetic, where neither weights nor logits show it (autocast).
        multiplies: whether the shortcut makes products itself. If it starts from the model's logits, they are all there
            is to hold it against.
    """
    with undisturbed(model, ids.device):
        logits = _logits(model, ids)
        with _scaled_states(model, 1.0) as states:
            numbers = shortcut(ids)
        mismatch = _farthest(model, ids, numbers, logits, temperature, precision, scaled=False)
        with torch.autocast(ids.device.type, dtype=precision, enabled=True) if precision else nullcontext():
            known = states[-1] if states else logits.dtype
            products = softmax_of_products(model, ids, known, temperature=temperature) if multiplies else []
        if mismatch is None and products:
            mismatch = _beyond(model, numbers, products)
        largest = float(logits.abs().max())
        small = 0 < largest < _LARGE
        ids = ids.flip(1)  # what the model did not expect: its log-probs tell distributions apart
        with _scaled_states(model, _LARGE / largest if small else 1.0) as passes:
            logits = _logits(model, ids)
            by_logits = len(passes)
            numbers = shortcut(ids)
        # Where one of the two goes past the hook, there is nothing to compare.
        if mismatch is not None or not small or by_logits != 1 or len(passes) != 2:
            return mismatch
        return _farthest(model, ids, numbers, logits, temperature, precision, scaled=True)


@torch.no_grad()
def trained_beside_head(model: Any, ids: Tensor) -> str | None:
    """Names a trained parameter that a shortcut leaves as it is, however right its numbers are at first; or None.

    The parameter stands between the last hidden states and the logits, and is not of the head itself, so that no
    gradient of `hidden @ weight.T + bias` reaches it.
    """
    causal = causal_model(model)
    head, backbone = causal.get_output_embeddings(), getattr(causal, "base_model", causal)
    if head is None:
        return None
    cut: list[None] = []  # the last hidden states, where the model goes through its backbone
    trained: list[str | None] = []

    def of_backbone(_module: Any, _inputs: Any, output: Any) -> Any:
        cut.append(None)
        return _with_states(output, Tensor.detach)

    def before_head(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        trained.append(nearest_trained(causal, inputs[0]) if cut and inputs else None)

    hooks = [
        head.register_forward_pre_hook(before_head),
        head.register_forward_hook(lambda _module, _inputs, output: output.detach()),
    ]
    if backbone is not causal:
        hooks.append(backbone.register_forward_hook(of_backbone))
    try:
        with undisturbed(model, ids.device), recorded(causal) as outputs:
            _logits(model, ids)
            trained.append(nearest_trained(causal, outputs[-1].logits))
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name in trained if name is not None), None)


def _logits(model: Any, ids: Tensor) -> Tensor:
    """Returns the logits `(L - 1, V)`. Adapters that put tokens before the prompt lengthen the output."""
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits[0, -ids.shape[1] : -1]


def _beyond(model: Any, shortcut: Sequence[Tensor], exact: list[tuple[Tensor, Tensor]]) -> HeadMismatch | None:
    """Finds the number that is farthest from those of the products, by more than a thousandth beyond its tolerance."""
    right = exact[0][0]
    computed = torch.stack([numbers.reshape(-1)[-right.shape[1] :].to(right) for numbers in shortcut])
    excess = [
        ((computed - by[: len(computed)]).abs() - within[: len(computed)]).nan_to_num(torch.inf) for by, within in exact
    ]
    nearest = min(excess, key=lambda part: float(part.max()))
    return None if float(nearest.max()) <= 1e-3 else _named(model, computed, right, int(nearest.argmax()), scaled=False)


def _named(model: Any, computed: Tensor, right: Tensor, at: int, *, scaled: bool) -> HeadMismatch:
    row, token = divmod(at, computed.shape[1])
    quantity, name = ("log-probability", "entropy")[row], type(causal_model(model)).__name__
    return HeadMismatch(name, quantity, float(computed[row, token]), float(right[row, token]), scaled)


def _farthest(
    model: Any,
    ids: Tensor,
    shortcut: Sequence[Tensor],
    logits: Tensor,
    temperature: float,
    precision: torch.dtype | None,
    *,
    scaled: bool,
) -> HeadMismatch | None:
    kinds = {logits.dtype, precision or logits.dtype, *(p.dtype for p in model.parameters() if p.is_floating_point())}
    logits = logits.float() / temperature
    logprobs = logits.log_softmax(dim=-1)
    chosen = logprobs.gather(1, ids[0, 1:, None].to(logits.device))[:, 0]
    exact = torch.stack([chosen, torch.special.entr(logprobs.exp()).sum(dim=-1)])
    computed = torch.stack([numbers.reshape(-1).float() for numbers in shortcut]).to(exact.device)
    finite = logits[logits.isfinite()]
    if exact.isnan().any() or finite.numel() == 0:
        return None  # broken weights: whoever trains or scores says so
    step = max(torch.finfo(kind).eps for kind in kinds)
    if exact.device.type != "cpu":
        step = max(step, 2.0**-10)  # float32 may be TF32 there
    tolerance = 1e-3 + 4 * step * float(finite.abs().max())
    error = (computed - exact[: len(computed)]).abs().nan_to_num(torch.inf)
    if float(error.max()) <= tolerance:
        return None
    return _named(model, computed, exact, int(error.argmax()), scaled=scaled)


@contextmanager
def _scaled_states(model: Any, factor: float) -> Iterator[list[torch.dtype]]:
    """Multiplies the last hidden states by `factor`; the list gets their dtype in each pass through the backbone."""
    passes: list[torch.dtype] = []

    def scale(_module: Any, _inputs: Any, output: Any) -> Any:
        passes.append((output[0] if isinstance(output, tuple) else output.last_hidden_state).dtype)
        return output if factor == 1 else _with_states(output, lambda hidden: hidden * factor)

    causal = causal_model(model)
    backbone = getattr(causal, "base_model", causal)
    if backbone is causal:
        yield passes
        return
    handle = backbone.register_forward_hook(scale)
    try:
        yield passes
    finally:
        handle.remove()


def _with_states(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Changes the last hidden states in what a backbone returns."""
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    output.last_hidden_state = change(output.last_hidden_state)
    return output
