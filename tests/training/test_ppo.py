"""PPO's trainer computes the published algorithm, and cannot skip the critic, its advantages or the shaping unnoticed.

Pinned here, on the oldest and the newest TRL that we declare:
* values are those of the text before each token; advantages and returns follow from them by definition;
* with a zero critic and gamma = lambda = 1 the policy gradient is REINFORCE's with whitened returns, shaped or not;
* the policy loss is PPO's (verl's function, where installed), the critic's step is that of the mean value loss;
* during critic warm-up the policy and its optimizer do not move by one bit;
* a resumed run logs what the uninterrupted one does, from every step of a rollout, across epochs.

Not exercised: GPUs, vLLM; FSDP1 is refused, FSDP2 and DeepSpeed have test_accelerate.py.
"""

from __future__ import annotations

import copy
import functools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_ppo as ppo
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig
from tiny_ppo import make, relative, rollout, tiny
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
)
from two_processes import run_in_two

from forkwise.engines.trl import EntropyShapingMixin
from forkwise.errors import InputError, RunError
from forkwise.training import critic_engine
from forkwise.training import ppo as module
from forkwise.training.critic import load_weights, make_critic
from forkwise.training.ppo import EntropyShapedPPOConfig, EntropyShapedPPOTrainer

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
LOGGED = {
    *(f"critic/{name}" for name in ("value_loss", "explained_variance", "return_mean", "value_mean")),
    *(f"critic/{name}" for name in ("value_clip_frac", "advantage_std", "grad_norm", "learning_rate")),
}
SHAPING = {f"shaping/{name}" for name in ("psi_over_adv", "capped_frac", "psi_pos", "psi_neg")}


