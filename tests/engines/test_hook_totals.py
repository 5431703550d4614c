"""What engines log of shaping, after they have added up micro-batches by their own rules, is what shaping did.

The rules are those of the engines' sources, at the commits that docs/engines.md names. The truth is worked out token by
token, over a batch whose micro-batches have one sign of A each, or none.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from engine_interfaces import modules
from engine_rules import nemo_rl, openrlhf, roll, slime

from forkwise.core import shape_and_measure
from forkwise.engines.hooks import areal, levels, ms_swift
from forkwise.engines.hooks import nemo_rl as nemo_hook
from forkwise.engines.hooks import openrlhf as openrlhf_hook
from forkwise.engines.hooks import roll as roll_hook
from forkwise.engines.hooks import slime as slime_hook
from forkwise.engines.hooks.totals import named, ratios
from forkwise.testing.engines import check_metrics

A = [[1.0] * 3, [1.0] * 2, [-1.5] * 5, [0.0] * 4, [0.5] * 1, [-0.5] * 3]
H = [[(3 * i + 7 * j) % 11 / 4 for j in range(len(row))] for i, row in enumerate(A)]
MASK = [[1] * len(row) for row in A]
ALPHA, KAPPA = 0.4, 2.0


@pytest.mark.parametrize("engine", [slime, nemo_rl, roll, openrlhf])
def test_of_micro_batches_is_that_of_the_batch(engine: Callable[..., dict[str, float]]) -> None:
    tokens = [len(row) for row in A]
    parts = []
    for advantages, entropy in zip(A, H, strict=True):
        _, stats = shape_and_measure(torch.tensor(advantages), torch.tensor(entropy), alpha=ALPHA, kappa=KAPPA)
        parts.append(named(stats, per=len(advantages) if engine is openrlhf else 1))
    check_metrics(ratios(engine(parts, tokens)), A, H, MASK, alpha=ALPHA, kappa=KAPPA)


def test_of_ratios_is_not() -> None:
    """What the hooks once gave: a micro-batch without tokens of a sign counts as 0."""
    parts: list[dict[str, Any]] = []
    for advantages, entropy in zip(A, H, strict=True):
        _, stats = shape_and_measure(torch.tensor(advantages), torch.tensor(entropy), alpha=ALPHA, kappa=KAPPA)
        parts.append({f"shaping/{name}": number for name, number in stats.as_dict().items()})
    with pytest.raises(AssertionError, match="its definition gives"):
        check_metrics(roll(parts, []), A, H, MASK, alpha=ALPHA, kappa=KAPPA)


SEQUENCES = "share one ratio, so that only the mean of their shaped advantages reaches the gradient"


class TestOneRatioPerSequence:
    """Each hook says, once, that selectivity is lost with its engine's GSPO; TRL's trainer says so of its own."""

    @pytest.fixture(autouse=True)
    def _first_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        levels._warn.cache_clear()
        monkeypatch.setenv("FORKWISE_ALPHA", "0.4")

    def test_areal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tracker = SimpleNamespace(denominator=lambda **_: None, stat=lambda **_: None)
        modules(monkeypatch, areal__utils={"stats_tracker": tracker})
        loss = areal.shaped(lambda *_, **__: torch.zeros(()), alpha=0.4)
        one = torch.ones(2)
        data = {"advantages": one, "loss_mask": one.bool()}
        with pytest.warns(UserWarning, match=f"importance_sampling_level=sequence .* {SEQUENCES}"):
            loss(one, one, data, importance_sampling_level="sequence")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss(one, one, data, importance_sampling_level="sequence")  # once is enough
            levels._warn.cache_clear()
            loss(one, one, data, importance_sampling_level="token")

    def test_slime(self) -> None:
        data = {name: [torch.ones(2)] for name in ("advantages", "entropy", "loss_masks", "log_probs")}
        with pytest.warns(UserWarning, match=f"--advantage-estimator gspo .*{SEQUENCES}"):
            slime_hook.shape_rollout(SimpleNamespace(advantage_estimator="gspo"), 0, data)

    @pytest.mark.parametrize("name", ["importance_sampling", "importance_sampling_level", "policy_loss_type", "nemo"])
    def test_others(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before anything else of a step, so that the step may stop there."""

        def stop(*_: Any, **__: Any) -> None:
            raise KeyError

        step: Any
        if name == "importance_sampling":
            worker = type("Worker", (roll_hook.RollShapedLoss,), {})()
            worker.pipeline_config = SimpleNamespace(importance_sampling="seq")
            step, says = lambda: worker.loss_func(SimpleNamespace(batch={}), None), "importance_sampling: seq"
        elif name == "importance_sampling_level":
            kind = type("Trainer", (ms_swift.SwiftShapedLoss, type("Stock", (), {"compute_loss": stop})), {})
            trainer = kind()
            vars(trainer).update(args=None, model=SimpleNamespace(training=True), compute_entropy=True)
            trainer.importance_sampling_level = "sequence"
            step, says = lambda: trainer.compute_loss(None, {}), "--importance_sampling_level sequence"
        elif name == "policy_loss_type":
            step_of = type("Step", (openrlhf_hook.EntropyShapedStep, type("Stock", (), {"training_step": stop})), {})()
            step_of.args = SimpleNamespace(actor=SimpleNamespace(entropy_coef=0.0))
            step_of.actor, step_of.actor_loss_fn = torch.nn.Linear(1, 1), SimpleNamespace(policy_loss_type="gspo")
            step, says = lambda: step_of.training_step(None), "--actor.policy_loss_type gspo"
        else:
            kind_of = SimpleNamespace(LOGPROB="logprob", LOGIT="logit")
            modules(monkeypatch, nemo_rl__algorithms__loss__interfaces={"LossInputType": kind_of})
            loss = SimpleNamespace(input_type="logprob", sequence_level_importance_ratios=True)
            drawn = {"top_p": 1.0}
            step, says = lambda: nemo_hook.shaped(loss, alpha=0.4, generation=drawn), "sequence_level_importance_ratios"
        with pytest.warns(UserWarning, match=f"{says}.*{SEQUENCES}"), contextlib.suppress(KeyError, AttributeError):
            step()
