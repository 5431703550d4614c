"""Which passes over tiles are used: Triton's where they were tried on the device and agree with PyTorch's."""

from __future__ import annotations

import functools
import warnings

import torch

from forkwise.core.tiles import Coefficients, LogitCurve, Passes, Sums, Tiles, TorchPasses

__all__ = ["choose_passes"]


def choose_passes(backend: str, device: torch.device, dtype: torch.dtype) -> type[Passes]:
    """Returns the passes for hidden states of a device and dtype.

    `"auto"` takes Triton's on NVIDIA GPUs. Where Triton is missing or broken there, one warning says so, and PyTorch's
    are used. `"triton"` raises instead.
    """
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend must be 'auto', 'torch', 'triton' or 'liger', not {backend!r}.")
    nvidia = device.type == "cuda" and torch.version.hip is None
    if backend == "torch" or (backend == "auto" and (not nvidia or dtype == torch.float64)):
        return TorchPasses
    trouble = triton_trouble(device)
    if trouble is None:
        from forkwise.core.kernels import TritonPasses

        return TritonPasses
    if backend == "triton":
        raise RuntimeError(f"backend='triton' cannot be used on {device}: {trouble}.")
    _warn_once(f"Entropies are computed by passes of PyTorch on {device}, which take longer, not in Triton: {trouble}.")
    return TorchPasses


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


@functools.cache
def triton_trouble(device: torch.device) -> str | None:
    """Says why Triton's passes cannot be used on a device; None if they work on a small tile. Tried once per device."""
    try:
        from forkwise.core.kernels import TritonPasses
    except ImportError as error:
        return f"Triton is not installed ({error}; pip install triton)"
    except Exception as error:  # a Triton of another kind
        return f"Triton cannot be imported ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})"
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            expected, computed = (_trial(kind, device) for kind in (TorchPasses, TritonPasses))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler that is missing, a driver that is too old: of any kind
        return f"Triton does not run here ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})"
    if all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(expected, computed, strict=True)):
        return None
    return "its kernels compute something else than PyTorch here"


def _trial(kind: type[Passes], device: torch.device) -> list[torch.Tensor]:
    """Computes sums and gradients of a small tile with all options."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=generator).to(device) for n in (3, 40))
    bias = torch.linspace(-1, 1, 40, device=device)
    tiles, targets = Tiles(hidden, weight), torch.tensor([0, 17, 39], device=device)
    passes = kind(tiles, bias, targets, LogitCurve.of(torch.tensor([0.5, 1, 2], device=device), 1.0, 5.0), third=True)
    sums, everything, words = Sums.start(3, tiles.dtype, device, extras=True), slice(0, 3), slice(0, 40)
    passes.fold(sums, tiles.product(everything, weight), everything, words)
    logit_grad, ones = torch.empty(3, 40, device=device), torch.ones(3, device=device)
    gradient = Coefficients(sums.m, ones, ones, ones)
    passes.gradient(gradient, tiles.product(everything, weight), everything, words, logit_grad)
    return [*vars(sums).values(), logit_grad]
