"""The proof that our operator in place of a model's last layer gives the model's own logits, on a few tokens.

In one forward pass the layer computes the logits as ever, while the products of the same hidden states and weights are
computed in float64. The logits are held against these products and what was measured behind the head; our operator
against float64 softmax of the products, rounded as the operator's own are. Tolerances follow from the roundings, token
by token: a product that lies between two numbers of its dtype may become either, any other has one value only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from forkwise.core.entropy import HiddenStatesError
from forkwise.core.heads import Head, Places, score_here, score_tokens, undisturbed, whole
from forkwise.core.in_place import (
    HeadError,
    beside_head,
    causal_model,
    in_place_of_head,
    nearest_trained,
    recorded,
    sheltered,
)
from forkwise.core.tiles import product_dtypes

__all__ = ["prove_head", "softmax_of_products"]

_POSITIONS = 8  # that are compared in the whole vocabulary
_ROWS = 2048  # of the weight, at a time
# What is sent through the layers behind the head: powers of 2, since products with them are exact.
_STEPS = [0.0, *(sign * 2.0**power for power in range(-10, 25, 2) for sign in (1, -1))]
_FLOAT32 = {"highest": 2.0**-20, "high": 2.0**-10, "medium": 2.0**-8}  # what PyTorch may do to float32 products

# With a cap of this size the operator rounds logits by 6e-5 in float32.
_LARGEST_CAP = 2.0**10

_T = TypeVar("_T")


@torch.no_grad()
def prove_head(model: Any, ids: Tensor, *, temperature: float = 1.0) -> Head:
    """Proves on a few tokens that our operator in place of the last layer gives the model's own logits; returns how.

    The model runs three times, whatever is found on the way: the processes of a sharded model run it together.

    Args:
        model: a causal language model of transformers; adapters and sharding may be wrapped around it.
        ids: `(1, L)`, L at least 2, of real tokens.
        temperature: the number that the logits will be divided by.

    Raises:
        HeadError: it does not, or it cannot be found out; the message goes on after "the head of ... cannot be used:".
    """
    inputs, places = _asked(ids)
    failures: list[Exception] = []

    def attempt(run: Callable[[], _T]) -> _T | None:
        try:
            return run()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # models fail in kinds of their own
            failures.append(error)
            return None

    with undisturbed(model, ids.device):
        head = attempt(lambda: _behind_the_head(model, inputs)) or Head()
        last = attempt(lambda: _look(model, inputs, places, head, temperature))
        scores = attempt(lambda: score_tokens(model, inputs, places, head, temperature=temperature))
    for failure in failures:
        if isinstance(failure, HeadError):
            raise failure
        if not isinstance(failure, HiddenStatesError):
            raise HeadError(f"without its product, {str(failure).strip().splitlines()[0].rstrip('.')}") from failure
    if last is None or scores is None or last.logits.isnan().any():
        return head  # broken weights: whoever trains or scores says so
    if last.logits.shape != last.products.shape:
        raise HeadError(f"it has {last.products.shape[1]} products and {last.logits.shape[1]} logits")
    _compare_logits(last, head)
    error = _compare_scores(last, head, places.targets, temperature)
    # In use the layers behind the head get no logits. No rounding differs; a router may choose other experts.
    apart = max(float((a - b).abs().max()) for a, b in zip(scores[:2], (last.logprob, last.entropy), strict=True))
    if not apart <= 1e-3 + 4 * torch.finfo(last.models.dtype).eps * last.largest() / temperature:
        raise HeadError(f"its log-probs or entropies differ by {apart:.3g} nats where it gives no logits")
    return Head(head.logit_scale, head.softcap, error)


@torch.no_grad()
def softmax_of_products(
    model: Any, ids: Tensor, states: torch.dtype, *, temperature: float = 1.0
) -> list[tuple[Tensor, Tensor]]:
    """Computes in float64 what a shortcut may make of the products of a model's last layer, at the last P tokens.

    The model runs twice, whatever is found on the way.

    Args:
        model: a causal language model of transformers; adapters and sharding may be wrapped around it.
        ids: `(1, L)`, L at least 2, of real tokens.
        states: the dtype of the last hidden states that the shortcut gets.
        temperature: the number that the logits are divided by.

    Returns:
        Log-probs and entropies `(2, P)`, and how far others may be from them `(2, P)`: of products that are rounded to
        the dtype that the layer multiplies in, and of products in float32. Nothing where the model's logits are not
        made of its products as `prove_head` would have it; and nothing in half precision where the head has a bias, or
        the model rounds its hidden states before the head: there a shortcut may round in more ways than these.
    """
    inputs, places = _asked(ids)

    def attempt(run: Callable[[], _T]) -> _T | None:
        try:
            return run()
        except torch.OutOfMemoryError:
            raise
        except Exception:  # of any kind: there is nothing to compare with
            return None

    with undisturbed(model, ids.device):
        head = attempt(lambda: _behind_the_head(model, inputs))
        last = attempt(lambda: _look(model, inputs, places, head or Head(), temperature))
    if head is None or last is None or last.logits.shape != last.products.shape:
        return []
    if not bool(last.logits.isfinite().all()):
        return []
    try:
        _compare_logits(last, head)
    except HeadError:
        return []
    if last.multiplied.itemsize < 4 and (bool(last.bias.any()) or states != last.multiplied):
        return []
    roundings = [_Arithmetic(kind, last.operators.step) for kind in dict.fromkeys((last.multiplied, torch.float32))]
    return [_by_softmax(last._replace(operators=kind), head, places.targets, temperature)[:2] for kind in roundings]


def _asked(ids: Tensor) -> tuple[dict[str, Any], Places]:
    """Returns what a model is called with, and the tokens of a proof.

    They are such as are scored in use: an infinite hidden state of the first word says nothing of them.
    """
    columns = torch.arange(-ids.shape[1], -1, device=ids.device)[-_POSITIONS:]
    places = Places(torch.zeros_like(columns), columns, ids[0, 1:][-_POSITIONS:])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}, places


def _behind_the_head(model: Any, inputs: Mapping[str, Any]) -> Head:
    """Measures what the model does to the products of its head, by sending numbers through in their place.

    Raises:
        HeadError: it is neither a scale nor a soft cap, or one that is too large for float32; or a parameter in it is
            trained, and would get no gradient.
    """

    def steps(hidden: Tensor, _computed: Tensor) -> Tensor:
        return torch.tensor(_STEPS, device=hidden.device).repeat(*hidden.shape[:-1], 1)

    causal = causal_model(model)
    with recorded(causal), in_place_of_head(causal, lambda _, hidden: hidden.new_zeros(1), steps) as answer:
        answer.use(
            lambda _, output: {"logits": sheltered(output.logits), "trained": nearest_trained(causal, output.logits)}
        )
        result = model(**inputs)
    logits, trained = result["logits"].detach().real, result["trained"]
    if trained is not None:
        raise HeadError(f"{trained} stands behind it and is trained")
    if logits.shape[-1] != len(_STEPS):
        raise HeadError("its logits are more than its products one by one")
    added, got = torch.tensor(_STEPS).double(), logits[0, -1].double().cpu()
    first, last = (int(index) for index in (added.abs().where(added > 0, torch.inf).argmin(), added.argmax()))
    scale, limit = float(got[first] / added[first]), float(got[last])
    expected = scale * added
    softcap = None
    if not limit >= 0.5 * float(expected[last]):
        softcap = limit
        expected = softcap * torch.tanh(expected / softcap)
    if not (scale > 0 and torch.allclose(got, expected, rtol=1e-5, atol=1e-7)):
        raise HeadError("its logits are neither scaled nor softly capped products")
    if softcap is not None and softcap > _LARGEST_CAP:
        raise HeadError(f"with its soft cap of {softcap:g}, logits would be rounded by {softcap * 2.0**-24:.2g}")
    return Head(1.0 if abs(scale - 1) < 1e-6 else scale, softcap)


# ------------------------------------------------------------------------------------------------------ what was seen


class _LastTokens(NamedTuple):
    """What one forward pass shows of the last `_POSITIONS` tokens: P of them, over V words.

    Attributes:
        logits: the model's own, `(P, V)`, float64 like all that follow.
        products: of hidden states and weight, without the bias, `(P, V)`.
        norms: root of the sum of squares of the terms of each product, `(P, V)`: its errors grow with it.
        bias: `(V,)`, 0 where the layer has none.
        multiplied: the dtype of hidden states and weight in the product.
        models: what is known of the products in the model, and `operators` of those in the operator.
        logprob, entropy: of the same tokens, `(P,)`, by our operator.
    """

    logits: Tensor
    products: Tensor
    norms: Tensor
    bias: Tensor
    multiplied: torch.dtype
    models: _Arithmetic
    operators: _Arithmetic
    logprob: Tensor
    entropy: Tensor

    def largest(self) -> float:
        """Returns the largest finite logit in absolute value."""
        return float(self.logits.nan_to_num(0, 0, 0).abs().max())


class _Arithmetic(NamedTuple):
    """How products are made: `dtype` is what they are rounded to, `step` the relative error of a sum before that."""

    dtype: torch.dtype
    step: float

    @staticmethod
    def of(compute: torch.dtype, rounded: torch.dtype, device: torch.device) -> _Arithmetic:
        """Returns what is known of products of matrices of dtype `compute`."""
        if compute == torch.float64:
            return _Arithmetic(rounded, 2.0**-45)
        if compute == torch.float32:
            return _Arithmetic(rounded, _FLOAT32[torch.get_float32_matmul_precision()])
        # Elsewhere than on CPUs, parts of a sum may be rounded to the dtype of the result before they are added.
        exact = device.type == "cpu" or rounded == torch.float32
        return _Arithmetic(rounded, 2.0**-20 if exact else torch.finfo(rounded).eps)


def _look(model: Any, inputs: Mapping[str, Any], places: Places, head: Head, temperature: float) -> _LastTokens:
    """Runs the model as it is; where its head multiplies, the operator scores, and float64 multiplies too."""
    shown = places.columns

    def watch(layer: nn.Linear, hidden: Tensor) -> tuple[Any, ...]:
        scores = score_here(layer, hidden, places, head, temperature=temperature, entropy_grad=False, extras=False)
        compute, arrives = product_dtypes(hidden)
        operators = _Arithmetic.of(compute, arrives, hidden.device)
        return scores, _products(layer, hidden[0, hidden.shape[1] + shown].to(compute)), compute, operators

    with beside_head(causal_model(model), watch) as watched:
        logits = model(**inputs).logits[0]
    ((logprob, entropy), (products, norms, bias), compute, operators), rounded = watched()
    coarsest = max((rounded, logits.dtype), key=lambda kind: torch.finfo(kind).eps)
    models = _Arithmetic(coarsest, _Arithmetic.of(compute, rounded, logits.device).step)
    logits = logits[logits.shape[0] + shown].to(products.device, torch.float64)
    return _LastTokens(logits, products, norms, bias, compute, models, operators, logprob, entropy)


def _products(layer: nn.Linear, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes products, norms and bias in float64 for hidden states `(P, d)` of the dtype that is multiplied in."""
    device = "cpu" if hidden.device.type == "mps" else hidden.device  # which has no float64
    some = hidden.to(device, torch.float64)
    with torch.autocast(hidden.device.type, enabled=False):
        parts = []
        for rows in whole(layer.weight).split(_ROWS):
            right = rows.to(hidden.dtype).to(device, torch.float64).t()
            parts.append(torch.stack([some @ right, (some.square() @ right.square()).sqrt()]))
        products, norms = torch.cat(parts, dim=2)
        bias = products.new_zeros(products.shape[1]) if layer.bias is None else whole(layer.bias).to(products)
    return products, norms, bias


