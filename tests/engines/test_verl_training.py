"""Whole training steps of verl's V1 trainer with shaped advantages: real Ray, real TransferQueue, real FSDP workers.

Everything between "trajectories are in the queue" and "the actor has been updated" is verl's: replay buffer, padding of
the batch, old log-probabilities, advantage stage, mini-batches, loss, optimizer. Not exercised, because it needs a GPU:
generation (vLLM, SGLang), weight synchronisation, the critic's model (flash attention), several GPUs, Megatron.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed; 'make test' runs these in an environment that has it")

os.environ["VERL_USE_EXTERNAL_MODULES"] = "cpu_verl"
os.environ["VERL_ENGINE_DEVICE"] = "cuda"
# Ray: no token in the home folder, no report to its makers, workers that also get time on a busy machine.
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}

import cpu_verl  # noqa: F401  (in this process verl may have been imported before)
import ray
import tiny_verl as tiny
import torch
import transfer_queue as tq
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker

from forkwise.engines.verl_trainer import EntropyShapingMixin

ROWS = 3  # of tiny_verl: the fourth is added by verl
SCORES = [1.0, -1.0, 0.3]
UIDS = ["a", "a", "b"]
# GRPO: (1 - 0) / sqrt(2) for the first group, and a group of one keeps its score.
PER_TOKEN = [[a * m for m in mask] for a, mask in zip([0.5**0.5, -(0.5**0.5), 0.3], tiny.MASK, strict=False)]
GRPO = ["algorithm.adv_estimator=grpo"]
ALPHA = 0.1  # the cap binds at some tokens and not at others
CONSTANTS = [f"++algorithm.entropy_shaping.alpha={ALPHA}", "actor_rollout_ref.actor.optim.lr=0"]


class OnCPU(PPOTrainerSync):
    """verl's trainer with its own actor worker on a CPU; trajectories are given instead of generated."""

    def _setup(self) -> None:
        self.tokenizer = SimpleNamespace(eos_token_id=1)
        self.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[])
        self.global_steps = 1
        worker = RayClassWithInitArgs(
            ray.remote(ActorRolloutRefWorker),
            config=self.config.actor_rollout_ref,
            distillation_config=self.config.distillation,
            role="actor",
        )
        pool = RayResourcePool([1], use_gpu=False, max_colocate_count=1)
        self.actor_rollout_wg = RayWorkerGroup(resource_pool=pool, ray_cls_with_init=worker, device_name="cpu")
        self.actor_rollout_wg.init_model()
        self.distillation_config = None

    def _compute_values(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """verl builds critics with flash attention only, so that values are given here."""
        data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["response_mask"])
        rows = [torch.linspace(-0.5, 0.7, len(row)) for row in data["response_mask"].unbind()]
        values = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        tq.kv_batch_put(keys=batch.keys, partition_id="train", fields=tu.get_tensordict({"values": values}))
        return batch

    def _update_critic(self, batch: Any, metrics: dict[str, Any]) -> Any:
        return batch

    def prepare_step(self) -> dict[str, Any]:
        tq.kv_batch_put(
            keys=sorted(set(UIDS)),
            partition_id="train",
            tags=[{"is_prompt": True, "status": "finished", "global_steps": 1} for _ in set(UIDS)],
        )
        names = ["prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask", "old_log_probs"]
        rows = tiny.microbatch()
        fields = {
            name: torch.nested.as_nested_tensor(list(rows[name].unbind())[:ROWS], layout=torch.jagged) for name in names
        }
        fields["rm_scores"] = tiny.jagged([[0.0] * (len(m) - 1) + [s] for m, s in zip(tiny.MASK, SCORES, strict=False)])
        fields["rollout_log_probs"] = fields.pop("old_log_probs")
        lengths = [len(p) + len(r) for p, r in zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)]
        tq.kv_batch_put(
            keys=[f"{uid}_{i}_0" for i, uid in enumerate(UIDS)],
            partition_id="train",
            tags=[{"status": "success", "seq_len": n} for n in lengths[:ROWS]],
            fields=tu.get_tensordict({**fields, "uid": UIDS}),
        )
        return {}

    def on_sample_end(self) -> None:
        pass

    def on_step_end(self) -> None:
        pass


