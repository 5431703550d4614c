"""The TRL adapter computes the published advantages, changes nothing else, and cannot fail to run unnoticed.

Pinned here, on the oldest and the newest TRL that we declare:
* loss and gradient are those of stock TRL fed with `(B, T)` advantages computed from float64 entropies of an unpatched
  twin of the policy. TRL accepts such advantages "for subclasses" and no longer tests it, so this suite must;
* `alpha = 0` with TRL's head is stock TRL bit for bit, over whole runs;
* every way we could think of in which a TRL release, a trainer subclass or a patch would skip the shaping raises.

Not exercised: GPU, vLLM, DeepSpeed, FSDP, Unsloth, vision-language models. They enter only through `model(...)`.
"""

from __future__ import annotations

import inspect
import os
import re
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import tiny_trl as tiny
import torch
import trl
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from preloaded import Started
from trl import GRPOConfig, GRPOTrainer, RLOOTrainer, TrlParser
from trl.experimental.gmpo import GMPOTrainer
from trl.trainer.base_trainer import _BaseTrainer
from two_processes import run_in_two

from forkwise.core import shaping
from forkwise.engines import trl as engine
from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer, EntropyShapingMixin
from forkwise.errors import InputError
from forkwise.testing.engines import check_alpha_zero, check_metrics, check_skipped_step

TRL = Version(trl.__version__)
TOKEN_LEVEL = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo"]
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)

# Relative to the norm. Seen on trl 1.9.0 and 1.16.0: at most 5.3e-7. For comparison, at least 0.38 without shaping,
# 0.035 with entropies that miss the temperature, 0.025 with entropies that are not detached.
GRADIENT_TOLERANCE = 1e-5


def make(cls: type[GRPOTrainer], where: Path, *, lora: bool = False, **options: Any) -> GRPOTrainer:
    """A trainer on the same tiny policy; ours get an `EntropyShapedGRPOConfig`, others a `GRPOConfig`."""
    config = EntropyShapedGRPOConfig if issubclass(cls, EntropyShapingMixin) else GRPOConfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = config(output_dir=str(where), **{**tiny.QUIET, **options})
        model = tiny.policy()
        if args.beta:
            model.save_pretrained(where / "reference")  # TRL loads its reference model from where the policy came from
            model.config.name_or_path = str(where / "reference")
        trainer = cls(
            model,
            tiny.reward,
            args,
            train_dataset=tiny.prompts(),
            eval_dataset=tiny.prompts(4),
            processing_class=tiny.tokenizer(),
            peft_config=LORA if lora else None,
        )
    if lora:  # the same in every trainer, and not zero, which would hide it
        draw = torch.Generator().manual_seed(3)
        for name, weight in trainer.model.named_parameters():
            if "lora_" in name:
                weight.data = 0.2 * torch.randn(weight.shape, generator=draw)
    return trainer


def twin_of(trainer: GRPOTrainer, *, lora: bool = False) -> torch.nn.Module:
    """The trainer's policy in a model that TRL has not patched."""
    twin = get_peft_model(tiny.policy(), LORA) if lora else tiny.policy()
    twin.load_state_dict(trainer.model.state_dict())
    return twin


