"""Our keys where nothing would shape: refused by every trainer of verl, and by trainers made from its parts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed; 'make test' runs these in an environment that has it")

import tiny_verl as tiny
import torch
import verl
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from ray import cloudpickle
from ray.exceptions import RayTaskError
from verl import DataProto
from verl.experimental.fully_async_policy.fully_async_rollouter import FullyAsyncRollouter
from verl.experimental.fully_async_policy.fully_async_trainer import FullyAsyncTrainer
from verl.experimental.one_step_off_policy.ray_trainer import OneStepOffRayTrainer
from verl.experimental.separation.ray_trainer import SeparateRayPPOTrainer
from verl.trainer.ppo.ray_trainer import RayPPOTrainer, compute_advantage
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls
from verl.utils.config import validate_config

from forkwise.engines.verl.guard import advantages_are_shaped
from forkwise.errors import InputError, NotFiniteError

KEYS = ["+algorithm.entropy_shaping.alpha=0.4"]
REFUSED = "does not shape advantages: start python -m verl.trainer.main_ppo with trainer.v1.trainer_mode set to one of"


def experimental(name: str, *overrides: str) -> DictConfig:
    """The configuration of one of verl's experimental entry points, as its command line composes it."""
    folder = Path(verl.__file__).parent / "experimental" / name / "config"
    stem = {"fully_async_policy": "fully_async_ppo_trainer", "one_step_off_policy": "one_step_off_ppo_trainer"}[name]
    search = f"hydra.searchpath=[file://{Path(verl.__file__).parent / 'trainer' / 'config'}]"
    with initialize_config_dir(str(folder), version_base=None):
        return compose(stem, overrides=[search, "actor_rollout_ref.rollout.name=vllm", *overrides])


def underlying(actor: Any) -> type:
    """The class behind a Ray actor, after the journey to another process."""
    actor_class: type = cloudpickle.loads(cloudpickle.dumps(actor.__ray_metadata__.modified_class))
    return actor_class


HEAD = "actor_rollout_ref.model.fused_kernel_options.impl_backend=forkwise"
FUSED = "actor_rollout_ref.model.use_fused_kernels=True"


class TestTheCheckOfAConfiguration:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (KEYS, f"trainer.v1.trainer_mode=sync {REFUSED}"),
            (["+algorithm.forkwise.method=[rloo]"], f"algorithm.forkwise is set, but trainer.v1.*sync {REFUSED}"),
            ([*KEYS, "trainer.v1.trainer_mode=colocate_async"], f"trainer_mode=colocate_async {REFUSED}"),
            ([*tiny.SHAPED, "trainer.use_v1=False"], f"trainer.use_v1=False {REFUSED}"),
            ([*tiny.SHAPED, "+algorithm.entropy_shaping.kappa=1"], "kappa must be a finite number greater than 1"),
            (["trainer.v1.trainer_mode=entropy_sync"], "needs an alpha"),
            ([HEAD], "impl_backend=forkwise does nothing without fused kernels: set .*use_fused_kernels=True"),
            (
                [HEAD, FUSED, "actor_rollout_ref.rollout.temperature=0"],
                r"rollout\.temperature=0 leaves nothing to chance",
            ),
            (
                [HEAD, FUSED, "distillation.enabled=True", "distillation.distillation_loss.loss_mode=forward_kl_topk"],
                "makes no logits, of which .*loss_mode=forward_kl_topk takes the likeliest: set .*use_fused_kernels",
            ),
            ([*tiny.SHAPED, "actor_rollout_ref.rollout.temperature=0.0"], r"rollout\.temperature=0\.0 leaves nothing"),
            ([HEAD, FUSED, "actor_rollout_ref.actor.strategy=megatron"], "FSDP engines, not with .*strategy=megatron"),
        ],
    )
    def test_refuses_in_the_driver(self, overrides: list[str], message: str) -> None:
        config = tiny.config(*overrides)
        with pytest.raises(InputError, match=message) as caught:
            validate_config(config, need_reference_policy(config), need_critic(config))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "overrides", [[], tiny.SHAPED, [HEAD, FUSED], [*KEYS, "trainer.v1.trainer_mode=of_somebody_else"]]
    )
    def test_leaves_the_rest_to_verl(self, overrides: list[str]) -> None:
        rollout = "actor_rollout_ref.rollout"
        config = tiny.config(*overrides, f"{rollout}.log_prob_micro_batch_size_per_gpu=1", f"{rollout}.n=2")
        config.algorithm.adv_estimator = "grpo"
        validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=False)

    def test_reaches_the_command_line_before_ray_starts(self) -> None:
        command = [sys.executable, "-m", "verl.trainer.main_ppo", "actor_rollout_ref.rollout.name=vllm", *KEYS]
        environment = {
            k: v for k, v in os.environ.items() if k not in ("VERL_USE_EXTERNAL_MODULES", "VERL_ENGINE_DEVICE")
        }
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 1
        assert (
            f"InputError: algorithm.entropy_shaping is set, but trainer.v1.trainer_mode=sync {REFUSED}" in done.stderr
        )
        assert "ray init kwargs" not in done.stdout


