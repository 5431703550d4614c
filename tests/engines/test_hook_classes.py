"""Hooks that stand before a class of an engine: ROLL, OpenRLHF, ms-swift, on stand-ins for what they publish.

Each stand-in names the commit or release that it was written after, and has that interface's names and shapes.
OpenRLHF's own loss takes the place of its stand-in where the package is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import engine_rules
from engine_interfaces import (
    across,
    behind_prompts,
    check_logged,
    clipped,
    constants,
    drawn,
    holds,
    modules,
    of_two_processes,
    one_process,
    padded,
    totals_of,
)

from forkwise.engines.hooks.totals import TOTALS
from forkwise.errors import InputError
from forkwise.testing.engines import Batch, Outcome, check_skipped_step, made_batches


@pytest.fixture(autouse=True)
def _no_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORKWISE_ALPHA", "FORKWISE_KAPPA"):
        monkeypatch.delenv(name, raising=False)


class TestRoll:
    """`roll.pipeline.rlvr.actor_worker.ActorWorker`, alibaba/ROLL 8eb27cc2."""

    @pytest.fixture
    def worker(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        class ActorWorker:
            def loss_func(self, data: Any, output_tensor: Any) -> Any:
                mask = data.batch["response_mask"][:, 1:]
                logprobs = self.strategy.op_compute_log_probs(output_tensor)
                return clipped(logprobs, data.batch["advantages"], mask), {"actor/pg_loss": 0.0}

        modules(monkeypatch, roll__pipeline__rlvr__actor_worker={"ActorWorker": ActorWorker})
        from forkwise.engines.hooks import roll

        vars(roll).pop("EntropyShapedActorWorker", None)
        yield lambda ours: (roll.EntropyShapedActorWorker if ours else ActorWorker)()
        vars(roll).pop("EntropyShapedActorWorker", None)

    @staticmethod
    def outcome(worker: Any, batch: Batch, settings: Any) -> Outcome:
        response_mask, entropy, given = behind_prompts(batch, "mask", "entropy", "advantages")
        mask, entropy, given = response_mask[:, 1:], entropy[:, 1:].requires_grad_(), given[:, 1:]
        responses = drawn()[: len(batch.mask)]
        logprobs = torch.cat([0 * mask[:, :-5], responses], dim=1).requires_grad_()
        worker.pipeline_config = settings
        worker.strategy = SimpleNamespace(
            op_compute_log_probs=lambda logits: logits * mask,
            op_compute_entropy=lambda logits, attention_mask: entropy * attention_mask[:, 1:],
        )
        data = SimpleNamespace(batch={"advantages": given, "response_mask": response_mask})
        loss, metrics = worker.loss_func(data, logprobs)
        loss.backward()
        assert data.batch["advantages"] is given
        assert entropy.grad is None
        check_logged(metrics, batch, settings)
        return Outcome(loss.detach(), logprobs.grad, totals_of(metrics))

    def test_holds_the_contract(self, worker: Any) -> None:
        nothing = SimpleNamespace(batch={"response_mask": torch.ones(1, 3)})
        blind = worker(True)
        blind.pipeline_config = constants(0.4)
        blind.strategy = SimpleNamespace(op_compute_entropy=lambda **_: torch.ones(1, 2))
        holds(
            lambda batch: self.outcome(worker(False), batch, SimpleNamespace()),
            ours := lambda batch, alpha, kappa: self.outcome(worker(True), batch, constants(alpha, kappa)),
            bypassed=lambda: blind.loss_func(nothing, None),
            logged=lambda batch, *constants: across(engine_rules.roll, ours(batch, *constants), batch),
        )

    def test_counts_what_rolls_loss_counts(self, worker: Any) -> None:
        """psi of the first row by hand: 0.08 and 0.4 of |A| 1. The second is a response that ROLL leaves out."""
        ours = worker(True)
        ours.pipeline_config = constants(0.4)
        entropy = torch.tensor([[0.2, 1.0], [2.0, 2.0]])
        ours.strategy = SimpleNamespace(
            op_compute_entropy=lambda logits, attention_mask: entropy, op_compute_log_probs=lambda logits: logits
        )
        batch = {"advantages": torch.tensor([[1.0, 1.0], [1.0, 1.0]]), "response_mask": torch.ones(2, 3)}
        batch["final_response_mask"] = torch.tensor([[1, 1], [0, 0]])
        _, metrics = ours.loss_func(SimpleNamespace(batch=batch), torch.full((2, 2), -0.8))
        assert totals_of(metrics).tolist() == pytest.approx([2, 0, 0.48, 0, 0.48, 0])

    @pytest.mark.parametrize("alpha", [0.4, 0.0])
    def test_refuses_other_pipelines(self, worker: Any, alpha: float) -> None:
        """The loss is RLVR's; at alpha 0 too the baseline would not be the other pipeline's."""
        kinds = {
            name: type(name, (), {"__module__": f"roll.pipeline.{module}", "forkwise_alpha": alpha})
            for name, module in (("RLVRConfig", "rlvr.rlvr_config"), ("AgenticConfig", "agentic.agentic_config"))
        }
        one, batch = worker(True), made_batches()[0]
        with pytest.raises(InputError, match="loss of ROLL's RLVR pipeline, and the run has a AgenticConfig"):
            self.outcome(one, batch, kinds["AgenticConfig"]())
        own = type("Own", (kinds["RLVRConfig"],), {"forkwise_kappa": 2.0})  # a user's
        self.outcome(one, batch, own())

    def test_refuses_packed_rows_and_no_alpha(self, worker: Any) -> None:
        packed = worker(True)
        packed.pipeline_config = constants(0.4)
        packed.strategy = SimpleNamespace(op_compute_entropy=lambda **_: torch.ones(1, 7))
        data = SimpleNamespace(batch={"advantages": torch.ones(2, 3), "response_mask": torch.ones(2, 4)})
        with pytest.raises(InputError, match="train without sequence packing"):
            packed.loss_func(data, None)
        packed.pipeline_config = SimpleNamespace()
        with pytest.raises(InputError, match="FORKWISE_ALPHA is not set"):
            packed.loss_func(data, None)


class PolicyLossStandIn(torch.nn.Module):
    """OpenRLHF 0.11.2's `PolicyLoss`, without its options."""

    def forward(self, log_probs: Any, old_log_probs: Any, advantages: Any, action_mask: Any = None, **_: Any) -> Any:
        ratio = (log_probs - old_log_probs).exp()
        loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        nothing = torch.zeros(())
        return (loss * action_mask).sum() / action_mask.sum(), nothing, nothing, None, None


