"""What is pinned here: the kernels in Triton give the float64 reference for every option and for tiles of any shape, as
PyTorch's passes do; they compile for NVIDIA GPUs; and where Triton is missing or broken one sentence says so.

On a machine without a GPU the kernels run in Triton's interpreter (tests/conftest.py), on one with a GPU on the device.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from full_logits import INF, OPTIONS, full_logits, head, label, reference
from torch import Tensor

from forkwise.core import backends, logprob_and_entropy, tiles

pytest.importorskip("triton", reason="the kernels are written in Triton: pip install triton")
from forkwise.core import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy's, where a sum of no word is moved


@pytest.fixture
def tile(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, int], None]:
    """Sets the tokens and words of a tile, and how many of the words a kernel reads at a time."""

    def shape(tokens: int, vocab: int, words: int) -> None:
        backends.triton_trouble(torch.device(DEVICE))  # the trial has a tile of its own
        monkeypatch.setattr(tiles, "_tile_shape", lambda *_: (tokens, vocab))
        monkeypatch.setattr(kernels, "_FOLD_WORDS", words)
        monkeypatch.setattr(kernels, "_GRADIENT_WORDS", words)

    return shape


def by_triton(hidden: Tensor, weight: Tensor, targets: Tensor, **options: Any) -> dict[str, Tensor]:
    scores = logprob_and_entropy(hidden, weight, targets, entropy_grad=True, extras=True, backend="triton", **options)
    return {"logprob": scores.logprob, "entropy": scores.entropy, **scores.extras._asdict()}


def compare(inputs: list[Tensor], targets: Tensor, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Compares values and gradients of the kernels with float64 autograd from the same numbers."""
    low = [part.detach().to(DEVICE, dtype).requires_grad_() for part in inputs]
    exact = [part.detach().double().requires_grad_() for part in low]
    bias = dict(zip(("bias",), low[2:], strict=False))
    scores = by_triton(*low[:2], targets.to(DEVICE), **bias, **{k: _on(v) for k, v in options.items()})
    expected = reference(full_logits(*exact, **{k: _on(v) for k, v in options.items()}), targets.to(DEVICE))
    for name, part in scores.items():
        torch.testing.assert_close(part.to(expected[name].dtype), expected[name], rtol=2e-5, atol=2e-6, msg=name)
    weights = torch.linspace(-1, 2, len(targets), dtype=torch.float64, device=DEVICE)
    grads = [
        torch.autograd.grad((part["logprob"] * weights + part["entropy"] * weights.cos()).sum(), inputs)
        for part, inputs in ((scores, low), (expected, exact))
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a.double(), b.nan_to_num(0), rtol=1e-4, atol=5e-6)


def _on(value: Any) -> Any:
    return value.to(DEVICE) if isinstance(value, Tensor) else value


@pytest.mark.parametrize("words", ["no bias", "bias", "removed"])
@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_every_option_gives_the_float64_reference(
    options: dict[str, Any], words: str, tile: Callable[[int, int, int], None]
) -> None:
    """Tiles of 3 tokens and 7 words, read 4 at a time: ragged in all three. `removed` empties the first tile."""
    tile(3, 7, 4)
    hidden, weight, bias, targets = head(v=17)
    if words == "removed":
        targets = torch.tensor([7, 8, 10, 16, 12, 15, 7])
        with torch.no_grad():
            bias[[*range(7), 9, 11, 13]] = -INF
    inputs = [hidden, weight] if words == "no bias" else [hidden, weight, bias]
    compare(inputs, targets, options, torch.float32)


@pytest.mark.parametrize("shape", [(7, 11, 16), (1, 3, 1), (2, 11, 8), (7, 8, 8), (100, 100, 2)], ids=str)
def test_tiles_of_any_shape(shape: tuple[int, int, int], tile: Callable[[int, int, int], None]) -> None:
    tile(*shape)
    *inputs, targets = head()
    compare(inputs, targets, {"temperature": 0.7, "softcap": 4.0}, torch.float32)


