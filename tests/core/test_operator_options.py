"""What is pinned here: soft caps, logit scales, masks and the extras of the fused operator, one by one and together,
in values and gradients, against autograd through full logits in float64.

Why it matters: a head with a scale or a cap that is scored without it trains on wrong log-probs that look right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from full_logits import INF, OPTIONS, PER_TOKEN, full_logits, head, label, reference
from torch import Tensor

from forkwise.core import HiddenStatesError, logprob_and_entropy, tiles


def ours(hidden: Tensor, weight: Tensor, targets: Tensor, **options: Any) -> dict[str, Tensor]:
    scores = logprob_and_entropy(hidden, weight, targets, entropy_grad=True, extras=True, **options)
    return {"logprob": scores.logprob, "entropy": scores.entropy, **scores.extras._asdict()}


@pytest.fixture
def tile(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sets the size of a tile; passes go over two of its tokens at a time."""

    def of(tokens: int, vocab: int) -> None:
        monkeypatch.setattr(tiles, "_tile_shape", lambda *_: (tokens, vocab))
        monkeypatch.setattr(tiles, "_piece", lambda *_: 2 * vocab)

    return of


@pytest.mark.parametrize("words", ["no bias", "bias", "removed"])
@pytest.mark.parametrize("options", OPTIONS, ids=label)
@pytest.mark.parametrize("shape", [(7, 11), (3, 4), (1, 1)], ids=str)
def test_every_option_gives_the_float64_reference(
    shape: tuple[int, int], options: dict[str, Any], words: str, tile: Callable[[int, int], None]
) -> None:
    """`removed`: a bias of -inf at two words of the first tile of four, at all of the second, and at the last word."""
    tile(*shape)
    hidden, weight, bias, targets = head()
    if words == "removed":
        gone = torch.tensor([0, 2, 4, 5, 6, 7, 10])
        targets = torch.tensor([1, 3, 8, 9, 1, 8, 3])
        with torch.no_grad():
            bias[gone] = -INF
    used = None if words == "no bias" else bias
    got = ours(hidden, weight, targets, bias=used, **options)
    expected = reference(full_logits(hidden, weight, used, **options), targets)
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-11, atol=1e-13)

    inputs = [hidden, weight] if used is None else [hidden, weight, used]
    weights = torch.linspace(-1, 2, 7, dtype=torch.float64)
    grads = []
    for value in (got, expected):
        loss = (value["logprob"] * weights + value["entropy"] * weights.cos()).sum()
        grads.append(torch.autograd.grad(loss, inputs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b.nan_to_num(0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_gradcheck_of_every_option(
    options: dict[str, Any], entropy_grad: bool, tile: Callable[[int, int], None]
) -> None:
    tile(3, 4)
    *inputs, targets = head()
    mask = torch.tensor([True, True, False, True, True, False, True])

    def function(h: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        scores = logprob_and_entropy(h, w, targets, bias=b, mask=mask, entropy_grad=entropy_grad, **options)
        return tuple(scores) if entropy_grad else (scores.logprob,)

    assert torch.autograd.gradcheck(function, inputs)


def test_statistics_of_a_distribution_known_by_hand() -> None:
    # p = 1/2, 1/4, 1/4 (logits log 2, 0, 0): H = 3/2 log 2. -log p = log 2 [1, 2, 2], so its variance is
    # log(2)^2 (1/2 * 1/4 + 1/2 * 1/4) = log(2)^2 / 4. sum p^2 = 1/4 + 2/16 = 3/8.
    # sum p^2 (log p + H) = log 2 (1/4 * (-1 + 3/2) + 2/16 * (-2 + 3/2)) = log 2 / 16.
    weight = torch.tensor([[math.log(2)], [0.0], [0.0]])
    scores = ours(torch.ones(2, 1), weight, torch.tensor([0, 1]))
    for name, value in {
        "entropy": 1.5 * math.log(2),
        "sum_p2": 3 / 8,
        "sum_p2_log": math.log(2) / 16,
        "varentropy": math.log(2) ** 2 / 4,
    }.items():
        torch.testing.assert_close(scores[name], torch.full((2,), value), rtol=1e-6, atol=1e-7)
    assert scores["top1"].tolist() == [True, False]


def test_extras_change_neither_values_nor_gradients() -> None:
    hidden, weight, bias, targets = head(n=40, d=16, v=700, dtype=torch.float32)
    scored = []
    for extras in (False, True):
        scores = logprob_and_entropy(hidden, weight, targets, bias=bias, entropy_grad=True, extras=extras)
        scored.append((*scores, *torch.autograd.grad((scores.logprob + scores.entropy).sum(), (hidden, weight, bias))))
    torch.testing.assert_close(*scored, rtol=1e-6, atol=1e-6)
    for part in scores.extras:
        assert not part.requires_grad
    assert scores.extras.top1.dtype == torch.bool
    with pytest.raises(AttributeError, match="extras=True"):
        _ = logprob_and_entropy(hidden, weight, targets).extras


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("scale", [0.1, 3.0, 12.0], ids=["flat", "model", "peaked"])
def test_float32_statistics_over_many_tiles(
    scale: float, softcap: float | None, tile: Callable[[int, int], None]
) -> None:
    tile(64, 512)
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(96, 32, generator=g)
    weight = torch.randn(20_000, 32, generator=g) * scale / 32**0.5
    targets = torch.randint(20_000, (96,), generator=g)
    scores = ours(hidden, weight, targets, softcap=softcap)
    expected = reference(full_logits(hidden, weight, softcap=softcap), targets)
    assert (scores["entropy"].double() - expected["entropy"]).abs().max() < 1e-5
    torch.testing.assert_close(scores["logprob"].double(), expected["logprob"], rtol=1e-6, atol=2e-5)
    for name in ("sum_p2", "sum_p2_log", "varentropy"):
        torch.testing.assert_close(scores[name].double(), expected[name], rtol=1e-4, atol=2e-5)
    assert torch.equal(scores["top1"], expected["top1"])


def test_tokens_that_do_not_count_cost_nothing_and_change_nothing() -> None:
    """Their hidden states may be NaN, targets and temperatures anything; they get zeros, and a gradient of zero."""
    hidden, weight, _, targets = head(n=6)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    few = ours(hidden[mask.view(-1)], weight, targets[mask.view(-1)], temperature=PER_TOKEN[:6][mask.view(-1)])
    broken = hidden.detach().clone()
    broken[~mask.view(-1)] = math.nan
    broken.requires_grad_()
    wrong = targets.masked_fill(~mask.view(-1), -100)
    temperatures = PER_TOKEN[:6].view(2, 3) * mask
    all_ = ours(broken.view(2, 3, 5), weight, wrong.view(2, 3), temperature=temperatures, mask=mask)
    for name, part in all_.items():
        assert part.shape == (2, 3)
        assert not part[~mask].any()
        torch.testing.assert_close(part[mask], few[name], rtol=0, atol=0)
    got = torch.autograd.grad(all_["logprob"].sum() + all_["entropy"].sum(), (broken, weight))
    expected = torch.autograd.grad(few["logprob"].sum() + few["entropy"].sum(), (hidden, weight))
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=0)
    torch.testing.assert_close(got[1], expected[1], rtol=0, atol=0)


@pytest.mark.parametrize("lead", [(0,), (2, 0), (3,)], ids=str)
def test_no_tokens_at_all(lead: tuple[int, ...]) -> None:
    """N = 0, and three tokens none of which counts."""
    _, weight, _, _ = head()
    hidden = torch.zeros(*lead, 5, dtype=torch.float64, requires_grad=True)
    targets, mask = torch.zeros(lead, dtype=torch.int64), torch.zeros(lead, dtype=torch.bool)
    scores = ours(hidden, weight, targets, softcap=3.0, mask=mask)
    assert all(part.shape == lead and not part.any() for part in scores.values())
    (scores["logprob"].sum() + scores["entropy"].sum()).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_a_vocabulary_of_nothing_is_nan_and_spoils_no_gradient() -> None:
    hidden, weight, _, targets = head()
    scores = logprob_and_entropy(hidden, weight, targets, bias=torch.full((11,), -INF, dtype=torch.float64))
    assert scores.logprob.isnan().all()
    assert scores.entropy.isnan().all()
    (grad,) = torch.autograd.grad(scores.logprob.nansum(), hidden)
    assert not grad.any()


def test_no_cap_and_no_scale_are_bit_for_bit_the_plain_operator() -> None:
    hidden, weight, bias, targets = head(n=20, d=8, v=300, dtype=torch.float32)
    plain = logprob_and_entropy(hidden, weight, targets, bias=bias, temperature=0.7)
    given = logprob_and_entropy(hidden, weight, targets, bias=bias, temperature=0.7, logit_scale=1.0, softcap=None)
    assert torch.equal(plain.logprob, given.logprob)
    assert torch.equal(plain.entropy, given.entropy)


HIDDEN, WEIGHT, TARGETS = torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"softcap": 0.0}, ValueError, "softcap must be positive"),
        ({"softcap": INF}, ValueError, "softcap must be positive and finite"),
        ({"logit_scale": -1.0}, ValueError, "logit_scale must be positive"),
        ({"logit_scale": math.nan}, ValueError, "logit_scale must be positive"),
        (
            {"logit_scale": torch.ones((), requires_grad=True)},
            TypeError,
            r"no gradient here. Pass logit_scale.item\(\)",
        ),
        ({"softcap": torch.ones(())}, TypeError, r"Pass softcap.item\(\)"),
        ({"mask": torch.ones(2)}, TypeError, r"pass mask.bool\(\)"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, ValueError, "like targets"),
        ({"backend": "liger", "softcap": 1.0}, ValueError, "no bias, logit_scale, softcap or extras"),
        ({"backend": "liger", "extras": True}, ValueError, "no bias, logit_scale, softcap or extras"),
    ],
)
def test_options_that_are_refused(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        logprob_and_entropy(HIDDEN, WEIGHT, TARGETS, **kwargs)


@pytest.mark.parametrize("value", [math.nan, INF, -INF])
def test_hidden_states_that_are_no_numbers_are_named(value: float) -> None:
    hidden = torch.zeros(2, 3, 4)
    hidden[1, 0, 2] = hidden[1, 2, 0] = value
    weight, targets = torch.zeros(5, 4), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(HiddenStatesError, match=r"2 of 6 tokens are NaN or infinite, first at \(1, 0\)"):
        logprob_and_entropy(hidden, weight, targets)
    mask = torch.tensor([[True, True, True], [False, True, True]])
    with pytest.raises(HiddenStatesError, match=r"1 of 5 tokens are NaN or infinite, first at \(1, 2\)"):
        logprob_and_entropy(hidden, weight, targets, mask=mask)