class Shaped(EntropyShapingMixin, OnCPU):
    mode = "sync"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    tiny.save_policy(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[None]:
    path = os.pathsep.join(entry for entry in sys.path if entry)  # this folder, and an environment laid over another
    ray.init(num_cpus=16, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False)
    tq.init(tiny.on_cpu(folder).transfer_queue)
    yield
    tq.close()
    ray.shutdown()


def run(folder: Path, *overrides: str) -> tuple[dict[str, Any], dict[str, list[list[float]]]]:
    """Metrics of one step, and what it left in the queue, by name and row."""
    config = tiny.on_cpu(
        folder,
        "data.train_batch_size=2",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        *overrides,
    )
    trainer = (Shaped if config.algorithm.get("entropy_shaping") else OnCPU)(config)
    trainer._setup()
    metrics: dict[str, Any] = {}
    batch = trainer.step(metrics, {})
    assert len(batch.keys) == ROWS + 1  # verl has added a row, to fill the mini-batch
    keys = [f"{uid}_{i}_0" for i, uid in enumerate(UIDS)]
    names = ["advantages", "returns", *(["values"] if trainer.use_critic else [])]
    data = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=names)
    tq.kv_clear(keys=batch.keys, partition_id="train")
    for worker in trainer.actor_rollout_wg.workers:
        ray.kill(worker)
    return metrics, {name: [row.tolist() for row in data[name].unbind()] for name in names}


def check(metrics: dict[str, Any], advantages: list[list[float]]) -> list[list[float]]:
    """That loss, gradient and metrics are those of `advantages` shaped in Python; returns the shaped ones.

    In the first update after a rollout the ratio is 1: the loss is minus the mean of A' over the 9 response tokens,
    and its gradient that of minus the mean of A' log p.
    """
    model = tiny.policy()
    entropy = tiny.exact_entropy(model)[:ROWS]
    shaped = tiny.shaped(advantages, entropy, ALPHA, 2.0)
    want = tiny.metrics(advantages, entropy, ALPHA, 2.0)
    assert 0.1 < want["shaping/capped_frac"] < 0.9
    assert {name: metrics[name] for name in want} == pytest.approx(want, rel=1e-4)
    assert metrics["actor/pg_loss"] == pytest.approx(-sum(map(sum, shaped)) / 9, rel=1e-4)
    for row, mask, prompt, response in zip(shaped, tiny.MASK, tiny.PROMPTS, tiny.RESPONSES, strict=False):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / tiny.TEMPERATURE
        logp = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        (-(torch.tensor(row) * torch.tensor(mask) * logp).sum() / 9).backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert metrics["actor/grad_norm"] == pytest.approx(norm, rel=1e-4)
    return shaped


def close(rows: list[list[float]]) -> list[Any]:
    return [pytest.approx(row, rel=1e-4, abs=1e-6) for row in rows]