def test_peaked_distributions_over_many_tiles(tile: Callable[[int, int, int], None]) -> None:
    tile(3, 300, 128)
    hidden, weight, _, targets = head(n=5, d=8, v=1000)
    compare([4 * hidden, weight], targets, {}, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_half_precision_equals_the_passes_of_pytorch(
    dtype: torch.dtype, with_bias: bool, tile: Callable[[int, int, int], None]
) -> None:
    """Products, and the gradient of products, are rounded at the same places."""
    tile(3, 7, 4)
    *inputs, targets = (part.to(DEVICE) for part in head(v=17))
    low = [part.detach().to(dtype).requires_grad_() for part in inputs]
    results = []
    for backend in ("torch", "triton"):
        scores = logprob_and_entropy(
            *low[:2], targets, bias=low[2] if with_bias else None, entropy_grad=True, backend=backend
        )
        gradients = torch.autograd.grad((scores.logprob + scores.entropy).sum(), low if with_bias else low[:2])
        results.append((*scores, *gradients))
    assert results[1][2].dtype == dtype
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=1e-5 if a.dtype == torch.float32 else 0.01, atol=1e-2)


def test_numbers_that_are_none_stay_visible(tile: Callable[[int, int, int], None]) -> None:
    """A maximum in Triton drops NaN; the sums must not."""
    tile(2, 7, 4)
    hidden, weight, _, targets = (part.detach().to(DEVICE) for part in head())
    weight[9] = torch.nan
    scores = logprob_and_entropy(hidden.float(), weight.float(), targets, backend="triton")
    assert scores.entropy.isnan().all()
    assert scores.logprob.isnan().all()