def policy_loss() -> Any:
    """OpenRLHF's own loss, whose file needs torch only, where the package is installed; else the stand-in."""
    try:
        files = importlib.metadata.files("openrlhf") or []
    except importlib.metadata.PackageNotFoundError:
        return PolicyLossStandIn()
    (path,) = [file.locate() for file in files if str(file).endswith("openrlhf/models/loss.py")]
    # Its neighbour imports DeepSpeed; of it the loss takes this, and its tests of the value only.
    neighbour = ModuleType("openrlhf_models.utils")
    vars(neighbour)["masked_mean"] = lambda values, mask, dim=None: (values * mask).sum(dim) / mask.sum(dim)
    sys.modules |= {"openrlhf_models": ModuleType("openrlhf_models"), "openrlhf_models.utils": neighbour}
    spec = importlib.util.spec_from_file_location("openrlhf_models.loss", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PolicyLoss()


class TestOpenRLHF:
    """`ActorPPOTrainer.training_step`, OpenRLHF 0.11.2."""

    @pytest.fixture
    def trainer(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        class ActorPPOTrainer:
            def training_step(self, experience: Any, kl_ctl: float, step: int, loss_batch_info: Any = None) -> Any:
                logprobs, output = self.actor(experience.sequences, return_entropy=True)
                loss, *_ = self.actor_loss_fn(
                    logprobs, experience.action_log_probs, experience.advantages, action_mask=experience.action_mask
                )
                assert output.entropy.shape[1] > logprobs.shape[1]  # of the prompt too
                loss.backward()
                return {"metrics": {"policy_loss": loss.detach()}, "weights": {"policy_loss": "token"}}

        modules(monkeypatch, openrlhf__trainer__ray__ppo_actor={"ActorPPOTrainer": ActorPPOTrainer})
        from forkwise.engines.hooks import openrlhf

        openrlhf.install()
        ours = sys.modules["openrlhf.trainer.ray.ppo_actor"].ActorPPOTrainer
        openrlhf.install()  # once is enough
        assert ours is sys.modules["openrlhf.trainer.ray.ppo_actor"].ActorPPOTrainer
        return lambda shaping: (ours if shaping else ActorPPOTrainer)()

    @staticmethod
    def outcome(trainer: Any, batch: Batch, settings: Any, *, entropy_coef: float | None = 0.0) -> Outcome:
        (entropy,) = behind_prompts(batch, "entropy")
        entropy.requires_grad_()
        logprobs = drawn()[: len(batch.mask)].requires_grad_()

        class Actor(torch.nn.Module):
            def forward(self, sequences: Any, return_entropy: bool) -> Any:
                return logprobs, SimpleNamespace(entropy=entropy)

        trainer.args = settings
        trainer.args.actor = SimpleNamespace(entropy_coef=entropy_coef)
        trainer.actor, trainer.actor_loss_fn = Actor(), policy_loss()
        loss_fn, given = trainer.actor_loss_fn, padded(batch.advantages)
        experience = SimpleNamespace(
            sequences=None,
            action_log_probs=torch.full_like(given, -0.8),
            advantages=given.clone(),
            action_mask=padded(batch.mask),
        )
        status = trainer.training_step(experience, 0.0, 0)
        assert trainer.actor_loss_fn is loss_fn
        assert torch.equal(experience.advantages, given)
        assert entropy.grad is None
        check_logged(status["metrics"], batch, settings)
        assert status["weights"].keys() == status["metrics"].keys()
        totals = totals_of(status["metrics"])
        tokens = padded(batch.mask).sum()  # OpenRLHF's weight of the micro-batch
        return Outcome(status["metrics"]["policy_loss"], logprobs.grad, None if totals is None else totals * tokens)

    def test_holds_the_contract(self, trainer: Any) -> None:
        deaf = trainer(True)
        deaf.args = SimpleNamespace(forkwise_alpha=0.4, actor=SimpleNamespace(entropy_coef=0.0))
        deaf.actor, deaf.actor_loss_fn = torch.nn.Linear(1, 1), policy_loss()

        def skipped(one: Any) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(one).__mro__[2], "training_step", lambda *_, **__: {})
                one.training_step(None, 0.0, 0)

        def by_tokens(reports: list[Any], tokens: list[int]) -> dict[str, float]:
            """The outcome has multiplied by tokens already, as OpenRLHF does before it adds up."""
            pairs = zip(reports, tokens, strict=True)
            means = [{name: value / max(n, 1) for name, value in report.items()} for report, n in pairs]
            return engine_rules.openrlhf(means, tokens)

        holds(
            lambda batch: self.outcome(trainer(False), batch, SimpleNamespace()),
            ours := lambda batch, alpha, kappa: self.outcome(trainer(True), batch, constants(alpha, kappa)),
            bypassed=lambda: skipped(deaf),
            logged=lambda batch, *constants: across(by_tokens, ours(batch, *constants), batch),
        )
        assert "did not call actor_loss_fn" in check_skipped_step(lambda: skipped(deaf))

    def test_imports_nothing_heavy_when_a_worker_starts(self, tmp_path: Path) -> None:
        """Ray calls `install` before a worker has a device; the trainer shapes once OpenRLHF has imported it."""
        folder = tmp_path / "openrlhf" / "trainer" / "ray"
        folder.mkdir(parents=True)
        (folder / "ppo_actor.py").write_text("class ActorPPOTrainer: ...\n")
        for package in (folder, folder.parent, folder.parents[1]):
            (package / "__init__.py").touch()  # before a real one that may be installed
        code = """
import sys
from forkwise.engines.hooks.openrlhf import install
install(); install()
print([name for name in ("torch", "openrlhf") if name in sys.modules])
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer
print([kind.__name__ for kind in ActorPPOTrainer.__mro__])
"""
        path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            check=True,
        )
        assert done.stdout.splitlines() == [
            "[]",
            "['EntropyShapedActorPPOTrainer', 'EntropyShapedStep', 'ActorPPOTrainer', 'object']",
        ]

    def test_refuses_arguments_without_entropies(self, trainer: Any) -> None:
        batch = Batch([[1.0]], [[1.0]], [[1.0]])
        with pytest.raises(InputError, match="add --actor.entropy_coef 0"):
            self.outcome(trainer(True), batch, constants(0.4), entropy_coef=None)


