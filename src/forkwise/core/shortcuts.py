"""Whether an engine's shortcut past the logits computes what the logits say, decided by numbers on a few tokens.

Engines often make log-probs and entropies from the last hidden states and the weight of the head, without the logits.
That is wrong for every model whose logits are more than `hidden @ weight + bias` (scales, soft caps, further layers)
unless the shortcut knows of it. No list of such models is complete, so both are computed and compared. Our own way
past the logits is `heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forkwise.core.heads import causal_model, undisturbed

__all__ = ["HeadMismatch", "compare_head"]

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
) -> HeadMismatch | None:
    """Compares log-probs and entropies of a shortcut with those of the model's own logits; None where they agree.

    They are compared on the tokens as they are, and once more on the reversed tokens with the last hidden states scaled
    up. The model is in evaluation mode meanwhile; its modes and the random number generators are put back. It runs as
    often whatever is found: the processes of a sharded model run it together.

    Args:
        model: a causal language model of transformers; adapters and sharding may be wrapped around it.
        ids: `(1, L)`, L at least 2, of real tokens.
        shortcut: ids `(1, L)` to log-probs and, if it has them, entropies `(L - 1,)` of `ids[0, 1:]`, in nats.
        temperature: the number that the shortcut divides the logits by.
        precision: of the arithmetic, where neither weights nor logits show it (autocast).
    """
    with undisturbed(model, ids.device):
        logits = _logits(model, ids)
        mismatch = _farthest(model, ids, shortcut(ids), logits, temperature, precision, scaled=False)
        largest = float(logits.abs().max())
        small = 0 < largest < _LARGE
        ids = ids.flip(1)  # what the model did not expect: its log-probs tell distributions apart
        with _scaled_states(model, _LARGE / largest if small else 1.0) as seen:
            logits = _logits(model, ids)
            by_logits = len(seen)
            numbers = shortcut(ids)
        # Where one of the two goes past the hook, there is nothing to compare.
        if mismatch is not None or not small or by_logits != 1 or len(seen) != 2:
            return mismatch
        return _farthest(model, ids, numbers, logits, temperature, precision, scaled=True)


def _logits(model: Any, ids: Tensor) -> Tensor:
    """Returns the logits `(L - 1, V)`. Adapters that put tokens before the prompt lengthen the output."""
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits[0, -ids.shape[1] : -1]


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
    given = torch.stack([numbers.reshape(-1).float() for numbers in shortcut]).to(exact.device)
    finite = logits[logits.isfinite()]
    if exact.isnan().any() or finite.numel() == 0:
        return None  # broken weights: whoever trains or scores says so
    step = max(torch.finfo(kind).eps for kind in kinds)
    if exact.device.type != "cpu":
        step = max(step, 2.0**-10)  # float32 may be TF32 there
    tolerance = 1e-3 + 4 * step * float(finite.abs().max())
    error = (given - exact[: len(given)]).abs().nan_to_num(torch.inf)
    if float(error.max()) <= tolerance:
        return None
    row, token = divmod(int(error.argmax()), error.shape[1])
    quantity = ("log-probability", "entropy")[row]
    name = type(causal_model(model)).__name__
    return HeadMismatch(name, quantity, float(given[row, token]), float(exact[row, token]), scaled)


@contextmanager
def _scaled_states(model: Any, factor: float) -> Iterator[list[None]]:
    """Multiplies the last hidden states by `factor`; the list grows by one for each pass through the backbone."""
    seen: list[None] = []

    def scale(_module: Any, _inputs: Any, output: Any) -> Any:
        seen.append(None)
        if isinstance(output, tuple):
            return (output[0] * factor, *output[1:])
        output.last_hidden_state = output.last_hidden_state * factor
        return output

    causal = causal_model(model)
    backbone = getattr(causal, "base_model", causal)
    if backbone is causal:
        yield seen
        return
    handle = backbone.register_forward_hook(scale)
    try:
        yield seen
    finally:
        handle.remove()
