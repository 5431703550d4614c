"""A model's own last layer, computed by our operator: no logits, the same gradient, for any model that allows it.

The model runs as ever, adapters and sharding included, with one thing replaced: where its last linear layer would
multiply, `forkwise.core.logprob_and_entropy` scores the tokens that count. So whatever stands before that layer is the
model's own. What stands behind it (scales, soft caps) is measured: numbers are sent through it, and what comes out must
be `softcap * tanh(logit_scale * z / softcap)`. That all this gives the model's own logits is proved on a few tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from forkwise.core.entropy import HiddenStatesError, logprob_and_entropy, token_entropy
from forkwise.core.nucleus import nucleus_entropy, nucleus_entropy_of_hidden

__all__ = [
    "Head",
    "HeadError",
    "Places",
    "Scores",
    "causal_model",
    "few_tokens",
    "prove_head",
    "score_by_logits",
    "score_tokens",
]

_TOKENS = 16  # of the prompt, and of the completion, in a proof
_POSITIONS = 8  # that are compared in the whole vocabulary
_ROWS = 8192  # of the weight, at a time
# What is sent through the layers behind the head: powers of 2, since products with them are exact.
_STEPS = [0.0, *(sign * 2.0**power for power in range(-10, 25, 2) for sign in (1, -1))]


class HeadError(RuntimeError):
    """The model's last layer is not one that our operator can stand in for; the message says why."""


@dataclass(frozen=True)
class Head:
    """What a model makes of the products z of its last layer: `softcap * tanh(logit_scale * z / softcap)`.

    Attributes:
        logit_scale: 1 for most models.
        softcap: None where there is no soft cap.
        entropy_error: largest difference of an entropy from float64, in nats, on the tokens of the proof.
    """

    logit_scale: float = 1.0
    softcap: float | None = None
    entropy_error: float = 0.0


class Scores(NamedTuple):
    """Log-probs and entropies of tokens, `(N,)` each, in nats; and if asked for, the load-balancing loss of experts,
    `sum_v p_v^2 (log p_v + H)`, `(N,)` without gradient, and the entropies of nuclei, `(N,)`.
    """

    logprob: Tensor
    entropy: Tensor
    aux_loss: Tensor | None
    sum_p2_log: Tensor | None = None
    nucleus_entropy: Tensor | None = None


class Places(NamedTuple):
    """Tokens to be scored: that at place i stands in row `rows[i]`, behind position `columns[i]`, counted from the end.

    All three are `(N,)` int64. Columns are negative, since adapters may put tokens before a text.
    """

    rows: Tensor
    columns: Tensor
    targets: Tensor


def causal_model(model: Any) -> Any:
    """Returns the model of transformers inside wrappers and adapters."""
    while hasattr(model, "module"):  # DDP, FSDP, DeepSpeed
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def few_tokens(prompt: Tensor, completion: Tensor) -> Tensor:
    """Cuts out the end of a prompt and the beginning of its completion, `(1, L)`: enough to compare heads on."""
    return torch.cat([prompt[-_TOKENS:], completion[:_TOKENS]])[None]