# --------------------------------------------------------------------------------------------------------- comparisons


def _error(arithmetic: _Arithmetic, norms: Tensor) -> Tensor:
    """Bounds the error of the sums behind products: 8 standard deviations of what grows with the terms."""
    return 8 * arithmetic.step * norms


def _compare_logits(last: _LastTokens, head: Head) -> None:
    """Holds the model's logits against those of the float64 products; roundings are counted logit by logit.

    Raises:
        HeadError: a logit is another one.
    """
    exact = head.logits(last.products + last.bias)
    rounding = 0.5 * torch.finfo(last.models.dtype).eps
    # One of the product, one of each operation behind it, each at most as large as what it is applied to.
    operations = 1 + (head.logit_scale != 1) + 3 * (head.softcap is not None)
    terms = head.logit_scale * (last.products.abs() + last.bias.abs()) if bool(last.bias.any()) else 0
    tolerance = (
        1e-4 + rounding * (operations * exact.abs() + terms) + head.logit_scale * _error(last.models, last.norms)
    )
    apart = torch.where(exact == last.logits, 0, (exact - last.logits).abs()).nan_to_num(torch.inf)  # -inf is -inf
    beyond = apart / tolerance.nan_to_num(1)
    if float(beyond.max()) > 1:
        at = int(beyond.argmax())
        logit, by_product = float(last.logits.flatten()[at]), float(exact.flatten()[at])
        raise HeadError(f"a logit is {logit:.3f} where its product gives {by_product:.3f}")


