"""Run by `test_verl_fork.py` with verl 0.7.1 on the path, patched or not: its trainer's loop and its actor, on a CPU.

Generation is given. The old policy's scores, advantages and the update are verl's: `RayPPOTrainer.fit`,
`compute_advantage`, `DataParallelPPOActor`.

    python verl_07.py {fit,update} INPUTS RESULTS
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}

import numpy as np
import torch
import verl
from hydra import compose, initialize_config_dir
from tiny_models import policy
from verl import DataProto
from verl.trainer.ppo.ray_trainer import RayPPOTrainer
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.actor import dp_actor

RESPONSE = 5
"""Tokens of the longest response."""
TEMPERATURE = 0.4
SETTINGS = [
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.actor.use_torch_compile=False",
    "actor_rollout_ref.model.use_remove_padding=False",  # whose kernels need a GPU
    "actor_rollout_ref.actor.calculate_entropy=True",
    "actor_rollout_ref.actor.grad_clip=1000",
    "actor_rollout_ref.actor.fsdp_config.dtype=float32",
    f"actor_rollout_ref.rollout.temperature={TEMPERATURE}",
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.n=4",
    "algorithm.adv_estimator=grpo",
    "trainer.balance_batch=False",
    "trainer.val_before_train=False",
    'trainer.logger=["console"]',
]


class Stopped(Exception):
    """The end of the first step."""


class Driver(RayPPOTrainer):
    """verl's loop with given rollouts, and its actor in this process."""

    def __init__(self, config: Any, inputs: dict[str, torch.Tensor]) -> None:
        self.config, self.inputs = config, inputs
        self.seen: dict[str, Any] = {}
        self.model = policy()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.2)
        self.actor = dp_actor.DataParallelPPOActor(
            omega_conf_to_dataclass(config.actor_rollout_ref.actor), self.model, optimizer
        )
        nothing = SimpleNamespace(update_weights=lambda *_: None, sleep_replicas=lambda: None)
        self.checkpoint_manager, self.actor_rollout_wg = nothing, SimpleNamespace()
        self.async_rollout_manager = SimpleNamespace(generate_sequences=self._generated)
        self.use_rm = self.use_critic = self.use_reference_policy = False
        self.total_training_steps = 1
        rows = torch.arange(len(inputs["input_ids"]) // 4)[:, None]
        self.train_dataloader = [{"dummy_tensor": rows}]

    def _generated(self, _: DataProto) -> DataProto:
        images = np.array([{} for _ in self.inputs["input_ids"]], dtype=object)
        return DataProto.from_single_dict({**self.inputs, "multi_modal_inputs": images}, meta_info={"timing": {}})

    def _load_checkpoint(self) -> None: ...

    def _start_profiling(self, _: bool) -> None: ...

    def _compute_old_log_prob(self, batch: DataProto) -> tuple[DataProto, float]:
        batch.meta_info |= {"micro_batch_size": 2, "use_dynamic_bsz": False}
        scores = self.actor.compute_log_prob(batch, calculate_entropy=True)
        named = {"old_log_probs": scores["log_probs"], "entropys": scores["entropys"]}
        return DataProto.from_single_dict(named), 0.0

    def _update_actor(self, batch: DataProto) -> DataProto:
        self.seen = {name: batch.batch[name].clone() for name in ("advantages", "returns", "old_log_probs")}
        logged = self.actor.update_policy(batch)
        self.seen["metrics"] = {name: value for name, value in logged.items() if name == "actor/shaped"}
        assert torch.equal(batch.batch["advantages"], self.seen["advantages"])  # of a second epoch
        raise Stopped


def main(what: str, inputs: dict[str, torch.Tensor], results: Path) -> None:
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        driver = Driver(compose("ppo_trainer", overrides=SETTINGS), inputs)
    if what == "fit":
        with contextlib.suppress(Stopped):
            driver.fit()
    else:  # the update alone, of advantages that are given
        driver.actor.update_policy(DataProto.from_single_dict(inputs, meta_info={"temperature": TEMPERATURE}))
    weights = torch.cat([weight.detach().flatten() for weight in driver.model.parameters()])
    torch.save(
        {"version": verl.__version__, "weights": weights, "policy": driver.model.state_dict(), **driver.seen}, results
    )


if __name__ == "__main__":
    main(sys.argv[1], torch.load(sys.argv[2]), Path(sys.argv[3]))
