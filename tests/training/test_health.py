"""Numbers that are not finite stop a run with a name and a batch; collapse and explosion warn."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl")

import tiny_trl as tiny
import torch
from quiet import QUIET
from trl import GRPOTrainer

from forkwise import EntropyShapedGRPOConfig, EntropyShapingMixin
from forkwise.errors import InputError, RunError
from forkwise.training.folder import newest_complete_checkpoint
from forkwise.training.grpo import main
from forkwise.training.health import FiniteMixin, HealthLimits, alarms
from forkwise.training.trainer import RunTrainer

NAN = float("nan")


class SickTrainer(GRPOTrainer):
    """In its second update, one entropy is not a number: where a completion goes on, or where there is padding."""

    where_masked = False

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        scored = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self.state.global_step == 1 and torch.is_grad_enabled():
            mask = self._buffered_inputs[0]["completion_mask"]
            scored[1].data[tuple((mask == (0 if self.where_masked else 1)).nonzero()[0])] = NAN
        return scored


class WatchedTrainer(FiniteMixin, EntropyShapingMixin, SickTrainer):
    pass


class SickLossTrainer(GRPOTrainer):
    """In its second update the loss alone is not a number."""

    def _compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(*args, **kwargs)
        return loss * NAN if self.state.global_step == 1 else loss


class WatchedLossTrainer(FiniteMixin, EntropyShapingMixin, SickLossTrainer):
    pass


def make(where: Path, cls: type = RunTrainer, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = EntropyShapedGRPOConfig(str(where), **{**tiny.QUIET, "max_steps": 3, "learning_rate": 1e-3, **options})
        return cls(tiny.policy(), tiny.reward, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer())


def weights(trainer: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_an_entropy_that_is_not_a_number_stops_the_run_and_leaves_the_batch(tmp_path: Path) -> None:
    # At alpha 0 nothing else looks at the entropies, and the loss does not depend on them.
    trainer = make(tmp_path, WatchedTrainer, alpha=0.0)
    with pytest.raises(RunError, match=r"Step 2: not finite: entropy \(1 of \d+ values\); the run stops"):
        trainer.train()
    kept = torch.load(tmp_path / "non_finite" / "step_2_process_0.pt", weights_only=True)
    assert kept["step"] == 2
    assert kept["batch"]["completion_ids"].shape == kept["entropy"].shape == kept["logps"].shape
    assert int(kept["entropy"].isnan().sum()) == 1
    assert kept["texts"]["prompt"][0].endswith("=")
    assert len(kept["texts"]["completion"]) == 4


def test_an_entropy_that_shaping_refuses_stops_the_run_too(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Step 2: not finite: entropy; the run stops before .* The batch is in"):
        make(tmp_path, WatchedTrainer).train()
    assert (tmp_path / "non_finite" / "step_2_process_0.pt").exists()


def test_a_loss_that_is_not_a_number_stops_the_run_before_its_gradients(tmp_path: Path) -> None:
    once = make(tmp_path / "once", max_steps=1, lr_scheduler_type="constant")
    once.train()
    trainer = make(tmp_path / "run", WatchedLossTrainer, lr_scheduler_type="constant")
    with pytest.raises(RunError, match=r"Step 2: not finite: loss \(1 of 1 values\); the run stops before .*batch"):
        trainer.train()
    assert (tmp_path / "run" / "non_finite" / "step_2_process_0.pt").exists()
    assert all(torch.equal(a, b) for a, b in zip(weights(once), weights(trainer), strict=True))


def test_padding_may_hold_anything(tmp_path: Path) -> None:
    # Completions of one length would have no padding: the reward function's tokens end at different places here.
    trainer = make(tmp_path, WatchedTrainer, alpha=0.0, max_steps=2)
    trainer.where_masked = True
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_gradient_that_is_not_finite_is_named_and_changes_nothing(tmp_path: Path, value: float) -> None:
    trainer = make(tmp_path)
    trainer.model.lm_head.weight.register_hook(lambda g: torch.where(torch.arange(g.size(1)) == 3, value, g))
    before = weights(trainer)
    with pytest.raises(RunError, match=r"Step 1: not finite: gradient of lm_head.weight \(1 of \d+ tensors\)"):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))
    assert (tmp_path / "non_finite" / "step_1_process_0.pt").exists()


def test_a_weight_that_is_not_finite_stops_the_next_rollout(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.model.lm_head.weight.data[0, 0] = NAN
    with pytest.raises(RunError, match="Step 1: not finite: weight of lm_head.weight"):
        trainer.train()


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    trainer = make(tmp_path, WatchedTrainer, alpha=0.0, max_steps=2)
    trainer.check_finite = False
    trainer.train()


COMMON = {
    "model": "embedded",
    "task": "countdown:3",
    "train_problems": 8,
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "max_completion_length": 16,
    "max_steps": 4,
    "save_steps": 1,
    "logging_steps": 1,
    "lr_scheduler_type": "constant",
    **QUIET,
}


def run(tmp_path: Path, **settings: object) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**COMMON, **settings}))
    main(["--config", str(tmp_path / "c.yaml"), "--output_dir", str(tmp_path / "run")])


def test_the_command_stops_before_the_weights_are_spoilt(tmp_path: Path) -> None:
    # A step of 1e15 in each weight: the next forward pass overflows float32.
    with pytest.raises(RunError, match="Step 2: The hidden states of .* are NaN or infinite.* The batch is in"):
        run(tmp_path, learning_rate=1e15, num_iterations=2, reward=["test_health:letters"], max_grad_norm=0.0)
    assert newest_complete_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-1"
    assert (tmp_path / "run" / "non_finite" / "step_2_process_0.pt").exists()


def test_the_command_stops_when_nothing_can_be_sampled(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Step 2: .*probabilities of the next token are not finite: .*`forkwise doctor"):
        run(tmp_path, learning_rate=1e15, reward=["test_health:letters"], max_grad_norm=0.0)


def letters(completions: list[str], **_: Any) -> list[float]:
    return [sum(text.encode()) % 7 / 6 for text in completions]


def test_the_command_warns_of_collapse(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Step .: the entropy has collapsed from .* Try a larger alpha"):
        run(tmp_path, learning_rate=0.1, health_window=1, health_min_entropy=0.9, reward=["test_health:letters"])


def history(key: str, *values: float) -> list[dict[str, float]]:
    return [{key: value} for value in values]


def test_alarms_compare_the_first_and_the_last_lines() -> None:
    limits = HealthLimits(window=2, min_entropy=0.25, max_length=3.0, max_truncated=0.5)
    # Start (2 + 4) / 2 = 3; 0.25 of it is 0.75.
    assert "entropy" in alarms(history("entropy", 2, 4, 0.74, 0.74), limits)
    assert not alarms(history("entropy", 2, 4, 0.76, 0.76), limits)
    assert not alarms(history("entropy", 2, 4, 0.1), limits)  # the two windows would overlap
    assert not alarms(history("entropy", 2, 4, 0.1, 3, 3), limits)  # one odd line in between
    assert "from 10 to 31 tokens" in alarms(history("completions/mean_length", 10, 10, 31, 31), limits).popitem()[1]
    assert not alarms(history("completions/mean_length", 10, 10, 29, 29), limits)
    assert alarms(history("completions/clipped_ratio", 0.2, 0.2, 0.8, 0.8), limits)
    assert not alarms(history("completions/clipped_ratio", 0.9, 0.9, 1.0, 1.0), limits)
    # Steps without a rollout log no lengths.
    rows = [{"entropy": 1.0}, {"completions/mean_length": 10}] * 4
    assert not alarms(rows, limits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": 0}, "at least 1 logged line"),
        ({"min_entropy": 1.0}, "fraction of the start"),
        ({"max_length": 1.0}, "multiple of the start"),
        ({"max_truncated": 0.0}, "rise of a share"),
        ({"max_length": NAN}, "multiple of the start"),
    ],
)
def test_limits_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HealthLimits(**values)
