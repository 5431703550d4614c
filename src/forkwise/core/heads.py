"""A model's own last layer, computed by our operator: no logits, the same gradient, for any model that allows it.

The model runs as ever, adapters and sharding included, with one thing replaced: where its last linear layer would
multiply, `forkwise.core.logprob_and_entropy` scores the tokens that count. So whatever stands before that layer is the
model's own. What stands behind it (scales, soft caps) is measured: numbers are sent through it, and what comes out must
be `softcap * tanh(logit_scale * z / softcap)`. That all this gives the model's own logits is proved on a few tokens, by
`forkwise.core.proof`. Each later pass sends numbers through as well, so that nothing behind the layer changes unseen.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from forkwise.core.entropy import HiddenStatesError, logprob_and_entropy, token_entropy
from forkwise.core.in_place import HeadError, causal_model, in_place_of_head, nearest_trained, sheltered
from forkwise.core.nucleus import nucleus_entropy, nucleus_entropy_of_hidden

__all__ = [
    "Head",
    "Places",
    "Scores",
    "adapters_in_use",
    "few_tokens",
    "score_by_logits",
    "score_here",
    "score_tokens",
    "undisturbed",
    "whole",
]

_TOKENS = 16  # of the prompt, and of the completion, in a proof


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

    def logits(self, z: Tensor) -> Tensor:
        """Makes logits of products."""
        z = z * self.logit_scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


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


def adapters_in_use(model: Any) -> frozenset[Any]:
    """Tells which adapters act in a model now: two answers differ where its head may be another one.

    An adapter of the head, or a head that is trained beside adapters, comes and goes as adapters are turned on and off:
    off for the log-probs of the reference, on for those of the policy.
    """
    states = set()
    for module in causal_model(model).modules():
        off = getattr(module, "disable_adapters", None)
        if isinstance(off, bool):  # a layer of peft's; a model of transformers has a method of this name
            names = [getattr(module, name, None) or () for name in ("active_adapters", "merged_adapters")]
            states.add((off, *(tuple(part) for part in names)))
    return frozenset(states)


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
        options: dict[str, Any] = {"entropy_grad": entropy_grad, "extras": extras, "nucleus": nucleus}
        scored = score_here(layer, hidden, places, head, temperature=temperature, **options)
        return tuple(sheltered(part) for part in scored)

    causal = causal_model(model)

    def answered(scored: tuple[Tensor, ...], output: Any) -> dict[str, Any]:
        sent, aux_loss = sheltered(output.logits.detach().clone()), output.get("aux_loss")
        behind = {"sent": sent, "trained": nearest_trained(causal, output.logits)}
        return {"scores": scored, "aux_loss": None if aux_loss is None else sheltered(aux_loss), **behind}

    with in_place_of_head(causal, scores, _send) as answer:
        answer.use(answered)
        result = model(**inputs)
    logprob, entropy, *more = (part.real for part in result["scores"])
    aux_loss = None if result["aux_loss"] is None else result["aux_loss"].real
    _refuse_nan(logprob)
    _refuse_changed(head, result["sent"].real, result["trained"])
    return Scores(logprob, entropy, aux_loss, **dict(zip(_more(extras, nucleus), more, strict=True)))


def score_here(
    layer: nn.Linear,
    hidden: Tensor,
    places: Places,
    head: Head,
    *,
    temperature: float | Tensor,
    entropy_grad: bool,
    extras: bool,
    nucleus: float | None = None,
) -> tuple[Tensor, ...]:
    """Scores tokens by our operator where the last layer gets its hidden states; `Scores` orders the results."""
    if hidden.dim() != 3:
        raise HeadError(f"its head gets a tensor of shape {tuple(hidden.shape)}, not one of rows of tokens")
    picked = hidden[places.rows, hidden.shape[1] + places.columns]
    weight, bias = whole(layer.weight), None if layer.bias is None else whole(layer.bias)
    behind: dict[str, Any] = {"temperature": temperature, "logit_scale": head.logit_scale, "softcap": head.softcap}
    scored = logprob_and_entropy(
        picked, weight, places.targets, bias=bias, entropy_grad=entropy_grad, extras=extras, **behind
    )
    more = [scored.extras.sum_p2_log] if extras else []
    if nucleus is not None:
        more.append(nucleus_entropy_of_hidden(picked, weight, nucleus, bias=bias, **behind))
    return (scored.logprob, scored.entropy, *more)


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
    _refuse_nan(logprob)
    return Scores(logprob, entropy, output.get("aux_loss"), **dict(zip(_more(extras, nucleus), more, strict=True)))


def _refuse_nan(logprob: Tensor) -> None:
    """Raises where a weight of the head is no number: hidden states are looked at by the operator itself."""
    missing = int(logprob.detach().isnan().sum())
    if missing:
        raise HiddenStatesError(f"The log-probs of {missing} tokens are NaN")


# What is sent through the layers behind the head in use: it shows a scale, a curve and a cap.
_SENT = (2.0**-10, 4.0, 2.0**24)


def _send(hidden: Tensor, _computed: Any) -> Tensor:
    return torch.tensor(_SENT, device=hidden.device).repeat(*hidden.shape[:-1], 1)


def _refuse_changed(head: Head, logits: Tensor, trained: str | None) -> None:
    """Raises where what stands behind the head is no longer what the proof measured, at any token."""
    if trained is not None:
        raise HeadError(f"{trained} stands behind it and is trained, of which the proof knew nothing")
    if not logits.numel():
        return
    expected = head.logits(torch.tensor(_SENT, dtype=torch.float64))
    for bound in torch.aminmax(logits.flatten(0, -2).float(), dim=0):
        if not torch.allclose(bound.cpu().double(), expected, rtol=1e-5, atol=1e-7):
            was, now = (", ".join(f"{value:.6g}" for value in numbers.tolist()) for numbers in (expected, bound))
            raise HeadError(f"what stands behind it has changed since the proof: where it made {was} it makes {now}")


def _more(extras: bool, nucleus: float | None) -> list[str]:
    """Names what is computed beside log-probs and entropies, in its order."""
    return ["sum_p2_log"] * extras + ["nucleus_entropy"] * (nucleus is not None)


def _sum_p2_log(logits: Tensor, entropy: Tensor) -> Tensor:
    logp = logits.log_softmax(dim=1)
    p2 = (2 * logp).exp()
    return torch.where(p2 > 0, p2 * (logp + entropy[:, None]), 0).sum(dim=1)


def whole(tensor: Tensor) -> Tensor:
    """Gathers what FSDP2 or tensor parallelism holds in parts; ZeRO-3 and FSDP gather when the layer is called."""
    gather = getattr(tensor, "full_tensor", None)
    gathered: Tensor = tensor if gather is None else gather()
    return gathered
