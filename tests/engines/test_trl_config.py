"""A shaping config trains with shaping or not at all, whoever holds it and however it got there."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_trl as tiny
import torch
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.gmpo import GMPOTrainer

from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer, EntropyShapingMixin
from forkwise.errors import InputError
from forkwise.training.ppo import EntropyShapedPPOTrainer
from forkwise.training.ppo_config import EntropyShapedPPOConfig


class Mine(GRPOTrainer):
    """Somebody's trainer."""


class MineShaped(EntropyShapingMixin, Mine):
    """The same, shaped."""


class OursExtended(EntropyShapedGRPOTrainer):
    """Somebody's trainer on top of ours."""


def config(where: Path, kind: type[GRPOConfig] = EntropyShapedGRPOConfig, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(output_dir=str(where), max_steps=1, **{**tiny.QUIET, **options})


def train(cls: type[GRPOTrainer], args: Any, model: Any = None, **options: Any) -> GRPOTrainer:
    data = {"train_dataset": tiny.prompts(), "processing_class": tiny.tokenizer()}
    trainer = cls(model or tiny.policy(), tiny.reward, args, **data, **options)
    torch.manual_seed(0)
    trainer.train()
    return trainer


@pytest.mark.parametrize("cls", [GRPOTrainer, Mine])
@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (EntropyShapedGRPOConfig, {}, "EntropyShapedGRPOTrainer"),
        (EntropyShapedGRPOConfig, {"method": ["forking_tokens"]}, "EntropyShapedGRPOTrainer"),
        (EntropyShapedGRPOConfig, {"method": ["dynamic_sampling"]}, "max_draws: .* EntropyShapedGRPOTrainer"),
        (EntropyShapedGRPOConfig, {"alpha": 0.0, "max_draws": 3}, "max_draws: .* EntropyShapedGRPOTrainer"),
        (EntropyShapedPPOConfig, {}, "EntropyShapedPPOTrainer"),
        (EntropyShapedPPOConfig, {"alpha": 0.0}, "EntropyShapedPPOTrainer"),  # GRPO would still be no PPO
    ],
)
def test_a_trainer_that_would_ignore_it_is_refused(
    tmp_path: Path, cls: type[GRPOTrainer], kind: type[GRPOConfig], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=f"This {kind.__name__} .* {named}"):
        train(cls, config(tmp_path, kind, **options))


@pytest.mark.parametrize("cls", [GRPOTrainer, GMPOTrainer])
def test_it_is_refused_whatever_the_trainer_is_given_beside_it(tmp_path: Path, cls: type[GRPOTrainer]) -> None:
    """transformers asks the config for no steps of warm-up where it has a schedule. (RLOO lacks fields of GRPO.)"""
    model = tiny.policy()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with pytest.raises(InputError, match="EntropyShapedGRPOTrainer"):
        train(cls, config(tmp_path), model, optimizers=(optimizer, schedule))


def test_a_schedule_given_to_ours_is_taken(tmp_path: Path) -> None:
    model = tiny.policy()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = train(EntropyShapedGRPOTrainer, config(tmp_path), model, optimizers=(optimizer, schedule))
    assert "shaping/psi_over_adv" in trainer.state.log_history[0]


def test_presets_that_trl_makes_itself_are_for_any_trainer(tmp_path: Path) -> None:
    args = config(tmp_path, method=["clip_higher"], num_iterations=2)
    assert train(GRPOTrainer, args).args.epsilon_high == 0.28  # DAPO's


def passed_on(args: Any, how: str, where: Path) -> Any:
    if how == "pickled":
        return pickle.loads(pickle.dumps(args))
    if how == "saved":  # as a checkpoint's training_args.bin
        torch.save(args, where / "training_args.bin")
        return torch.load(where / "training_args.bin", weights_only=False)
    return copy.deepcopy(args) if how == "copied" else args


@pytest.mark.parametrize("how", ["as it is", "pickled", "saved", "copied"])
def test_ours_take_it_and_do_not_make_it_fit_for_others(tmp_path: Path, how: str) -> None:
    args = config(tmp_path)
    for cls in (EntropyShapedGRPOTrainer, OursExtended, MineShaped):
        args = passed_on(args, how, tmp_path)
        trainer = train(cls, args)
        assert "shaping/psi_over_adv" in trainer.state.log_history[0]
        args = trainer.args
    with pytest.raises(InputError, match="EntropyShapedGRPOTrainer"):
        train(GRPOTrainer, passed_on(args, how, tmp_path))


def test_a_schedule_can_be_made_without_training(tmp_path: Path) -> None:
    args = config(tmp_path, warmup_steps=3)
    trainer = EntropyShapedGRPOTrainer(
        tiny.policy(), tiny.reward, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer()
    )
    trainer.create_optimizer_and_scheduler(10)
    assert trainer.lr_scheduler.get_last_lr()[0] == 0  # the first of three steps of warm-up


def test_without_methods_it_is_trls_own(tmp_path: Path) -> None:
    """alpha = 0 promises nothing that stock TRL does not do."""
    ours = train(GRPOTrainer, config(tmp_path, alpha=0.0))
    stock = train(GRPOTrainer, config(tmp_path, GRPOConfig))
    for a, b in zip(ours.model.parameters(), stock.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cls", [EntropyShapedGRPOTrainer, MineShaped])
def test_a_critic_needs_a_trainer_that_has_one(tmp_path: Path, cls: type[GRPOTrainer]) -> None:
    with pytest.raises(TypeError, match=EntropyShapedPPOTrainer.__name__):
        train(cls, config(tmp_path, EntropyShapedPPOConfig))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("overlong", "none is longer than 32 here, so it would do nothing: set overlong:limit=32"),
        ("heal:column=kind,target=rare,shortest=32", "aligns answers of more than 32 tokens"),
    ],
)
def test_methods_that_no_answer_is_long_enough_for_are_refused(tmp_path: Path, method: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        EntropyShapedGRPOConfig(output_dir=str(tmp_path), method=[method], max_completion_length=32, use_cpu=True)
