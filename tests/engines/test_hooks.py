"""Hooks on stand-ins for published interfaces: AReaL's loss contract, tinker's data, Unsloth's hook in stock TRL."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import tiny_trl as tiny
import torch
from engine_interfaces import holds, modules, of_all_processes, packed
from test_trl import GRADIENT_TOLERANCE, loss_and_gradient, make, relative
from trl import GRPOTrainer

from forkwise.engines.hooks.areal import shaped
from forkwise.engines.hooks.tinker import add_entropy, add_surprisal
from forkwise.engines.hooks.unsloth import WeightShapingMixin
from forkwise.engines.trl import EntropyShapedGRPOTrainer
from forkwise.errors import InputError
from forkwise.testing.engines import Batch, Outcome, check_skipped_step


def areal_loss(logprobs: Any, entropy: Any, input_data: dict[str, Any], vocab_min_logits: Any = None) -> Any:
    """A clipped loss over packed tokens (inclusionAI/AReaL 4aef98d8d, `grpo_loss_fn`, without its options)."""
    assert vocab_min_logits is None
    mask, a = input_data["loss_mask"], input_data["advantages"]
    ratio = torch.where(mask, logprobs - input_data["logprobs"], 0).exp()
    loss = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2))
    return torch.where(mask, loss, 0).sum() / mask.sum().clamp(min=1)


class Tracker:
    """AReaL 1.0.4's `stats_tracker`, without its scopes and its minima and maxima."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[Any]] = {}
        self.sums: dict[str, tuple[str, list[Any]]] = {}

    def denominator(self, **masks: Any) -> None:
        for name, mask in masks.items():
            assert mask.dtype == torch.bool
            self.tokens.setdefault(name, []).append(mask.clone())

    def stat(self, denominator: str, **values: Any) -> None:
        for name, value in values.items():
            assert value.dtype == torch.float32
            mask = self.tokens[denominator][-1]
            assert mask.shape == value.shape
            self.sums.setdefault(name, (denominator, []))[1].append(torch.where(mask, value, 0.0).sum())

    def count(self, name: str) -> float:
        return float(sum(mask.sum() for mask in self.tokens[name]))

    def export(self) -> dict[str, float]:
        return {name: float(sum(sums)) / self.count(of) for name, (of, sums) in self.sums.items()}


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    made = Tracker()
    modules(monkeypatch, areal__utils={"stats_tracker": made})
    return made


