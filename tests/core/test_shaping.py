"""What is pinned here: the shaped advantage of arXiv 2506.14758, Eq. 5-6, on numbers made by hand, and its guarantees
as properties: the sign stays, 0 <= psi <= |A| / kappa, psi = 0 where A = 0, and no gradient passes.

Why it matters: kappa <= 1, an addition in place, a missing detach or a shape that broadcasts the wrong way all train
without an error message, and all of them are in public code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forkwise.core import ShapingStats, shape_advantages, shape_and_measure

NAN, INF = math.nan, math.inf

# alpha = 0.4, kappa = 2: psi = min(0.4 H, |A| / 2).
ADVANTAGES = torch.tensor([[1.0, 1.0, 1.0], [-0.5, -0.5, 0.0]])
ENTROPY = torch.tensor([[0.0, 0.5, 3.0], [0.25, 2.0, 2.0]])
# 0.4 H =                0, 0.2, 1.2      0.1,  0.8, 0.8
# |A| / 2 =             .5,  .5,  .5      .25,  .25,   0
PSI = torch.tensor([[0.0, 0.2, 0.5], [0.1, 0.25, 0.0]])


def shaping_stats(*args: Any, **kwargs: Any) -> ShapingStats:
    return shape_and_measure(*args, **kwargs)[1]


def test_example_by_hand() -> None:
    torch.testing.assert_close(shape_advantages(ADVANTAGES, ENTROPY), ADVANTAGES + PSI)


def test_where_the_cap_binds_right_answers_gain_half_and_wrong_ones_lose_half_of_their_penalty() -> None:
    assert shape_advantages(torch.tensor([2.0, -2.0]), torch.tensor([9.0, 9.0])).tolist() == [3.0, -1.0]


def test_one_advantage_per_response_is_spread_over_its_tokens() -> None:
    per_response = torch.tensor([1.0, -0.5])
    expected = shape_advantages(per_response[:, None].expand(2, 3), ENTROPY)
    for advantages in (per_response, per_response[:, None]):
        assert torch.equal(shape_advantages(advantages, ENTROPY), expected)
    # B = T = 2: still by rows.
    square = shape_advantages(torch.tensor([1.0, -1.0]), torch.full((2, 2), 9.0))
    assert square.tolist() == [[1.5, 1.5], [-0.5, -0.5]]


def test_mask_leaves_padding_alone_whatever_its_entropy() -> None:
    entropy = ENTROPY.clone()
    entropy[0, 2], entropy[1, 1], entropy[1, 0] = NAN, INF, -3.0
    expected = ADVANTAGES + torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.0, 0.0]])
    for mask in (torch.tensor([[1, 1, 0], [0, 0, 1]]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])):
        for cast in (mask, mask.bool()):
            torch.testing.assert_close(shape_advantages(ADVANTAGES, entropy, mask=cast), expected)


def test_padding_may_hold_any_advantage() -> None:
    shaped = shape_advantages(torch.tensor([NAN, -0.0, 1.0]), torch.ones(3), mask=torch.tensor([0, 0, 1]))
    assert math.isnan(shaped[0])
    assert math.copysign(1, shaped[1]) == -1
    assert shaped[2].item() == pytest.approx(1.4)


def test_the_result_is_new_and_a_constant() -> None:
    advantages, entropy = ADVANTAGES.clone().requires_grad_(), ENTROPY.clone().requires_grad_()
    shaped = shape_advantages(advantages, entropy)
    assert not shaped.requires_grad
    for alpha in (0.0, 0.4):
        shaped = shape_advantages(advantages, entropy, alpha=alpha)
        shaped.add_(1)
        assert torch.equal(advantages, ADVANTAGES)
        assert torch.equal(entropy, ENTROPY)


def test_alpha_zero_is_the_identity_bit_for_bit() -> None:
    advantages = torch.tensor([1.0, -0.0, 0.0, -3.3e-41, 1 / 3])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        a = advantages.to(dtype)
        shaped = shape_advantages(a, torch.full((5,), 2.0), alpha=0)
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
        assert torch.equal(shaped.view(bits), a.view(bits))


def test_entropy_slightly_below_zero_counts_as_zero() -> None:
    advantages, entropy = torch.tensor([1.0, -1.0]), torch.tensor([-1e-3, -1e-3])
    assert shape_advantages(advantages, entropy).tolist() == [1.0, -1.0]
    assert set(shaping_stats(advantages, entropy).as_dict().values()) == {0.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_advantages_is_kept(dtype: torch.dtype) -> None:
    shaped = shape_advantages(ADVANTAGES.to(dtype), ENTROPY.double())
    assert shaped.dtype == dtype
    torch.testing.assert_close(shaped.float(), ADVANTAGES + PSI, rtol=torch.finfo(dtype).eps, atol=0)


def test_rounding_to_bfloat16_stays_under_the_cap() -> None:
    # kappa = 3: A + psi = 1.3333 lies between the bfloat16 numbers 1.328125 and 1.3359375. The nearer one, 1.3359375,
    # would be a psi of 0.336 > 1/3.
    shaped = shape_advantages(torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([9.0]), kappa=3.0)
    assert shaped.item() == 1.328125


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((ADVANTAGES, ENTROPY), {"kappa": 1.0}, ValueError, "kappa must be a finite number greater than 1, got 1.0: "),
        ((ADVANTAGES, ENTROPY), {"kappa": 0.0}, ValueError, "kappa must be"),
        ((ADVANTAGES, ENTROPY), {"kappa": INF}, ValueError, "kappa must be"),
        ((ADVANTAGES, ENTROPY), {"kappa": NAN}, ValueError, "kappa must be"),
        ((ADVANTAGES, ENTROPY), {"alpha": -0.1}, ValueError, "alpha must be a finite number of at least 0, got -0.1; "),
        ((ADVANTAGES, ENTROPY), {"alpha": NAN}, ValueError, "alpha must be"),
        ((ADVANTAGES.long(), ENTROPY), {}, TypeError, "advantages must be floating point"),
        ((ADVANTAGES, ENTROPY.long()), {}, TypeError, "entropy must be floating point"),
        ((ADVANTAGES[:, :2], ENTROPY), {}, ValueError, "do not match"),
        ((ADVANTAGES[:1], ENTROPY), {}, ValueError, "do not match"),
        ((torch.ones(3), ENTROPY), {}, ValueError, "do not match"),
        ((ADVANTAGES, torch.ones(3)), {}, ValueError, "do not match"),
        ((torch.ones(1), torch.ones(3)), {}, ValueError, "do not match"),
        ((ADVANTAGES, ENTROPY[None]), {}, ValueError, "do not match"),
        ((ADVANTAGES, ENTROPY), {"mask": torch.ones(3)}, ValueError, "mask must be"),
        ((ADVANTAGES, ENTROPY), {"mask": torch.full((2, 3), 0.5)}, ValueError, "0 and 1 only"),
        ((ADVANTAGES, ENTROPY * NAN), {}, ValueError, "entropy holds NaN or infinity; pass a mask"),
        (
            (ADVANTAGES, ENTROPY + INF),
            {"mask": ENTROPY > 1},
            ValueError,
            "entropy holds NaN or infinity where mask is 1",
        ),
        ((ADVANTAGES, -ENTROPY), {}, ValueError, "entropy falls to -3 nats"),
        ((ADVANTAGES * NAN, ENTROPY), {}, ValueError, "advantages hold NaN"),
    ],
)
def test_shaping_refuses(args: Any, kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    for function in (shape_advantages, shape_and_measure):
        with pytest.raises(error, match=message):
            function(*args, **kwargs)  # type: ignore[operator]


# --- properties -------------------------------------------------------------------------------------------------------

DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32])


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, float, float]:
    dtype = draw(DTYPES)
    n = draw(st.integers(1, 8))
    numbers = st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 6e-8, -6e-8, -1e-40])
    advantages = torch.tensor(draw(st.lists(numbers, min_size=n, max_size=n))).to(dtype)
    entropy = torch.tensor(draw(st.lists(st.floats(0, 12, width=32), min_size=n, max_size=n)))
    return advantages, entropy, draw(st.floats(0, 5)), draw(st.floats(1.001, 10))


@settings(max_examples=300, deadline=None)
@given(batches())
def test_psi_is_between_zero_and_the_cap_and_the_sign_stays(batch: tuple[Tensor, Tensor, float, float]) -> None:
    advantages, entropy, alpha, kappa = batch
    shaped = shape_advantages(advantages, entropy, alpha=alpha, kappa=kappa)
    assert torch.equal(shaped.sign(), advantages.sign())
    finfo = torch.finfo(advantages.dtype)
    for a, h, s in zip(advantages.tolist(), entropy.tolist(), shaped.tolist(), strict=True):
        psi = Fraction(s) - Fraction(a)  # exact, in the dtype that was asked for
        cap = abs(Fraction(a)) / Fraction(kappa)
        assert 0 <= psi <= cap * Fraction(1 + 1e-15)  # kappa itself is a rounded number
        step = finfo.eps * max(abs(a), finfo.smallest_normal)
        assert psi <= Fraction(alpha) * Fraction(h) + Fraction(step)  # the sum is rounded


@settings(max_examples=50, deadline=None)
@given(batches(), st.randoms(use_true_random=False))
def test_order_and_packing_of_tokens_do_not_matter(batch: tuple[Tensor, Tensor, float, float], random: Any) -> None:
    advantages, entropy, alpha, kappa = batch
    options = {"alpha": alpha, "kappa": kappa}
    shaped = shape_advantages(advantages, entropy, **options)
    order = list(range(len(advantages)))
    random.shuffle(order)
    assert torch.equal(shape_advantages(advantages[order], entropy[order], **options), shaped[order])
    # The same tokens as a padded (B, T) with a mask, one response per token.
    padded = torch.stack([entropy, torch.full_like(entropy, NAN)], 1)
    mask = torch.tensor([1, 0]).expand_as(padded)
    assert torch.equal(shape_advantages(advantages, padded, mask=mask, **options)[:, 0], shaped)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_statistics_by_hand() -> None:
    # PSI above; five tokens with A != 0: psi / |A| = 0, .2, .5, .2, .5, mean 0.28; the cap binds at two of five.
    stats = shaping_stats(ADVANTAGES, ENTROPY).as_dict()
    assert stats == pytest.approx(
        {
            "psi_over_adv": 0.28,
            "capped_frac": 0.4,
            "psi_pos": 0.7 / 3,
            "psi_neg": 0.35 / 2,
            "mass_added": 0.7,
            "mass_removed": 0.35,
        },
        rel=1e-6,
    )


def test_a_bonus_that_just_reaches_the_cap_is_not_capped() -> None:
    # alpha * H = 0.5 * 1 = |A| / kappa at the first token; the second is above it.
    stats = shaping_stats(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.5]]), alpha=0.5, kappa=2.0).as_dict()
    assert stats["capped_frac"] == 0.5
    assert stats["psi_pos"] == 0.5


def test_statistics_skip_padding() -> None:
    entropy = ENTROPY.clone()
    entropy[0, 2] = NAN
    stats = shaping_stats(ADVANTAGES, entropy, mask=torch.tensor([[1, 1, 0], [1, 0, 0]])).as_dict()
    assert stats["psi_over_adv"] == pytest.approx((0 + 0.2 + 0.2) / 3)
    assert stats["capped_frac"] == 0
    assert stats["mass_added"] == pytest.approx(0.2)
    assert stats["mass_removed"] == pytest.approx(0.1)


@pytest.mark.parametrize("advantages", [torch.zeros(3), torch.tensor([-0.0, 0.0, 0.0]), torch.zeros(0)])
def test_statistics_of_nothing_are_zero(advantages: Tensor) -> None:
    stats = shaping_stats(advantages, torch.ones_like(advantages)).as_dict()
    assert set(stats.values()) == {0.0}
    masked = shaping_stats(ADVANTAGES, ENTROPY, mask=torch.zeros(2, 3)).as_dict()
    assert set(masked.values()) == {0.0}


def test_totals_of_parts_add_up_to_the_whole() -> None:
    whole = shaping_stats(ADVANTAGES, ENTROPY)
    parts = [shaping_stats(a, h).totals for a, h in zip(ADVANTAGES, ENTROPY, strict=True)]
    assert ShapingStats.from_totals(parts[0] + parts[1]).as_dict() == pytest.approx(whole.as_dict(), rel=1e-12)
    with pytest.raises(ValueError, match=r"\(6,\)"):
        ShapingStats.from_totals(torch.zeros(5))


@pytest.mark.parametrize("function", [shape_advantages, shape_and_measure])
def test_options_are_keyword_only(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError):
        function(ADVANTAGES, ENTROPY, 0.4)
