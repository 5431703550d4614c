"""Whole training steps of verl's V1 trainer with shaped advantages: real Ray, real TransferQueue, real FSDP workers.

Everything between "trajectories are in the queue" and "actor and critic have been updated" is verl's: replay buffer,
padding of the batch, old log-probabilities, values, advantage stage, mini-batches, losses, optimizers. Not exercised,
because it needs a GPU: generation (vLLM, SGLang), weight synchronisation, flash attention, several GPUs, Megatron.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
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
from ray.util import remove_placement_group
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker, TrainingWorkerConfig
from verl.workers.utils.losses import value_loss

from forkwise.engines.verl.trainer import EntropyShapingMixin
from forkwise.engines.verl.worker import SelectingActorWorker
from forkwise.testing.engines import check_skipped_step

ROWS = 3  # of tiny_verl: the fourth is added by verl
SCORES = [1.0, -1.0, 0.3]
UIDS = ["a", "a", "b"]
# GRPO: (1 - 0) / sqrt(2) for the first group, and a group of one keeps its score.
PER_TOKEN = [[a * m for m in mask] for a, mask in zip([0.5**0.5, -(0.5**0.5), 0.3], tiny.MASK, strict=False)]
GRPO = ["algorithm.adv_estimator=grpo"]
GROUPS = ["actor_rollout_ref.rollout.n=2", *GRPO]
ALPHA = 0.1  # the cap binds at some tokens and not at others
CONSTANTS = [f"++algorithm.entropy_shaping.alpha={ALPHA}", "actor_rollout_ref.actor.optim.lr=0"]


class Given(PPOTrainer):
    """verl's trainers with their own workers on a CPU; trajectories are given instead of generated."""

    worker = ActorRolloutRefWorker
    uids = UIDS
    rounds = 1  # batches of the given trajectories that a step consumes
    workers = 1  # that share the actor

    def _setup(self) -> None:
        self.tokenizer = SimpleNamespace(eos_token_id=1)
        self.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[])
        self.global_steps = 1
        self.distillation_config = None
        self.actor_rollout_wg = self._group(
            self.worker,
            config=self.config.actor_rollout_ref,
            workers=self.workers,
            distillation_config=self.config.distillation,
            role="actor",
        )
        self.actor_rollout_wg.init_model()
        if self.use_critic:
            config = omega_conf_to_dataclass(self.config.critic)
            config.engine.infer_max_token_len_per_gpu = config.ppo_infer_max_token_len_per_gpu
            config.engine.max_token_len_per_gpu = config.ppo_infer_max_token_len_per_gpu
            settings = TrainingWorkerConfig(
                model_type="value_model",
                model_config=config.model,
                engine_config=config.engine,
                optimizer_config=config.optim,
                checkpoint_config=config.checkpoint,
            )
            self.critic_wg = self._group(TrainingWorker, config=settings)
            self.critic_wg.reset()
            self.critic_wg.set_loss_fn(partial(value_loss, config=config))

    def _group(self, worker: type, workers: int = 1, **settings: Any) -> RayWorkerGroup:
        pool = RayResourcePool([workers], use_gpu=False, max_colocate_count=1)
        with_init = RayClassWithInitArgs(ray.remote(worker), **settings)
        return RayWorkerGroup(resource_pool=pool, ray_cls_with_init=with_init, device_name="cpu")

    def close(self) -> None:
        """Ends the workers, and gives back what Ray has reserved for them."""
        for group in (self.actor_rollout_wg, *([self.critic_wg] if self.use_critic else [])):
            for worker in group.workers:
                ray.kill(worker)
            for reserved in group.resource_pool.get_placement_groups():
                remove_placement_group(reserved)

    def prepare_step(self) -> dict[str, Any]:
        uids = [f"{uid}{n}" for n in range(self.rounds) for uid in sorted(set(self.uids))]
        tq.kv_batch_put(
            keys=uids,
            partition_id="train",
            tags=[{"is_prompt": True, "status": "finished", "global_steps": 1} for _ in uids],
        )
        names = ["prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask", "old_log_probs"]
        rows = tiny.microbatch()
        fields = {
            name: torch.nested.as_nested_tensor(list(rows[name].unbind())[:ROWS], layout=torch.jagged) for name in names
        }
        fields["rm_scores"] = tiny.jagged([[0.0] * (len(m) - 1) + [s] for m, s in zip(tiny.MASK, SCORES, strict=False)])
        fields["rollout_log_probs"] = fields.pop("old_log_probs")
        lengths = [len(p) + len(r) for p, r in zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)]
        for n in range(self.rounds):
            tq.kv_batch_put(
                keys=keys(n, self.uids),
                partition_id="train",
                tags=[{"status": "success", "seq_len": length} for length in lengths[:ROWS]],
                fields=tu.get_tensordict({**fields, "uid": [f"{uid}{n}" for uid in self.uids]}),
            )
        return {}

    def on_sample_end(self) -> None:
        pass

    def on_step_end(self) -> None:
        pass


