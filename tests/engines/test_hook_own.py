"""The contract on the own code of ROLL, NeMo-RL, prime-rl and OpenRLHF, where it is on PYTHONPATH.

Their packages need GPUs and much else to be imported. The files with their losses are loaded alone; what these import
is stood in for where they use it, and a mock where not. docs/engines.md has the commands.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

torch = pytest.importorskip("torch")

import engine_rules
import test_hook_losses
from engine_interfaces import (
    across,
    behind_prompts,
    check_logged,
    constants,
    drawn,
    each,
    holds,
    of_all_processes,
    padded,
    totals_of,
)

from forkwise.engines.hooks.nemo_rl import shaped
from forkwise.engines.hooks.openrlhf import install
from forkwise.engines.hooks.totals import TOTALS, ratios
from forkwise.testing.engines import Batch, Outcome

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()


class Mocks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds some modules of a checkout, and mocks in the place of all others of it and of packages that are missing."""

    def __init__(self, folder: Path, own: tuple[str, ...], contents: dict[str, dict[str, Any]], *missing: str) -> None:
        self.folder, self.own, self.contents = folder, own, contents
        self.tops = {name.partition(".")[0] for name in own} | set(missing)

    def find_spec(self, name: str, *_: Any) -> Any:
        if name in self.own:
            return importlib.util.spec_from_file_location(name, self.folder / (name.replace(".", "/") + ".py"))
        if name.partition(".")[0] not in self.tops:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        module = ModuleType(spec.name)
        vars(module)["__getattr__"] = lambda name: self._mock(spec.name, name)
        vars(module).update(self.contents.get(spec.name, {}))
        return module

    @staticmethod
    def _mock(module: str, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{module}.{name}") or MagicMock(name=f"{module}.{name}")

    def exec_module(self, module: ModuleType) -> None:
        pass


def checkout(package: str, file: str, *, source: str = "") -> Path:
    """The folder on the path, or one below it, in which a package's file lies."""
    for place in sys.path:
        folder = Path(place, source)
        if place and (folder / package / file).exists():
            return folder
    pytest.skip(f"no checkout of {package} is on PYTHONPATH")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of a checkout, and forgets all of it afterwards."""
    tops: set[str] = set()
    before: dict[str, ModuleType] = {}

    def load(module: str, *more: Any) -> Any:
        mocks = Mocks(*more)
        tops.update(mocks.tops)
        before.update(forget(tops))
        monkeypatch.setattr(sys, "meta_path", [mocks, *sys.meta_path])
        return importlib.import_module(module)

    yield load
    forget(tops)
    sys.modules.update(before)


def forget(tops: set[str]) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in tops]
    return {name: sys.modules.pop(name) for name in names}


class TestRoll:
    """`roll.pipeline.rlvr.actor_worker.ActorWorker.loss_func` and its `reduce_metrics`, alibaba/ROLL."""

    @pytest.fixture
    def worker(self, loaded: Any) -> Any:
        class BaseWorker:
            get_old_log_probs_with_cache = staticmethod(lambda data, log_probs: data.batch["old_log_probs"])

        loaded(
            "roll.pipeline.rlvr.actor_worker",
            checkout("roll", "pipeline/rlvr/actor_worker.py"),
            ("roll.pipeline.rlvr.actor_worker", "roll.utils.functionals"),
            {"roll.pipeline.base_worker": {"ActorWorker": BaseWorker}},
            "tensordict",
        )
        from forkwise.engines.hooks import roll

        vars(roll).pop("EntropyShapedActorWorker", None)
        own = sys.modules["roll.pipeline.rlvr.actor_worker"].ActorWorker
        yield lambda ours: (roll.EntropyShapedActorWorker if ours else own)()
        vars(roll).pop("EntropyShapedActorWorker", None)

    @staticmethod
    def outcome(worker: Any, batch: Batch, settings: Any) -> Outcome:
        response_mask, entropy, given = behind_prompts(batch, "mask", "entropy", "advantages")
        mask, entropy, given = response_mask[:, 1:], entropy[:, 1:], given[:, 1:]
        logprobs = torch.cat([0 * mask[:, :-5] - 0.8, drawn()[: len(mask)]], dim=1).requires_grad_()
        vars(settings).update(
            loss_agg_mode="seq-mean-token-sum", importance_sampling="token", pg_clip=0.2, rl_loss_coef=1.0,
            train_infer_correction=SimpleNamespace(is_weight=SimpleNamespace(enabled=False)),
            enable_old_logprobs_recompute=True, use_pg_clip_range=False, dual_clip_loss=False, use_kl_loss=False,
            entropy_loss_coef=0.0, difficulty_loss_weight=False, length_loss_weight=False,
        )  # fmt: skip
        worker.pipeline_config = settings
        worker.strategy = SimpleNamespace(
            op_compute_log_probs=lambda logits, input_ids, attention_mask: logits * attention_mask[:, 1:],
            op_compute_entropy=lambda logits, attention_mask: entropy * attention_mask[:, 1:],
        )
        old = torch.full_like(given, -0.8) * mask
        data = {
            **{"advantages": given, "response_mask": response_mask, "old_log_probs": old, "ref_log_probs": old},
            **{"input_ids": None, "train_infer_is_weight": None},
        }
        counts = {"batch_num_tokens": {"response_mask": mask.sum()}, "global_valid_samples": {"response_mask": 4}}
        given_data = SimpleNamespace(batch=data, meta_info=counts, non_tensor_batch={})
        loss, metrics = worker.loss_func(given_data, logprobs)
        loss.backward()
        assert data["advantages"] is given
        check_logged(metrics, batch, settings)
        return Outcome(loss.detach(), logprobs.grad, totals_of(metrics))

    def test_own_loss_holds_the_contract(self, worker: Any) -> None:
        def ours(batch: Batch, alpha: float, kappa: float) -> Outcome:
            return self.outcome(worker(True), batch, constants(alpha, kappa))

        def logged(batch: Batch, alpha: float, kappa: float) -> dict[str, float]:
            mine = dict(zip(TOTALS, ours(batch, alpha, kappa).totals.tolist(), strict=True))
            lists = {f"shaping/total/{name}": [rank[name] for rank in of_all_processes(mine)] for name in mine}
            return ratios(sys.modules["roll.utils.functionals"].reduce_metrics(lists))

        holds(
            lambda batch: self.outcome(worker(False), batch, SimpleNamespace()),
            ours,
            bypassed="held on a stand-in (test_hook_classes.py)",
            logged=logged,
        )


class TestOpenRLHF:
    """`ActorPPOTrainer.training_step` and all that it calls of its loss, OpenRLHF 0.11."""

    @pytest.fixture
    def trainer(self, loaded: Any) -> Any:
        files = (
            "trainer.ray.ppo_actor",
            "trainer.ppo_utils.experience",
            "models.loss",
            "models.utils",
            "utils.loss_utils",
        )
        loss = loaded(
            "openrlhf.models.loss",
            checkout("openrlhf", "trainer/ray/ppo_actor.py"),
            tuple(f"openrlhf.{file}" for file in files),
            {"openrlhf.trainer.ray.launcher": {"BaseModelActor": object}},
            *("deepspeed", "ray"),
        )
        names = {name: getattr(loss, name) for name in ("PolicyLoss", "aggregate_loss")}
        vars(sys.modules["openrlhf.models"]).update(names)
        module: Any = importlib.import_module("openrlhf.trainer.ray.ppo_actor")
        own = module.ActorPPOTrainer
        install()
        assert module.ActorPPOTrainer is not own
        assert issubclass(module.ActorPPOTrainer, own)
        return lambda ours: object.__new__(module.ActorPPOTrainer if ours else own)

    @staticmethod
    def outcome(trainer: Any, batch: Batch, settings: Any) -> tuple[Outcome, dict[str, Any]]:
        """The totals are OpenRLHF's reports, multiplied with tokens as it does before it adds up."""
        entropy, mask, given = *behind_prompts(batch, "entropy"), padded(batch.mask), padded(batch.advantages)
        logprobs = drawn()[: len(mask)].requires_grad_()
        entropy.requires_grad_()

        class Actor(torch.nn.Module):
            def forward(self, sequences: Any, action_mask: Any, **_: Any) -> Any:
                return logprobs, SimpleNamespace(entropy=entropy)

        loss_of = sys.modules["openrlhf.models.loss"].PolicyLoss
        trainer.args = settings
        vars(settings).update(
            actor=SimpleNamespace(entropy_coef=0.0),
            train=SimpleNamespace(dynamic_batch_enable=False),
            algo=SimpleNamespace(kl=SimpleNamespace(use_loss=False)),
        )
        trainer.strategy = SimpleNamespace(
            ring_attn_group=None,
            backward=lambda loss, *_: loss.backward(),
            optimizer_step=lambda *_, **__: None,
            get_grad_norm=lambda _: 0.0,
        )
        trainer.actor, trainer.actor_loss_fn, trainer.aux_loss, trainer.ema_model = Actor(), loss_of(), False, None
        trainer.actor_optim, trainer.actor_scheduler = None, SimpleNamespace(get_last_lr=lambda: [0.0])
        experience = sys.modules["openrlhf.trainer.ppo_utils.experience"].Experience(
            sequences=torch.zeros(len(mask), 1, dtype=torch.long),
            attention_mask=None,
            action_mask=mask,
            action_log_probs=torch.full_like(given, -0.8),
            advantages=given.clone(),
            info={},
        )
        counts = {"dp_size": 1, "batch_num_tokens": float(mask.sum()), "global_batch_size": None}
        status = trainer.training_step(experience, 0.0, 0, counts)
        assert torch.equal(experience.advantages, given)
        assert entropy.grad is None
        check_logged(status["metrics"], batch, settings)
        totals = totals_of(status["metrics"])
        tokens = status["num_action_tokens"]
        return Outcome(
            status["metrics"]["policy_loss"], logprobs.grad, None if totals is None else totals * tokens
        ), status

    def test_own_step_holds_the_contract(self, trainer: Any) -> None:
        def ours(batch: Batch, alpha: float, kappa: float) -> tuple[Outcome, dict[str, Any]]:
            return self.outcome(trainer(True), batch, constants(alpha, kappa))

        def logged(batch: Batch, alpha: float, kappa: float) -> dict[str, float]:
            status = ours(batch, alpha, kappa)[1]
            named = {name: x.item() for name, x in status["metrics"].items() if name.startswith("shaping/total/")}
            assert all(status["weights"][name] == "token" for name in named)
            ranks = of_all_processes((named, status["num_action_tokens"]))
            return ratios(engine_rules.openrlhf([report for report, _ in ranks], [n for _, n in ranks]))

        holds(
            lambda batch: self.outcome(trainer(False), batch, SimpleNamespace())[0],
            lambda *args, **constants: ours(*args, **constants)[0],
            bypassed="held on a stand-in (test_hook_classes.py)",
            logged=logged,
        )


class TestNeMo:
    """`ClippedPGLossFn` and the log-probs that go into it, NVIDIA-NeMo/RL."""

    @pytest.fixture
    def loss_fn(self, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)  # NeMo-RL sends token ids there
        at = "nemo_rl.algorithms.loss"
        losses = loaded(
            f"{at}.loss_functions",
            checkout("nemo_rl", "algorithms/loss/loss_functions.py"),
            (
                *(f"{at}.loss_functions", f"{at}.interfaces", "nemo_rl.algorithms.utils"),
                *("nemo_rl.algorithms.logits_sampling_utils", "nemo_rl.distributed.model_utils"),
            ),
            {"nemo_rl.models.dtensor.parallelize": {"to_local_if_dtensor": lambda tensor: tensor}},
        )
        return losses.ClippedPGLossFn(losses.ClippedPGLossConfig(reference_policy_kl_penalty=0.0))

    @staticmethod
    def outcome(batch: Batch, loss_fn: Any) -> Outcome:
        return test_hook_losses.TestNeMo.outcome(batch, loss_fn, old=-0.8)

    def test_own_loss_holds_the_contract(self, loss_fn: Any) -> None:
        generation = test_hook_losses.DRAWN

        def ours(batch: Batch, alpha: float, kappa: float) -> Outcome:
            return self.outcome(batch, shaped(loss_fn, alpha=alpha, kappa=kappa, **generation))

        holds(
            lambda batch: self.outcome(batch, loss_fn),
            ours,
            bypassed=lambda: shaped(loss_fn, alpha=0.4, **generation)(data={}, logits=None),
            logged=lambda batch, *constants: across(engine_rules.nemo_rl, ours(batch, *constants), batch),
            tolerance=1e-5,  # entropies and log-probs of float32 logits
        )


class TestPrimeRL:
    """`compute_loss` with the page's lines, its default and its custom loss, PrimeIntellect-ai/prime-rl."""

    @pytest.fixture
    def loss(self, loaded: Any, tmp_path: Path) -> Any:
        source = checkout("prime_rl", "trainer/rl/loss.py", source="src")
        for file in ("loss.py", "train.py"):
            place = tmp_path / "src" / "prime_rl" / "trainer" / "rl" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / "prime_rl" / "trainer" / "rl" / file, place)
        (lines,) = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)
        subprocess.run(["patch", "-p1"], input=lines, text=True, cwd=tmp_path, check=True)

        config = test_hook_losses.DefaultLossConfig
        settings = {
            "DefaultLossConfig": config,
            "CustomLossConfig": SimpleNamespace,
            "IPOLossConfig": type("IPO", (), {}),
        }

        def import_object(path: str) -> Any:
            module, _, name = path.rpartition(".")
            return getattr(importlib.import_module(module), name)

        contents = {
            "prime_rl.configs.trainer": {**settings, "LossConfig": Any},
            "prime_rl.utils.utils": {"import_object": import_object},
            "beartype": {"beartype": lambda function: function},
            "jaxtyping": {
                "jaxtyped": lambda **_: lambda function: function,
                **dict.fromkeys(
                    ("Bool", "Float", "Int"),
                    type("Shaped", (), {"__class_getitem__": classmethod(lambda _, key: key[0])}),
                ),
            },
        }
        missing = ("beartype", "jaxtyping")
        return loaded("prime_rl.trainer.rl.loss", tmp_path / "src", ("prime_rl.trainer.rl.loss",), contents, *missing)

    @staticmethod
    def outcome(loss: Any, batch: Batch, config: Any) -> tuple[Outcome, dict[str, Any]]:
        logprobs = drawn()[: len(batch.mask)].requires_grad_()
        sequences = [
            (
                torch.cat([torch.full((len(prompt),), -0.8).double(), logprobs[row, : len(m) - len(prompt)]]),
                *(torch.tensor(values, dtype=torch.float64) for values in (a, h)),
                torch.tensor(m).bool(),
            )
            for row, (a, h, m, prompt) in enumerate(each(batch))
        ]
        new, advantages, entropy, mask = map(list, zip(*sequences, strict=True))
        total, metrics = loss.compute_loss(
            new, [torch.full_like(row, -0.8).detach() for row in new], None, advantages, mask, None, None, None,
            rl_loss_fn=loss.setup_rl_loss_fn(config), rl_scale=7, ce_scale=1, ref_kl_scale=1, entropy=entropy,
        )  # fmt: skip
        total.backward()
        numbers = {name: metrics[f"shaping/{name}"] for name in ("psi_pos", "psi_neg", "psi_over_adv", "capped_frac")
                   if f"shaping/{name}" in metrics}  # fmt: skip
        sums = [len(numbers["psi_pos"]), len(numbers["psi_neg"])] if numbers else [0, 0, 0, 0, 0, 0]
        totals = torch.tensor([*sums, *(float(x.sum()) for x in numbers.values())], dtype=torch.float64)
        return Outcome(total.detach(), logprobs.grad, totals), metrics

    def test_own_loss_holds_the_contract(self, loss: Any) -> None:
        def ours(batch: Batch, alpha: float, kappa: float) -> tuple[Outcome, dict[str, Any]]:
            kwargs = {"alpha": alpha, "kappa": kappa, "adv_tau": 0.5}
            path = "forkwise.engines.hooks.prime_rl.shaped_loss"
            return self.outcome(loss, batch, SimpleNamespace(import_path=path, kwargs=kwargs))

        def logged(batch: Batch, alpha: float, kappa: float) -> dict[str, float]:
            """A mean over the numbers of all micro-batches and ranks, as its `Tensors.compute_stats` takes it."""
            mine = {name: x.tolist() for name, x in ours(batch, alpha, kappa)[1].items() if "shaping/" in name}
            ranks = of_all_processes(mine)
            everything = {name: [x for rank in ranks for x in rank[name]] for name in mine}
            return {name: sum(numbers) / len(numbers) for name, numbers in everything.items()}

        default = test_hook_losses.DefaultLossConfig(adv_tau=0.5)
        bare = loss.LossInputs(*[torch.zeros(2)] * 4, torch.ones(2, dtype=torch.bool))
        custom = loss.setup_rl_loss_fn(
            SimpleNamespace(import_path="forkwise.engines.hooks.prime_rl.shaped_loss", kwargs={"alpha": 0.4})
        )
        holds(
            lambda batch: self.outcome(loss, batch, default)[0],
            lambda *args, **constants: ours(*args, **constants)[0],
            bypassed=lambda: custom(bare),
            logged=logged,
        )