class TestAReaL:
    @staticmethod
    def outcome(batch: Batch, loss_fn: Any, tracker: Tracker | None = None) -> Outcome:
        if tracker:
            tracker.tokens, tracker.sums = {}, {}
        advantages, entropy, mask = packed(batch)
        logprobs = torch.linspace(-1.5, -0.1, len(mask), dtype=torch.float64).requires_grad_()
        data = {"loss_mask": mask.bool(), "logprobs": torch.full_like(entropy, -0.8), "advantages": advantages}
        entropy.requires_grad_()
        before = data["advantages"].clone()
        value = loss_fn(logprobs, entropy, data)
        value.backward()
        assert entropy.grad is None
        assert torch.equal(data["advantages"], before)
        totals = None
        if tracker and tracker.sums:
            names = ("psi_pos", "psi_neg", "psi_over_adv", "capped_frac")
            numbers = [tracker.count("shaping_pos"), tracker.count("shaping_neg")]
            numbers += [float(sum(tracker.sums[f"shaping/{name}"][1])) for name in names]
            totals = torch.tensor(numbers, dtype=torch.float64)
        return Outcome(value.detach(), logprobs.grad, totals)

    def logged(self, batch: Batch, loss_fn: Any, tracker: Tracker) -> dict[str, float]:
        """Exported from the tracker when it has what all processes keep, as AReaL's adds up sums and counts."""
        self.outcome(batch, loss_fn, tracker)
        kept = of_all_processes((tracker.tokens, tracker.sums))
        tracker.tokens = {name: [mask for tokens, _ in kept for mask in tokens[name]] for name in tracker.tokens}
        tracker.sums = {
            name: (of, [number for _, sums in kept for number in sums[name][1]])
            for name, (of, _) in tracker.sums.items()
        }
        return tracker.export()

    def test_holds_the_contract(self, tracker: Tracker) -> None:
        holds(
            engine=lambda batch: self.outcome(batch, areal_loss),
            adapter=lambda batch, alpha, kappa: self.outcome(
                batch, shaped(areal_loss, alpha=alpha, kappa=kappa), tracker
            ),
            bypassed=lambda: shaped(areal_loss, alpha=0.4)(torch.zeros(2), None, {}),
            logged=lambda batch, alpha, kappa: self.logged(
                batch, shaped(areal_loss, alpha=alpha, kappa=kappa), tracker
            ),
        )
        assert shaped(areal_loss, alpha=0) is areal_loss

    def test_refuses_a_loss_that_shapes_already(self) -> None:
        """As when the line stands in the file twice: psi would reach 3/4 |A| at kappa 2."""
        once = shaped(areal_loss, alpha=0.4)

        @functools.wraps(once)
        def logged(*args: Any, **more: Any) -> Any:
            return once(*args, **more)

        for loss_fn in (once, logged):
            for alpha in (0.4, 0.0):
                with pytest.raises(InputError, match="shapes advantages already, .*call shaped\\(\\) once"):
                    shaped(loss_fn, alpha=alpha)

    def test_refuses_constants_and_data_without_advantages(self) -> None:
        with pytest.raises(InputError, match="kappa must be"):
            shaped(areal_loss, alpha=0.4, kappa=1.0)
        with pytest.raises(RuntimeError, match="given no 'advantages'"):
            shaped(areal_loss, alpha=0.4)(torch.zeros(2), torch.zeros(2), {"loss_mask": torch.ones(2)})
        of_teacher = {"advantages": torch.ones(2), "loss_mask": torch.ones(2), "teacher_logp": torch.ones(2)}
        with pytest.raises(InputError, match=r"a distillation without advantages \(rl_loss_weight 0\)"):
            shaped(areal_loss, alpha=0.4)(torch.zeros(2), torch.zeros(2), of_teacher | {"rl_loss_weight": 0.0})


@dataclass
class TensorData:
    """tinker's tensors, with the two ways in and out that are used here."""

    data: list[float]

    @classmethod
    def from_torch(cls, values: Any) -> TensorData:
        return cls(values.tolist())

    def to_torch(self) -> Any:
        return torch.tensor(self.data)


@dataclass
class Datum:
    model_input: str
    loss_fn_inputs: dict[str, Any]


class TestTinker:
    def test_adds_surprisal_to_sampled_tokens(self) -> None:
        inputs = {"advantages": TensorData([0.0, 1.0, 1.0, -2.0]), "logprobs": TensorData([-3.0, -0.5, -9.0, -1.0])}
        (made,) = add_surprisal([Datum("m", inputs)], alpha=0.4, kappa=2.0)
        assert made.loss_fn_inputs["advantages"].data == pytest.approx([0.0, 1.2, 1.5, -1.6])
        assert inputs["advantages"].data == [0.0, 1.0, 1.0, -2.0]
        assert made.loss_fn_inputs["logprobs"] is inputs["logprobs"]
        masked = {**inputs, "mask": TensorData([0.0, 1.0, 0.0, 1.0])}
        (made,) = add_surprisal([Datum("m", masked)], alpha=0.4)
        assert made.loss_fn_inputs["advantages"].data == pytest.approx([0.0, 1.2, 1.0, -1.6])

    def test_refuses_data_that_have_it(self) -> None:
        inputs = {"advantages": TensorData([1.0]), "logprobs": TensorData([-0.5])}
        first = Datum("m", inputs)
        made = add_surprisal([first], alpha=0.4)
        with pytest.raises(InputError, match="have their surprisal already"):
            add_surprisal(made, alpha=0.4)
        assert add_surprisal([first], alpha=0.4)[0].loss_fn_inputs["advantages"].data == pytest.approx([1.2])

    def test_takes_it_for_no_entropy(self) -> None:
        with pytest.raises(InputError, match="no entropy to shape with: surprisal, .*add_surprisal offers it"):
            add_entropy([], alpha=0.4)

    @pytest.mark.parametrize("logprob", [float("nan"), 0.3, float("inf"), float("-inf")])
    def test_refuses_what_is_no_log_prob_at_sampled_tokens(self, logprob: float) -> None:
        inputs = {"advantages": TensorData([0.0, 1.0]), "logprobs": TensorData([-0.5, logprob])}
        with pytest.raises(InputError, match=f"has {logprob:.1} as the log-prob of a sampled token|has 0.30"):
            add_surprisal([Datum("m", inputs)], alpha=0.4)
        inputs["logprobs"] = TensorData([logprob, 1e-6])  # of the prompt, and a 0 that was rounded
        (made,) = add_surprisal([Datum("m", inputs)], alpha=0.4)
        assert made.loss_fn_inputs["advantages"].data == [0.0, 1.0]

    def test_refuses_data_without_what_it_needs(self) -> None:
        with pytest.raises(InputError, match="no 'logprobs' among its loss_fn_inputs: advantages"):
            add_surprisal([Datum("m", {"advantages": TensorData([1.0])})], alpha=0.4)
        lengths = {"advantages": TensorData([1.0]), "logprobs": TensorData([1.0, 2.0])}
        with pytest.raises(InputError, match=r"advantages \(1,\) and logprobs \(2,\)"):
            add_surprisal([Datum("m", lengths)], alpha=0.4)