@dataclass
class GRPOBatch:
    """What ms-swift 4.6.0's `GRPOBatch` has that is needed here."""

    advantages: Any
    completion_mask: Any
    entropy: Any
    logps: Any
    read: list[Any] = field(default_factory=list)


class TestMsSwift:
    """`GRPOTrainer._compute_loss_and_metrics` and `_get_per_token_logps_and_entropies`, ms-swift 4.6.0."""

    @pytest.fixture
    def trainer(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        class GRPOTrainer:
            use_liger_loss = False

            def __init__(self, settings: Any) -> None:
                self.args, self.compute_entropy = settings, True
                self.model = SimpleNamespace(training=True)
                self._metrics = {"train": defaultdict(list)}
                self.accelerator = one_process()
                self._action_log = None  # the stock trainer has none

            def log(self, logs: Any) -> None:
                pass

            def compute_loss(self, model: Any, inputs: Any) -> Any:
                if inputs["grpo_batch"] is None:
                    return None
                return self._compute_loss_and_metrics(model, {}, inputs["grpo_batch"])[0]

            def _compute_loss_and_metrics(self, model: Any, model_inputs: Any, grpo_batch: Any) -> Any:
                logps, entropies = self._get_per_token_logps_and_entropies(
                    model, model_inputs, grpo_batch, compute_entropy=self.compute_entropy
                )
                assert entropies is not None
                grpo_batch.read.append(grpo_batch.advantages)
                return clipped(logps, grpo_batch.advantages, grpo_batch.completion_mask), {}

            def _get_per_token_logps_and_entropies(
                self, model: Any, model_inputs: Any, grpo_batch: Any, compute_entropy: bool = False
            ) -> Any:
                return grpo_batch.logps, grpo_batch.entropy

        class TrainerFactory:
            TRAINER_MAPPING = {"grpo": "swift.rlhf_trainers.GRPOTrainer", "dpo": "x"}  # noqa: RUF012

        modules(
            monkeypatch,
            swift__trainers__trainer_factory={"TrainerFactory": TrainerFactory},
            swift__rlhf_trainers={"GRPOTrainer": GRPOTrainer},
        )
        from forkwise.engines.hooks import ms_swift

        vars(ms_swift).pop("EntropyShapedGRPOTrainer", None)
        ms_swift.install()
        module, name = TrainerFactory.TRAINER_MAPPING["grpo"].rsplit(".", 1)
        ours = getattr(importlib.import_module(module), name)  # as ms-swift does
        yield lambda settings, shaping=True: (ours if shaping else GRPOTrainer)(settings)
        vars(ms_swift).pop("EntropyShapedGRPOTrainer", None)

    @staticmethod
    def outcome(trainer: Any, batch: Batch) -> Outcome:
        """The longest response begins a row's columns; before shorter ones stands a part of their prompt."""
        mask, entropy, given = behind_prompts(batch, "mask", "entropy", "advantages")
        responses = drawn()[: len(batch.mask)]
        logprobs = torch.cat([0 * mask[:, :-5], responses], dim=1).requires_grad_()
        grpo_batch = GRPOBatch(given, mask.bool(), entropy.requires_grad_(), logprobs)
        loss = trainer.compute_loss(None, {"grpo_batch": grpo_batch})
        loss.backward()
        assert grpo_batch.advantages is given
        assert entropy.grad is None
        totals = None if trainer._action_log is None else trainer._action_log.totals["shaping"]
        trainer.log({})
        if isinstance(trainer.accelerator, SimpleNamespace):  # alone
            check_logged({name: values[-1] for name, values in trainer._metrics["train"].items()}, batch, trainer.args)
        return Outcome(loss.detach(), logprobs.grad, totals)

    def test_holds_the_contract(self, trainer: Any) -> None:
        def logged(batch: Batch, alpha: float, kappa: float) -> dict[str, float]:
            one = trainer(constants(alpha, kappa))
            one.accelerator = of_two_processes()
            self.outcome(one, batch)
            return {name: values[-1] for name, values in one._metrics["train"].items()}

        holds(
            lambda batch: self.outcome(trainer(SimpleNamespace(), False), batch),
            lambda batch, alpha, kappa: self.outcome(trainer(constants(alpha, kappa)), batch),
            bypassed=lambda: trainer(constants(0.4)).compute_loss(None, {"grpo_batch": None}),
            logged=logged,
        )

    def test_refuses_every_other_trainer(self, trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of ms-swift's table, and Megatron's: imported before or after, and made by `__new__` as its Ray loss does."""
        from forkwise.engines.hooks import ms_swift

        mapping = sys.modules["swift.trainers.trainer_factory"].TrainerFactory.TRAINER_MAPPING
        ms_swift.install()  # once is enough
        assert mapping["grpo"] == "forkwise.engines.hooks.ms_swift.EntropyShapedGRPOTrainer"
        module, name = mapping["dpo"].rsplit(".", 1)
        with pytest.raises(InputError, match="not be entropy-shaped by ms-swift's trainer of 'dpo': .*rlhf_type grpo"):
            getattr(importlib.import_module(module), name)

        class BaseMegatronTrainer:
            def __init__(self, args: Any) -> None: ...

        class MegatronGRPOTrainer(BaseMegatronTrainer): ...

        BaseRayTrainer = type("BaseRayTrainer", (), {})
        MegatronGRPOTrainer(None)
        modules(
            monkeypatch,
            swift__megatron__trainers__base={"BaseMegatronTrainer": BaseMegatronTrainer},
            swift__ray__megatron__base_trainer={"BaseRayTrainer": BaseRayTrainer},
        )
        ms_swift.install()
        makers: list[Any] = [
            lambda: MegatronGRPOTrainer(None),
            lambda: MegatronGRPOTrainer.__new__(MegatronGRPOTrainer),
            BaseRayTrainer,
        ]
        for make in makers:
            with pytest.raises(InputError, match="without Megatron; train so, or leave the plugin out"):
                make()

    def test_counts_what_the_loss_counts_and_once(self, trainer: Any) -> None:
        """Without answers that were cut off, and without the chunk that keeps a process in step with others."""
        batch = made_batches()[0]
        one = trainer(constants(0.4))
        one.overlong_filter = True
        columns = [padded(rows) for rows in (batch.advantages, batch.mask, batch.entropy)]
        chunk = GRPOBatch(columns[0], columns[1].bool(), columns[2], drawn())
        chunk.truncated_mask = torch.tensor([False, True, False, False])
        alone = one._compute_loss_and_metrics

        def twice(*args: Any) -> Any:
            alone(*args)
            return alone(*args)

        one._compute_loss_and_metrics = twice
        one.compute_loss(None, {"grpo_batch": chunk})
        # At the 4 + 3 tokens left with A = 1 and 0.3: min(0.4 H, A / 2).
        totals = dict(zip(TOTALS, one._action_log.totals["shaping"].tolist(), strict=True))
        assert totals["tokens_pos"] == 7
        assert totals["tokens_neg"] == 0
        assert totals["psi_pos"] == pytest.approx(0.0 + 0.2 + 0.4 + 0.5 + 0.08 + 0.15 + 0.04)
        one.compute_loss(None, {"grpo_batch": chunk})  # the same rollout in its next update
        assert float(one._action_log.totals["shaping"][0]) == 14

    def test_evaluation_is_not_shaped(self, trainer: Any) -> None:
        batch = Batch(*[[[1.0, -1.0]]] * 2, [[1.0, 1.0]])
        evaluating, stock = trainer(constants(0.4)), trainer(SimpleNamespace(), False)
        evaluating.model.training = False
        losses = []
        for one in (evaluating, stock):
            grpo_batch = GRPOBatch(
                padded(batch.advantages), padded(batch.mask).bool(), padded(batch.entropy), drawn()[:1]
            )
            losses.append(one.compute_loss(None, {"grpo_batch": grpo_batch}))
        assert torch.equal(*losses)
        assert not evaluating._metrics["train"]

    def test_refuses_arguments_without_entropies(self, trainer: Any) -> None:
        for name, value, message in (
            ("compute_entropy", False, "add --log_entropy true"),
            ("use_liger_loss", True, "set --use_liger_kernel false"),
            ("loss_type", "real", "--loss_type real reads only the signs of advantages"),
        ):
            wrong = trainer(constants(0.4))
            setattr(wrong, name, value)
            with pytest.raises(InputError, match=message):
                wrong.compute_loss(None, {"grpo_batch": None})