class OnCPU(Given, PPOTrainerSync):
    pass


class Shaped(EntropyShapingMixin, OnCPU):
    mode = "sync"


class ShapedOverTwo(Shaped):
    workers = 2


class OneGroup(Shaped):
    uids = ("a", "a", "a")


class Selecting(Shaped):
    worker = SelectingActorWorker


class SelectingOverTwo(Selecting):
    workers = 2


class ShapedColocateAsync(EntropyShapingMixin, Given, PPOTrainerColocateAsync):
    mode = "colocate_async"


class Detached(DetachActorWorker):
    """On a CPU, moving weights to the CPU copies nothing."""

    @property
    def copy_handler(self) -> Any:
        return lambda module: copy.deepcopy(super(Detached, self).copy_handler(module))


class ShapedSeparateAsync(EntropyShapingMixin, Given, PPOTrainerSeparateAsync):
    mode = "separate_async"
    worker = Detached
    rounds = 2

    def _setup(self) -> None:
        self.config.actor_rollout_ref.rollout.checkpoint_engine.backend = "naive"  # the others need GPUs
        super()._setup()

    def on_sample_begin(self) -> None:
        pass


def keys(n: int = 0, uids: Sequence[str] = UIDS) -> list[str]:
    """The given trajectories of round `n` in the queue."""
    return [f"{uid}{n}_{i}_0" for i, uid in enumerate(uids)]


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


def run(
    folder: Path, *overrides: str, trainer_class: type[Given] | None = None
) -> tuple[dict[str, Any], dict[str, list[list[float]]]]:
    """Metrics of one step, and what it left in the queue, by name and row."""
    config = tiny.on_cpu(
        folder,
        "data.train_batch_size=2",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        *overrides,
    )
    trainer = (trainer_class or (Shaped if config.algorithm.get("entropy_shaping") else OnCPU))(config)
    trainer._setup()
    metrics: dict[str, Any] = {}
    batch = trainer.step(metrics, {})
    assert len(batch.keys) == (ROWS + 1) * trainer.rounds  # verl has added a row, to fill the mini-batch
    names = ["advantages", "returns", "entropy", *(["values"] if trainer.use_critic else [])]
    given = [key for n in range(trainer.rounds) for key in keys(n, trainer.uids)]
    data = tq.kv_batch_get(keys=given, partition_id="train", select_fields=names)
    tq.kv_clear(keys=batch.keys, partition_id="train")
    trainer.close()
    return metrics, {name: [row.tolist() for row in data[name].unbind()] for name in names}


def check(metrics: dict[str, Any], advantages: list[list[float]], *, gradient: bool = True) -> list[list[float]]:
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
    if not gradient:
        assert metrics["actor/grad_norm"] > 0
        return shaped
    assert metrics["actor/grad_norm"] == pytest.approx(backward(model, shaped), rel=1e-4)
    return shaped


def backward(model: torch.nn.Module, shaped: list[list[float]]) -> float:
    """Adds the gradient of the first loss after a rollout to the model's; the norm of all."""
    for row, mask, prompt, response in zip(shaped, tiny.MASK, tiny.PROMPTS, tiny.RESPONSES, strict=False):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / tiny.TEMPERATURE
        logp = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        (-(torch.tensor(row) * torch.tensor(mask) * logp).sum() / 9).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()


def close(rows: list[list[float]]) -> list[Any]:
    return [pytest.approx(row, rel=1e-4, abs=1e-6) for row in rows]


def tokens(rows: list[list[float]]) -> list[float]:
    """The values at the response tokens."""
    pairs = (zip(row, mask, strict=True) for row, mask in zip(rows, tiny.MASK, strict=False))
    return [x for row in pairs for x, m in row if m]


def head(backend: str) -> list[str]:
    """Settings of verl's fused kernels; none for its logits."""
    if not backend:
        return []
    model = "actor_rollout_ref.model"
    return [f"{model}.use_fused_kernels=True", f"{model}.fused_kernel_options.impl_backend={backend}"]


