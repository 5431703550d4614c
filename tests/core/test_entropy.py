"""What is pinned here: values and gradients of the two entropy functions, against float64 autograd and numbers made by
hand, for every shape of tile, with -inf logits, and without ever allocating a full matrix of logits.

Why it matters: the entropy decides how far each advantage moves, so an error here is an error of the method that no
training curve would show. Not exercised: CUDA, where only the matrix product and the tile size differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from forkwise.core import logprob_and_entropy, rows, tiles, token_entropy

INF = float("inf")


def reference(logits: Tensor, temperature: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropy in float64, from the definition."""
    t = temperature.double().unsqueeze(-1) if isinstance(temperature, Tensor) else temperature
    logp = (logits.double() / t).log_softmax(-1)
    return logp, -(logp.exp() * logp.clamp(min=-1e300)).sum(-1)


def head(
    n: int = 7, d: int = 5, v: int = 11, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((n, d), (v, d), (v,)))
    targets = torch.randint(v, (n,), generator=g)
    return (
        hidden.to(dtype).requires_grad_(),
        weight.to(dtype).requires_grad_(),
        bias.to(dtype).requires_grad_(),
        targets,
    )


@pytest.fixture
def tile(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    return lambda tokens, vocab: monkeypatch.setattr(tiles, "_tile_shape", lambda *_: (tokens, vocab))


class Allocations(TorchDispatchMode):
    """Records the bytes of the largest storage that an operation returns and was not given."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


# --- token_entropy ----------------------------------------------------------------------------------------------------


def test_entropy_of_distributions_known_by_hand() -> None:
    logits = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0],  # uniform over 4: log 4
            [0.0, 0.0, -INF, -INF],  # uniform over 2: log 2
            [5.0, -INF, -INF, -INF],  # certain: 0
            # p = 1/2, 1/4, 1/8, 1/8: H = (1/2 + 2/4 + 3/8 + 3/8) log 2 = 1.75 log 2
            [math.log(4), math.log(2), 0.0, 0.0],
        ]
    )
    expected = torch.tensor([math.log(4), math.log(2), 0.0, 1.75 * math.log(2)])
    torch.testing.assert_close(token_entropy(logits), expected, rtol=1e-6, atol=1e-7)


def test_gradient_known_by_hand() -> None:
    # p = (3/4, 1/4), H = log 4 - 3/4 log 3 = 0.5623; dH/dz = -p (log p + H): log(3/4) + H = 1/4 log 3, so the first
    # component is -3/16 log 3, and the second the opposite, since a shift of both logits changes nothing.
    logits = torch.tensor([math.log(3), 0.0], requires_grad=True)
    token_entropy(logits).backward()
    expected = 3 / 16 * math.log(3)
    torch.testing.assert_close(logits.grad, torch.tensor([-expected, expected]), rtol=1e-6, atol=0)


def test_temperature_divides_the_logits() -> None:
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    per_token = torch.tensor([[0.5, 1.0, 2.0], [1.0, 0.7, 3.0]])
    torch.testing.assert_close(token_entropy(logits, temperature=0.6), token_entropy(logits / 0.6))
    torch.testing.assert_close(token_entropy(logits, temperature=torch.tensor(0.6)), token_entropy(logits / 0.6))
    torch.testing.assert_close(
        token_entropy(logits, temperature=per_token), token_entropy(logits / per_token[..., None])
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6, torch.tensor([[0.5, 1.0, 2.0], [1.0, 0.7, 3.0]])], ids=str)
def test_gradcheck_from_logits(temperature: float | Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_row_budget", lambda _: 16)  # two rows of seven per block
    logits = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[0, 0, 0] = -50.0
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: token_entropy(z, temperature=temperature), (logits,))


def test_minus_infinity_adds_nothing_to_values_and_gradients() -> None:
    logits = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[:, 2::3] = -INF
    kept = torch.isfinite(logits[0])
    masked, short = logits.clone().requires_grad_(), logits[:, kept].clone().requires_grad_()
    weights = torch.arange(1.0, 5.0, dtype=torch.float64)
    (token_entropy(masked) * weights).sum().backward()
    (token_entropy(short) * weights).sum().backward()
    torch.testing.assert_close(token_entropy(masked), token_entropy(short), rtol=1e-14, atol=0)
    assert masked.grad is not None
    torch.testing.assert_close(masked.grad[:, kept], short.grad, rtol=1e-13, atol=0)
    assert (masked.grad[:, ~kept] == 0).all()


def test_a_row_without_any_token_is_nan_and_does_not_spoil_the_gradient_of_others() -> None:
    logits = torch.zeros(2, 3)
    logits[0] = -INF
    logits.requires_grad_()
    entropy = token_entropy(logits)
    assert entropy[0].isnan()
    assert entropy[1].item() == pytest.approx(math.log(3))
    entropy[1].backward()
    assert logits.grad is not None
    assert (logits.grad[0] == 0).all()


def test_nan_logits_stay_visible() -> None:
    logits = torch.zeros(2, 3)
    logits[0, 1] = math.nan
    assert token_entropy(logits).isnan().tolist() == [True, False]


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0], ids=["flat", "model", "peaked"])
def test_float32_is_accurate_shift_invariant_and_never_negative(scale: float) -> None:
    logits = scale * torch.randn(16, 32_000, generator=torch.Generator().manual_seed(0))
    expected = reference(logits)[1]
    entropy = token_entropy(logits)
    assert entropy.dtype == torch.float32
    assert (entropy >= 0).all()
    torch.testing.assert_close(entropy.double(), expected, rtol=1e-6, atol=2e-6)
    # logits + 100 are rounded to a coarser grid before we see them: compare with the reference of what we see.
    shifted = logits + 100
    torch.testing.assert_close(token_entropy(shifted).double(), reference(shifted)[1], rtol=1e-6, atol=2e-6)


def test_low_entropy_keeps_an_absolute_accuracy_of_one_millionth() -> None:
    # One token leads the others by 12 to 25 nats. The uncentred formula in float32 errs by 1e-5 here.
    logits = torch.randn(64, 5_000, generator=torch.Generator().manual_seed(1))
    logits[:, 0] = torch.linspace(12, 25, 64)
    entropy = token_entropy(logits + 50)
    assert (entropy.double() - reference(logits + 50)[1]).abs().max() < 1e-6
    assert (entropy >= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(8, 10_000, generator=torch.Generator().manual_seed(0))).to(dtype).requires_grad_()
    entropy = token_entropy(logits)
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy.double(), reference(logits.detach())[1], rtol=1e-6, atol=1e-6)
    entropy.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype


def test_views_give_the_same_as_their_copies() -> None:
    logits = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for view in (logits[:, :-1], logits[:, ::2], logits.transpose(0, 1), logits[..., 1:], logits[1], logits[1, 1]):
        leaf, copy = view.detach().requires_grad_(), view.clone().contiguous().requires_grad_()
        weights = torch.arange(1.0, 1 + view.shape[:-1].numel(), dtype=torch.float64).view(view.shape[:-1])
        (token_entropy(leaf) * weights).sum().backward()
        (token_entropy(copy) * weights).sum().backward()
        torch.testing.assert_close(token_entropy(leaf), token_entropy(copy), rtol=1e-14, atol=0)
        torch.testing.assert_close(leaf.grad, copy.grad, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("view", [lambda z: z, lambda z: z[:, :-1]], ids=["contiguous", "sliced"])
def test_entropy_from_bfloat16_logits_allocates_far_less_than_the_logits(
    view: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_row_budget", lambda _: 4_000)
    logits = view(torch.zeros(4, 50, 1_000, dtype=torch.bfloat16)).requires_grad_()
    with Allocations() as forward:
        entropy = token_entropy(logits)
    assert forward.largest <= 4_000 * 4
    with Allocations() as backward:
        entropy.sum().backward()
    assert backward.largest <= logits.numel() * 2  # the gradient, in the dtype of the logits


def test_no_tokens() -> None:
    logits = torch.zeros(2, 0, 5, requires_grad=True)
    entropy = token_entropy(logits)
    assert entropy.shape == (2, 0)
    entropy.sum().backward()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: token_entropy(torch.zeros(2, 3).long()), TypeError, "floating point"),
        (lambda: token_entropy(torch.zeros(2, 0)), ValueError, "V >= 1"),
        (lambda: token_entropy(torch.tensor(1.0)), ValueError, "V >= 1"),
        (lambda: token_entropy(torch.zeros(2, 3), temperature=0.0), ValueError, "greedy"),
        (lambda: token_entropy(torch.zeros(2, 3), temperature=INF), ValueError, "positive and finite"),
        (lambda: token_entropy(torch.zeros(2, 3), temperature=torch.ones(3)), ValueError, "one per token"),
        (lambda: token_entropy(torch.zeros(2, 3), temperature=torch.tensor([1.0, -1.0])), ValueError, "every token"),
        (
            lambda: token_entropy(torch.zeros(2, 3), temperature=torch.ones(2, requires_grad=True)),
            ValueError,
            "detach",
        ),
    ],
)
def test_entropy_refuses(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# --- logprob_and_entropy ----------------------------------------------------------------------------------------------

# 7 tokens x 11 words: one tile; both axes ragged; one axis only; single elements; tiles larger than the matrix.
TILES = [(7, 11), (3, 4), (7, 5), (2, 11), (1, 1), (100, 100)]


@pytest.mark.parametrize("shape", TILES, ids=str)
@pytest.mark.parametrize(
    "temperature", [1.0, 0.6, torch.tensor([0.5, 1.0, 2.0, 1.0, 0.7, 3.0, 1.5])], ids=["1", "0.6", "N"]
)
def test_every_tile_shape_gives_the_float64_reference(
    shape: tuple[int, int], temperature: float | Tensor, tile: Callable[[int, int], None]
) -> None:
    tile(*shape)
    hidden, weight, bias, targets = head()
    logp, entropy = reference(hidden @ weight.t() + bias, temperature)
    scores = logprob_and_entropy(hidden, weight, targets, bias=bias, temperature=temperature, entropy_grad=True)
    torch.testing.assert_close(scores.logprob, logp.gather(1, targets[:, None]).squeeze(1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(scores.entropy, entropy, rtol=1e-12, atol=1e-14)
    weights = torch.linspace(-1, 2, 7, dtype=torch.float64)
    loss = (logp.gather(1, targets[:, None]).squeeze(1) * weights + entropy * weights.cos()).sum()
    expected = torch.autograd.grad(loss, (hidden, weight, bias))
    got = torch.autograd.grad((scores.logprob * weights + scores.entropy * weights.cos()).sum(), (hidden, weight, bias))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize("temperature", [1.0, torch.tensor([[0.5, 1.0], [2.0, 0.7]])], ids=["1", "per token"])
def test_gradcheck_from_hidden_states(
    entropy_grad: bool, temperature: float | Tensor, tile: Callable[[int, int], None]
) -> None:
    tile(3, 4)
    hidden, weight, bias, targets = head(n=4, d=3, v=9)

    def function(h: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        scores = logprob_and_entropy(
            h.view(2, 2, 3), w, targets.view(2, 2), bias=b, temperature=temperature, entropy_grad=entropy_grad
        )
        return tuple(scores) if entropy_grad else (scores.logprob,)

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


def test_entropy_is_a_constant_unless_asked_for() -> None:
    hidden, weight, _, targets = head()
    scores = logprob_and_entropy(hidden, weight, targets)
    assert scores.logprob.requires_grad
    assert not scores.entropy.requires_grad


def test_only_the_gradients_asked_for_are_computed() -> None:
    hidden, weight, bias, targets = head()
    expected = torch.autograd.grad(
        logprob_and_entropy(hidden, weight, targets, bias=bias).logprob.sum(), (hidden, weight, bias)
    )
    for i in range(3):
        inputs = [x.detach().requires_grad_(i == j) for j, x in enumerate((hidden, weight, bias))]
        scores = logprob_and_entropy(inputs[0], inputs[1], targets, bias=inputs[2])
        scores.logprob.sum().backward()
        assert [x.grad is not None for x in inputs] == [i == j for j in range(3)]
        torch.testing.assert_close(inputs[i].grad, expected[i], rtol=0, atol=0)


def test_entropy_alone_and_a_second_backward_pass() -> None:
    hidden, weight, _, targets = head()
    scores = logprob_and_entropy(hidden, weight, targets, entropy_grad=True)
    (first,) = torch.autograd.grad(scores.entropy.sum(), hidden, retain_graph=True)
    (second,) = torch.autograd.grad(scores.entropy.sum(), hidden)
    (expected,) = torch.autograd.grad(token_entropy(hidden @ weight.t()).sum(), hidden)
    torch.testing.assert_close(first, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize(
    "masked", [range(4), range(4, 8), range(8, 11), (0, 5, 10)], ids=["first", "middle", "last", "some"]
)
def test_minus_infinity_bias_removes_words(masked: range, tile: Callable[[int, int], None]) -> None:
    """A fully masked tile (the first one above all) leaves values and gradients as if its words did not exist."""
    tile(3, 4)
    hidden, weight, bias, _ = head()
    kept = torch.tensor([v for v in range(11) if v not in masked])
    targets = kept[torch.arange(7) % len(kept)]
    with torch.no_grad():
        bias[list(masked)] = -INF
    scores = logprob_and_entropy(hidden, weight, targets, bias=bias, entropy_grad=True)
    short = logprob_and_entropy(
        hidden, weight[kept], torch.searchsorted(kept, targets), bias=bias[kept], entropy_grad=True
    )
    torch.testing.assert_close(tuple(scores), tuple(short), rtol=1e-13, atol=1e-14)
    got = torch.autograd.grad(scores.logprob.sum() + 2 * scores.entropy.sum(), (hidden, weight, bias))
    expected = torch.autograd.grad(short.logprob.sum() + 2 * short.entropy.sum(), (hidden, weight, bias))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_a_removed_target_has_log_probability_minus_infinity() -> None:
    hidden, weight, bias, targets = head()
    with torch.no_grad():
        bias[targets[0]] = -INF
    scores = logprob_and_entropy(hidden, weight, targets, bias=bias)
    assert scores.logprob[0] == -INF
    assert scores.entropy.isfinite().all()


def test_float32_is_accurate_over_many_tiles(tile: Callable[[int, int], None]) -> None:
    tile(64, 512)
    hidden, weight, _, targets = head(n=128, d=64, v=20_000, dtype=torch.float32)
    scores = logprob_and_entropy(hidden, weight, targets)
    logits = (hidden @ weight.t()).detach()
    logp, entropy = reference(logits)
    torch.testing.assert_close(
        scores.logprob.double(), logp.gather(1, targets[:, None]).squeeze(1), rtol=1e-6, atol=1e-5
    )
    torch.testing.assert_close(scores.entropy.double(), entropy, rtol=1e-5, atol=1e-5)
    assert (scores.entropy >= 0).all()


def test_bfloat16_errs_only_by_the_rounding_of_the_logits() -> None:
    # Logits of size ~20 in bfloat16 have steps of 1/8, so values err by some 1e-2. All else is float32: from the same
    # rounded logits the reference agrees to 1e-5.
    hidden, weight, _, targets = head(n=64, d=64, v=5_000, dtype=torch.bfloat16)
    scores = logprob_and_entropy(hidden, weight, targets, entropy_grad=True)
    assert scores.logprob.dtype == scores.entropy.dtype == torch.float32
    logp, entropy = reference((hidden @ weight.t()).detach())
    torch.testing.assert_close(
        scores.logprob.double(), logp.gather(1, targets[:, None]).squeeze(1), rtol=1e-6, atol=1e-5
    )
    torch.testing.assert_close(scores.entropy.double(), entropy, rtol=1e-5, atol=1e-5)

    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    true = logprob_and_entropy(exact[0], exact[1], targets, entropy_grad=True)
    got = torch.autograd.grad(scores.logprob.sum() + scores.entropy.sum(), (hidden, weight))
    for a, b in zip(got, torch.autograd.grad(true.logprob.sum() + true.entropy.sum(), exact), strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.double() - b).norm() < 0.02 * b.norm()


def test_weight_gradient_sums_token_blocks_in_float32(tile: Callable[[int, int], None]) -> None:
    # 256 tokens in blocks of 1: a bfloat16 running sum would lose most of the small terms.
    hidden, weight, _, targets = head(n=256, d=8, v=16, dtype=torch.bfloat16)
    got = []
    for tokens in (256, 1):
        tile(tokens, 16)
        (grad,) = torch.autograd.grad(logprob_and_entropy(hidden, weight, targets).logprob.sum(), weight)
        got.append(grad.double())
    assert (got[0] - got[1]).norm() < 0.005 * got[0].norm()


def test_autocast_multiplies_in_the_autocast_dtype() -> None:
    hidden, weight, _, targets = head(n=16, d=32, v=100, dtype=torch.float32)
    low = [x.detach().bfloat16().requires_grad_() for x in (hidden, weight)]
    expected = logprob_and_entropy(low[0], low[1], targets)
    with torch.autocast("cpu", torch.bfloat16):
        scores = logprob_and_entropy(hidden, weight, targets)
    torch.testing.assert_close(tuple(scores), tuple(expected), rtol=0, atol=0)
    scores.logprob.sum().backward()  # outside autocast, as usual
    expected.logprob.sum().backward()
    for full, half in zip((hidden, weight), low, strict=True):
        assert full.grad is not None
        assert full.grad.dtype == torch.float32
        assert torch.equal(full.grad.bfloat16(), half.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_matrix_of_logits_is_ever_allocated(dtype: torch.dtype, tile: Callable[[int, int], None]) -> None:
    """Nothing larger than a tile and the gradients; the logits would be 32 times as large as the largest gradient."""
    tile(64, 256)
    n, d, v = 512, 16, 8_192
    hidden, weight, _, targets = head(n=n, d=d, v=v, dtype=dtype)
    with Allocations() as forward:
        scores = logprob_and_entropy(hidden, weight, targets, entropy_grad=True)
    assert forward.largest <= 64 * 256 * 4
    with Allocations() as backward:
        (scores.logprob.sum() + scores.entropy.sum()).backward()
    assert backward.largest == weight.numel() * weight.element_size()  # the gradient itself, in its own dtype
    assert backward.largest * 32 == n * v * weight.element_size()


def test_no_tokens_from_hidden_states() -> None:
    hidden, weight, bias, _ = head(n=0)
    scores = logprob_and_entropy(hidden, weight, torch.zeros(0, dtype=torch.int64), bias=bias, entropy_grad=True)
    assert scores.logprob.shape == scores.entropy.shape == (0,)
    scores.logprob.sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 0).all()


def test_leading_shapes_are_kept() -> None:
    hidden, weight, _, targets = head(n=6)
    flat = logprob_and_entropy(hidden, weight, targets)
    for lead in ((2, 3), (1, 2, 3)):
        scores = logprob_and_entropy(hidden.view(*lead, 5), weight, targets.view(lead))
        assert scores.logprob.shape == scores.entropy.shape == lead
        torch.testing.assert_close(scores.entropy.flatten(), flat.entropy, rtol=0, atol=0)
    one = logprob_and_entropy(hidden[0], weight, targets[0])
    torch.testing.assert_close(one.logprob, flat.logprob[0])


HIDDEN, WEIGHT, TARGETS = torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((HIDDEN.long(), WEIGHT, TARGETS), {}, TypeError, "floating point"),
        ((HIDDEN, WEIGHT.t(), TARGETS), {}, ValueError, r"weight \(V, d\)"),
        ((HIDDEN, WEIGHT, TARGETS.int()), {}, TypeError, "int64"),
        ((HIDDEN, WEIGHT, TARGETS[:1]), {}, ValueError, "like hidden"),
        ((HIDDEN, WEIGHT, TARGETS), {"bias": torch.zeros(3)}, ValueError, "like the rows of weight"),
        ((HIDDEN, WEIGHT.bfloat16(), TARGETS), {}, TypeError, "one dtype"),
        ((HIDDEN, WEIGHT, TARGETS - 100), {}, ValueError, r"\[0, 5\) but span -100 to -100"),
        ((HIDDEN, WEIGHT, TARGETS + 5), {}, ValueError, "span 5 to 5"),
        ((HIDDEN, WEIGHT, TARGETS), {"temperature": 0}, ValueError, "positive"),
        ((HIDDEN, WEIGHT, TARGETS), {"temperature": 1e-45}, ValueError, "1 over it finite too, not 1e-45"),
        ((HIDDEN, WEIGHT, TARGETS), {"temperature": torch.tensor([1.0, 1e-39])}, ValueError, "at every token"),
        ((HIDDEN, WEIGHT, TARGETS), {"temperature": torch.ones((), requires_grad=True)}, ValueError, "detach"),
        ((HIDDEN, WEIGHT, TARGETS), {"temperature": torch.ones(3)}, ValueError, "one per token"),
        ((HIDDEN, WEIGHT.to("meta"), TARGETS), {}, ValueError, "on one device, not cpu, meta"),
        (
            (HIDDEN, WEIGHT, TARGETS),
            {"bias": torch.zeros(5, device="meta")},
            ValueError,
            "on one device, not cpu, meta",
        ),
        ((HIDDEN, WEIGHT, TARGETS), {"backend": "cuda"}, ValueError, "'triton' or 'liger'"),
        ((HIDDEN, WEIGHT, TARGETS), {"backend": "liger", "bias": torch.zeros(5)}, ValueError, "no bias"),
        ((HIDDEN, WEIGHT, TARGETS), {"backend": "liger", "temperature": torch.ones(2)}, ValueError, "one temperature"),
    ],
)
def test_logprob_and_entropy_refuses(
    args: tuple[Tensor, Tensor, Tensor], kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        logprob_and_entropy(*args, **kwargs)


# --- other implementations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_the_fused_head_of_trl(dtype: torch.dtype) -> None:
    kernels = pytest.importorskip("trl.kernels", reason="TRL's fused language-model head is in trl >= 1.16")
    hidden, weight, bias, targets = head(n=40, d=32, v=3_000, dtype=dtype)
    ours = logprob_and_entropy(hidden, weight, targets, bias=bias, temperature=0.8, entropy_grad=True)
    theirs = kernels.ChunkedLogProbFunction.apply(hidden, weight, bias, targets, 0.8, 512, None, 1.0, ("entropy",))
    # TRL adds the bias in bfloat16, we in float32: half a step of 1/8 in a logit.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.1}
    torch.testing.assert_close(ours.logprob, theirs[0], **tolerance)
    torch.testing.assert_close(ours.entropy, theirs[1], **tolerance)
    got = torch.autograd.grad(ours.logprob.sum() + ours.entropy.sum(), (hidden, weight, bias))
    expected = torch.autograd.grad(theirs[0].sum() + theirs[1].sum(), (hidden, weight, bias))
    for a, b in zip(got, expected, strict=True):
        assert (a.float() - b.float()).norm() < (1e-5 if dtype == torch.float32 else 0.03) * b.float().norm()


def test_the_liger_backend_agrees_with_ours() -> None:
    pytest.importorskip("liger_kernel", reason="backend='liger' needs liger-kernel")
    pytest.importorskip("triton", reason="liger-kernel needs triton, also on CPUs")
    hidden, weight, _, targets = head(n=12, d=16, v=300, dtype=torch.float32)
    results = []
    for backend in ("torch", "liger"):
        scores = logprob_and_entropy(
            hidden.view(3, 4, 16), weight, targets.view(3, 4), temperature=0.8, entropy_grad=True, backend=backend
        )
        assert scores.entropy.dtype == torch.float32
        results.append((*scores, *torch.autograd.grad(scores.logprob.sum() + scores.entropy.sum(), (hidden, weight))))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    assert not logprob_and_entropy(hidden, weight, targets, backend="liger").entropy.requires_grad


def test_a_missing_liger_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "liger_kernel.ops", None)
    with pytest.raises(ImportError, match="pip install 'liger-kernel"):
        logprob_and_entropy(HIDDEN, WEIGHT, TARGETS, backend="liger")
