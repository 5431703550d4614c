"""Whether our operator gives the numbers of float64 on a device: the first part of `gpu.py`, and what all share."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from forkwise.core import logprob_and_entropy

T = TypeVar("T")


@dataclass
class Line:
    """One thing that was measured; with a limit it is met where `value <= limit`."""

    what: str
    value: float | None
    limit: float | None = None
    note: str = ""

    def __str__(self) -> str:
        value = "" if self.value is None else f"{self.value:.3g} "
        if self.limit is None:
            return f"           {self.what}: {value}{self.note}".rstrip()
        bound = "" if self.value is None else f"(<= {self.limit:g}) "
        return f"  {'met' if self.met else 'NOT MET':8} {self.what}: {value}{bound}{self.note}".rstrip()

    @property
    def met(self) -> bool:
        return self.limit is None or (self.value is not None and self.value <= self.limit)


@dataclass
class Bench:
    """Where it runs, for how long, and what was found."""

    device: torch.device
    tiny: bool
    end: float
    lines: list[Line] = field(default_factory=list)

    def say(self, what: str, value: float | None = None, limit: float | None = None, note: str = "") -> None:
        self.lines.append(Line(what, value, limit, note))
        print(self.lines[-1], flush=True)

    def late(self, what: str, seconds: float) -> bool:
        """Whether there is no time left for something that takes so long."""
        if time.monotonic() + seconds < self.end:
            return False
        self.say(what, None, 0, "left out: no time is left")
        return True

    def attempt(self, what: str, run: Callable[[], T]) -> T | None:
        """Runs what may not be installed, not be for this device, or need too much memory; says why it cannot."""
        try:
            return run()
        except Exception as error:  # the others go on
            self.say(what, note=f"cannot run ({' '.join(f'{type(error).__name__}: {error}'.split())[:120]})")
            return None

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def clean(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def used(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0


def inputs(
    tokens: int, dim: int, vocab: int, dtype: torch.dtype, device: torch.device, size: float = 3.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Random hidden states, a head that gives logits of standard deviation `size`, and targets."""
    generator = torch.Generator(device).manual_seed(tokens + vocab)
    hidden = torch.randn(tokens, dim, device=device, generator=generator).to(dtype)
    weight = torch.randn(vocab, dim, device=device, generator=generator).mul_(size / dim**0.5).to(dtype)
    targets = torch.randint(vocab, (tokens,), device=device, generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


# Tokens, width, words, and options that heads of real models have. Odd sizes are ragged on purpose.
SHAPES: list[tuple[int, int, int, dict[str, Any]]] = [
    (1, 896, 151_936, {}),
    (17, 64, 1_003, {"bias": True, "temperature": 0.7}),
    (333, 2_048, 32_003, {"bias": True, "softcap": 30.0, "per_token": True}),
    (512, 3_072, 256_000, {"softcap": 30.0}),
    (2_048, 896, 151_936, {"per_token": True}),
    (2_049, 1_536, 151_936, {"logit_scale": 0.25, "size": 12.0}),
    (4_096, 2_048, 128_256, {"temperature": 1.3}),
    (8_192, 4_096, 151_936, {}),
]
TINY_SHAPES: list[tuple[int, int, int, dict[str, Any]]] = [
    (1, 16, 300, {"logit_scale": 0.25, "size": 12.0}),
    (70, 24, 1_003, {"bias": True, "softcap": 30.0, "per_token": True}),
]
COUNTED = 64  # tokens that the loss looks at, the last ones; the reference needs no others
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def loss(logprob: Tensor, entropy: Tensor, of: int, start: int = 0) -> Tensor:
    """A loss whose gradient differs from token to token."""
    w = torch.linspace(-1, 2, of, device=logprob.device, dtype=logprob.dtype)[start : start + len(logprob)]
    return (logprob * w + entropy * w.cos()).sum()


def float64(
    hidden: Tensor, weight: Tensor, targets: Tensor, options: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probs and entropies, and the gradients of `loss`, through full logits in float64, a few rows at a time."""
    leaves = [part.detach().double().requires_grad_() for part in (hidden, weight)]
    bias, cap, temperature = options.get("bias"), options.get("softcap"), options.get("temperature", 1.0)
    if bias is not None:
        leaves.append(bias.detach().double().requires_grad_())
    values = []
    for lo in range(0, len(targets), 16):
        part = slice(lo, lo + 16)
        z = leaves[0][part] @ leaves[1].t()
        z = (z if bias is None else z + leaves[2]) * options.get("logit_scale", 1.0)
        z = z if cap is None else cap * torch.tanh(z / cap)
        logp = (z / (temperature[part, None] if isinstance(temperature, Tensor) else temperature)).log_softmax(-1)
        pair = logp.gather(1, targets[part, None]).squeeze(1), -(logp.exp() * logp).sum(-1)
        loss(*pair, len(targets), lo).backward()
        values.append([x.detach() for x in pair])
    return [torch.cat(parts) for parts in zip(*values, strict=True)], [x.grad for x in leaves if x.grad is not None]


def errors(bench: Bench, shape: tuple[int, int, int], given: dict[str, Any], dtype: torch.dtype) -> list[float]:
    """Largest errors of log-prob and entropy in nats, and of gradients as a share of their norm."""
    options, (tokens, _, vocab), few = dict(given), shape, slice(-COUNTED, None)
    hidden, weight, targets = inputs(*shape, dtype, bench.device, options.pop("size", 3.0))
    leaves = [hidden, weight]
    if options.pop("per_token", False):
        options["temperature"] = torch.linspace(0.6, 1.4, tokens, device=bench.device)
    if options.pop("bias", False):
        options["bias"] = torch.linspace(-1, 1, vocab, device=bench.device).to(dtype).requires_grad_()
        leaves.append(options["bias"])
    scores = logprob_and_entropy(hidden, weight, targets, entropy_grad=True, **options)
    loss(scores.logprob[few], scores.entropy[few], min(COUNTED, tokens)).backward()
    if isinstance(options.get("temperature"), Tensor):
        options["temperature"] = options["temperature"][few].double()
    values, grads = float64(hidden[few], weight, targets[few], options)
    largest = [
        (mine.detach()[few].double() - true).abs().max().item() for mine, true in zip(scores, values, strict=True)
    ]
    ours = [leaf.grad for leaf in leaves if leaf.grad is not None]
    ours[0] = ours[0][few]
    shares = [((mine.double() - true).norm() / true.norm()).item() for mine, true in zip(ours, grads, strict=True)]
    return [*largest, max(shares)]


def correctness(bench: Bench) -> None:
    """Compares our operator, as it chooses to run here, with float64."""
    print(f"\nRight? Errors in nats, and of gradients as a share of their size, over {COUNTED} tokens")
    exact_products = bench.device.type == "cuda" and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)
    for tokens, dim, vocab, given in TINY_SHAPES if bench.tiny else SHAPES:
        for dtype in DTYPES:
            name = f"{str(dtype)[6:]}, {tokens} x {dim} x {vocab}" + "".join(f", {key}" for key in given)
            if bench.late(name, 20):
                continue
            bench.clean()
            largest = bench.attempt(name, partial(errors, bench, (tokens, dim, vocab), given, dtype))
            if largest is None:
                bench.say(name, None, 0, "not compared")
                continue
            rounded = dtype != torch.float32 and not exact_products  # logits are rounded to the dtype
            for what, value, limit in zip(
                ("log-prob", "entropy", "gradients"),
                largest,
                (0.2, 0.2, 0.03) if rounded else (5e-5, 2e-5, 1e-4 if dtype == torch.float32 else 5e-3),
                strict=True,
            ):
                bench.say(f"{name}: {what}", value, limit)
