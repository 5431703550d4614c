"""The contract on ms-swift's own loss, where it is installed, in an environment of its own (docs/engines.md says how).

In the kit its forward pass is stood in for, and everything from the entropies on is ms-swift's. Whole runs are its own
command's, with transformers' `generate`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

if importlib.util.find_spec("swift") is None:
    pytest.skip("ms-swift is not installed", allow_module_level=True)

import tiny_models
import torch
from engine_interfaces import behind_prompts, check_logged, constants, drawn, holds, of_two_processes, one_process
from swift.rl_core.data import GRPOBatch
from swift.rlhf_trainers import GRPOTrainer
from swift.trainers.trainer_factory import TrainerFactory

from forkwise.engines.hooks import ms_swift
from forkwise.engines.hooks.totals import report
from forkwise.errors import InputError
from forkwise.testing.engines import Batch, Outcome, check_metrics, expected_advantages

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


PLUGIN = """
import itertools, os, torch
from swift.rewards import ORM, orms
from swift.rlhf_trainers import GRPOTrainer

class Letters(ORM):
    def __call__(self, completions, **kwargs):
        return [sum(ord(letter) % 5 for letter in text) / 10 for text in completions]

orms["letters"] = Letters
loss, calls = GRPOTrainer._compute_loss_and_metrics, itertools.count()

def watched(self, model, model_inputs, grpo_batch):
    unshaped = grpo_batch.advantages
    result = loss(self, model, model_inputs, grpo_batch)
    kept = {name: model_inputs[name] for name in ("input_ids", "attention_mask")}
    kept |= {"advantages": grpo_batch.advantages, "mask": grpo_batch.completion_mask, "unshaped": unshaped}
    name = f"{next(calls)}-{os.environ.get('RANK', 0)}.pt"
    torch.save(kept, os.path.join(os.environ["WATCHED"], name))
    return result

GRPOTrainer._compute_loss_and_metrics = watched
"""
OURS = """
from forkwise.engines.hooks.ms_swift import install
install()
"""


class TestWholeRuns:
    """`swift rlhf --rlhf_type grpo` on a tiny policy: two updates of two micro-batches, each of a prompt's answers."""

    @pytest.fixture(scope="class")
    def place(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        where = tmp_path_factory.mktemp("swift")
        tiny_models.policy().save_pretrained(where / "tiny")
        tokenizer = tiny_models.tokenizer()
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
        tokenizer.save_pretrained(where / "tiny")
        rows = [{"messages": [{"role": "user", "content": f"{i % 10} + {3 * i % 10} ="}]} for i in range(16)]
        (where / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return where

    @staticmethod
    def run(
        where: Path, name: str, alpha: str | None, *, processes: int = 1
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What ms-swift logs, and what its losses were given, in the order of updates, micro-batches and processes."""
        (where / f"{name}.py").write_text(PLUGIN + (OURS if alpha else ""))
        out = where / name
        out.mkdir()
        options = {
            **{"rlhf_type": "grpo", "model": where / "tiny", "model_type": "qwen2", "template": "dummy", "seed": 0},
            **{"external_plugins": where / f"{name}.py", "reward_funcs": "letters", "dataset": where / "train.jsonl"},
            **{"use_vllm": "false", "tuner_type": "full", "torch_dtype": "float32", "attn_impl": "eager"},
            **{"num_generations": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            **{"max_completion_length": 8, "max_length": 32, "max_steps": 2, "logging_steps": 1, "temperature": 0.4},
            **{"save_strategy": "no", "eval_strategy": "no", "report_to": "none", "learning_rate": 0.01},
            **{"log_entropy": "true", "output_dir": out / "run", "dataset_num_proc": 1},
        }
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [sys.executable, *(launcher if processes > 1 else ()), "-m", "swift.cli.rlhf", *words],
            env={
                **os.environ,
                **{"ACCELERATE_USE_CPU": "true"},
                **{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "USE_HF": "1", "HF_HUB_OFFLINE": "1"},
                **{"WATCHED": str(out), **({"FORKWISE_ALPHA": alpha} if alpha else {})},
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (log,) = out.glob("run/*/logging.jsonl")
        files = sorted(out.glob("*.pt"), key=lambda file: tuple(map(int, file.stem.split("-"))))
        losses = [torch.load(file) for file in files]
        assert len(losses) == 4 * processes
        return [json.loads(line) for line in log.read_text().splitlines()][:2], losses

    def test_is_shaped(self, place: Path) -> None:
        """In the first update, whose policy is known: A without shaping is that of a run without the plugin."""
        logged, losses = self.run(place, "shaped", "0.4")
        unshaped, plain = self.run(place, "plain", None)
        for ours, stock in zip(losses[:2], plain[:2], strict=True):
            assert torch.equal(ours["input_ids"], stock["input_ids"])
            assert torch.equal(ours["unshaped"], stock["advantages"])
        self.check(losses[:2], logged[0])
        assert not any(name.startswith("shaping/") for row in unshaped for name in row)

    def test_of_two_processes_is_shaped_and_logs_what_both_did(self, place: Path) -> None:
        logged, losses = self.run(place, "two", "0.4", processes=2)
        self.check(losses[:4], logged[0])

    @staticmethod
    def check(losses: list[dict[str, Any]], logged: dict[str, Any]) -> None:
        """Holds an update of the policy before training to the definitions, by float64 softmax."""
        model = tiny_models.policy().double()
        first: list[Any] = [[], [], []]
        for ours in losses:
            with torch.no_grad():
                logits = model(input_ids=ours["input_ids"], attention_mask=ours["attention_mask"]).logits
            logp = (logits[:, :-1] / 0.4).log_softmax(-1)
            mask = ours["mask"]
            entropy = -(logp.exp() * logp).sum(-1)[:, -mask.shape[1] :]
            a = ours["unshaped"]
            a = (a[:, None] if a.dim() == 1 else a).expand(mask.shape)
            rows = a.tolist(), entropy.tolist(), mask.int().tolist()
            want = torch.tensor(expected_advantages(*rows, alpha=0.4, kappa=2.0))
            assert torch.allclose(ours["advantages"][mask].double(), want[mask].double(), rtol=1e-4, atol=1e-5)
            for column, values in zip(first, rows, strict=True):
                column.extend(values)
        check_metrics(logged, *first, alpha=0.4, kappa=2.0)

    def test_at_alpha_zero_is_the_engines(self, place: Path) -> None:
        clock = ("time", "speed", "memory", "samples_per_second")
        runs = [self.run(place, name, alpha) for name, alpha in (("zero", "0"), ("stock", None))]
        (ours, given), (stock, want) = runs
        assert len(ours) == 2
        for row, other in zip(ours, stock, strict=True):
            assert {k: v for k, v in row.items() if not any(word in k for word in clock)} == {
                k: v for k, v in other.items() if not any(word in k for word in clock)
            }
        for one, other in zip(given, want, strict=True):  # words of the second update are drawn from what was learned
            assert all(torch.equal(one[name], other[name]) for name in one)