@pytest.mark.usefixtures("cluster")
class TestATrainingStep:
    def test_of_grpo_with_the_old_policys_entropy(self, folder: Path) -> None:
        metrics, queue = run(folder, *GRPO, *tiny.SHAPED, *CONSTANTS)
        shaped = check(metrics, PER_TOKEN)
        assert queue["advantages"] == close(shaped)

    def test_of_grpo_with_the_current_policys_entropy(self, folder: Path) -> None:
        """Two epochs that change nothing: the second must not shape what the first has shaped."""
        metrics, queue = run(folder, *GRPO, *tiny.CURRENT, *CONSTANTS, "actor_rollout_ref.actor.ppo_epochs=2")
        check(metrics, PER_TOKEN)
        assert queue["advantages"] == close(PER_TOKEN)  # the queue keeps verl's
        assert not any("totals" in name for name in metrics)

    def test_of_ppo_with_the_values_of_a_critic(self, folder: Path) -> None:
        metrics, queue = run(folder, "algorithm.adv_estimator=gae", *tiny.SHAPED, *CONSTANTS)
        # gamma = lambda = 1: the whole score minus the value, whitened over the response tokens
        raw = [
            [(score - v) if m else 0.0 for v, m in zip(values, mask, strict=True)]
            for score, values, mask in zip(SCORES, queue["values"], tiny.MASK, strict=False)
        ]
        tokens = torch.tensor(
            [a for row, mask in zip(raw, tiny.MASK, strict=False) for a, m in zip(row, mask, strict=True) if m]
        )
        mean, std = tokens.mean().item(), tokens.std().item()
        white = [
            [(a - mean) / std if m else 0.0 for a, m in zip(row, mask, strict=True)]
            for row, mask in zip(raw, tiny.MASK, strict=False)
        ]
        shaped = check(metrics, white)
        for row, want, mask in zip(queue["advantages"], shaped, tiny.MASK, strict=False):
            assert [a * m for a, m in zip(row, mask, strict=True)] == pytest.approx(want, rel=1e-4)
        for row, mask, score in zip(queue["returns"], tiny.MASK, SCORES, strict=False):  # what the critic learns
            assert [r for r, m in zip(row, mask, strict=True) if m] == pytest.approx([score] * sum(mask), rel=1e-4)

    def test_at_alpha_zero_is_verls_bit_for_bit(self, folder: Path) -> None:
        learning = "actor_rollout_ref.actor.optim.lr=1e-2"
        zero = ["+algorithm.entropy_shaping.alpha=0", "trainer.v1.trainer_mode=entropy_sync"]
        metrics, queue = run(folder, *GRPO, *zero, learning)
        want, want_queue = run(folder, *GRPO, learning)
        assert queue == want_queue
        names = [name for name in want if name.startswith("actor/") and "perf" not in name]
        assert {"actor/pg_loss", "actor/grad_norm", "actor/entropy"} <= set(names)
        assert {name: metrics[name] for name in names} == {name: want[name] for name in names}
        assert not any(name.startswith("shaping/") for name in metrics)

    def test_without_an_entropy_in_the_queue_raises(self, folder: Path) -> None:
        class NoEntropy(OnCPU):
            def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
                fields = {name: tiny.microbatch()[name] for name in ("advantages", "response_mask")}
                keys = [f"c_{i}_0" for i in range(4)]
                return tq.kv_batch_put(keys=keys, partition_id="train", fields=tu.get_tensordict(fields))

        class Drifted(EntropyShapingMixin, NoEntropy):
            pass

        with pytest.raises(RuntimeError, match=r"not entropy-shaped: .*no 'entropy'"):
            Drifted(tiny.on_cpu(folder, *GRPO, *tiny.SHAPED))._compute_advantage(None, {})


class TestAStepThatWouldNotBeShaped:
    def test_raises_if_the_advantage_stage_bypassed_us(self, folder: Path) -> None:
        trainer = Shaped(tiny.on_cpu(folder, *GRPO, *tiny.SHAPED))
        with pytest.raises(RuntimeError, match="not entropy-shaped: the advantage stage of this batch bypassed"):
            trainer._update_actor(None, {})

    def test_raises_if_the_workers_used_another_loss(self, folder: Path) -> None:
        class AnotherLoss(OnCPU):
            def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
                metrics["actor/pg_loss"] = 1.0
                return batch

        class Drifted(EntropyShapingMixin, AnotherLoss):
            pass

        with pytest.raises(RuntimeError, match="not entropy-shaped: the actor's workers used another loss"):
            Drifted(tiny.on_cpu(folder, *GRPO, *tiny.CURRENT))._update_actor(None, {})
