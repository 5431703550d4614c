"""The statistics of the fused operator from full logits in float64, by their definitions."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

INF = float("inf")
PER_TOKEN = torch.tensor([0.5, 1.0, 2.0, 1.0, 0.7, 3.0, 1.5], dtype=torch.float64)


def head(n: int = 7, d: int = 5, v: int = 11, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    g = torch.Generator().manual_seed(3)
    parts = [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((n, d), (v, d), (v,))]
    return [part.to(dtype).requires_grad_() for part in parts] + [torch.randint(v, (n,), generator=g)]


def full_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Logits as models compute them: the scale, then the cap (Gemma, Cohere); a removed word stays removed."""
    z = hidden.double() @ weight.double().t()
    if bias is not None:
        z = z + bias.double()
    z = z * logit_scale
    if softcap is not None:
        capped = softcap * torch.tanh(z / softcap)
        z = capped if bias is None else torch.where(bias.isneginf(), -INF, capped)
    return z / (temperature[:, None] if isinstance(temperature, Tensor) else temperature)


def reference(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """All statistics from their definitions."""
    logp = logits.log_softmax(-1)
    p = logp.exp()
    finite = torch.where(p > 0, logp, 0)
    entropy = -(p * finite).sum(-1)
    return {
        "logprob": logp.gather(1, targets[:, None]).squeeze(1),
        "entropy": entropy,
        "sum_p2": p.square().sum(-1),
        "sum_p2_log": (p.square() * (finite + entropy[:, None])).sum(-1),
        "varentropy": (p * (finite + entropy[:, None]).square()).sum(-1),
        "top1": logp.gather(1, targets[:, None]).squeeze(1) == logp.amax(-1),
    }


OPTIONS = [
    {"softcap": softcap, "logit_scale": scale, "temperature": temperature}
    for softcap, scale, temperature in itertools.product((None, 2.0), (1.0, 0.3), (0.6, PER_TOKEN))
]


def label(options: dict[str, Any]) -> str:
    return ",".join(f"{k}={'N' if isinstance(v, Tensor) else v}" for k, v in options.items())
