"""The entropy of a token's nucleus: of the likeliest tokens that together have a share of the probability.

It takes the sorted logits, which the tiles of `forkwise.core.entropy` never hold. So blocks of logits are made, and
made once more for the gradient: at any time there is one block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["nucleus_entropy", "nucleus_entropy_of_hidden"]

_BLOCK = 1 << 22  # logits at a time
MOST = 10_000
"""How many of the likeliest tokens count as the vocabulary, as in the code of arXiv 2509.25133."""


def nucleus_entropy(logits: Tensor, top_p: float, *, most: int = MOST) -> Tensor:
    """Computes the entropy of each token's nucleus, its probabilities made to sum to 1, in nats; `(...)` of `(..., V)`.

    The nucleus is the longest run of the likeliest tokens whose probabilities sum to at most `top_p`, and at least the
    likeliest token: the one that crosses `top_p` stays out. Differentiable in the logits; which tokens are in is not.

    Args:
        logits: `(..., V)`, divided by the temperature; computed with in float32 at least.
        top_p: in (0, 1].
        most: only so many of the likeliest tokens count, and their probabilities sum to 1.
    """
    exact = logits if logits.dtype == torch.float64 else logits.float()
    likeliest = exact.topk(min(most, exact.shape[-1]), dim=-1).values
    inside = likeliest.detach().softmax(dim=-1).cumsum(dim=-1) <= top_p
    inside[..., 0] = True
    logp = likeliest.masked_fill(~inside, -torch.inf).log_softmax(dim=-1)
    return -(logp.exp() * torch.where(inside, logp, 0)).sum(dim=-1)


def nucleus_entropy_of_hidden(
    hidden: Tensor,
    weight: Tensor,
    top_p: float,
    *,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Computes `nucleus_entropy` from last hidden states `(N, d)` and the head `(V, d)`, `(N,)`, in blocks of tokens.

    The other arguments are those of `logprob_and_entropy`. The gradient reaches hidden states, weight and bias.
    """

    def of_block(part: Tensor, divisor: float | Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        logits = torch.nn.functional.linear(part, weight, bias)
        logits = (logits if logits.dtype == torch.float64 else logits.float()) * logit_scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return nucleus_entropy(logits / divisor, top_p)

    size = max(1, _BLOCK // weight.shape[0])
    each = isinstance(temperature, Tensor) and temperature.dim() > 0
    blocks = []
    for start in range(0, len(hidden), size):
        divisor = temperature[start : start + size, None] if each else temperature  # type: ignore[index]
        block = hidden[start : start + size], divisor, weight, bias
        learns = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in block)
        blocks.append(checkpoint(of_block, *block, use_reentrant=False) if learns else of_block(*block))
    return torch.cat(blocks) if blocks else hidden.new_zeros(0, dtype=torch.promote_types(hidden.dtype, torch.float32))
