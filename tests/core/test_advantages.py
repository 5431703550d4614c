"""Group advantages: numbers made by hand, a plain loop as reference, and TRL's convention (unbiased std plus eps)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forkwise.core import group_advantages, leave_one_out

REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])  # groups of three: means 1/3, unbiased std sqrt(1/3) = 0.57735
IDS = torch.tensor([5, 5, 5, -2, -2, -2])


def loop(rewards: Tensor, ids: list[int], scale: str) -> Tensor:
    groups = {i: torch.tensor([float(r) for r, j in zip(rewards, ids, strict=True) if i == j]) for i in set(ids)}
    shaped = []
    for reward, i in zip(rewards.tolist(), ids, strict=True):
        values = {"group": groups[i], "batch": rewards}.get(scale)
        std = 0.0 if values is None or len(values) == 1 else float(values.double().std())
        centred = reward - float(groups[i].double().mean())
        shaped.append(centred if scale == "none" else centred / (std + 1e-4))
    return torch.tensor(shaped)


def test_grpo_by_hand() -> None:
    # (1 - 1/3) / (0.57735 + 0.0001) = 1.15450, (0 - 1/3) / 0.57745 = -0.57725
    high, low = (2 / 3) / (math.sqrt(1 / 3) + 1e-4), (-1 / 3) / (math.sqrt(1 / 3) + 1e-4)
    expected = torch.tensor([high, low, low, high, low, low])
    torch.testing.assert_close(group_advantages(REWARDS, group_size=3), expected)
    torch.testing.assert_close(group_advantages(REWARDS, group_ids=IDS), expected)


def test_dr_grpo_by_hand() -> None:
    expected = torch.tensor([2 / 3, -1 / 3, -1 / 3] * 2)
    torch.testing.assert_close(group_advantages(REWARDS, group_size=3, scale="none"), expected)


def test_batch_scale_by_hand() -> None:
    # Group means 1 and 1/2; all four rewards have mean 3/4 and unbiased variance (3/16 + 9/16) / 3 = 1/4, so std 1/2.
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0])
    expected = torch.tensor([0.0, 0.0, 0.5, -0.5]) / (0.5 + 1e-4)
    torch.testing.assert_close(group_advantages(rewards, group_size=2, scale="batch"), expected)


def test_leave_one_out_by_hand() -> None:
    # 3 - (1 + 2) / 2, 1 - (3 + 2) / 2, 2 - (3 + 1) / 2
    assert leave_one_out(torch.tensor([3.0, 1.0, 2.0]), group_size=3).tolist() == [1.5, -1.5, 0.0]
    assert leave_one_out(torch.tensor([3.0, 0.0, 1.0, 8.0, 2.0]), group_ids=torch.tensor([0, 1, 0, 1, 0])).tolist() == [
        1.5,
        -8.0,
        -1.5,
        8.0,
        0.0,
    ]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_and_groups_of_one_get_exactly_zero(scale: Any) -> None:
    # In float32 the mean of eight times 0.3 is not 0.3.
    assert group_advantages(torch.full((16,), 0.3), group_size=8, scale=scale).tolist() == [0.0] * 16
    assert group_advantages(torch.tensor([0.1, 0.7]), group_size=1, scale=scale).tolist() == [0.0] * 2
    assert group_advantages(torch.tensor([0.1]), group_size=1, scale=scale).tolist() == [0.0]
    assert group_advantages(torch.zeros(0), group_size=4, scale=scale).tolist() == []


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_agrees_with_trl(scale: Any) -> None:
    """The lines of `GRPOTrainer._generate_and_score_completions` for `scale_rewards`, with TRL's own `nanstd`."""
    utils = pytest.importorskip("trl.trainer.utils", reason="compares with TRL")
    rewards = torch.randn(24, generator=torch.Generator().manual_seed(0))
    mean = torch.nanmean(rewards.view(-1, 8), dim=1).repeat_interleave(8)
    std = utils.nanstd(rewards.view(-1, 8), dim=1).repeat_interleave(8) if scale == "group" else utils.nanstd(rewards)
    expected = rewards - mean if scale == "none" else (rewards - mean) / (std + 1e-4)
    torch.testing.assert_close(group_advantages(rewards, group_size=8, scale=scale), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-10, 10, width=32), st.integers(0, 3)), min_size=1, max_size=12),
    st.sampled_from(["group", "batch", "none"]),
)
def test_groups_in_any_order_agree_with_a_plain_loop(pairs: list[tuple[float, int]], scale: Any) -> None:
    rewards, ids = torch.tensor([r for r, _ in pairs]), [i for _, i in pairs]
    got = group_advantages(rewards, group_ids=torch.tensor(ids), scale=scale)
    torch.testing.assert_close(got, loop(rewards, ids, scale), rtol=1e-4, atol=1e-4)
    for i in set(ids):  # scaled by one number per group, they still sum to zero
        assert abs(float(got[torch.tensor(ids) == i].double().sum())) < 1e-4


def test_dtype_is_kept() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert group_advantages(REWARDS.to(dtype), group_size=3).dtype == dtype
        assert leave_one_out(REWARDS.to(dtype), group_size=3).dtype == dtype


@pytest.mark.parametrize(
    ("rewards", "kwargs", "error", "message"),
    [
        (REWARDS.long(), {"group_size": 3}, TypeError, "floating point"),
        (REWARDS.view(2, 3), {"group_size": 3}, ValueError, r"\(N,\)"),
        (REWARDS * math.nan, {"group_size": 3}, ValueError, "NaN"),
        (REWARDS / 0, {"group_size": 3}, ValueError, "NaN or infinity"),
        (REWARDS, {}, ValueError, "exactly one"),
        (REWARDS, {"group_size": 3, "group_ids": IDS}, ValueError, "exactly one"),
        (REWARDS, {"group_size": 4}, ValueError, "4 does not divide 6"),
        (REWARDS, {"group_size": 0}, ValueError, "does not divide"),
        (REWARDS, {"group_size": 2.5}, ValueError, "does not divide"),
        (REWARDS, {"group_ids": IDS[:3]}, ValueError, r"\(6,\) integers"),
        (REWARDS, {"group_ids": IDS.float()}, ValueError, r"\(6,\) integers"),
    ],
)
def test_bad_groups_are_refused(rewards: Tensor, kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    for function in (group_advantages, leave_one_out):
        with pytest.raises(error, match=message):
            function(rewards, **kwargs)  # type: ignore[operator]


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="'group', 'batch' or 'none'"):
        group_advantages(REWARDS, group_size=3, scale="std")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="eps"):
        group_advantages(REWARDS, group_size=3, eps=0.0)
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(REWARDS, group_size=1)
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(torch.ones(3), group_ids=torch.tensor([0, 0, 1]))
