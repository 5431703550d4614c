"""AReaL's own loss, tracker and update, where it is installed: `pip install --no-deps --target FOLDER areal==1.0.4`.

Importing the package needs all that it serves models with. These files need torch only; what they import beside it
is stood in for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from engine_interfaces import holds, packed, padded

from forkwise.engines.hooks.areal import shaped
from forkwise.testing.engines import (
    Batch,
    Outcome,
    check_metrics,
    expected_advantages,
    made_batches,
)

try:
    FILES = importlib.metadata.files("areal") or []
except importlib.metadata.PackageNotFoundError:
    pytest.skip("areal is not installed", allow_module_level=True)


CLIP: dict[str, Any] = {"eps_clip": 0.2, "eps_clip_higher": None, "c_clip": None}


@pytest.fixture
def place() -> Path:
    """The folder of the installed package."""
    (init,) = [Path(str(file.locate())) for file in FILES if str(file) == "areal/__init__.py"]
    return init.parent


def modules(place: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[Any]:
    """Imports modules of the package that lies there; what they import and do not use here is stood in for."""
    packages = ("", ".utils", ".utils.functional", ".trainer", ".trainer.ppo")
    stand_ins: dict[str, dict[str, Any]] = {
        **{f"areal{name}": {"__path__": [str(place.joinpath(*name.split(".")))]} for name in packages},
        "areal.api": {"TrainEngine": object},
        "areal.api.cli_args": dict.fromkeys(("MicroBatchSpec", "PPOActorConfig", "RejectionSamplingConfig"), dict),
        "areal.experimental.training_service.controller.controller": {"GatewayTrainController": object},
        "areal.infra": {"TrainController": object},
        "areal.infra.platforms": {"current_platform": SimpleNamespace(is_initialized=lambda: False)},
        "areal.infra.rpc.serialization": {"serialize_value": None},
        "areal.utils.data": {
            **{"KLEstimator": object, "Normalization": object, "batched_call": None},
            "split_padded_tensor_dict_into_mb_list": lambda data, mb_spec: SimpleNamespace(mbs=[data]),
        },
        "areal.utils.logging": {"getLogger": logging.getLogger},
        "areal.utils.perf_tracer": {"trace_perf": lambda *_, **__: lambda function: function},
        "areal.utils.seqpack": {"flat2d": lambda rows: [value for row in rows for value in row]},
    }
    for name in [name for name in sys.modules if name.partition(".")[0] == "areal"]:
        monkeypatch.delitem(sys.modules, name)
    for name, contents in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    vars(sys.modules["areal.utils"])["logging"] = sys.modules["areal.utils.logging"]
    functional = importlib.import_module("areal.utils.functional.functional")
    vars(sys.modules["areal.utils.functional"]).update(vars(functional))
    return [importlib.import_module(name) for name in names]


@pytest.fixture
def areal(place: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Its modules with the tracker and with the loss."""
    tracker, functional = modules(place, monkeypatch, "areal.utils.stats_tracker", "areal.utils.functional.functional")
    return SimpleNamespace(tracker=tracker, loss=functional.ppo_actor_loss_fn)


def outcome(areal: SimpleNamespace, batch: Batch, alpha: float | None, kappa: float = 2.0) -> Outcome:
    """The loss of packed tokens; the tracker's sums are the totals."""

    def grpo_loss_fn(logprobs: Any, entropy: Any, input_data: dict[str, Any]) -> Any:
        old, mask = input_data["logprobs"], input_data["loss_mask"].bool()
        return areal.loss(
            logprobs=logprobs, old_logprobs=old, proximal_logprobs=old, advantages=input_data["advantages"],
            loss_mask=mask, **CLIP,
        )[0]  # fmt: skip

    advantages, entropy, mask = (column.float() for column in packed(batch))
    logprobs = torch.linspace(-1.5, -0.1, len(mask)).requires_grad_()
    data = {"loss_mask": mask, "logprobs": torch.full_like(mask, -0.8), "advantages": advantages}
    loss_fn = grpo_loss_fn if alpha is None else shaped(grpo_loss_fn, alpha=alpha, kappa=kappa)
    loss = loss_fn(logprobs, entropy, data)
    loss.backward()
    totals = None
    if alpha:
        stats, n = areal.tracker.DEFAULT_TRACKER.stats, areal.tracker.DEFAULT_TRACKER.denominators
        names = [f"shaping/{name}" for name in ("psi_pos", "psi_neg", "psi_over_adv", "capped_frac")]
        sums = [torch.where(stats[n[name]][-1], stats[name][-1], 0).sum() for name in names]
        totals = torch.stack([stats["shaping_pos"][-1].sum(), stats["shaping_neg"][-1].sum(), *sums])
    return Outcome(loss.detach(), logprobs.grad, totals)