def test_a_masked_token_has_no_part_in_it(tile: Callable[[int, int, int], None]) -> None:
    tile(2, 7, 4)
    hidden, weight, _, targets = (part.detach().to(DEVICE) for part in head())
    hidden, weight = hidden.float(), weight.float()
    mask = torch.tensor([True, False, True, True, False, False, True], device=DEVICE)
    every = logprob_and_entropy(hidden, weight, targets, backend="triton")
    some = logprob_and_entropy(hidden, weight, targets, mask=mask, backend="triton")
    assert not some.entropy[~mask].any()
    # Products of fewer rows may be rounded otherwise, as the libraries of the processor take them.
    torch.testing.assert_close(some.entropy, every.entropy * mask, rtol=1e-5, atol=1e-6)
    none = logprob_and_entropy(hidden[:0], weight, targets[:0], backend="triton")
    assert none.entropy.shape == (0,)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("learned", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_gradients_of_log_probs_alone(
    learned: tuple[int, ...], softcap: float | None, tile: Callable[[int, int, int], None]
) -> None:
    """As shaped advantages need them: entropies are constants, some tokens do not count, some leaves are frozen."""
    tile(3, 7, 4)
    *inputs, targets = head(v=17)
    mask = torch.tensor([True, False, True, True, False, False, True], device=DEVICE)
    weights = torch.linspace(-1, 2, len(targets), device=DEVICE)
    low = [part.detach().to(DEVICE, torch.float32).requires_grad_(i in learned) for i, part in enumerate(inputs)]
    exact = [part.detach().double().requires_grad_() for part in low]
    options: dict[str, Any] = {"softcap": softcap, "temperature": 0.7}
    scores = logprob_and_entropy(*low[:2], targets.to(DEVICE), bias=low[2], mask=mask, backend="triton", **options)
    assert not scores.entropy.requires_grad
    (scores.logprob * weights).sum().backward()
    expected = reference(full_logits(*exact, **options), targets.to(DEVICE))
    (expected["logprob"] * weights.double() * mask).sum().backward()
    torch.testing.assert_close(scores.entropy.double(), expected["entropy"].detach() * mask, rtol=2e-5, atol=2e-6)
    for i, (mine, right) in enumerate(zip(low, exact, strict=True)):
        if i in learned:
            torch.testing.assert_close(mine.grad.double(), right.grad, rtol=1e-4, atol=5e-6)
        else:
            assert mine.grad is None


# --- the choice -------------------------------------------------------------------------------------------------------


def tiny(backend: str, dtype: torch.dtype = torch.float32) -> Tensor:
    hidden, weight, _, targets = head(dtype=dtype)
    return logprob_and_entropy(hidden, weight, targets, backend=backend).logprob  # type: ignore[arg-type]


def test_cpus_and_float64_take_the_passes_of_pytorch() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert backends.choose_passes("auto", cpu, torch.float32) is tiles.TorchPasses
    assert backends.choose_passes("auto", cuda, torch.float64) is tiles.TorchPasses
    assert backends.choose_passes("torch", cuda, torch.bfloat16) is tiles.TorchPasses
    with pytest.raises(TypeError, match="float32"):
        tiny("triton", torch.float64)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets the trial on a GPU run on the CPU, anew."""
    backends.triton_trouble.cache_clear()
    backends._warn_once.cache_clear()
    monkeypatch.setattr(backends, "_trial", lambda kind, _, trial=backends._trial: trial(kind, torch.device("cpu")))
    monkeypatch.setattr(torch.version, "hip", None)
    yield
    backends.triton_trouble.cache_clear()


def chosen() -> Any:
    return backends.choose_passes("auto", torch.device("cuda"), torch.bfloat16)


@pytest.mark.usefixtures("on_cpu")
def test_an_nvidia_gpu_takes_triton_after_a_trial() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.filterwarnings("ignore", "overflow")
        assert chosen() is kernels.TritonPasses


@pytest.mark.usefixtures("on_cpu")
def test_missing_triton_on_a_gpu_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "forkwise.core.kernels", None)
    with pytest.warns(RuntimeWarning, match=r"PyTorch on cuda.*Triton is not installed.*pip install triton") as seen:
        kinds = [chosen(), chosen()]
    assert kinds == [tiles.TorchPasses] * 2
    assert len(seen) == 1
    with pytest.raises(RuntimeError, match="backend='triton' cannot be used on cuda: Triton is not installed"):
        backends.choose_passes("triton", torch.device("cuda"), torch.bfloat16)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (RuntimeError("no compiler\nhere"), "does not run here .RuntimeError: no compiler here"),
        (0.1, "something else than PyTorch"),
    ],
    ids=["fails", "wrong"],
)
def test_a_broken_triton_on_a_gpu_gives_way_to_pytorch(
    fault: Exception | float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, sums: Any, *args: Any) -> None:
        if isinstance(fault, Exception):
            raise fault
        sums.t.add_(fault)

    monkeypatch.setattr(kernels.TritonPasses, "fold", broken)
    with pytest.warns(RuntimeWarning, match=message):
        assert chosen() is tiles.TorchPasses


def test_kernels_compile_for_nvidia_gpus() -> None:
    """The interpreter runs what the compiler refuses (names, types): all is compiled to machine code, without a GPU."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["cubin"] * 4


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from forkwise.core import kernels

pointers = {"target_ptr": "*i64", "bias_ptr": "*bf16", "out_ptr": "*bf16"}
for kernel, on in ((k, on) for k in (kernels._fold, kernels._gradient) for on in (False, True)):
    flags = {name: on for name in kernel.arg_names if name.isupper()} | {"WORDS": 256}
    kinds = {name: "*fp32" if name.endswith("_ptr") else "fp32" for name in kernel.arg_names}
    kinds |= {"start": "i32", "words": "i32"} | {k: v for k, v in pointers.items() if k in kinds}
    kinds |= dict.fromkeys(flags, "constexpr")
    compiled = triton.compile(ASTSource(kernel, kinds, flags), target=GPUTarget("cuda", 90, 32))
    print(*(kind for kind in compiled.asm if kind == "cubin"))
"""