def critic(folder: Path) -> list[str]:
    """PPO with a critic in a worker of its own."""
    return [
        "algorithm.adv_estimator=gae",
        f"critic.model.path={folder / 'critic'}",
        f"critic.model.tokenizer_path={folder / 'critic'}",
        "critic.model.use_remove_padding=False",
        "critic.model.enable_gradient_checkpointing=False",
        "critic.strategy=fsdp2",
        "critic.fsdp.strategy=fsdp2",
        "+critic.fsdp.mixed_precision.param_dtype=fp32",
        "critic.fsdp.use_torch_compile=False",
        "critic.ppo_micro_batch_size_per_gpu=2",
        "critic.optim.lr=0",
    ]


def by_hand(share: float, *rows: int) -> list[list[float]]:
    """The advantages of these rows at the `ceil(share * n)` of their n tokens of highest entropy, 0 at the others."""
    entropy = tiny.exact_entropy(tiny.policy())
    inside = sorted((h for row in rows for h, m in zip(entropy[row], tiny.MASK[row], strict=True) if m), reverse=True)
    lowest = inside[math.ceil(share * len(inside)) - 1]
    return [
        [a * m * (h >= lowest) for a, h, m in zip(PER_TOKEN[row], entropy[row], tiny.MASK[row], strict=True)]
        for row in rows
    ]


