"""The kit notices each way in which a method can break its contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from forkwise.methods import Need, RewardMethod, Rollout, SettingsMethod, TokenMethod, Tokens
from forkwise.testing.methods import check_method, rollout_batch, token_batch


@dataclass(frozen=True)
class Sound(TokenMethod):
    """`A` where H is at least `below`, else 0."""

    below: float = 1.0

    name = title = formula = "sound"
    requires = frozenset({Need.ENTROPY})

    def advantages(self, tokens: Tokens) -> Tensor:
        return torch.where(tokens.entropy >= self.below, tokens.advantages, 0)


class Undeclared(Sound):
    requires = frozenset()


class SeesPadding(Sound):
    def advantages(self, tokens: Tokens) -> Tensor:
        return tokens.advantages - tokens.advantages.mean()


class FollowsOrder(Sound):
    def advantages(self, tokens: Tokens) -> Tensor:
        return tokens.advantages + torch.arange(len(tokens.mask))[:, None]


class Infinite(Sound):
    def advantages(self, tokens: Tokens) -> Tensor:
        return tokens.advantages / tokens.advantages


class InPlace(Sound):
    def advantages(self, tokens: Tokens) -> Tensor:
        return tokens.advantages.mul_(tokens.mask)


class WrongShape(Sound):
    def advantages(self, tokens: Tokens) -> Tensor:
        return tokens.advantages[:, :1]


@dataclass(frozen=True)
class Unreadable(Sound):
    below: Any = (1, 2)


@dataclass(frozen=True)
class SoundReward(RewardMethod):
    name = title = formula = "sound reward"
    requires = frozenset({Need.CORRECT})

    def advantages(self, rollout: Rollout) -> Tensor:
        return rollout.correct.double() - 0.5


class UndeclaredReward(SoundReward):
    def advantages(self, rollout: Rollout) -> Tensor:
        return rollout.advantages * 2


class FirstWins(SoundReward):
    def advantages(self, rollout: Rollout) -> Tensor:
        return 1.0 / (1 + torch.arange(len(rollout.rewards)).double())


@dataclass(frozen=True)
class Setting(SettingsMethod):
    name = title = formula = "setting"

    def settings(self) -> dict[str, Any]:
        return {"epsilon": 0.1}


@pytest.mark.parametrize("method", [Sound(), Sound(below=0.0), SoundReward(), Setting()])
def test_sound_methods_pass(method: Any) -> None:
    check_method(method)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Undeclared(), r"'sound' failed on a batch with what it requires \(nothing\) and no more"),
        (SeesPadding(), "gives other advantages when rows are padded"),
        (FollowsOrder(), "gives other advantages when the rows stand in another order"),
        (Infinite(), "made advantages that are not finite"),
        (InPlace(), "changes the tensors that it is given"),
        (WrongShape(), r"made advantages \(2, 1\) instead of"),
        (Unreadable(), "is not what its own text says"),
        (UndeclaredReward(), r"failed on a batch with what it requires \(CORRECT\)"),
        (FirstWins(), "when the completions stand in another order"),
    ],
)
def test_unsound_ones_are_named(method: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_method(method)


def test_what_follows_the_order_may_be_excused() -> None:
    check_method(FollowsOrder(), random=True)
    check_method(FirstWins(), random=True)


def test_batches_are_made_anew_for_every_seed() -> None:
    assert not torch.equal(token_batch(1).advantages, token_batch(2).advantages)
    assert torch.equal(token_batch(1).advantages, token_batch(1).advantages)
    assert len({tuple(rollout_batch(seed).rewards.tolist()) for seed in range(5)}) > 1