class TestCredit:
    def test_values_are_those_of_the_text_before_each_token(self, tmp_path: Path) -> None:
        trainer = make(tmp_path)
        ppo.stir(trainer.critic)
        batch = rollout(trainer)
        for row in range(4):
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row] == 1]
            completion = batch["completion_ids"][row][batch["completion_mask"][row] == 1]
            with torch.no_grad():
                values = trainer.critic(torch.cat([prompt, completion])[None]).logits[0, :, 0]
            n = len(completion)
            torch.testing.assert_close(batch["old_values"][row, :n], values[-n - 1 : -1], rtol=1e-4, atol=1e-5)
        assert batch["old_values"].std() > 0.1

    def test_advantages_and_returns_follow_from_values_and_rewards(self, tmp_path: Path) -> None:
        trainer = make(tmp_path, gamma=0.9, lam=0.7)
        ppo.stir(trainer.critic)
        batch = rollout(trainer)
        mask = batch["completion_mask"].double()
        lengths = mask.sum(dim=1).long()
        tokens = [ids[:n].tolist() for ids, n in zip(batch["completion_ids"], lengths, strict=True)]
        raw = torch.zeros_like(mask)
        for row, (reward, n) in enumerate(zip(tiny.reward(tokens), lengths.tolist(), strict=True)):
            v = [*batch["old_values"][row, :n].tolist(), 0.0]
            delta = [(reward if t == n - 1 else 0.0) + 0.9 * v[t + 1] - v[t] for t in range(n)]
            for t in range(n):
                raw[row, t] = sum((0.9 * 0.7) ** (j - t) * delta[j] for j in range(t, n))
        kept = raw[mask == 1]
        want = (raw - kept.mean()) / kept.std() * mask
        torch.testing.assert_close(batch["advantages"].double(), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(batch["returns"].double(), (raw + batch["old_values"]) * mask, rtol=1e-5, atol=1e-5)

    def test_several_rewards_are_weighted(self, tmp_path: Path) -> None:
        def length(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
            return [len(ids) if len(ids) % 2 else None for ids in completion_ids]  # None: not applicable

        trainer = make(tmp_path, reward=[tiny.reward, length], reward_weights=[2.0, -0.5])
        batch = rollout(trainer)
        ids = [
            row[mask == 1].tolist() for row, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
        ]
        want = [2 * r - 0.5 * (n or 0) for r, n in zip(tiny.reward(ids), length(ids), strict=True)]
        torch.testing.assert_close(batch["returns"][:, 0], torch.tensor(want))

    @pytest.mark.parametrize("handling", ["score", "bootstrap", "mask"])
    def test_truncated_completions_are_scored_bootstrapped_or_masked(self, tmp_path: Path, handling: str) -> None:
        trainer = make(tmp_path, truncated_completions=handling, max_completion_length=6, num_generations=4)
        ppo.stir(trainer.critic)
        batch = rollout(trainer)
        ids, mask, returns = (batch[name] for name in ("completion_ids", "completion_mask", "returns"))
        cut = ~(ids == tiny.EOS).any(dim=1)
        assert cut.any()
        if handling == "mask":
            assert not mask[cut].any()
            assert not batch["advantages"][cut].any()
            return
        rewards = torch.tensor(tiny.reward([row[m == 1].tolist() for row, m in zip(ids, mask, strict=True)]))
        with torch.no_grad():
            prompt_and_completion = torch.cat([batch["prompt_ids"], ids], 1), torch.cat([batch["prompt_mask"], mask], 1)
            after = trainer.critic(prompt_and_completion[0], prompt_and_completion[1]).logits[:, -1, 0]
        want = torch.where(cut, after, rewards) if handling == "bootstrap" else rewards
        torch.testing.assert_close(returns[:, 0], want, rtol=1e-4, atol=1e-5)

    def test_truncated_is_what_trl_calls_so(self, tmp_path: Path) -> None:
        trainer = make(tmp_path, max_completion_length=2)
        head = trainer.model.lm_head.weight.data
        head[[tiny.PAD, tiny.EOS]] = head[3].clone()  # a frequent one: a policy may choose the padding token
        batch = rollout(trainer, prompts=16)
        cut, length = trainer._truncated(batch)
        final = batch["completion_ids"].gather(1, length[:, None] - 1)[:, 0]
        assert {tiny.PAD, tiny.EOS} <= set(final.tolist())
        assert torch.equal(cut, (final != tiny.PAD) & (final != tiny.EOS))
        assert trainer._metrics["train"]["completions/clipped_ratio"] == [pytest.approx(cut.float().mean().item())]

    def test_the_reward_is_paid_at_the_last_token_that_the_policy_chose(self, tmp_path: Path) -> None:
        trainer = make(tmp_path, gamma=0.5)
        batch = {k: v for k, v in tiny.microbatch(4).items() if k not in ("advantages", "old_per_token_logps")}
        batch["tool_mask"] = torch.ones_like(batch["completion_mask"])
        batch["tool_mask"][0, 2:6] = 0  # a tool answers last: tokens 0 and 1 of row 0 are the policy's
        trainer._scored_rewards = torch.ones(4, 1)
        trainer._credit(batch)
        assert batch["returns"][0].tolist() == [0.5, 1.0, 0, 0, 0, 0]
        assert batch["returns"][2].tolist() == [0.5, 1.0, 0, 0, 0, 0]  # two tokens long
        assert batch["returns"][1].tolist() == [0.125, 0.25, 0.5, 1.0, 0, 0]
        assert not batch["advantages"][0, 2:].any()


class TestPolicyGradient:
    @pytest.mark.parametrize("alpha", [0.0, 0.1])
    def test_with_a_zero_critic_it_is_reinforce_with_whitened_returns(self, tmp_path: Path, alpha: float) -> None:
        trainer = make(tmp_path, alpha=alpha, critic_warmup_steps=0)
        batch = rollout(trainer)
        loss = trainer._compute_loss(trainer.model, batch)
        gradient = ppo.gradient(loss, trainer.model)

        twin = tiny.policy()
        mask = batch["completion_mask"]
        tokens = [ids[m == 1].tolist() for ids, m in zip(batch["completion_ids"], mask, strict=True)]
        returns = torch.tensor(tiny.reward(tokens))[:, None].expand(mask.shape)  # gamma 1: the same at every token
        kept = returns[mask == 1].double()
        whitened = ((returns - kept.mean()) / kept.std()).float()
        weight = whitened if alpha == 0 else tiny.shaped(whitened, tiny.exact_entropy(twin, batch), alpha, 2.0)
        want = ppo.gradient(-(weight * ppo.logps_with_gradient(twin, batch) * mask).sum() / mask.sum(), twin)
        assert relative(gradient, want) < 1e-5
        if alpha:  # the comparison can tell
            plain = ppo.gradient(-(whitened * ppo.logps_with_gradient(twin, batch) * mask).sum() / mask.sum(), twin)
            assert relative(plain, want) > 0.01

    def loss_and_reference(self, where: Path) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.nn.Module]:
        trainer = make(where, alpha=0.0, epsilon=0.2, epsilon_high=0.28, critic_warmup_steps=0)
        batch = tiny.microbatch(4)
        draw = torch.Generator().manual_seed(4)
        mask = batch["completion_mask"]
        batch["advantages"] = torch.randn(mask.shape, generator=draw)
        batch["returns"] = batch["old_values"] = torch.zeros(mask.shape)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer._compute_loss(trainer.model, batch)
        return torch.cat([loss.detach()[None], ppo.gradient(loss, trainer.model)]), batch, tiny.policy()

    def test_policy_loss_clips_low_and_high(self, tmp_path: Path) -> None:
        policy_loss, batch, twin = self.loss_and_reference(tmp_path)
        ratio = (ppo.logps_with_gradient(twin, batch) - batch["old_per_token_logps"]).exp()
        a, mask = batch["advantages"], batch["completion_mask"]
        per_token = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a)
        loss = (per_token * mask).sum() / mask.sum()
        assert ((ratio > 1.28) & (mask == 1)).any()
        assert ((ratio < 0.8) & (mask == 1)).any()
        assert relative(policy_loss, torch.cat([loss[None], ppo.gradient(loss, twin)])) < 1e-5

    def test_policy_loss_equals_verl(self, tmp_path: Path) -> None:
        verl = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed", exc_type=ImportError)
        from verl.workers.config import ActorConfig

        config = ActorConfig(
            strategy="fsdp",
            rollout_n=1,
            ppo_micro_batch_size_per_gpu=1,
            clip_ratio_low=0.2,
            clip_ratio_high=0.28,
            clip_ratio_c=1e9,  # dual clip, which TRL's loss has not
        )
        policy_loss, batch, twin = self.loss_and_reference(tmp_path)
        loss, _ = verl.compute_policy_loss_vanilla(
            batch["old_per_token_logps"],
            ppo.logps_with_gradient(twin, batch),
            batch["advantages"],
            batch["completion_mask"],
            config=config,
        )
        assert relative(policy_loss, torch.cat([loss[None], ppo.gradient(loss, twin)])) < 1e-5