class TestATrainerThatDoesNotShape:
    def test_of_verl_refuses_our_keys(self) -> None:
        with pytest.raises(InputError, match=f"PPOTrainerSync {REFUSED}"):
            get_trainer_cls("sync")(tiny.config(*KEYS))
        with pytest.raises(InputError, match=f"RayPPOTrainer {REFUSED}"):
            RayPPOTrainer(tiny.config(*KEYS), None, {}, None)
        assert get_trainer_cls("sync")(tiny.config()).trainer_mode == "sync"

    @pytest.mark.parametrize(
        ("name", "trainer"),
        [
            ("fully_async_policy", underlying(FullyAsyncTrainer)),
            ("fully_async_policy", underlying(FullyAsyncRollouter)),
            ("one_step_off_policy", OneStepOffRayTrainer),
            ("one_step_off_policy", SeparateRayPPOTrainer),
        ],
    )
    @pytest.mark.parametrize("mode", ["sync", "entropy_sync"])
    def test_of_verls_experiments_refuses_them_whatever_the_mode(self, name: str, trainer: Any, mode: str) -> None:
        config = experimental(name, *KEYS, f"trainer.v1.trainer_mode={mode}")
        with pytest.raises(InputError, match=f"{trainer.__name__} {REFUSED}"):
            trainer(config=config, tokenizer=None, role_worker_mapping={}, resource_pool_manager=None)

    def test_of_verls_experiments_is_itself_without_them(self) -> None:
        config = experimental("one_step_off_policy")
        config.actor_rollout_ref.hybrid_engine = True
        with pytest.raises(AssertionError):  # what it says itself, on the first line that looks at a value
            OneStepOffRayTrainer(config, None, {}, None)

    @pytest.mark.parametrize("base", [RayPPOTrainer, PPOTrainerSync])
    def test_of_a_recipe_refuses_them_even_if_it_calls_no_constructor_of_verl(self, base: type) -> None:
        class Recipe(base):  # type: ignore[misc, valid-type]
            def __init__(self, settings: int, config: Any) -> None:
                self.settings = settings

        with pytest.raises(InputError, match=f"Recipe {REFUSED}"):
            Recipe(3, config=tiny.config(*KEYS))
        assert Recipe(3, config=tiny.config()).settings == 3

    @pytest.mark.parametrize("base", [PPOTrainerSync, RayPPOTrainer, underlying(FullyAsyncTrainer)])
    @pytest.mark.parametrize("in_turns", [False, True])
    def test_of_any_kind_names_the_step_in_which_a_worker_came_to_nan(self, base: type, in_turns: bool) -> None:
        """What the driver gets from a worker is Ray's form of its error, whose text is a traceback."""

        class Recipe(base):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                self.global_steps = 0

            def fit(self) -> None:
                for self.global_steps in (1, 2, 3):
                    if self.global_steps == 3:
                        raise RayTaskError(
                            "forward", "Traceback ...", NotFiniteError("17 are NaN")
                        ).as_instanceof_cause()

        class InTurns(Recipe):
            async def fit(self) -> None:
                super().fit()

        with pytest.raises(NotFiniteError, match="^Step 3: 17 are NaN$"):
            asyncio.run(InTurns().fit()) if in_turns else Recipe().fit()

    def test_made_from_verls_parts_is_refused_at_its_first_advantages(self) -> None:
        rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
        data = DataProto.from_dict(
            {"token_level_rewards": rewards, "response_mask": torch.ones(2, 2)}, non_tensors={"uid": ["a", "a"]}
        )
        with pytest.raises(InputError, match=f"the trainer that computes these advantages {REFUSED}"):
            compute_advantage(data, "grpo", config=tiny.config(*KEYS).algorithm)
        with pytest.raises(InputError, match=REFUSED):
            compute_advantage(data, "grpo", 1.0, 1.0, 2, True, tiny.config(*KEYS).algorithm)
        with advantages_are_shaped():
            compute_advantage(data, "grpo", config=tiny.config(*KEYS).algorithm)
        compute_advantage(data, "grpo", config=tiny.config().algorithm)
        compute_advantage(data, "grpo")
        assert data.batch["advantages"][:, 0].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)], rel=1e-5)
