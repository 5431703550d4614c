"""AReaL's own clipped loss and tracker, where it is installed: `pip install --no-deps --target FOLDER areal==1.0.4`.

Importing the package needs all that it serves models with. These two files need torch only; what they import beside it
is stood in for, and none of it is used here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from forkwise.engines.hooks.areal import shaped
from forkwise.testing.engines import Batch, Outcome, check_adapter, check_metrics, made_batches

try:
    FILES = importlib.metadata.files("areal") or []
except importlib.metadata.PackageNotFoundError:
    pytest.skip("areal is not installed", allow_module_level=True)


@pytest.fixture
def areal(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Its modules with the tracker and with the loss."""
    (init,) = [Path(str(file.locate())) for file in FILES if str(file) == "areal/__init__.py"]
    stand_ins: dict[str, dict[str, Any]] = {
        "areal": {"__path__": [str(init.parent)]},
        "areal.utils": {"__path__": [str(init.parent / "utils")]},
        "areal.utils.functional": {"__path__": [str(init.parent / "utils" / "functional")]},
        "areal.infra": {},
        "areal.infra.platforms": {"current_platform": SimpleNamespace(is_initialized=lambda: False)},
        "areal.api": {},
        "areal.api.cli_args": {"RejectionSamplingConfig": object},
        "areal.utils.data": {"KLEstimator": object},
        "areal.utils.logging": {"getLogger": logging.getLogger},
        "areal.utils.seqpack": {"flat2d": lambda rows: [value for row in rows for value in row]},
    }
    for name, contents in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    names = ("areal.utils.stats_tracker", "areal.utils.functional.functional")
    tracker, functional = (importlib.import_module(name) for name in names)
    yield SimpleNamespace(tracker=tracker, loss=functional.ppo_actor_loss_fn)
    for name in names:
        sys.modules.pop(name)


def outcome(areal: SimpleNamespace, batch: Batch, alpha: float | None, kappa: float = 2.0) -> Outcome:
    """The loss of packed tokens; the tracker's sums are the totals."""

    def grpo_loss_fn(logprobs: Any, entropy: Any, input_data: dict[str, Any]) -> Any:
        old, mask = input_data["logprobs"], input_data["loss_mask"].bool()
        return areal.loss(
            logprobs=logprobs, old_logprobs=old, proximal_logprobs=old, advantages=input_data["advantages"],
            eps_clip=0.2, eps_clip_higher=None, loss_mask=mask, c_clip=None,
        )[0]  # fmt: skip

    flat = {name: [x for row in getattr(batch, name) for x in row] for name in Batch._fields}
    logprobs = torch.linspace(-1.5, -0.1, len(flat["mask"])).requires_grad_()
    data = {
        "loss_mask": torch.tensor(flat["mask"]),
        "logprobs": torch.full((len(flat["mask"]),), -0.8),
        "advantages": torch.tensor(flat["advantages"]),
    }
    loss_fn = grpo_loss_fn if alpha is None else shaped(grpo_loss_fn, alpha=alpha, kappa=kappa)
    loss = loss_fn(logprobs, torch.tensor(flat["entropy"]), data)
    loss.backward()
    totals = None
    if alpha:
        stats, n = areal.tracker.DEFAULT_TRACKER.stats, areal.tracker.DEFAULT_TRACKER.denominators
        sums = [torch.where(stats[n[name]][-1], stats[name][-1], 0).sum() for name in n]
        totals = torch.stack([stats["shaping_pos"][-1].sum(), stats["shaping_neg"][-1].sum(), *sums])
    return Outcome(loss.detach(), logprobs.grad, totals)


def test_own_loss_holds_the_contract(areal: SimpleNamespace) -> None:
    check_adapter(
        lambda batch: outcome(areal, batch, None),
        lambda batch, alpha, kappa: outcome(areal, batch, alpha, kappa),
        lambda: shaped(lambda *_: None, alpha=0.4)(torch.zeros(2), None, {}),
    )


def test_own_tracker_logs_what_shaping_did_over_all_micro_batches(areal: SimpleNamespace) -> None:
    """A row is a micro-batch, so that most have one sign of A only, and one has none."""
    batch = made_batches()[0]
    for row in zip(*batch, strict=True):
        outcome(areal, Batch(*([values] for values in row)), 0.4)
    logged = areal.tracker.export()
    averages = {name.removesuffix("/avg"): value for name, value in logged.items() if name.endswith("/avg")}
    check_metrics(averages, *batch, alpha=0.4, kappa=2.0)