def loss_and_gradient(trainer: GRPOTrainer, *batches: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the micro-batches and the gradient accumulated over them, flat."""
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = len(batches)
    losses = []
    for batch in batches:
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        losses.append(loss.detach())
    gradient = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return torch.stack(losses), torch.cat(gradient)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def parameters(trainer: GRPOTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def updates_of(trainer: GRPOTrainer) -> torch.Tensor:
    """What a training run adds to the parameters; every run samples with the same random numbers."""
    before = parameters(trainer)
    torch.manual_seed(0)
    trainer.train()
    return parameters(trainer) - before


class TestLossAndGradient:
    @pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
    @pytest.mark.parametrize("loss_type", TOKEN_LEVEL)
    def test_equal_stock_trl_fed_with_the_published_advantages(
        self, tmp_path: Path, loss_type: str, lora: bool
    ) -> None:
        self.check(tmp_path, lora=lora, loss_type=loss_type)

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({"beta": 0.1}, id="kl"),
            pytest.param({"top_entropy_quantile": 0.5}, id="80/20"),
            pytest.param({"entropy_coef": 0.3}, id="entropy_bonus"),
            pytest.param({"use_adaptive_entropy": True, "entropy_target": 5.0, "entropy_coef": 0.1}, id="adaptive"),
            pytest.param({"beta": 0.1, "top_entropy_quantile": 0.5, "entropy_coef": 0.3, "delta": 1.5}, id="all"),
            pytest.param({"off_policy_mask_threshold": 0.1}, id="off_policy_mask"),
            pytest.param({"alpha": 0.1, "kappa": 5.0, "loss_type": "grpo"}, id="other_constants"),
        ],
    )
    def test_hold_together_with_the_other_terms_of_the_loss(self, tmp_path: Path, options: dict[str, Any]) -> None:
        self.check(tmp_path, lora=False, **options)

    def check(self, where: Path, *, lora: bool, **options: Any) -> None:
        constants = {name: options[name] for name in ("alpha", "kappa") if name in options}
        stock_options = {name: value for name, value in options.items() if name not in constants}
        ours, stock = (
            make(EntropyShapedGRPOTrainer, where, lora=lora, **options),
            make(GRPOTrainer, where, lora=lora, **stock_options),
        )
        twin = twin_of(stock, lora=lora)
        batches = [tiny.microbatch(4, 1, model=twin), tiny.microbatch(4, 2, model=twin)]

        def fed(temperature: float) -> list[dict[str, Any]]:
            entropies = [tiny.exact_entropy(twin, batch, temperature) for batch in batches]
            pairs = zip(batches, entropies, strict=True)
            return [{**b, "advantages": tiny.shaped(b["advantages"], h, **constants)} for b, h in pairs]

        loss, gradient = loss_and_gradient(ours, *batches)
        want_loss, want_gradient = loss_and_gradient(stock, *fed(tiny.TEMPERATURE))
        torch.testing.assert_close(loss, want_loss, rtol=1e-5, atol=5e-6)  # vespo multiplies ratios
        assert relative(gradient, want_gradient) < GRADIENT_TOLERANCE

        # The comparison can tell: no shaping at all, and entropy without the sampling temperature, lie far away.
        _, unshaped_gradient = loss_and_gradient(stock, *batches)
        _, wrong_gradient = loss_and_gradient(stock, *fed(1.0))
        assert relative(unshaped_gradient, want_gradient) > 1000 * GRADIENT_TOLERANCE
        assert relative(wrong_gradient, want_gradient) > 1000 * GRADIENT_TOLERANCE

    def test_and_metrics_leave_out_tokens_masked_as_tool_output(self, tmp_path: Path) -> None:
        ours, stock = make(EntropyShapedGRPOTrainer, tmp_path), make(GRPOTrainer, tmp_path)
        batch = tiny.microbatch()
        batch["tool_mask"] = torch.ones_like(batch["completion_mask"])
        batch["tool_mask"][:, 1:3] = 0
        entropy = tiny.exact_entropy(tiny.policy(), batch)
        _, gradient = loss_and_gradient(ours, batch)
        _, want = loss_and_gradient(stock, {**batch, "advantages": tiny.shaped(batch["advantages"], entropy)})
        assert relative(gradient, want) < GRADIENT_TOLERANCE
        ours.log({})
        metrics = tiny.shaping_metrics(batch["advantages"], entropy, batch["completion_mask"] * batch["tool_mask"])
        assert {name: ours.state.log_history[-1][name] for name in metrics} == pytest.approx(metrics, rel=1e-5)

    def test_advantages_that_are_already_per_token_are_shaped(self, tmp_path: Path) -> None:
        ours, stock = make(EntropyShapedGRPOTrainer, tmp_path), make(GRPOTrainer, tmp_path)
        batch = tiny.microbatch()
        batch["advantages"] = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
        entropy = tiny.exact_entropy(tiny.policy(), batch)
        _, gradient = loss_and_gradient(ours, batch)
        _, want = loss_and_gradient(stock, {**batch, "advantages": tiny.shaped(batch["advantages"], entropy)})
        assert relative(gradient, want) < GRADIENT_TOLERANCE

    def test_an_undetached_entropy_would_be_noticed(self, tmp_path: Path) -> None:
        """TRL's entropies carry gradient from 1.15 on, and before with an entropy bonus: the comparison must see it."""

        class Leaky(GRPOTrainer):
            def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
                self.batch = dict(inputs)
                return super()._compute_loss(model, self.batch)

            def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
                scored = super()._get_per_token_logps_and_entropies(*args, **kwargs)
                advantages = self.batch["advantages"][:, None]
                self.batch["advantages"] = advantages + torch.minimum(0.1 * scored[1], advantages.abs() / 2)
                return scored

        bonus = {} if Version("1.15") <= TRL else {"entropy_coef": 1e-6}
        leaky, ours = make(Leaky, tmp_path, **bonus), make(EntropyShapedGRPOTrainer, tmp_path, alpha=0.1, **bonus)
        batch = tiny.microbatch()
        (loss, gradient), (leaky_loss, leaky_gradient) = loss_and_gradient(ours, batch), loss_and_gradient(leaky, batch)
        torch.testing.assert_close(loss, leaky_loss)
        assert relative(leaky_gradient, gradient) > 1000 * GRADIENT_TOLERANCE

    def test_the_buffered_batch_is_left_as_it_was(self, tmp_path: Path) -> None:
        """TRL computes the loss of a batch `num_iterations` times; shaping it in place would compound."""
        trainer = make(EntropyShapedGRPOTrainer, tmp_path)
        batch = tiny.microbatch()
        before = {name: value.clone() for name, value in batch.items()}
        first = loss_and_gradient(trainer, batch)
        second = loss_and_gradient(trainer, batch)
        assert list(batch) == list(before)
        assert all(torch.equal(batch[name], before[name]) for name in before)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Reference(GRPOTrainer):
    """Stock TRL fed with the published advantages (alpha 0.2), from the current weights in an unpatched model."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        advantages = tiny.shaped(inputs["advantages"], tiny.exact_entropy(twin_of(self), inputs), alpha=0.2)
        return super()._compute_loss(model, {**inputs, "advantages": advantages})


class StaleReference(Reference):
    """The same with the entropies of the policy that sampled, as a shaping at the advantage stage would have them."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if "stale" not in inputs:
            inputs["stale"] = tiny.exact_entropy(twin_of(self), inputs)
        advantages = tiny.shaped(inputs["advantages"], inputs["stale"], alpha=0.2)
        return GRPOTrainer._compute_loss(self, model, {**inputs, "advantages": advantages})


RUN_TOLERANCE = 1e-4  # at most 5e-6 was seen; 2.4e-3 with stale entropies, 0.4 without shaping
RUN = {
    "max_steps": 4,
    "num_iterations": 2,
    "gradient_accumulation_steps": 2,
    "beta": 0.05,
    "optim": "sgd",
    "learning_rate": 0.2,
    "lr_scheduler_type": "constant",
}


@cache
def stock_update(option: str, value: str) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as where:
        return updates_of(make(GRPOTrainer, Path(where), **RUN, **{option: value}))


class TestWholeRuns:
    @pytest.mark.parametrize("loss_type", TOKEN_LEVEL)
    def test_follow_the_published_update(self, tmp_path: Path, loss_type: str) -> None:
        want, stale = (
            updates_of(make(cls, tmp_path, loss_type=loss_type, **RUN)) for cls in (Reference, StaleReference)
        )
        update = updates_of(make(EntropyShapedGRPOTrainer, tmp_path, loss_type=loss_type, alpha=0.2, **RUN))
        assert relative(update, want) < RUN_TOLERANCE
        assert relative(stale, want) > 5 * RUN_TOLERANCE
        assert relative(stock_update("loss_type", loss_type), want) > 1000 * RUN_TOLERANCE

    @pytest.mark.parametrize(
        "option",
        [*(("loss_type", t) for t in (*TOKEN_LEVEL, "luspo")), ("importance_sampling_level", "sequence")],
        ids=lambda option: option[1],
    )
    def test_are_stock_trl_bit_for_bit_at_alpha_zero(self, tmp_path: Path, option: tuple[str, str]) -> None:
        ours = make(EntropyShapedGRPOTrainer, tmp_path, alpha=0, entropy_backend="trl", **RUN, **dict([option]))
        update = updates_of(ours)
        check_alpha_zero(update, stock_update(*option), ours.state.log_history)
        assert update.norm() > 0.01

    def test_evaluate_with_the_loss_of_stock_trl(self, tmp_path: Path) -> None:
        logs = []
        for cls in (EntropyShapedGRPOTrainer, GRPOTrainer):
            trainer = make(cls, tmp_path)
            torch.manual_seed(0)
            logs.append(trainer.evaluate())
        assert logs[0]["eval_loss"] == pytest.approx(logs[1]["eval_loss"], rel=1e-5) != 0
        assert not any("shaping" in name for name in logs[0])


class TestMetrics:
    def test_of_one_step_equal_the_definitions(self, tmp_path: Path) -> None:
        """Two micro-batches with different numbers of tokens: the log is over tokens, not a mean of two means."""
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, alpha=0.2, max_steps=1, gradient_accumulation_steps=2)
        trainer.train()
        first, second = trainer._buffered_inputs
        assert first["completion_mask"].sum() != second["completion_mask"].sum()
        both = {name: torch.cat([first[name], second[name]]) for name in ("advantages", "completion_mask")}
        entropy = torch.cat([tiny.exact_entropy(tiny.policy(), b) for b in (first, second)])
        want = tiny.shaping_metrics(both["advantages"], entropy, both["completion_mask"], alpha=0.2)
        assert 0.1 < want["shaping/capped_frac"] < 0.9
        logged = {name: value for name, value in trainer.state.log_history[0].items() if name in want}
        assert logged == pytest.approx(want, rel=1e-5)

    def test_cost_no_second_psi(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each psi looks for values that are not finite, which waits for the device."""
        calls = []
        psi = shaping._terms

        def counted(*args: Any) -> Any:
            calls.append(args)
            return psi(*args)

        monkeypatch.setattr(shaping, "_terms", counted)
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, max_steps=1, gradient_accumulation_steps=2)
        trainer.train()
        assert len(calls) == 2  # micro-batches
        assert "shaping/psi_over_adv" in trainer.state.log_history[0]

    def test_of_a_logging_window_start_anew_after_each_log(self, tmp_path: Path) -> None:
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, max_steps=4, logging_steps=2)
        trainer.train()
        windows = [entry for entry in trainer.state.log_history if "shaping/psi_pos" in entry]
        assert len(windows) == 2
        assert windows[0]["shaping/psi_pos"] != windows[1]["shaping/psi_pos"]
        assert trainer._action_log.totals == {}

    def test_a_mostly_capped_policy_is_warned_of_once_per_run(self, tmp_path: Path) -> None:
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, alpha=50.0, max_steps=3)
        with pytest.warns(UserWarning, match=r"100% of the tokens are at the cap .* Lower alpha") as caught:
            trainer.train()
        assert sum("at the cap" in str(w.message) for w in caught) == 1

    def test_a_rarely_capped_policy_is_not_warned_of(self, tmp_path: Path) -> None:
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, alpha=0.01, max_steps=2)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*at the cap")
            trainer.train()


# Each is a loss as a changed TRL, a patch or another trainer might write it. The name says what drifted.


class HookNeverCalled(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return inputs["advantages"].sum()


class AdvantagesReadFirst(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        inputs["advantages"].sum()
        return super()._compute_loss(model, inputs)


class AdvantagesGotFirst(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        inputs.get("advantages")
        return super()._compute_loss(model, inputs)


class EntropiesNone(GRPOTrainer):
    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        logps, _, *scored = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        return (logps, None, *scored)


class BatchUnpacked(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return super()._compute_loss(model, {**inputs})


class BatchPassedAsKeywords(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return self.loss(**inputs)

    def loss(self, *, completion_ids: torch.Tensor, advantages: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        return torch.zeros(()) if advantages is None else advantages.sum()


class BatchCopied(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return super()._compute_loss(model, inputs.copy())


class BatchRebuilt(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return super()._compute_loss(model, {name: value for name, value in inputs.items() if value is not None})


class AdvantagesOptional(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return inputs["advantages"].sum() if "advantages" in inputs else torch.zeros(())


class AdvantagesReplaced(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        inputs["advantages"] = torch.ones(4)
        return super()._compute_loss(model, inputs)


class ReferenceScoredFirst(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        with torch.no_grad():
            self._get_per_token_logps_and_entropies(self.reference, ids, mask, 6, compute_entropy=True)
        return super()._compute_loss(model, inputs)


class AdvantagesNotUsed(GRPOTrainer):
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        scored = self._get_per_token_logps_and_entropies(model, ids, torch.ones_like(ids), 6, compute_entropy=True)
        return scored[0].sum()


class TestALossThatWouldNotBeShaped:
    @pytest.mark.parametrize(
        ("drifted", "message"),
        [
            (HookNeverCalled, "read the advantages, but no per-token entropies were computed before"),
            (AdvantagesReadFirst, "read the advantages, but no per-token entropies were computed before"),
            (AdvantagesGotFirst, "read the advantages, but no per-token entropies were computed before"),
            (EntropiesNone, "the per-token entropies are None .*Unsloth"),
            (BatchUnpacked, "read the advantages from a copy of the micro-batch"),
            (BatchCopied, "read the advantages from a copy of the micro-batch"),
            (BatchRebuilt, "read the advantages from a copy of the micro-batch"),
            (BatchPassedAsKeywords, "did not read the shaped advantages"),
            (AdvantagesOptional, "did not read the shaped advantages"),
            (AdvantagesNotUsed, "did not read the shaped advantages"),
            (AdvantagesReplaced, "the loss replaced the advantages"),
        ],
        ids=lambda case: case.__name__ if isinstance(case, type) else "",
    )
    def test_raises(self, tmp_path: Path, drifted: type[GRPOTrainer], message: str) -> None:
        class Ours(EntropyShapingMixin, drifted):  # type: ignore[valid-type,misc]
            pass

        trainer = make(Ours, tmp_path)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        said = check_skipped_step(lambda: trainer._compute_loss(trainer.model, tiny.microbatch()))
        assert re.search(f"were not entropy-shaped: .*{message}.*docs/trl.md", said)
        assert str(TRL) in said
        assert trainer._shaping_batch is None

    def test_raises_when_the_micro_batch_names_them_differently(self, tmp_path: Path) -> None:
        trainer = make(EntropyShapedGRPOTrainer, tmp_path)
        batch = tiny.microbatch()
        batch["token_advantages"] = batch.pop("advantages")
        with pytest.raises(RuntimeError, match="has no 'advantages'"):
            loss_and_gradient(trainer, batch)

    @pytest.mark.parametrize("method", ["_compute_loss", "compute_loss"])
    def test_raises_when_a_subclass_overrides_the_loss_without_super(self, tmp_path: Path, method: str) -> None:
        def plain(self: Any, model: Any, inputs: dict[str, Any], **_: Any) -> torch.Tensor:
            return GRPOTrainer._compute_loss(self, model, inputs)

        trainer = make(type("Plain", (EntropyShapedGRPOTrainer,), {method: plain}), tmp_path, max_steps=2)
        before = parameters(trainer)
        assert "bypassed the mixin" in check_skipped_step(trainer.train)
        assert torch.equal(parameters(trainer), before)

    def test_does_not_hide_another_missing_key(self, tmp_path: Path) -> None:
        trainer = make(EntropyShapedGRPOTrainer, tmp_path, beta=0.1)
        batch = tiny.microbatch()
        del batch["ref_per_token_logps"]
        with pytest.raises(KeyError, match="ref_per_token_logps"):
            loss_and_gradient(trainer, batch)

    def test_takes_the_entropy_of_the_policy_under_update_not_of_a_reference(self, tmp_path: Path) -> None:
        class Ours(EntropyShapingMixin, ReferenceScoredFirst):
            pass

        trainer, stock = make(Ours, tmp_path), make(EntropyShapedGRPOTrainer, tmp_path)
        trainer.reference = make(GRPOTrainer, tmp_path).model
        trainer.reference.load_state_dict(tiny.policy(seed=8).state_dict())
        (_, gradient), (_, want) = (
            loss_and_gradient(trainer, tiny.microbatch()),
            loss_and_gradient(stock, tiny.microbatch()),
        )
        assert torch.equal(gradient, want)

    def test_is_accepted_at_alpha_zero(self, tmp_path: Path) -> None:
        class Ours(EntropyShapingMixin, HookNeverCalled):
            pass

        trainer = make(Ours, tmp_path, alpha=0.0)
        assert trainer._compute_loss(trainer.model, tiny.microbatch()) == tiny.microbatch()["advantages"].sum()


class TestRefused:
    @pytest.mark.parametrize(
        ("constants", "message"),
        [
            ({"kappa": 1.0}, "kappa must be a finite number greater than 1, got 1.0"),
            ({"temperature": 0.0}, "temperature must be a finite number greater than 0"),
            ({"learning_rate": float("nan")}, "learning_rate must be a finite number of at least 0"),
            ({"epsilon": -0.2}, "epsilon must be a finite number of at least 0"),
            ({"reward_weights": [float("nan")]}, "reward_weights must be finite"),
            ({"num_iterations": 0}, "num_iterations must be at least 1"),
            ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
            ({"kappa": float("nan")}, "kappa .* got nan"),
            ({"kappa": float("inf")}, "kappa .* got inf"),
            ({"alpha": -0.1}, "alpha must be a finite number of at least 0, got -0.1"),
            ({"alpha": float("nan")}, "alpha .* got nan"),
        ],
    )
    def test_constants_outside_their_range(self, tmp_path: Path, constants: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            EntropyShapedGRPOConfig(str(tmp_path), **{**tiny.QUIET, **constants})

    @pytest.mark.parametrize("release", ["1.9.0", "1.13.0"])
    def test_liger_where_its_loss_has_no_entropies(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str
    ) -> None:
        monkeypatch.setattr(engine.config, "TRL", Version(release))
        with pytest.raises(InputError, match=r"use_liger_kernel=True in trl 1\.\d+\.0 .*would not be shaped"):
            EntropyShapedGRPOConfig(str(tmp_path), **tiny.QUIET, use_liger_kernel=True)

    def test_trl_1_15_0_on_a_cpu(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine.config, "TRL", Version("1.15.0"))
        with pytest.raises(InputError, match=r"trl 1\.15\.0 cannot compute the GRPO loss on cpu"):
            EntropyShapedGRPOConfig(str(tmp_path), **tiny.QUIET)

    def test_a_config_without_the_constants(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="a GRPOConfig, which has no alpha and kappa"):
            EntropyShapedGRPOTrainer("no-such-model", tiny.reward, GRPOConfig(str(tmp_path), **tiny.QUIET))

        class Mine(EntropyShapingMixin, GRPOTrainer):
            pass

        with pytest.raises(TypeError, match="a GRPOConfig, which has no alpha and kappa"):
            Mine(
                tiny.policy(),
                tiny.reward,
                GRPOConfig(str(tmp_path), **tiny.QUIET),
                train_dataset=tiny.prompts(),
                processing_class=tiny.tokenizer(),
            )

    @pytest.mark.parametrize(
        "base",
        # AsyncGRPOTrainer is stood in for by its base class: it needs aiohttp, which TRL does not install.
        [RLOOTrainer, GMPOTrainer, type("AsyncGRPOTrainer", (_BaseTrainer,), {})],
        ids=lambda base: base.__name__,
    )
    def test_trainers_without_per_token_advantages(self, base: type) -> None:
        with pytest.raises(TypeError, match="Mine: entropy-shaped advantages need TRL's GRPOTrainer"):
            type("Mine", (EntropyShapingMixin, base), {})

    def test_a_mixin_named_after_the_trainer(self) -> None:
        with pytest.raises(TypeError, match="name EntropyShapingMixin before the trainer"):
            type("Mine", (GRPOTrainer, EntropyShapingMixin), {})

    def test_a_mixin_of_mixins_is_fine(self) -> None:
        mixin = type("Mixin", (EntropyShapingMixin,), {})
        assert issubclass(type("Mine", (mixin, GRPOTrainer), {}), GRPOTrainer)


class TestWarnedOf:
    @pytest.mark.parametrize("options", [{"importance_sampling_level": "sequence"}, {"loss_type": "luspo"}])
    def test_losses_that_lose_the_token_selectivity(self, tmp_path: Path, options: dict[str, str]) -> None:
        with pytest.warns(UserWarning, match="lose their token selectivity"):
            EntropyShapedGRPOConfig(str(tmp_path), **tiny.QUIET, **options)
        make(EntropyShapedGRPOTrainer, tmp_path, max_steps=1, **options).train()  # and they run

    def test_nothing_in_the_default_setting(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=UserWarning)
            EntropyShapedGRPOConfig(str(tmp_path), **tiny.QUIET)


class TestConfig:
    def test_is_read_from_the_command_line_by_trl(self, tmp_path: Path) -> None:
        parser = TrlParser((EntropyShapedGRPOConfig,))
        line = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False", "--kappa", "3", "--beta", "0.04"]
        (args,) = parser.parse_args_and_config(line)
        assert (args.alpha, args.kappa, args.beta) == (0.4, 3.0, 0.04)
        assert "Weight of the entropy term" in parser.format_help()

    def test_keeps_the_defaults_of_trl(self, tmp_path: Path) -> None:
        ours, stock = EntropyShapedGRPOConfig(str(tmp_path), use_cpu=True), GRPOConfig(str(tmp_path), use_cpu=True)
        different = {"logging_dir", "run_name"}
        for name in vars(stock).keys() - different - {"distributed_state", "_n_gpu"}:
            assert getattr(ours, name) == getattr(stock, name), name

    def test_is_built_when_none_is_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        @dataclass
        class OnCpu(EntropyShapedGRPOConfig):
            use_cpu: bool = True

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(engine.trainer, "EntropyShapedGRPOConfig", OnCpu)
        model = tiny.policy()
        model.config.name_or_path = "someone/tiny"
        trainer = EntropyShapedGRPOTrainer(
            model, tiny.reward, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer()
        )
        assert (trainer.args.alpha, trainer.args.kappa) == (0.4, 2.0)
        assert trainer.args.output_dir.endswith("tiny-GRPO")

    def test_the_model_card_names_the_paper(self, tmp_path: Path) -> None:
        trainer = make(EntropyShapedGRPOTrainer, tmp_path)
        trainer.create_model_card(model_name="m")
        card = (tmp_path / "README.md").read_text()
        assert "GRPO with entropy-shaped advantages" in card
        assert "2506.14758" in card
        assert "forkwise" in card


class TestWhatWeLeanOnInTrl:
    """If one of these fails on a new release, read its `_compute_loss` again before anything else."""

    def test_signatures(self) -> None:
        def names(function: Any) -> list[str]:
            return list(inspect.signature(function).parameters)

        assert names(GRPOTrainer._compute_loss) == ["self", "model", "inputs"]
        assert names(GRPOTrainer.compute_loss)[:3] == ["self", "model", "inputs"]
        assert names(GRPOTrainer.training_step)[:3] == ["self", "model", "inputs"]
        assert names(GRPOTrainer.log)[:2] == ["self", "logs"]
        assert names(GRPOTrainer.__init__)[1:4] == ["model", "reward_funcs", "args"]

    def test_the_order_of_calls_in_the_loss(self, tmp_path: Path) -> None:
        """Entropies (and only once) before the advantages, which are read by index from `inputs`."""
        calls = []

        class Spy(dict[str, Any]):
            def __getitem__(self, key: str) -> Any:
                calls.append(key)
                return super().__getitem__(key)

        class Spied(GRPOTrainer):
            def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
                calls.append("entropies")
                assert model is self.model
                scored = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
                assert scored[1].shape == scored[0].shape == (4, 6)
                return scored

        trainer = make(Spied, tmp_path)
        loss_and_gradient(trainer, Spy(tiny.microbatch()))
        assert [call for call in calls if call in ("entropies", "advantages")] == ["entropies", "advantages"]

    def test_its_entropies_are_nats_at_the_sampling_temperature(self, tmp_path: Path) -> None:
        trainer, batch = make(GRPOTrainer, tmp_path), tiny.microbatch()
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        entropy = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 6, compute_entropy=True)[1]
        want, at_one = (tiny.exact_entropy(tiny.policy(), batch, t) for t in (tiny.TEMPERATURE, 1.0))
        real = batch["completion_mask"] == 1
        torch.testing.assert_close(entropy[real].double(), want[real], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(entropy[real].double(), at_one[real], rtol=0.02)

    def test_the_metrics_store(self, tmp_path: Path) -> None:
        trainer = make(GRPOTrainer, tmp_path)
        trainer.model.train()
        trainer._metrics["train"]["shaping/x"].append(2.5)
        trainer.log({})
        assert trainer.state.log_history[-1]["shaping/x"] == 2.5


def test_two_processes_give_the_loss_gradient_and_metrics_of_one(tmp_path: Path) -> None:
    """Each process has half of a batch; gloo on the CPU, under DistributedDataParallel."""
    script = Path(__file__).with_name("one_of_two_processes.py")
    run_in_two(script, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))

    one, batch = make(EntropyShapedGRPOTrainer, tmp_path, alpha=0.2), tiny.microbatch(8)
    loss, gradient = loss_and_gradient(one, batch)
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, loss[0])
    assert relative(first["gradient"], gradient) < GRADIENT_TOLERANCE
    entropy = tiny.exact_entropy(tiny.policy(), batch)
    rows = [t.tolist() for t in (batch["advantages"][:, None].expand_as(entropy), entropy, batch["completion_mask"])]
    once = "shaping/entropy_error"  # logged with the first step alone
    want = [name for name in first["logged"] if name.startswith("shaping/") and name != once]
    for rank in (first, second):
        check_metrics(rank["logged"], *rows, alpha=0.2, kappa=2.0)
    steps = [[{name: entry[name] for name in want} for entry in rank["run"][:2]] for rank in (first, second)]
    assert steps[0] == steps[1]
    assert steps[0][0] != steps[0][1]


def test_the_suite_runs_on_the_trl_that_it_was_asked_to_run_on(tmp_path: Path) -> None:
    expected = os.environ.get("FORKWISE_EXPECTED_TRL", trl.__version__)
    (tmp_path / "script.py").write_text("import trl\nprint(trl.__version__)\n")
    process = Started(["script.py"], os.environ, output=str(tmp_path / "printed"), folder=tmp_path)
    assert process.wait() == 0
    assert trl.__version__ == (tmp_path / "printed").read_text().strip() == expected