def logged(areal: SimpleNamespace, batch: Batch, alpha: float, kappa: float) -> dict[str, float]:
    """What AReaL's own tracker exports of one update on two processes."""
    areal.tracker.DEFAULT_TRACKER.export()  # of what was before
    outcome(areal, batch, alpha, kappa)
    exported = areal.tracker.export(reduce_group=torch.distributed.group.WORLD)
    return {name.removesuffix("/avg"): value for name, value in exported.items() if name.endswith("/avg")}


def test_own_loss_holds_the_contract(areal: SimpleNamespace) -> None:
    holds(
        lambda batch: outcome(areal, batch, None),
        lambda batch, alpha, kappa: outcome(areal, batch, alpha, kappa),
        bypassed=lambda: shaped(lambda *_: None, alpha=0.4)(torch.zeros(2), None, {}),
        logged=lambda batch, alpha, kappa: logged(areal, batch, alpha, kappa),
    )


def test_own_tracker_logs_what_shaping_did_over_all_micro_batches(areal: SimpleNamespace) -> None:
    """A row is a micro-batch, so that most have one sign of A only, and one has none."""
    batch = made_batches()[0]
    for row in zip(*batch.columns, strict=True):
        outcome(areal, Batch(*([values] for values in row)), 0.4)
    exported = areal.tracker.export()
    averages = {name.removesuffix("/avg"): value for name, value in exported.items() if name.endswith("/avg")}
    check_metrics(averages, *batch.columns, alpha=0.4, kappa=2.0)


class Engine:
    """An engine of AReaL's whose forward pass is given; it keeps the losses of its batches."""

    def __init__(self, entropy: Any) -> None:
        self.entropy, self.losses = entropy, []

    def train(self) -> None:
        pass

    def get_version(self) -> int:
        return 1

    def train_batch(self, batch: dict[str, Any], loss_fn: Any, loss_weight_fn: Any) -> dict[str, float]:
        logprobs = torch.linspace(-1.5, -0.1, self.entropy.numel()).view(self.entropy.shape)
        self.losses.append(loss_fn(logprobs, self.entropy, batch))
        return {}


def test_the_pages_line_wraps_the_loss_that_its_trainer_uses(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of the package, by the command of the page; then one update of AReaL's own `PPOActor`."""
    copy = shutil.copytree(place, tmp_path / "areal", ignore=shutil.ignore_patterns("__pycache__"))
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    (line,) = [line for line in page.splitlines() if line.endswith(">> areal/trainer/ppo/actor.py")]

    def update(batch: Batch) -> tuple[Any, Any]:
        """The trainer's loss, and the module that it came from."""
        (actor,) = modules(copy, monkeypatch, "areal.trainer.ppo.actor")
        trainer = object.__new__(actor.PPOActor)
        names = ("rejection_sampling", "importance_sampling_level", "prox_logp_method", "use_sapo_loss")
        values = (None, "token", actor.PROX_LOGP_METHOD_RECOMPUTE, False)
        trainer.config = SimpleNamespace(
            **CLIP, **dict(zip(names, values, strict=True)), log_agent_stats=False, mask_no_eos_with_zero=False,
            ppo_n_minibatches=1, sapo_tau_pos=1.0, sapo_tau_neg=1.05, use_decoupled_loss=False,
        )  # fmt: skip
        trainer.m2_threshold = None
        mask = padded(batch.mask).float()
        rewards = padded(batch.advantages).float()
        trainer.engine = Engine(padded(batch.entropy).float())
        old = torch.full_like(mask, -0.8)
        every = {"kl_rewards": rewards, "tot_rewards": rewards, "logprobs": old, "prox_logp": old}
        data = {"attention_mask": torch.ones_like(mask), "loss_mask": mask, "rewards": rewards[:, 0], **every}
        trainer._ppo_update(data | {"advantages": rewards})
        (loss,) = trainer.engine.losses
        return loss, actor

    batch = made_batches()[0]
    fed = batch._replace(advantages=expected_advantages(*batch.columns, alpha=0.4, kappa=2.0))
    (alone, released), (want, _) = update(batch), update(fed)
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    loss, with_line = update(batch)
    assert Path(with_line.__file__).is_relative_to(tmp_path)
    assert with_line.grpo_loss_fn.__wrapped__.__code__.co_firstlineno == released.grpo_loss_fn.__code__.co_firstlineno
    torch.testing.assert_close(loss, want, rtol=1e-6, atol=1e-7)
    assert abs(float(loss - alone)) > 0.01
