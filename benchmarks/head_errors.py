"""How far log-probs, entropies and gradients of each head are from float64, from the same hidden states and weight.

    python benchmarks/head_errors.py                       # the table of docs/performance.md: a minute, 6 GB
    python benchmarks/head_errors.py --small               # 32,000 words

The heads are those of `entropy.py`, and verl's two. Log-probs and entropies are compared token by token, in nats; the
gradients, through both, of hidden states and weight, as a share of their norm.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
import torch  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parent))
from entropy import DTYPES, EXTRAS, FLOOR, IMPLEMENTATIONS, Function  # noqa: E402
from gpu_correctness import float64, inputs, loss  # noqa: E402


def verl_triton() -> Function:
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    def function(h: Any, w: Any, y: Any, mode: str) -> tuple[Any, Any]:
        logprob, entropy = linear_cross_entropy(h, w, y, 1.0, "none")
        return logprob, entropy

    return function


def products() -> Function:
    """What the rounding of products alone does: softmax in float64 of products in the dtype."""

    def function(h: Any, w: Any, y: Any, mode: str) -> tuple[Any, Any]:
        logp = (h @ w.t()).double().log_softmax(-1)
        return logp.gather(1, y[:, None])[:, 0], -(logp.exp() * logp).sum(-1)

    return function


HEADS: dict[str, Callable[[], Function]] = {"float64 softmax of the products": products} | {
    name: implementation.load
    for name, implementation in IMPLEMENTATIONS.items()
    if name not in (FLOOR, EXTRAS) and implementation.load is not None
}
HEADS["verl Triton"] = verl_triton


def errors(head: Function, shape: tuple[int, int, int], dtype: torch.dtype) -> list[float]:
    """Returns the largest errors of log-prob and entropy, and those of both gradients."""
    hidden, weight, targets = inputs(*shape, dtype, torch.device("cpu"))
    given = head(hidden, weight, targets, "entropy")
    loss(given[0].float(), given[1].float(), len(targets)).backward()
    gradients = [leaf.grad for leaf in (hidden, weight)]
    values, right = float64(hidden, weight, targets, {})
    sizes = [float((mine.detach().double() - true).abs().max()) for mine, true in zip(given, values, strict=True)]
    for mine, true in zip(gradients, right, strict=True):
        assert mine is not None
        sizes.append(float((mine.double() - true).norm() / true.norm()))
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="32,000 words instead of 151,936")
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    shape = (args.tokens, 896, 32_000 if args.small else 151_936)
    print(f"{shape[0]} tokens, {shape[1]} wide, {shape[2]} words, torch {importlib.metadata.version('torch')}")
    for dtype in DTYPES:
        print(f"\n{dtype}\n\n| head | log-prob, nats | entropy, nats | gradient of hidden states | of weight |")
        print("|---|---|---|---|---|")
        for name, load in HEADS.items():
            try:
                sizes = errors(load(), shape, getattr(torch, dtype))
                print(f"| {name} | {' | '.join(f'{value:.1e}' for value in sizes)} |", flush=True)
            except Exception as error:  # not installed, or not for this device: the row says so
                said = " ".join(f"{type(error).__name__}: {error}".split())[:100]
                print(f"| {name} | cannot run: {said} | | | |", flush=True)


if __name__ == "__main__":
    main()