def _compare_scores(last: _LastTokens, head: Head, targets: Tensor, temperature: float) -> float:
    """Holds the operator's log-probs and entropies against float64 softmax of products that are rounded as its own.

    Returns:
        How far an entropy is from that of products that are not rounded at all, at most, in nats.

    Raises:
        HeadError: a difference is larger than what a product, that may be rounded up or down, can make.
    """
    right, tolerance, unrounded = _by_softmax(last, head, targets, temperature)
    computed = torch.stack([last.logprob, last.entropy]).to(right)
    apart = (computed - right).abs()
    if not bool((apart <= tolerance).all()):
        raise HeadError(
            f"its log-probs differ by {float(apart[0].max()):.3g} and its entropies by {float(apart[1].max()):.3g} "
            "nats from float64 softmax of its products"
        )
    return float((computed[1] - unrounded).abs().max())


def _by_softmax(last: _LastTokens, head: Head, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Computes log-probs and entropies of products that are rounded as `operators` says, in float64.

    Returns:
        Both, `(2, P)`; how far others may be from them if products are rounded to a neighbour, `(2, P)`; and the
        entropies of products that are not rounded, `(P,)`.
    """
    targets = targets[:, None].to(last.products.device)

    def by_softmax(products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logp = (head.logits(products + last.bias) / temperature).log_softmax(-1)
        return logp, logp.gather(1, targets)[:, 0], torch.special.entr(logp.exp()).sum(-1)

    kind, error = last.operators.dtype, _error(last.operators, last.norms)
    low, rounded, high = ((last.products + shift).to(kind).double() for shift in (-error, 0, error))
    moved = torch.maximum(high - rounded, rounded - low).nan_to_num(0) * head.logit_scale / temperature
    logp, chosen, entropy = by_softmax(rounded)
    p = logp.exp()
    of_chosen = moved.gather(1, targets)[:, 0] + (p * moved).sum(-1)
    of_entropy = ((torch.special.entr(p) - p * entropy[:, None]).abs() * moved).sum(-1)
    # What float32 makes of logits of this size, and of the sigmoid that stands for a soft cap; and the second order.
    float32 = 2e-5 + 2.0**-20 * (last.largest() + (head.softcap or 0)) / temperature
    tolerance = float32 + 2 * torch.stack([of_chosen, of_entropy])
    return torch.stack([chosen, entropy]), tolerance, by_softmax(last.products)[2]
