"""Advantages from a critic: by hand, against the definitions in float64, and against verl's released functions.

The references first drop what the mask drops and then follow the formulas over plain lists, so they share no indexing
with the code. Lengths run from 1 to T, masks have gaps (tool answers), and what lies outside a mask is NaN.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forkwise.core import clipped_value_loss, explained_variance, gae, whiten


def case(seed: int, *, rows: int = 5, tokens: int = 7, gaps: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards at the last token of the mask, values, and a mask of lengths 1..T, with gaps that spare both ends."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (rows,), generator=draw)
    position = torch.arange(tokens)
    mask = (position < lengths[:, None]).double()
    if gaps:
        inner = (position > 0) & (position < lengths[:, None] - 1)
        mask[inner & (torch.rand(rows, tokens, generator=draw) < 0.3)] = 0
    values = torch.randn(rows, tokens, generator=draw, dtype=torch.float64)
    rewards = torch.zeros(rows, tokens, dtype=torch.float64)
    rewards[torch.arange(rows), lengths - 1] = torch.randn(rows, generator=draw, dtype=torch.float64)
    return rewards, values, mask


def outside_is_nan(tensor: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask == 1, tensor, torch.nan)


def by_definition(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, after: Tensor) -> Tensor:
    """A_t = sum_l (gamma lam)^l (r_{t+l} + gamma V_{t+l+1} - V_{t+l}) over the tokens of the mask alone."""
    advantages = torch.zeros_like(values)
    for row in range(len(values)):
        kept = [t for t in range(values.shape[1]) if mask[row, t] == 1]
        r = [float(rewards[row, t]) for t in kept]
        v = [float(values[row, t]) for t in kept] + [float(after[row])]
        delta = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(kept))]
        for i, t in enumerate(kept):
            advantages[row, t] = sum((gamma * lam) ** (j - i) * delta[j] for j in range(i, len(kept)))
    return advantages


class TestGae:
    def test_by_hand(self) -> None:
        # gamma 1/2, lam 1/2, reward 1 at the third token, then padding.
        # delta_3 = 1 - 0.4 = 0.6; delta_2 = 0.5 * 0.4 - 0.2 = 0; delta_1 = 0.5 * 0.2 - 0.6 = -0.5
        # A_3 = 0.6; A_2 = 0 + 0.25 * 0.6 = 0.15; A_1 = -0.5 + 0.25 * 0.15 = -0.4625; R = A + V
        values = torch.tensor([[0.6, 0.2, 0.4, 9.0]])
        rewards, mask = torch.tensor([[0.0, 0.0, 1.0, 9.0]]), torch.tensor([[1, 1, 1, 0]])
        advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
        torch.testing.assert_close(advantages, torch.tensor([[-0.4625, 0.15, 0.6, 0.0]]))
        torch.testing.assert_close(returns, torch.tensor([[0.1375, 0.35, 1.0, 0.0]]))

    def test_a_value_after_the_end_stands_in_for_what_was_cut_off(self) -> None:
        # delta_2 = 0 + 1 * 0.8 - 0.3 = 0.5; delta_1 = 0.3 - 0.1 = 0.2; lam 1 adds them up.
        values, mask = torch.tensor([[0.1, 0.3, 7.0]]), torch.tensor([[1, 1, 0]])
        advantages, returns = gae(torch.zeros(1, 3), values, mask, bootstrap=torch.tensor([0.8]))
        torch.testing.assert_close(advantages, torch.tensor([[0.7, 0.5, 0.0]]))
        torch.testing.assert_close(returns, torch.tensor([[0.8, 0.8, 0.0]]))

    @given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1), st.booleans())
    @settings(deadline=None, max_examples=40)
    def test_equals_its_definition(self, seed: int, gamma: float, lam: float, cut: bool) -> None:
        rewards, values, mask = case(seed)
        after = torch.linspace(-1, 1, len(values), dtype=torch.float64) * cut
        want = by_definition(rewards, values, mask, gamma, lam, after)
        advantages, returns = gae(
            outside_is_nan(rewards, mask),
            outside_is_nan(values, mask),
            mask,
            gamma=gamma,
            lam=lam,
            bootstrap=after if cut else None,
        )
        torch.testing.assert_close(advantages, want, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(returns, (want + values) * mask, rtol=1e-12, atol=1e-12)
        single = gae(rewards.float(), values.float(), mask.bool(), gamma=gamma, lam=lam, bootstrap=after.float())
        torch.testing.assert_close(single.advantages, want.float(), rtol=1e-5, atol=1e-6)

    def test_a_gap_is_as_if_it_were_not_there(self) -> None:
        draw = torch.Generator().manual_seed(1)
        values, rewards = torch.randn(1, 4, generator=draw), torch.randn(1, 4, generator=draw)
        gap = torch.tensor([[1, 0, 0, 1, 1, 0, 1]])
        places = gap[0].nonzero()[:, 0]
        wide_v, wide_r = torch.full((1, 7), 50.0), torch.full((1, 7), 50.0)
        wide_v[0, places], wide_r[0, places] = values[0], rewards[0]
        short, _ = gae(rewards, values, torch.ones(1, 4), gamma=0.9, lam=0.8)
        wide, _ = gae(wide_r, wide_v, gap, gamma=0.9, lam=0.8)
        assert torch.equal(wide[0, places], short[0])

    def test_with_lambda_and_gamma_one_the_return_is_the_reward_whatever_the_critic_says(self) -> None:
        rewards, values, mask = case(3)
        _, returns = gae(rewards, values, mask)
        torch.testing.assert_close(returns, rewards.sum(dim=1, keepdim=True) * mask)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lam": 1.1}, r"lam must lie in \[0, 1\], not 1.1"),
            ({"gamma": -0.1}, "gamma must lie"),
            ({"mask": torch.ones(2, 4)}, r"mask must be \(2, 3\)"),
            ({"rewards": torch.zeros(2)}, r"rewards must be \(2, 3\)"),
            ({"values": torch.ones(2, 3, dtype=torch.long)}, "floating point"),
            ({"bootstrap": torch.zeros(3)}, r"bootstrap must be \(2,\)"),
        ],
    )
    def test_wrong_input_is_one_sentence(self, change: dict, message: str) -> None:
        good = {"rewards": torch.zeros(2, 3), "values": torch.zeros(2, 3), "mask": torch.ones(2, 3)}
        with pytest.raises(ValueError, match=message):
            gae(**{**good, **change})


class TestWhiten:
    def test_by_hand(self) -> None:
        # 1, 3, 5 inside the mask: mean 3, variance (4 + 0 + 4) / 2 = 4
        x, mask = torch.tensor([[1.0, 3.0], [99.0, 5.0]]), torch.tensor([[1, 1], [0, 1]])
        torch.testing.assert_close(whiten(x, mask), torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))

    @given(st.integers(0, 10_000))
    @settings(deadline=None, max_examples=20)
    def test_equals_numbers_without_a_mask(self, seed: int) -> None:
        _, values, mask = case(seed)
        kept = values[mask == 1]
        want = (kept - kept.mean()) / kept.std() if len(kept) > 1 else torch.zeros_like(kept)
        whitened = whiten(outside_is_nan(values, mask), mask, eps=1e-30)
        torch.testing.assert_close(whitened[mask == 1], want)
        assert not whitened[mask == 0].any()

    def test_split_over_processes_of_different_shapes_equals_the_whole(self) -> None:
        _, values, mask = case(5, rows=6)
        parts = [(values[:2], mask[:2]), (values[2:], mask[2:])]
        # Both halves sum in lock step: the sums of the first pass are known before the second begins.
        first = [torch.stack([m.sum(), (v * m).sum()]) for v, m in parts]
        mean = sum(first)[1] / sum(first)[0]
        second = [(((v - mean) * m) ** 2).sum() for v, m in parts]
        for v, m in parts:
            sums = iter([sum(first), sum(second)])
            part = whiten(v, m, reduce=lambda _, sums=sums: next(sums))
            whole = whiten(values, mask)[: len(v)] if v is parts[0][0] else whiten(values, mask)[2:]
            torch.testing.assert_close(part, whole)

    @pytest.mark.parametrize("value", [0.0, 3.7, 1e6])
    def test_equal_values_become_zero(self, value: float) -> None:
        assert whiten(torch.full((2, 3), value), torch.ones(2, 3)).abs().max() < 1e-3
        assert not whiten(torch.full((1, 1), value), torch.ones(1, 1)).any()
        assert not whiten(torch.full((1, 2), value), torch.zeros(1, 2)).any()


class TestValueLoss:
    # old value 1, return 2, clip 0.5: [0.5, 1.5] is free.
    # 1.2 inside: (0.8)^2 / 2; 1.9 clipped to 1.5: 0.25 > 0.01; 0.2 clipped to 0.5: (1.5)^2 < (1.8)^2, so unclipped.
    @pytest.mark.parametrize(
        ("value", "loss", "clipped", "slope"),
        [
            pytest.param(1.2, 0.32, 0, -0.8, id="inside"),
            pytest.param(1.9, 0.125, 1, 0.0, id="too_far_towards_the_return"),
            pytest.param(0.2, 1.62, 0, -1.8, id="too_far_away_from_the_return"),
        ],
    )
    def test_by_hand(self, value: float, loss: float, clipped: int, slope: float) -> None:
        v = torch.tensor([[value, torch.nan]], requires_grad=True)
        others = torch.tensor([[1.0, torch.nan]]), torch.tensor([[2.0, torch.nan]]), torch.tensor([[1, 0]])
        value_loss = clipped_value_loss(v, *others, clip=0.5)
        torch.testing.assert_close(value_loss.loss, torch.tensor([[loss, 0.0]]))
        assert value_loss.clipped.tolist() == [[clipped, 0]]
        value_loss.loss.sum().backward()
        torch.testing.assert_close(v.grad, torch.tensor([[slope, 0.0]]))

    def test_without_clip_it_is_half_the_squared_error(self) -> None:
        rewards, values, mask = case(2)
        loss = clipped_value_loss(values, values + 5, rewards, mask, clip=None)
        torch.testing.assert_close(loss.loss, ((values - rewards) * mask) ** 2 / 2)

    def test_clip_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match="clip must be > 0"):
            clipped_value_loss(*[torch.ones(1, 1)] * 4, clip=0.0)


def test_explained_variance_by_hand() -> None:
    # Returns 0, 2 (variance 2) and errors 0, 1 (variance 1/2): 1 - 1/4.
    returns, mask = torch.tensor([[0.0, 2.0, 9.0]]), torch.tensor([[1, 1, 0]])
    assert explained_variance(torch.tensor([[0.0, 1.0, 5.0]]), returns, mask) == pytest.approx(0.75)
    assert explained_variance(torch.full((1, 3), 0.3), returns, mask) == pytest.approx(0)  # a constant
    assert explained_variance(returns + 4, returns, mask) == pytest.approx(1)  # blind to a constant error
    assert math.isnan(explained_variance(returns, torch.ones(1, 3), mask))


class TestAgainstVerl:
    """The functions that the paper's training ran on, in verl's release. Not exercised: its loss aggregation modes."""

    @pytest.fixture
    def verl(self):  # type: ignore[no-untyped-def]
        return pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed", exc_type=ImportError)

    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.97, 0.9)])
    def test_whitened_gae(self, verl, seed: int, gamma: float, lam: float) -> None:  # type: ignore[no-untyped-def]
        rewards, values, mask = case(seed)
        want, want_returns = verl.compute_gae_advantage_return(rewards, values, mask, gamma, lam)
        advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
        torch.testing.assert_close(whiten(advantages, mask)[mask == 1], want[mask == 1])
        torch.testing.assert_close(returns[mask == 1], want_returns[mask == 1])

    @pytest.mark.parametrize("seed", range(4))
    def test_value_loss(self, verl, seed: int) -> None:  # type: ignore[no-untyped-def]
        returns, old, mask = case(seed)
        values = (old + 0.6 * case(seed + 100)[1]).requires_grad_()
        want, want_clipped = verl.compute_value_loss(values, returns, old, mask, 0.5)
        (gradient,) = torch.autograd.grad(want, values)
        loss, clipped = clipped_value_loss(values, old, returns, mask, clip=0.5)
        mine = loss.sum() / mask.sum()
        torch.testing.assert_close(mine, want)
        torch.testing.assert_close(clipped.sum() / mask.sum(), want_clipped)
        torch.testing.assert_close(torch.autograd.grad(mine, values)[0], gradient)
