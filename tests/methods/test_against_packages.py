"""Equality with the functions of released packages: TRL's entropy mask, verl's covariance losses and RLOO."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from forkwise.methods import RewardMethod, Rollout, Tokens, parse_method
from forkwise.methods.clip_cov import ClipCov
from forkwise.methods.dppo import Dppo
from forkwise.methods.forking_tokens import highest
from forkwise.methods.kl_cov import KlCov


def random_batch(rows: int = 4, columns: int = 6) -> Tokens:
    draw = torch.Generator().manual_seed(3)
    logprobs = -3 * torch.rand(rows, columns, generator=draw)
    return Tokens(
        3 * torch.randn(rows, columns, generator=draw),
        torch.arange(columns) < torch.tensor([6, 4, 5, 2])[:, None],
        entropy=torch.rand(rows, columns, generator=draw),
        logprobs=logprobs,
        old_logprobs=logprobs + 0.3 * torch.randn(rows, columns, generator=draw),
    )


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_forking_tokens_are_those_of_trl_in_a_single_micro_batch(share: float) -> None:
    trl = pytest.importorskip("trl")
    batch = random_batch()  # 17 tokens; TRL keeps those at or above the interpolated quantile
    alone = SimpleNamespace(accelerator=SimpleNamespace(pad_across_processes=lambda x, **_: x, gather=lambda x: x))
    theirs = trl.GRPOTrainer.get_high_entropy_mask(alone, batch.entropy, batch.mask, 1 - share)
    ours = highest(batch.entropy, batch.mask, share)
    assert torch.equal(ours, theirs)
    assert 0 < int(ours.sum()) < int(batch.mask.sum())


class TestVerl:
    """Losses of verl 0.9.1 with a clip that never binds; ours is `-mean(r A')` over the tokens."""

    @staticmethod
    def config(**options: Any) -> Any:
        pytest.importorskip("verl")
        from verl.workers.config import ActorConfig, PolicyLossConfig

        return ActorConfig(
            strategy="fsdp",
            rollout_n=4,
            ppo_micro_batch_size_per_gpu=4,
            clip_ratio=0.999,
            clip_ratio_low=0.999,
            clip_ratio_high=1e6,
            policy_loss=PolicyLossConfig(**options),
        )

    @staticmethod
    def gradients(name: str, config: Any, batch: Tokens, ours: Tensor) -> tuple[Tensor, Tensor]:
        from verl.trainer.ppo.core_algos import get_policy_loss_fn

        theirs = batch.logprobs.clone().requires_grad_()
        loss, _ = get_policy_loss_fn(name)(
            batch.old_logprobs, theirs, batch.advantages, batch.mask.float(), "token-mean", config
        )
        mine = batch.logprobs.clone().requires_grad_()
        ratio = (mine - batch.old_logprobs).exp()
        (-(ratio * ours)[batch.mask].sum() / batch.mask.sum()).backward()
        return torch.autograd.grad(loss, theirs)[0], mine.grad

    def test_clip_cov(self) -> None:
        config, batch = self.config(clip_cov_ratio=0.9, clip_cov_lb=0.5, clip_cov_ub=5.0), random_batch()
        ours = ClipCov(share=0.9, low=0.5).advantages(batch)
        # More are asked for than there are candidates, so that nothing is left to chance.
        assert 0 < int((ours != batch.advantages)[batch.mask].sum()) < int(0.9 * int(batch.mask.sum()))
        torch.testing.assert_close(*self.gradients("clip_cov", config, batch, ours))

    @pytest.mark.parametrize("share", [0.002, 0.3])
    def test_kl_cov(self, share: float) -> None:
        config, batch = self.config(kl_cov_ratio=share, ppo_kl_coef=0.7), random_batch()
        ours = KlCov(share=share, coef=0.7).advantages(batch)
        assert int((ours != batch.advantages)[batch.mask].sum()) == max(1, int(17 * share))
        torch.testing.assert_close(*self.gradients("kl_cov", config, batch, ours))

    @pytest.mark.parametrize("divergence", ["tv", "kl"])
    def test_dppo(self, divergence: str) -> None:
        bound = {"tv": 0.05, "kl": 0.01}[divergence]
        bounds = {"clip_ratio_low": bound, "clip_ratio_high": bound, "clip_ratio_c": 1.2}
        config, batch = dataclasses.replace(self.config(), **bounds), random_batch()
        ours = Dppo(divergence, low=bound, high=bound, largest=1.2).advantages(batch)  # type: ignore[arg-type]
        inside = batch.mask & (batch.advantages != 0)
        assert 0 < int((ours == 0)[inside].sum()) < int(inside.sum())
        torch.testing.assert_close(*self.gradients(f"dppo_{divergence}", config, batch, ours.float()))

    @pytest.mark.parametrize("name", ["rloo", "gpg", "opo"])
    def test_outcome_advantages(self, name: str) -> None:
        pytest.importorskip("verl")
        import numpy as np
        from verl.trainer.ppo import core_algos

        rewards, groups = torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0]), torch.tensor([0, 0, 0, 1, 1])
        mask = torch.arange(6) < torch.tensor([6, 4, 5, 2, 3])[:, None]
        per_token = torch.zeros(5, 6)
        per_token[:, 0] = rewards
        function = getattr(core_algos, f"compute_{name}_outcome_advantage")
        theirs, _ = function(per_token, mask.float(), np.array(groups))
        method = parse_method(name)
        assert isinstance(method, RewardMethod)
        ours = method.advantages(Rollout(rewards, groups, lengths=mask.sum(dim=1)))
        torch.testing.assert_close(ours.float(), theirs[:, 0])