class TestCritic:
    @pytest.mark.parametrize("epochs", [1, 3])
    def test_its_steps_descend_the_mean_value_loss_however_the_batch_is_split(
        self, tmp_path: Path, epochs: int
    ) -> None:
        batches: list[dict[str, Any]] = []

        class Spy(EntropyShapedPPOTrainer):
            def _credit(self, batch: dict[str, Any]) -> None:
                super()._credit(batch)
                batches.append(batch)

        moved = []
        for size, accumulation in ((8, 1), (4, 2), (2, 4)):
            trainer = make(
                tmp_path,
                cls=Spy,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulation,
                max_steps=1,
                optim="sgd",
                lr_scheduler_type="constant",
                critic_learning_rate=0.1,
                critic_epochs=epochs,
                cliprange_value=1e6,
                max_grad_norm=0.0,
            )
            ppo.stir(trainer.critic)
            before, twin = ppo.flat(trainer.critic), copy.deepcopy(trainer.critic)
            trainer.train()
            moved.append(ppo.flat(trainer.critic) - before)
        batch = batches[-1]
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        n = batch["completion_ids"].size(1)
        for _ in range(epochs):
            twin.zero_grad()
            error = twin(ids, mask).logits[:, -n - 1 : -1, 0] - batch["returns"]
            loss = (error.square() * batch["completion_mask"]).sum() / batch["completion_mask"].sum() / 2
            loss.backward()
            for parameter in twin.parameters():
                parameter.data -= 0.1 * parameter.grad
        want = ppo.flat(twin) - before
        for step in moved:
            assert relative(step, want) < 1e-4

    def test_warm_up_moves_the_critic_and_not_one_bit_of_the_policy(self, tmp_path: Path) -> None:
        seen: list[tuple[int, bool, bool, int]] = []

        class Spy(EntropyShapedPPOTrainer):
            def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
                policy, critic = ppo.flat(self.model), ppo.flat(self.critic)
                moments = len(self.optimizer.state_dict()["state"])
                seen.append((self.state.global_step, torch.equal(policy, start), torch.equal(critic, value), moments))
                return super().training_step(*args, **kwargs)

        options: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 0.1, "critic_learning_rate": 1e-3}
        trainer = make(tmp_path, cls=Spy, critic_warmup_steps=3, max_steps=5, num_iterations=2, **options)
        start, value = ppo.flat(trainer.model), ppo.flat(trainer.critic)
        trainer.train()
        unchanged = [(step, policy, moments) for step, policy, _, moments in seen]
        assert unchanged[:4] == [(0, True, 0), (1, True, 0), (2, True, 0), (3, True, 0)]
        assert unchanged[4][1] is False
        assert [critic for *_, critic, _ in seen] == [True, False, False, False, False]
        rows = ppo.history(trainer)
        assert [row["loss"] for row in rows[:3]] == [0, 0, 0]
        assert all(row["loss"] != 0 for row in rows[3:])

    def test_shared_base_is_held_once_and_stays_frozen(self, tmp_path: Path) -> None:
        trainer = make(
            tmp_path,
            lora=LORA,
            critic_shares_base=True,
            gradient_checkpointing=True,
            critic_warmup_steps=1,
            max_steps=3,
            learning_rate=0.1,
            critic_learning_rate=0.1,
        )
        frozen = {p.data_ptr(): p.detach().clone() for p in trainer.model.parameters() if not p.requires_grad}
        own = [p for p in trainer.critic.parameters() if p.data_ptr() not in frozen]
        assert sum(p.numel() for p in own) < 0.1 * sum(p.numel() for p in frozen.values())
        assert all(p.requires_grad or p.numel() <= 17 for p in own)  # its adapter and head; a disused copy of the head
        assert not any(p.requires_grad for p in trainer.critic.parameters() if p.data_ptr() in frozen)
        before = [p.detach().clone() for p in own]
        logits = trainer.model(torch.arange(5)[None]).logits
        assert logits is not None
        trainer.train()
        assert any(not torch.equal(a, b) for a, b in zip(own, before, strict=True))
        for p in trainer.model.parameters():
            if p.data_ptr() in frozen:
                assert torch.equal(p, frozen[p.data_ptr()])

    @pytest.mark.parametrize("limit", [0.0, -1.0])
    def test_a_gradient_that_is_not_clipped(self, tmp_path: Path, limit: float) -> None:
        moved = []
        for max_grad_norm in (1e6, limit):
            trainer = make(tmp_path, max_steps=1, optim="sgd", critic_learning_rate=0.1, max_grad_norm=max_grad_norm)
            start = ppo.flat(trainer.critic)
            trainer.train()
            moved.append(ppo.flat(trainer.critic) - start)
        assert moved[0].any()
        assert torch.equal(*moved)

    def test_values_at_padding_are_nobodys_business(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoilt(critic: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
            values = values_of(critic, batch)
            return values.masked_fill(torch.nn.functional.pad(batch["completion_mask"], (0, 1)) == 0, math.nan)

        values_of = module.token_values
        moved = []
        for function in (values_of, spoilt):
            monkeypatch.setattr(module, "token_values", function)
            trainer = make(tmp_path, max_steps=1)
            start = ppo.flat(trainer.critic)
            trainer.train()
            assert trainer._micro_batch_seen is None
            moved.append(ppo.flat(trainer.critic) - start)
        assert moved[0].any()
        assert torch.equal(*moved)

    def test_a_saved_critic_starts_another_run(self, tmp_path: Path) -> None:
        first = make(tmp_path / "a", max_steps=2, critic_learning_rate=0.05)
        first.train()
        first.save_model(str(tmp_path / "a"))
        model = AutoModelForTokenClassification.from_pretrained(tmp_path / "a" / "critic")
        assert model.config.num_labels == 1
        second = make(tmp_path / "b", value_model=str(tmp_path / "a" / "critic"))
        torch.testing.assert_close(ppo.flat(second.critic), ppo.flat(first.critic), rtol=0, atol=0)
        # A causal language model lends its body; the head is new, and zero.
        tiny.policy().save_pretrained(tmp_path / "c")
        tiny.tokenizer().save_pretrained(tmp_path / "c")
        third = make(tmp_path / "d", value_model=str(tmp_path / "c"))
        torch.testing.assert_close(ppo.flat(third.critic), ppo.flat(make(tmp_path / "e").critic), rtol=0, atol=0)

    @pytest.mark.parametrize("kind", ["shared", "copy", "value_model"])
    def test_values_have_no_dropout(self, tmp_path: Path, kind: str) -> None:
        if kind == "shared":
            lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
            trainer = make(tmp_path, lora=lora, critic_shares_base=True)
            critic, policy = trainer.critic, trainer.model
        else:
            policy = tiny.policy()
            policy.config.attention_dropout = 0.5
            policy.save_pretrained(tmp_path)
            tiny.tokenizer().save_pretrained(tmp_path)
            policy = AutoModelForCausalLM.from_pretrained(tmp_path)
            given = str(tmp_path) if kind == "value_model" else None
            critic = make_critic(policy, tiny.tokenizer(), value_model=given, shares_base=False)
        ids = torch.arange(5)[None]
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for model in (critic, policy):
                for weight in model.parameters():
                    if weight.requires_grad:
                        weight.copy_(0.3 * torch.randn(weight.shape, generator=draw))
            assert torch.equal(critic.train()(ids).logits, critic.eval()(ids).logits)
            assert not torch.equal(policy.train()(ids).logits, policy.eval()(ids).logits)  # its own is left alone

    def test_a_head_of_another_name_is_new_and_zero(self, tmp_path: Path) -> None:
        config = GPT2Config(vocab_size=len(tiny.WORDS), n_embd=8, n_layer=1, n_head=1, num_labels=1)
        GPT2ForSequenceClassification(config).save_pretrained(tmp_path)  # `score`; token classification: `classifier`
        tiny.tokenizer().save_pretrained(tmp_path)
        critic = make_critic(GPT2LMHeadModel(config), tiny.tokenizer(), value_model=str(tmp_path), shares_base=False)
        assert not critic(torch.arange(5)[None]).logits.any()

    def test_only_the_last_micro_batch_of_an_update_is_the_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[bool] = []

        def backward(accelerator: Any, critic: Any, loss: torch.Tensor, *, last: bool) -> None:
            seen.append(last)
            accelerator.backward(loss)

        monkeypatch.setattr(critic_engine, "backward", backward)
        # An update of 2 passes over a rollout of 2 micro-batches: each of them comes twice, as the same object.
        options = {"gradient_accumulation_steps": 4, "steps_per_generation": 2, "num_iterations": 2}
        make(tmp_path, max_steps=1, **options).train()
        assert seen == [False, False, False, True]


class TestRuns:
    @pytest.mark.parametrize("alpha", [0.0, 0.1])
    @pytest.mark.parametrize("num_generations", [1, 4])
    def test_everything_promised_is_logged(self, tmp_path: Path, alpha: float, num_generations: int) -> None:
        trainer = make(
            tmp_path,
            alpha=alpha,
            num_generations=num_generations,
            critic_warmup_steps=1,
            max_steps=3,
            gradient_accumulation_steps=2,
            gradient_checkpointing=True,
            beta=0.0,
            eval_strategy="steps",
            eval_steps=2,
        )
        trainer.train()
        assert any("eval_reward" in row for row in trainer.state.log_history)
        rows = ppo.history(trainer)
        assert len(rows) == 3
        for row in rows:
            assert row.keys() >= LOGGED | {"reward", "completions/mean_length"}
        assert (rows[-1].keys() >= SHAPING) is (alpha > 0)
        assert rows[-1].keys() >= {"entropy", "clip_ratio/region_mean"}

    @pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
    def test_log_probs_and_entropies_are_our_operators(self, tmp_path: Path, lora: Any) -> None:
        """In the loss, for the old policy and for the reference; and they are those of float64 softmax."""
        trainer = make(tmp_path, lora=lora, num_iterations=2, beta=0.1 if lora else 0.0, critic_warmup_steps=0)
        batch = rollout(trainer)
        trainer.model.eval()
        exact = tiny.exact_logps(trainer.model, batch, trainer.temperature)
        chosen = exact.gather(2, batch["completion_ids"][..., None])[..., 0]
        mask = batch["completion_mask"].bool()
        for name in ("old_per_token_logps", *(["ref_per_token_logps"] if lora else [])):  # B of a new adapter is 0
            torch.testing.assert_close(batch[name].double()[mask], chosen[mask], rtol=1e-5, atol=1e-5)
        assert [way.scorer for way in trainer._ways.values()] == ["forkwise"] * (2 if lora else 1)
        trainer.train()
        assert {way.scorer for way in trainer._ways.values()} == {"forkwise"}
        errors = [row["shaping/entropy_error"] for row in trainer.state.log_history if "shaping/entropy_error" in row]
        assert len(errors) == 1
        assert 0 < errors[0] < 1e-5

    def test_a_group_of_one_is_one_completion_per_prompt(self, tmp_path: Path) -> None:
        trainer = make(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=3)
        assert (trainer.args.num_generations, trainer.args.generation_batch_size) == (1, 9)
        assert len(set(list(trainer._get_train_sampler())[:9])) == 9

    def test_bfloat16_reaches_both_models(self, tmp_path: Path) -> None:
        rows = []
        for bf16 in (False, True):
            trainer = make(tmp_path, bf16=bf16, critic_warmup_steps=0, max_steps=1)
            ppo.stir(trainer.critic)
            trainer.train()
            rows += ppo.history(trainer)
        single, mixed = rows
        for name in ("critic/value_loss", "critic/value_mean", "entropy"):
            assert mixed[name] == pytest.approx(single[name], rel=0.03)
            assert mixed[name] != single[name]

    def test_kl_to_a_reference_with_lora(self, tmp_path: Path) -> None:
        trainer = make(tmp_path, lora=LORA, beta=0.1, critic_warmup_steps=0, max_steps=2, learning_rate=0.1)
        trainer.train()
        assert "kl" in ppo.history(trainer)[-1]

    @pytest.mark.parametrize("cut", [3, 4, 6])
    def test_a_resumed_run_logs_what_the_uninterrupted_one_does(self, tmp_path: Path, cut: int) -> None:
        # 16 prompts, 8 a rollout, 2 slices x 2 passes = 4 updates a rollout: checkpoint 3 and 6 lie within a rollout,
        # 4 between two, and the epoch ends after 8.
        options: dict[str, Any] = {
            "steps_per_generation": 2,
            "num_iterations": 2,
            "max_steps": 11,
            "save_strategy": "steps",
            "save_steps": cut,
            "learning_rate": 1e-2,
            "critic_learning_rate": 1e-2,
            "critic_warmup_steps": 5,
            "critic_lr_scheduler_type": "cosine",
        }
        whole = make(tmp_path, **options)
        whole.train()
        resumed = make(tmp_path, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{cut}"))
        assert ppo.history(resumed) == ppo.history(whole)  # to the last bit
        assert torch.equal(ppo.flat(resumed.model), ppo.flat(whole.model))
        assert torch.equal(ppo.flat(resumed.critic), ppo.flat(whole.critic))

    def test_a_run_resumed_in_a_later_epoch_sees_the_same_prompts(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {
            "max_steps": 7,
            "save_strategy": "steps",
            "save_steps": 5,
            "critic_learning_rate": 0.01,
        }
        whole = make(tmp_path, **options)  # 4 prompts a step: epochs of 4 steps
        whole.train()
        resumed = make(tmp_path, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
        assert ppo.history(resumed) == ppo.history(whole)

    def test_lora_runs_resume_too(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {
            "lora": LORA,
            "critic_shares_base": True,
            "critic_learning_rate": 0.1,
            "learning_rate": 0.1,
            "critic_warmup_steps": 1,
            "max_steps": 4,
            "save_strategy": "steps",
            "save_steps": 3,
        }
        whole = make(tmp_path, **options)
        whole.train()
        resumed = make(tmp_path, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert ppo.history(resumed) == ppo.history(whole)

    def test_two_processes_compute_what_one_does(self, tmp_path: Path) -> None:
        script = Path(__file__).with_name("one_of_two_ppo.py")
        run_in_two(script, tmp_path)
        first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
        one = make(tmp_path, optim="sgd", critic_learning_rate=0.1, max_grad_norm=0.0, per_device_train_batch_size=8)
        ppo.stir(one.critic)
        batch = fixed_batch()
        one._scored_rewards = torch.linspace(-1, 1, 8)[:, None]
        one.model.train()
        one._credit(batch)
        both = torch.cat([first["advantages"], second["advantages"]])
        torch.testing.assert_close(both, batch["advantages"], rtol=1e-5, atol=1e-6)
        start = ppo.flat(one.critic)
        one.create_optimizer_and_scheduler(num_training_steps=1)
        one.current_gradient_accumulation_steps = 1
        one._update_critic(batch)
        assert relative(first["step"], ppo.flat(one.critic) - start) < 1e-4
        assert torch.equal(first["step"], second["step"])
        several = make(
            tmp_path,
            optim="sgd",
            critic_learning_rate=0.1,
            max_grad_norm=0.0,
            per_device_train_batch_size=8,
            critic_epochs=3,
            cliprange_value=1e6,
        )
        ppo.stir(several.critic)
        several.create_optimizer_and_scheduler(num_training_steps=1)
        several.current_gradient_accumulation_steps = 1
        several._update_critic(batch)
        assert relative(first["several"], ppo.flat(several.critic) - start) < 1e-4
        assert torch.equal(first["several"], second["several"])
        assert first["logged"] == second["logged"]
        for name in ("critic/value_loss", "critic/explained_variance", "critic/return_mean"):
            assert first["logged"][name] == pytest.approx(one._metrics["train"][name], rel=1e-5)
        assert first["run"] == second["run"]
        assert first["resumed"] == first["run"]  # a checkpoint in the middle of a rollout, on two processes


def fixed_batch() -> dict[str, Any]:
    return {k: v for k, v in tiny.microbatch(8).items() if k not in ("advantages", "old_per_token_logps")}


class TestGuards:
    def test_advantages_that_do_not_reach_the_loss(self, tmp_path: Path) -> None:
        class Drifted(EntropyShapedPPOTrainer):
            def _credit(self, batch: dict[str, Any]) -> None:
                pass

        with pytest.raises(RuntimeError, match="did not reach the policy loss"):
            make(tmp_path, cls=Drifted, alpha=0.0, max_steps=1).train()

    def test_a_loss_that_bypasses_the_critic(self, tmp_path: Path) -> None:
        class Bypass(EntropyShapedPPOTrainer):
            def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
                return next(iter(model.parameters())).sum()

        with pytest.raises(RuntimeError, match="bypassed the critic"):
            make(tmp_path, cls=Bypass, alpha=0.0, max_steps=1).train()

    def test_a_critic_without_gradient(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(critic_engine, "backward", lambda *_, **__: None)
        with pytest.raises(RuntimeError, match="No gradient reached the critic"):
            make(tmp_path, max_steps=1).train()

    def test_an_unshaped_loss(self, tmp_path: Path) -> None:
        class Unshaped(EntropyShapedPPOTrainer):
            def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
                scored: Any = super(EntropyShapingMixin, self)._get_per_token_logps_and_entropies(*args, **kwargs)
                return scored

        with pytest.raises(RuntimeError, match="not entropy-shaped"):
            make(tmp_path, cls=Unshaped, max_steps=1, critic_warmup_steps=0).train()


class TestMistakes:
    def test_completions_without_a_reward(self, tmp_path: Path) -> None:
        trainer = make(tmp_path, max_steps=1)
        trainer.reward_funcs = [lambda completion_ids, **_: [1.0, None] * (len(completion_ids) // 2)]
        with pytest.raises(InputError, match=r"gave a number for 2 of 4 completions; PPO needs a reward for each\."):
            trainer.train()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lam": 1.01}, r"lam must lie in \[0, 1\], got 1.01"),
            ({"gamma": -0.1}, "gamma must lie in"),
            ({"lam": math.nan}, "lam must lie in"),
            ({"cliprange_value": 0.0}, "cliprange_value must be"),
            ({"critic_learning_rate": -1.0}, "critic_learning_rate must be"),
            ({"learning_rate": math.nan}, "learning_rate must be a finite number of at least 0, got nan"),
            ({"beta": -0.1}, "beta must be a finite number"),
            ({"epsilon": -0.1}, "epsilon must be a finite number"),
            ({"weight_decay": -1.0}, "weight_decay must be a finite number"),
            ({"temperature": 0.0}, "temperature must be a finite number greater than 0"),
            ({"num_iterations": 0}, "num_iterations must be at least 1"),
            ({"steps_per_generation": 0}, "steps_per_generation must be at least 1"),
            ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
            ({"reward_weights": [math.nan]}, r"reward_weights must be finite numbers, got \[nan\]"),
            ({"critic_warmup_steps": -1}, "critic_warmup_steps must be at least 0"),
            ({"truncated_completions": "drop"}, "one of score, bootstrap, mask, got 'drop'"),
            ({"truncated_completions": "bootstrap", "mask_truncated_completions": True}, "contradicts"),
            ({"critic_lr_scheduler_type": "cosin"}, "got 'cosin'"),
            ({"critic_lr_scheduler_type": "reduce_lr_on_plateau"}, "PPO trains two"),
            ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "PPO trains two"),
            ({"critic_epochs": 0}, "critic_epochs must be at least 1"),
            ({"num_generations": 0}, "num_generations must be at least 1"),
            ({"critic_shares_base": True, "value_model": "x"}, "leave out value_model"),
            ({"critic_shares_base": True}, "needs a LoRA policy"),
            ({"importance_sampling_level": "sequence"}, "importance ratio must be too"),
            ({"loss_type": "luspo"}, "other than 'luspo'"),
            ({"multi_objective_aggregation": "normalize_then_sum"}, "adds up the weighted rewards"),
            ({"kappa": 1.0}, "kappa must be"),
            ({"per_device_train_batch_size": 1}, "single completion"),
            ({"value_model": "no/such/model"}, "cannot be loaded"),
        ],
    )
    def test_wrong_settings_are_one_sentence(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            make(tmp_path, **options)
        assert "\n" not in str(caught.value).strip()

    def test_a_value_model_with_another_tokenizer(self, tmp_path: Path) -> None:
        tiny.policy().save_pretrained(tmp_path / "v")
        with pytest.raises(InputError, match="has no tokenizer"):
            make(tmp_path, value_model=str(tmp_path / "v"))
        tiny.tokenizer().save_pretrained(tmp_path / "v")
        file = tmp_path / "v" / "tokenizer.json"
        words = json.loads(file.read_text())
        vocabulary = words["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        file.write_text(json.dumps(words))
        with pytest.raises(InputError, match="another tokenizer than the policy"):
            make(tmp_path, value_model=str(tmp_path / "v"))

    def test_a_value_model_with_two_labels(self, tmp_path: Path) -> None:
        config = tiny.policy().config
        config.num_labels = 2
        AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "v")
        tiny.tokenizer().save_pretrained(tmp_path / "v")
        with pytest.raises(InputError, match="has 2 labels; a critic has one"):
            make(tmp_path, value_model=str(tmp_path / "v"))

    def test_a_value_model_with_fewer_embeddings_than_tokens(self, tmp_path: Path) -> None:
        config = tiny.policy().config
        config.vocab_size, config.num_labels = len(tiny.WORDS) - 1, 1
        AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "v")
        tiny.tokenizer().save_pretrained(tmp_path / "v")
        with pytest.raises(InputError, match=f"knows {len(tiny.WORDS) - 1} tokens and its tokenizer has"):
            make(tmp_path, value_model=str(tmp_path / "v"))

    def test_a_value_model_that_is_not_finite(self, tmp_path: Path) -> None:
        trainer = make(tmp_path, max_steps=1)
        trainer.critic.get_input_embeddings().weight.data[:] = math.nan
        with pytest.raises(RunError, match="Step 1: not finite: values of the critic"):
            trainer.train()

    @pytest.mark.parametrize(
        ("returned", "message"),
        [
            ([1.0], "returned 1 values for 4 completions"),
            (1.0, "must return a list of numbers"),
            (["a"] * 4, "must return a list of numbers"),
            (torch.tensor(1.0), "must return a list of numbers"),
            ([1.0, math.nan, 0.0, 0.0], "returned nan for completion 1"),
            ([1.0, 0.0, math.inf, 0.0], "returned inf for completion 2"),
            ([1.0, None, 0.0, None], "gave a number for 2 of 4 completions"),
        ],
    )
    @pytest.mark.parametrize("later", [False, True], ids=["def", "async def"])
    def test_wrong_rewards_are_one_sentence(self, tmp_path: Path, returned: Any, message: str, later: bool) -> None:
        def mine(**_: Any) -> Any:
            return returned

        async def mine_later(**_: Any) -> Any:
            return returned

        with pytest.raises(InputError, match=message):
            make(tmp_path, reward=mine_later if later else mine, max_steps=1).train()

    def test_rewards_are_named_as_trl_names_them(self, tmp_path: Path) -> None:
        def scaled(completion_ids: list[list[int]], factor: float, **_: Any) -> list[float]:
            return [factor * value for value in tiny.reward(completion_ids)]

        class Lengths:
            def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
                return [float(len(ids)) for ids in completion_ids]

        class Later:
            async def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
                return [1.0] * len(completion_ids)

        twice = functools.partial(functools.partial(scaled), factor=2.0)
        trainer = make(tmp_path, reward=[tiny.reward, twice, Lengths(), Later()])
        assert trainer.reward_func_names == ["reward", "scaled", "Lengths", "Later"]
        rollout(trainer)
        logged = trainer._metrics["train"]
        assert logged["rewards/scaled/mean"] == pytest.approx([2 * x for x in logged["rewards/reward/mean"]])
        assert logged["rewards/Later/mean"] == [1.0]

    @pytest.mark.parametrize("schedule", ["warmup_stable_decay", "cosine_with_min_lr"])
    def test_a_schedule_that_needs_more_is_one_sentence(self, tmp_path: Path, schedule: str) -> None:
        with pytest.raises(InputError, match=f"The critic's schedule '{schedule}' needs settings"):
            make(tmp_path, critic_lr_scheduler_type=schedule, max_steps=1).train()

    def test_the_critic_takes_the_settings_of_the_same_schedule(self, tmp_path: Path) -> None:
        schedule: dict[str, Any] = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-7}}
        trainer = make(tmp_path, critic_lr_scheduler_type="cosine_with_min_lr", max_steps=1, **schedule)
        trainer.train()
        assert trainer.critic_scheduler.get_last_lr()[0] == pytest.approx(1e-7)

    def test_a_run_that_is_all_warm_up_warns(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="covers all 1 steps of this run"):
            make(tmp_path, max_steps=1).train()

    @pytest.mark.parametrize(
        ("kind", "config", "shares_base", "message"),
        [
            (DistributedType.FSDP, {}, False, "FSDP1 is not prepared for"),
            (DistributedType.DEEPSPEED, {}, True, "FSDP2 or DeepSpeed would shard twice"),
            (
                DistributedType.DEEPSPEED,
                {"optimizer": {}, "scheduler": {}},
                False,
                "has optimizer and scheduler of its",
            ),
            (DistributedType.DEEPSPEED, {}, False, "saved only with zero3_save_16bit_model: true"),
        ],
    )
    def test_sharding_that_cannot_hold_two_models(
        self, kind: DistributedType, config: dict[str, Any], shares_base: bool, message: str
    ) -> None:
        plugin = SimpleNamespace(deepspeed_config=config, zero_stage=3, zero3_save_16bit_model=False)
        state = SimpleNamespace(deepspeed_plugin=plugin)
        accelerator: Any = SimpleNamespace(distributed_type=kind, is_fsdp2=False, state=state)
        with pytest.raises(InputError, match=message):
            critic_engine.check(accelerator, shares_base=shares_base)

    def test_an_adapter_is_no_value_model(self, tmp_path: Path) -> None:
        trainer = make(tmp_path, lora=LORA, critic_shares_base=True)
        trainer.create_optimizer_and_scheduler(num_training_steps=20)
        trainer.save_model(str(tmp_path / "a"))
        with pytest.raises(InputError, match="is an adapter .* give a whole critic"):
            make(tmp_path, value_model=str(tmp_path / "a" / "critic"))

    def test_weights_of_another_critic(self, tmp_path: Path) -> None:
        trainer = make(tmp_path)
        config = copy.deepcopy(trainer.critic.config)
        config.hidden_size = 32
        AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "v")
        with pytest.raises(InputError, match="holds another critic than this run's") as caught:
            load_weights(trainer.critic, tmp_path / "v")
        assert "\n" not in str(caught.value)

    def test_a_checkpoint_without_a_critic(self, tmp_path: Path) -> None:
        make(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
        (tmp_path / "checkpoint-1" / "critic_state.pt").unlink()
        with pytest.raises(InputError, match="holds no critic"):
            make(tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))

    def test_a_checkpoint_of_a_sharded_run(self, tmp_path: Path) -> None:
        make(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
        file = tmp_path / "checkpoint-1" / "critic_state.pt"
        state = torch.load(file)
        del state["optimizer"]  # which a sharded run keeps elsewhere
        torch.save(state, file)
        with pytest.raises(InputError, match="one of a sharded run"):
            make(tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))

    def test_a_plain_grpo_config(self, tmp_path: Path) -> None:
        from forkwise.engines.trl import EntropyShapedGRPOConfig

        args = EntropyShapedGRPOConfig(str(tmp_path), **tiny.QUIET)
        with pytest.raises(TypeError, match="make it an EntropyShapedPPOConfig"):
            EntropyShapedPPOTrainer(tiny.policy(), tiny.reward, args, train_dataset=tiny.prompts())

    def test_the_defaults_are_the_papers(self, tmp_path: Path) -> None:
        config = EntropyShapedPPOConfig(str(tmp_path), use_cpu=True, bf16=False)
        assert (config.alpha, config.kappa, config.gamma, config.lam) == (0.1, 2.0, 1.0, 1.0)
        assert (config.critic_learning_rate, config.critic_warmup_steps) == (2e-6, 10)