@contextmanager
def undisturbed(model: Any, device: torch.device) -> Iterator[None]:
    """Puts the model into evaluation mode; its modes and the random number generators are put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module, training in modes:
            module.training = training


# ------------------------------------------------------------------------------------------------------------- scoring


def score_tokens(
    model: Any,
    inputs: Mapping[str, Any],
    places: Places,
    head: Head,
    *,
    temperature: float | Tensor = 1.0,
    entropy_grad: bool = True,
    extras: bool = False,
    nucleus: float | None = None,
) -> Scores:
    """Runs the model and scores tokens by our operator, in place of the model's last layer.

    Args:
        model: a causal language model of transformers; adapters and sharding may be wrapped around it.
        inputs: what the model is called with.
        places: the tokens.
        head: of this model, from `prove_head`.
        temperature: the number that the logits are divided by, or one per token `(N,)`.
        entropy_grad: whether entropies carry a gradient. It costs nothing where none is sent back through them.
        extras: compute `sum_p2_log` in the same pass.
        nucleus: compute `nucleus_entropy` of this share of the probability, see `forkwise.core.nucleus`.
    """

    def scores(layer: nn.Linear, hidden: Tensor) -> tuple[Tensor, ...]:
        if hidden.dim() != 3:
            raise HeadError(f"its head gets a tensor of shape {tuple(hidden.shape)}, not one of rows of tokens")
        picked = hidden[places.rows, hidden.shape[1] + places.columns]
        weight, bias = _whole(layer.weight), None if layer.bias is None else _whole(layer.bias)
        behind: dict[str, Any] = {"temperature": temperature, "logit_scale": head.logit_scale, "softcap": head.softcap}
        scored = logprob_and_entropy(
            picked, weight, places.targets, bias=bias, entropy_grad=entropy_grad, extras=extras, **behind
        )
        more = [scored.extras.sum_p2_log] if extras else []
        if nucleus is not None:
            more.append(nucleus_entropy_of_hidden(picked, weight, nucleus, bias=bias, **behind))
        return (scored.logprob, scored.entropy, *more)

    with in_place_of_head(causal_model(model), scores, nothing) as answer:
        answer.use(lambda scored, output: {"scores": scored, "aux_loss": output.get("aux_loss")})
        result = model(**inputs)
    logprob, entropy, *more = result["scores"]
    return Scores(logprob, entropy, result["aux_loss"], **dict(zip(_more(extras, nucleus), more, strict=True)))


def score_by_logits(
    model: Any,
    inputs: Mapping[str, Any],
    places: Places,
    *,
    temperature: float | Tensor = 1.0,
    extras: bool = False,
    nucleus: float | None = None,
) -> Scores:
    """Runs the model and scores tokens by its own logits, which exist at once, as far back as the tokens reach."""
    inputs = dict(inputs)
    if len(places.columns) and "logits_to_keep" in inspect.signature(causal_model(model).forward).parameters:
        inputs["logits_to_keep"] = -int(places.columns.min())
    output = model(**inputs)
    logits = output.logits[places.rows, output.logits.shape[1] + places.columns]
    entropy = token_entropy(logits, temperature=temperature)
    exact = logits if logits.dtype == torch.float64 else logits.float()
    scaled = exact / (temperature[:, None] if isinstance(temperature, Tensor) and temperature.dim() else temperature)
    logprob = scaled.gather(1, places.targets[:, None])[:, 0] - scaled.logsumexp(1)
    more = [_sum_p2_log(scaled.detach(), entropy.detach())] if extras else []
    if nucleus is not None:
        more.append(nucleus_entropy(scaled, nucleus))
    return Scores(logprob, entropy, output.get("aux_loss"), **dict(zip(_more(extras, nucleus), more, strict=True)))


def _more(extras: bool, nucleus: float | None) -> list[str]:
    """Names what is computed beside log-probs and entropies, in its order."""
    return ["sum_p2_log"] * extras + ["nucleus_entropy"] * (nucleus is not None)


def _sum_p2_log(logits: Tensor, entropy: Tensor) -> Tensor:
    logp = logits.log_softmax(dim=1)
    p2 = (2 * logp).exp()
    return torch.where(p2 > 0, p2 * (logp + entropy[:, None]), 0).sum(dim=1)


def nothing(hidden: Tensor) -> Tensor:
    """Stands for the logits, of which one would be as good as all: nobody looks at them."""
    return hidden.new_zeros(*hidden.shape[:-1], 1)


def _whole(tensor: Tensor) -> Tensor:
    """Gathers what FSDP2 or tensor parallelism holds in parts; ZeRO-3 and FSDP gather when the layer is called."""
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = tensor if gather is None else gather()
    return whole


class _Answer:
    """What the model returns in place of its output; `make` gets what the head computed, and the output."""

    def __init__(self) -> None:
        self.make: Callable[[Any, Any], Any] = lambda computed, output: output

    def use(self, make: Callable[[Any, Any], Any]) -> None:
        self.make = make


@contextmanager
def in_place_of_head(
    causal: Any, compute: Callable[[nn.Linear, Tensor], Any], stand_in: Callable[[Tensor], Tensor]
) -> Iterator[_Answer]:
    """Lets `compute(layer, hidden)` take the place of the product of the head, while the model runs.

    The layer is called as ever, so that what gathers its weight before and during the backward pass does so. The layers
    behind it get `stand_in(hidden)`. What was computed leaves the model in its output: DDP looks there for what was
    used.
    """
    layers = _linear_layers(causal)
    computed: list[Any] = []
    answer = _Answer()

    def of(layer: nn.Linear) -> Callable[[Tensor], Any]:
        return lambda hidden: compute(layer, hidden)

    def keep(_layer: Any, inputs: tuple[Tensor, ...], output: Any) -> Tensor:
        computed.append(output)
        return stand_in(inputs[0])

    had_own, forward = "forward" in vars(causal), causal.forward

    def answering(*args: Any, **kwargs: Any) -> Any:
        del computed[:]
        output = forward(*args, **kwargs)
        if len(computed) != 1:
            raise HeadError(f"it calls its head {len(computed)} times")
        return answer.make(computed[0], output)

    hooks = []
    try:
        for layer in layers:
            layer.forward = of(layer)  # type: ignore[assignment, method-assign]
            hooks.append(layer.register_forward_hook(keep))
        causal.forward = answering
        yield answer
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            vars(layer).pop("forward", None)
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


# --------------------------------------------------------------------------------------------------------------- proof


@torch.no_grad()
def prove_head(
    model: Any,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    precision: torch.dtype | None = None,
) -> Head:
    """Proves on a few tokens that our operator in place of the last layer gives the model's own logits; returns how.

    Args:
        model: a causal language model of transformers; adapters and sharding may be wrapped around it.
        ids: `(1, L)`, L at least 2, of real tokens.
        temperature: the number that the logits will be divided by.
        precision: of the arithmetic, where neither weights nor logits show it (autocast).

    Raises:
        HeadError: it does not, or it cannot be found out; the message goes on after "the head of ... cannot be used:".
    """
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    length = ids.shape[1] - 1
    columns = torch.arange(-length - 1, -1, device=ids.device)
    places = Places(torch.zeros_like(columns), columns, ids[0, 1:])
    shown = columns[-_POSITIONS:]
    with undisturbed(model, ids.device):
        try:
            logits = model(**inputs).logits[0]
            logits = logits[logits.shape[0] + shown].float()
            head = _behind_the_head(model, inputs)
            if logits.isnan().any():  # broken weights: whoever trains or scores says so
                return head
            products = _products(model, inputs, shown)
            scores = score_tokens(model, inputs, places, head, temperature=temperature)
        except (HeadError, torch.OutOfMemoryError):
            raise
        except HiddenStatesError:  # broken weights again
            return head
        except Exception as error:  # models fail in kinds of their own
            raise HeadError(f"without its product, {str(error).strip().splitlines()[0].rstrip('.')}") from error
    exact = products * head.logit_scale
    if head.softcap is not None:
        exact = head.softcap * torch.tanh(exact / head.softcap)
    kinds = {precision, logits.dtype, *(p.dtype for p in model.parameters() if p.is_floating_point())} - {None}
    step = max(torch.finfo(kind).eps for kind in kinds)
    if ids.device.type != "cpu":
        step = max(step, 2.0**-10)  # float32 may be TF32 there
    if exact.shape != logits.shape:
        raise HeadError(f"it has {exact.shape[1]} products and {logits.shape[1]} logits")
    largest = float(exact[exact.isfinite()].abs().max())
    apart = torch.where(exact == logits, 0, (exact - logits).abs()).nan_to_num(torch.inf)  # -inf is -inf
    if float(apart.max()) > 1e-4 + 4 * step * largest:
        at = int(apart.argmax())
        raise HeadError(
            f"a logit is {float(logits.flatten()[at]):.3f} where its product gives {float(exact.flatten()[at]):.3f}"
        )
    logp = (exact.double() / temperature).log_softmax(-1)
    chosen = logp.gather(1, places.targets[-len(shown) :, None])[:, 0]
    entropy = torch.special.entr(logp.exp()).sum(-1)
    errors = [
        (scored[-len(shown) :] - right).abs().max()
        for scored, right in ((scores.logprob, chosen), (scores.entropy, entropy))
    ]
    if not max(map(float, errors)) <= 1e-4 + 4 * step * largest / temperature:
        raise HeadError(
            f"its log-probs differ by {float(errors[0]):.3g} and its entropies by {float(errors[1]):.3g} nats from "
            "float64"
        )
    return Head(head.logit_scale, head.softcap, float(errors[1]))


def _behind_the_head(model: Any, inputs: Mapping[str, Any]) -> Head:
    """Measures what the model does to the products of its head, by sending numbers through in their place."""

    def steps(hidden: Tensor) -> Tensor:
        return torch.tensor(_STEPS, device=hidden.device).expand(*hidden.shape[:-1], len(_STEPS))

    with in_place_of_head(causal_model(model), lambda _, hidden: hidden.new_zeros(1), steps) as answer:
        answer.use(lambda _, output: {"logits": output.logits})
        logits = model(**inputs)["logits"]
    if logits.shape[-1] != len(_STEPS):
        raise HeadError("its logits are more than its products one by one")
    given, got = torch.tensor(_STEPS).double(), logits[0, -1].double().cpu()
    first, last = (int(index) for index in (given.abs().where(given > 0, torch.inf).argmin(), given.argmax()))
    scale, limit = float(got[first] / given[first]), float(got[last])
    expected = scale * given
    softcap = None
    if not limit >= 0.5 * float(expected[last]):
        softcap = limit
        expected = softcap * torch.tanh(expected / softcap)
    if not (scale > 0 and torch.allclose(got, expected, rtol=1e-5, atol=1e-7)):
        raise HeadError("its logits are neither scaled nor softly capped products")
    return Head(1.0 if abs(scale - 1) < 1e-6 else scale, softcap)


def _products(model: Any, inputs: Mapping[str, Any], columns: Tensor) -> Tensor:
    """Computes the products of the head at some positions of one text in float64, `(positions, V)`."""

    def products(layer: nn.Linear, hidden: Tensor) -> Tensor:
        wide = torch.float32 if hidden.device.type == "mps" else torch.float64  # which has no float64
        some = hidden[0, hidden.shape[1] + columns].to(wide)
        with torch.autocast(hidden.device.type, enabled=False):
            z = torch.cat([some @ rows.to(wide).t() for rows in _whole(layer.weight).split(_ROWS)], dim=1)
            return z if layer.bias is None else z + _whole(layer.bias).to(wide)

    with in_place_of_head(causal_model(model), products, nothing) as answer:
        answer.use(lambda computed, _: {"products": computed})
        computed: Tensor = model(**inputs)["products"]
    return computed