@pytest.mark.usefixtures("cluster")
class TestMethods:
    """Whole steps of methods that act elsewhere than the entropy-shaped advantage."""

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("policy", ["old", "current"])
    def test_that_select_see_the_whole_update(self, folder: Path, policy: str, workers: int) -> None:
        """Micro-batches of two rows, and on two workers two rows each: a selection of each by itself differs."""
        share = 0.4
        named = [f'+algorithm.forkwise.method=["forking_tokens:share={share}"]', f"+algorithm.forkwise.policy={policy}"]
        mode = ["trainer.v1.trainer_mode=entropy_sync", "actor_rollout_ref.actor.optim.lr=0", *named]
        over = [f"trainer.n_gpus_per_node={workers}"]
        metrics, queue = run(folder, *GRPO, *mode, *over, trainer_class=SelectingOverTwo if workers == 2 else Selecting)
        kept = by_hand(share, 0, 1, 2)
        assert sum(map(bool, tokens(kept))) == 4  # ceil(.4 * 9)
        assert by_hand(share, 0, 1) + by_hand(share, 2) != kept
        assert metrics["actor/pg_loss"] == pytest.approx(-sum(map(sum, kept)) / 9, rel=1e-4, abs=1e-6)
        assert metrics["actor/grad_norm"] == pytest.approx(backward(tiny.policy(), kept), rel=1e-4)
        assert metrics["method/forking_tokens/changed"] == pytest.approx(5 / 9)
        assert queue["advantages"] == close(PER_TOKEN)  # the queue keeps verl's
        assert not any("totals" in name for name in metrics)

    def test_of_rewards_act_on_the_driver(self, folder: Path) -> None:
        """Rewards of 1, -1 and .3 for one prompt; RLOO makes 1.35, -1.65 and .3, the placebo adds a quarter of |A|."""
        methods = '+algorithm.forkwise.method=["rloo","placebo_scaling:kappa=4"]'
        one = [
            "data.train_batch_size=1",
            "actor_rollout_ref.rollout.n=4",
            "actor_rollout_ref.actor.ppo_mini_batch_size=1",
        ]
        mode = ["trainer.v1.trainer_mode=entropy_sync", "actor_rollout_ref.actor.optim.lr=0", methods]
        metrics, queue = run(folder, *GRPO, *one, *mode, trainer_class=OneGroup)
        answers = [1.35 * 1.25, -1.65 * 0.75, 0.3 * 1.25]
        want = [[a * m for m in mask] for a, mask in zip(answers, tiny.MASK, strict=False)]
        assert queue["advantages"] == close(want)
        assert metrics["actor/pg_loss"] == pytest.approx(-sum(map(sum, want)) / 9, rel=1e-4)
        assert metrics["method/rloo/changed"] == 1
        assert metrics["method/placebo_scaling/shift"] == pytest.approx(0.25)

    def test_of_the_loss_compare_with_the_old_policy(self, folder: Path) -> None:
        """KL-Cov on all tokens, in the second of two updates; verl's loss on the first's advantages would not move."""
        named = ['+algorithm.forkwise.method=["kl_cov:share=1"]', "+algorithm.forkwise.policy=current"]
        learning = ["actor_rollout_ref.actor.optim.lr=0.05", "actor_rollout_ref.actor.ppo_epochs=2"]
        mode = "trainer.v1.trainer_mode=entropy_sync"
        metrics, _ = run(folder, *GRPO, mode, *named, *learning, trainer_class=Selecting)
        assert 0 < metrics["method/kl_cov/changed"] <= 0.5  # nothing in the first update, where both are the same
        assert metrics["method/kl_cov/shift"] > 0

    def test_on_workers_that_are_not_ours_are_noticed(self, folder: Path) -> None:
        named = ['+algorithm.forkwise.method=["forking_tokens"]', "trainer.v1.trainer_mode=entropy_sync"]
        with pytest.raises(Exception, match="'forking_tokens' did not act: the actor's workers are not forkwise's"):
            run(folder, *GRPO, *named, trainer_class=Shaped)


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

    def test_takes_the_entropy_of_the_policy_under_update(self, folder: Path) -> None:
        """Two epochs that learn: the second sees the entropies that the first has left."""
        learning = ["actor_rollout_ref.actor.optim.lr=0.1", "actor_rollout_ref.actor.ppo_epochs=2"]
        config = tiny.on_cpu(folder, *learning).actor_rollout_ref.actor.optim
        metrics, _ = run(folder, *GRPO, *tiny.CURRENT, *CONSTANTS, *learning)

        model = tiny.policy()
        before = tiny.exact_entropy(model)[:ROWS]
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, betas=tuple(config.betas), weight_decay=config.weight_decay
        )
        backward(model, tiny.shaped(PER_TOKEN, before, ALPHA, 2.0))
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
        optimizer.step()
        after = tiny.exact_entropy(model)[:ROWS]
        first, second = (tiny.metrics(PER_TOKEN, entropy, ALPHA, 2.0) for entropy in (before, after))
        want = {name: (first[name] + second[name]) / 2 for name in first}  # as many tokens in each
        assert {name: metrics[name] for name in want} == pytest.approx(want, rel=1e-3)
        assert want["shaping/psi_over_adv"] < 0.97 * first["shaping/psi_over_adv"]  # else this would show nothing

    @pytest.mark.parametrize("entropy", ["old", "current"])
    def test_over_two_workers_with_the_memory_settings_of_the_examples(self, folder: Path, entropy: str) -> None:
        """Two ranks of FSDP2, micro-batches by tokens: sums of unequal parts make the loss and the log.

        The row that verl adds has 128 tokens, and a micro-batch of its own.
        """
        settings = [
            "trainer.n_gpus_per_node=2",
            "actor_rollout_ref.actor.use_dynamic_bsz=True",
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=128",
            "actor_rollout_ref.model.enable_gradient_checkpointing=True",
            "actor_rollout_ref.actor.fsdp_config.param_offload=True",
            "actor_rollout_ref.actor.fsdp_config.optimizer_offload=True",
        ]
        shaping = tiny.SHAPED if entropy == "old" else tiny.CURRENT
        metrics, queue = run(folder, *GRPO, *shaping, *CONSTANTS, *settings, trainer_class=ShapedOverTwo)
        shaped = check(metrics, PER_TOKEN)
        assert queue["advantages"] == close(shaped if entropy == "old" else PER_TOKEN)

    @pytest.mark.parametrize("entropy", ["old", "current"])
    def test_of_ppo_with_its_critic(self, folder: Path, entropy: str) -> None:
        shaping = tiny.SHAPED if entropy == "old" else tiny.CURRENT
        metrics, queue = run(folder, *shaping, *CONSTANTS, *critic(folder))
        values = tiny.values_of(tiny.critic())[:ROWS]
        assert tokens(queue["values"]) == pytest.approx(tokens(values), rel=1e-4)
        # gamma = lambda = 1: the whole score minus the value, whitened over the response tokens
        raw = torch.tensor(tokens([[score - v for v in row] for score, row in zip(SCORES, values, strict=True)]))
        mean, std = raw.mean().item(), raw.std().item()
        white = [
            [(score - v - mean) / std if m else 0.0 for v, m in zip(row, mask, strict=True)]
            for score, row, mask in zip(SCORES, values, tiny.MASK, strict=False)
        ]
        shaped = check(metrics, white)
        assert tokens(queue["advantages"]) == pytest.approx(tokens(shaped if entropy == "old" else white), rel=1e-4)
        # What the critic learns stays as it is: the score at each token; its first loss is half the mean square.
        scores = tokens([[score] * len(mask) for score, mask in zip(SCORES, tiny.MASK, strict=False)])
        assert tokens(queue["returns"]) == pytest.approx(scores, rel=1e-4)
        assert metrics["critic/vf_loss"] == pytest.approx((raw**2).mean().item() / 2, rel=1e-4)
        assert metrics["critic/grad_norm"] > 0

    def test_in_which_only_the_critic_learns(self, folder: Path) -> None:
        metrics, _ = run(folder, *tiny.SHAPED, *CONSTANTS, *critic(folder), "trainer.critic_warmup=2")
        assert metrics["critic/vf_loss"] > 0
        assert "actor/pg_loss" not in metrics
        assert not any(name.startswith("shaping/") for name in metrics)

    def test_of_the_colocated_asynchronous_mode(self, folder: Path) -> None:
        mode = "trainer.v1.trainer_mode=entropy_colocate_async"
        metrics, queue = run(folder, *GRPO, *tiny.SHAPED, mode, *CONSTANTS, trainer_class=ShapedColocateAsync)
        assert queue["advantages"] == close(check(metrics, PER_TOKEN))

    def test_of_the_separate_asynchronous_mode(self, folder: Path) -> None:
        """Two updates per step; verl puts the first policy back for the old log-probabilities of the second."""
        settings = [
            "trainer.v1.trainer_mode=entropy_separate_async",
            "trainer.v1.separate_async.parameter_sync_step=2",
            "data.train_batch_size=4",
            "actor_rollout_ref.rollout.nnodes=1",
            "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
            "actor_rollout_ref.actor.optim.lr=1e-2",
        ]
        metrics, queue = run(folder, *GRPO, *tiny.SHAPED, *CONSTANTS, *settings, trainer_class=ShapedSeparateAsync)
        entropy = tiny.exact_entropy(tiny.policy())[:ROWS]
        shaped = tiny.shaped(PER_TOKEN, entropy, ALPHA, 2.0)
        assert queue["advantages"] == close([*shaped, *shaped])
        want = tiny.metrics(PER_TOKEN, entropy, ALPHA, 2.0)  # the means over both are those of each
        assert {name: metrics[name] for name in want} == pytest.approx(want, rel=1e-4)
        assert metrics["actor/ppo_kl"] != 0  # the second update began from another policy than the old one

    @pytest.mark.parametrize("fused", ["", "torch", "forkwise"])
    def test_on_the_first_fsdp(self, folder: Path, fused: str) -> None:
        settings = [f"actor_rollout_ref.actor.{key}strategy=fsdp" for key in ("", "fsdp_config.")]
        check(run(folder, *GRPO, *tiny.CURRENT, *CONSTANTS, *settings, *head(fused))[0], PER_TOKEN)

    @pytest.mark.parametrize("entropy", [tiny.SHAPED, tiny.CURRENT], ids=["old", "current"])
    def test_with_our_head(self, folder: Path, entropy: list[str]) -> None:
        check(run(folder, *GRPO, *entropy, *CONSTANTS, *head("forkwise"))[0], PER_TOKEN)

    def test_of_lora(self, folder: Path) -> None:
        """Adapters begin at zero: the base model's entropies and loss, another gradient."""
        lora = ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.lora_alpha=8"]
        check(run(folder, *GRPO, *tiny.CURRENT, *CONSTANTS, *lora)[0], PER_TOKEN, gradient=False)

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
                rows = [f"c_{i}_0" for i in range(4)]
                return tq.kv_batch_put(keys=rows, partition_id="train", fields=tu.get_tensordict(fields))

        class Drifted(EntropyShapingMixin, NoEntropy):
            global_steps = 1

        with pytest.raises(RuntimeError, match=r"not entropy-shaped: .*no 'entropy'"):
            Drifted(tiny.on_cpu(folder, *GROUPS, *tiny.SHAPED))._compute_advantage(None, {})


class TestAStepThatWouldNotBeShaped:
    def test_raises_if_the_advantage_stage_bypassed_us(self, folder: Path) -> None:
        trainer = Shaped(tiny.on_cpu(folder, *GROUPS, *tiny.SHAPED))
        said = check_skipped_step(lambda: trainer._update_actor(None, {}))
        assert "not entropy-shaped: the advantage stage of this batch bypassed" in said

    def test_raises_if_the_workers_used_another_loss(self, folder: Path) -> None:
        class AnotherLoss(OnCPU):
            def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
                metrics["actor/pg_loss"] = 1.0
                return batch

        class Drifted(EntropyShapingMixin, AnotherLoss):
            global_steps = 1

        trainer = Drifted(tiny.on_cpu(folder, *GROUPS, *tiny.CURRENT))
        trainer._made = {}  # the advantage stage did its part
        with pytest.raises(RuntimeError, match="not entropy-shaped: the actor's workers used another loss"):
            trainer._update_actor(SimpleNamespace(extra_info={}), {})
