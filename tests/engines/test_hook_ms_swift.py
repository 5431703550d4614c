"""The contract on ms-swift's own loss, where it is installed, in an environment of its own (docs/engines.md says how).

Its forward pass is stood in for; everything from the entropies on is ms-swift's.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

if importlib.util.find_spec("swift") is None:
    pytest.skip("ms-swift is not installed", allow_module_level=True)

import torch
from engine_interfaces import behind_prompts, check_logged, constants, drawn, holds, of_two_processes, one_process
from swift.rl_core.data import GRPOBatch
from swift.rlhf_trainers import GRPOTrainer
from swift.trainers.trainer_factory import TrainerFactory

from forkwise.engines.hooks import ms_swift
from forkwise.engines.hooks.totals import report
from forkwise.errors import InputError
from forkwise.testing.engines import Batch, Outcome

SETTINGS: dict[str, Any] = {
    "compute_entropy": True,
    "overlong_filter": False,
    "beta": 0.0,
    "kl_in_reward": False,
    "rollout_importance_sampling_mode": None,
    "log_rollout_offpolicy_metrics": False,
    "disable_rollout_importance_sampling": True,
    "importance_sampling_level": "token",
    "_has_teacher": False,
    "off_policy_sequence_mask_delta": None,
    "loss_type": "bnpo",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "sdar_loss_coef": 0.0,
    "chord_sft_iterator": None,
    "dynamic_num_samples": False,
    "use_liger_loss": False,
    "compute_loss_func": None,
    "model_accepts_loss_kwargs": False,
    "_undo_gradient_accumulation_scaling": lambda loss: loss,
    "_update_metrics": lambda metrics: None,
}


def trainer(kind: Any, settings: Any) -> Any:
    made = object.__new__(kind)
    for name, value in SETTINGS.items():
        try:
            setattr(made, name, value)
        except AttributeError:  # a property, of what is set already
            assert not getattr(made, name)
    made.args = settings
    vars(settings).update(
        log_entropy=False, top_entropy_quantile=1.0, delta=None, per_device_train_batch_size=4, report_to=[]
    )
    made.args.gradient_accumulation_steps = 1
    made.model, made.template = SimpleNamespace(training=True), SimpleNamespace(padding_free=False)
    made.accelerator = one_process()
    vars(made.accelerator).update(gather_for_metrics=lambda value: value, num_processes=1)
    made._metrics = {"train": defaultdict(list)}
    return made


def outcome(made: Any, batch: Batch) -> Outcome:
    """Its columns begin with the longest response; before shorter ones stands a part of their prompt."""
    mask, entropy, given = behind_prompts(batch, "mask", "entropy", "advantages")
    entropy.requires_grad_()
    responses = drawn()[: len(batch.mask)]
    logprobs = torch.cat([0 * mask[:, :-5] - 0.8, responses], dim=1).requires_grad_()
    made._get_per_token_logps_and_entropies_single = lambda *_, **__: (logprobs, entropy)
    mask = mask.bool()
    old = torch.full_like(given, -0.8)
    grpo_batch = GRPOBatch(mask, torch.zeros(len(mask), dtype=torch.bool), mask.sum(1), old, advantages=given)
    inputs = {"model_inputs": {"input_ids": torch.zeros(mask.shape)}, "grpo_batch": grpo_batch}
    loss = made.compute_loss(made.model, inputs)
    loss.backward()
    assert grpo_batch.advantages is given
    assert entropy.grad is None
    action_log = getattr(made, "_action_log", None)
    totals = None if action_log is None else action_log.totals["shaping"]
    if action_log is not None:
        report(made, action_log)  # as its log does
    if made.accelerator.num_processes == 1:
        check_logged({name: values[-1] for name, values in made._metrics["train"].items()}, batch, made.args)
    return Outcome(loss.detach(), logprobs.grad, totals)


def test_every_other_trainer_of_its_table_raises() -> None:
    ms_swift.install()
    for method in TrainerFactory.TRAINER_MAPPING.keys() - {"grpo"}:
        with pytest.raises(InputError, match=f"trainer of '{method}'"):
            TrainerFactory.get_trainer_cls(SimpleNamespace(rlhf_type=method))


def test_holds_the_contract() -> None:
    ms_swift.install()
    ours = TrainerFactory.get_trainer_cls(SimpleNamespace(rlhf_type="grpo"))
    assert issubclass(ours, GRPOTrainer)

    def logged(batch: Batch, alpha: float, kappa: float) -> Any:
        one = trainer(ours, constants(alpha, kappa))
        one.accelerator = of_two_processes()
        outcome(one, batch)
        return {name: values[-1] for name, values in one._metrics["train"].items() if name.startswith("shaping/")}

    holds(
        lambda batch: outcome(trainer(GRPOTrainer, SimpleNamespace()), batch),
        lambda batch, alpha, kappa: outcome(trainer(ours, constants(alpha, kappa)), batch),
        bypassed="held on a stand-in for its trainer (test_hook_classes.py)",
        logged=logged,
    )