class Weighted(WeightShapingMixin, GRPOTrainer):
    pass


class TestWeightsInATrainer:
    def test_are_stock_trl_on_shaped_advantages(self, tmp_path: Path) -> None:
        batch = tiny.microbatch()
        trainer, stock = make(Weighted, tmp_path, top_entropy_quantile=0.99), make(GRPOTrainer, tmp_path)
        trainer.shape(alpha=0.4, kappa=2.0)
        trainer._advantages = batch["advantages"]  # as compute_loss leaves it for the loss within
        fed = {**batch, "advantages": tiny.shaped(batch["advantages"], tiny.exact_entropy(tiny.policy(), batch))}
        (loss, gradient), (want_loss, want) = loss_and_gradient(trainer, batch), loss_and_gradient(stock, fed)
        torch.testing.assert_close(loss, want_loss, rtol=1e-5, atol=1e-6)
        assert relative(gradient, want) < GRADIENT_TOLERANCE

    def test_without_constants_raise_before_anything_is_drawn(self, tmp_path: Path) -> None:
        trainer = make(Weighted, tmp_path, top_entropy_quantile=0.99, max_steps=1)
        trainer._generate_and_score_completions = lambda *_: pytest.fail("a rollout was drawn")
        assert "call trainer.shape(alpha=0.4, kappa=2.0) before training" in check_skipped_step(trainer.train)

    def test_behind_the_trainer_are_refused_when_the_class_is_defined(self) -> None:
        with pytest.raises(TypeError, match="After: name WeightShapingMixin before the trainer"):
            type("After", (GRPOTrainer, WeightShapingMixin), {})
        with pytest.raises(TypeError, match="name WeightShapingMixin before the trainer"):
            type("Later", (type("Own", (GRPOTrainer,), {"compute_loss": None}), Weighted), {})
        assert issubclass(type("Longer", (Weighted,), {"compute_loss": None}), WeightShapingMixin)  # on top of ours

    def test_before_a_trainer_that_shapes_are_refused(self) -> None:
        with pytest.raises(TypeError, match="Both: this trainer shapes advantages itself: drop WeightShapingMixin"):
            type("Both", (WeightShapingMixin, EntropyShapedGRPOTrainer), {})

    def test_at_alpha_zero_and_in_evaluation_no_token_is_masked(self, tmp_path: Path) -> None:
        """TRL's own mask of the quantile 0.99 would leave one token in a hundred."""
        batch = tiny.microbatch()
        trainer, stock = make(Weighted, tmp_path, top_entropy_quantile=0.99), make(GRPOTrainer, tmp_path)
        trainer.shape(alpha=0.0)
        for ours, theirs in zip(loss_and_gradient(trainer, batch), loss_and_gradient(stock, batch), strict=True):
            assert torch.equal(ours, theirs)
        trainer.shape(alpha=0.4)
        losses = []
        for one in (trainer, stock):
            one.model.eval()
            with torch.no_grad():
                losses.append(one.compute_loss(one.model, batch))
        assert torch.equal(*losses)
        assert trainer._weighed == 0

    def test_train_and_a_loss_that_does_not_ask_raises(self, tmp_path: Path) -> None:
        trainer = make(Weighted, tmp_path, top_entropy_quantile=0.99, max_steps=1)
        trainer.shape(alpha=0.4)
        trainer.train()
        assert trainer._weighed > 0
        deaf = make(Weighted, tmp_path, top_entropy_quantile=0.99, max_steps=1)
        deaf.shape(alpha=0.4)
        deaf.top_entropy_quantile = 1.0  # TRL's loss reads this one
        assert "did not call get_high_entropy_mask" in check_skipped_step(deaf.train)

    def test_log_what_they_did_over_all_micro_batches_of_a_log(self, tmp_path: Path) -> None:
        trainer = make(Weighted, tmp_path, top_entropy_quantile=0.99, max_steps=1)
        trainer.shape(alpha=0.4, kappa=2.0)
        entropy = torch.tensor([[0.2, 3.0]])
        for advantage in (1.0, -1.5):  # one sign in each: (0.08, 0.5) of 1, and (0.08, 0.75) of 1.5
            trainer._advantages = torch.tensor([advantage])
            trainer.get_high_entropy_mask(entropy, torch.ones(1, 2), 0.5)
        trainer.model.train()
        trainer.log({})
        logged = trainer.state.log_history[-1]
        assert logged["shaping/psi_pos"] == pytest.approx((0.08 + 0.5) / 2)
        assert logged["shaping/psi_neg"] == pytest.approx((0.08 + 0.75) / 2)
        assert logged["shaping/psi_over_adv"] == pytest.approx((0.08 + 0.5 + 0.08 / 1.5 + 0.5) / 4)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "only with top_entropy_quantile below 1"),
            ({"top_entropy_quantile": 0.9, "importance_sampling_level": "sequence"}, "Weights are per token"),
            ({"top_entropy_quantile": 0.9, "entropy_coef": 0.1}, "change the entropy bonus too"),
        ],
    )
    def test_are_refused_where_they_would_not_shape(
        self, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        if "entropy_coef" in options and not hasattr(make(GRPOTrainer, tmp_path).args, "entropy_coef"):
            pytest.skip("this TRL has no entropy bonus")
        with pytest.raises(InputError, match=message):
            make(Weighted, tmp_path, **options).shape(alpha=0.4)


def test_surprisal_in_tinkers_own_data() -> None:
    """tinker's `Datum` and `TensorData`, where it is installed with what it imports; docs/engines.md has the lines."""
    tinker = pytest.importorskip("tinker", reason="tinker, or something that it imports, is not installed")
    tensor = tinker.types.TensorData.from_torch
    inputs = {
        "target_tokens": tensor(torch.tensor([2, 3, 4])),
        "advantages": tensor(torch.tensor([0.0, 1.0, -2.0])),
        "logprobs": tensor(torch.tensor([-3.0, -0.5, -9.0])),
        "mask": tensor(torch.tensor([0.0, 1.0, 1.0])),
    }
    datum = tinker.types.Datum(model_input=tinker.types.ModelInput.from_ints([1, 2, 3]), loss_fn_inputs=inputs)
    (made,) = add_surprisal([datum], alpha=0.4, kappa=2.0)
    assert type(made) is type(datum)
    # 0.4 * 0.5 below the cap of 0.5, and the cap |-2| / 2 below 0.4 * 9
    assert made.loss_fn_inputs["advantages"].to_torch().tolist() == pytest.approx([0.0, 1.2, -1.0])
    assert datum.loss_fn_inputs["advantages"].to_torch().tolist() == [0.0, 1.0, -2.0]
