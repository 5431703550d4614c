"""The same method makes the same advantages on verl as on TRL: both adapters, one rollout, float64."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed; 'make test' runs these in an environment that has it")

import one_batch
import tiny_verl as tiny
import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu

from forkwise.engines.verl import loss as loss_module
from forkwise.engines.verl.batch import ROWS, SEED, act_on_rollout
from forkwise.engines.verl.settings import VerlSettings
from forkwise.engines.verl.worker import SelectingTrainingWorker, WholeUpdates
from forkwise.methods import Method, Scope

KEYS = [f"p{i // one_batch.GROUP}_{i % one_batch.GROUP}_0" for i in range(one_batch.ROWS)]
# verl reorders a batch to balance its processes, and adds rows to it.
ORDER = [5, 0, 10, 3, 6, 8, 1, 7, 11, 2, 9, 4]


@pytest.fixture(scope="module")
def by_trl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What TRL's adapter makes, in an environment without what is laid over it here: verl wants an old TRL."""
    overlaid = Path(sys.modules["verl"].__file__ or "").parents[1]
    path = [entry for entry in sys.path if entry and Path(entry).resolve() != overlaid.resolve()]
    folder = tmp_path_factory.mktemp("trl") / "advantages.pt"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VERL_")}
    done = subprocess.run(
        [sys.executable, str(Path(one_batch.__file__)), str(folder)],
        env={**environment, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "needs trl>=" in done.stderr or "No module named 'trl'" in done.stderr:
        pytest.skip("there is no TRL beside verl's")
    assert done.returncode == 0, done.stderr[-3000:]
    made: dict[str, Tensor] = torch.load(folder)
    return made


@pytest.fixture(scope="module")
def group() -> Iterator[Any]:
    """A group of one process."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def jagged(values: Tensor, lengths: Tensor) -> Tensor:
    rows = [row[:n] for row, n in zip(values, lengths.tolist(), strict=True)]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def batch_of_verl() -> TensorDict:
    """The rollout in the queue after verl's advantage stage, in verl's order, with a row of padding at the end."""
    given = one_batch.rollout()
    lengths = torch.cat([given["lengths"][ORDER], torch.tensor([1])])

    def column(values: Tensor) -> Tensor:
        return jagged(torch.cat([values[ORDER], torch.zeros(1, 6, dtype=values.dtype)]), lengths)

    last = torch.arange(6) == given["lengths"][:, None] - 1
    mask = given["mask"].long()
    fields = {
        "advantages": column(given["advantages"][:, None] * mask),
        "response_mask": column(mask),
        "rm_scores": column(given["rewards"][:, None] * last),
        "old_log_probs": column(given["old_logprobs"]),
        "entropy": column(given["old_entropy"]),
        "prompts": jagged(
            torch.ones(len(ORDER) + 1, 1, dtype=torch.long), torch.ones(len(ORDER) + 1, dtype=torch.long)
        ),
        "responses": column(given["ids"]),
    }
    return TensorDict(fields, batch_size=len(ORDER) + 1)


def current() -> dict[str, Tensor]:
    given = one_batch.rollout()
    return {n: torch.cat([given[n][ORDER], torch.zeros(1, 6).double()]) for n in ("logprobs", "entropy")}


def in_rollout_order(advantages: Tensor) -> Tensor:
    padded = advantages.to_padded_tensor(0)[: len(ORDER)]
    return padded[torch.tensor(ORDER).argsort()]


def on_the_driver(settings: VerlSettings, data: TensorDict) -> Any:
    return act_on_rollout(
        settings, data, [*[KEYS[i] for i in ORDER], "pad_0_0"], [True] * len(ORDER) + [False], seed=one_batch.SEED
    )


def in_the_loss(method: Method, data: TensorDict, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The advantages that reach verl's own loss."""
    reached = {}

    def seen(config: Any, model_output: Any, data: Any, dp_group: Any) -> tuple[Tensor, dict[str, Any]]:
        reached["advantages"] = data["advantages"]
        return torch.tensor(0.0), {}

    monkeypatch.setattr(loss_module, "ppo_loss", seen)
    lengths = data["responses"].offsets().diff()
    whole = {n: torch.cat([x, torch.zeros(len(ORDER) + 1, 1).double()], dim=1) for n, x in current().items()}
    output = {"log_probs": jagged(whole["logprobs"], lengths + 1), "entropy": jagged(whole["entropy"], lengths + 1)}
    loss_module.shaped_ppo_loss(tiny.actor_config(), output, data, methods=[method])
    return reached["advantages"]


def before_the_update(method: Method, data: TensorDict, group: Any) -> Tensor:
    """The advantages that the worker puts into a mini-batch."""

    class Scored(SelectingTrainingWorker):
        def __init__(self) -> None:
            self.engine = SimpleNamespace(get_data_parallel_group=lambda: group)

        def _score(self, data: TensorDict) -> dict[str, Tensor]:
            return current()

    tu.assign_non_tensor(data, **{SEED: one_batch.SEED // 2**12})
    Scored()._make_advantages(WholeUpdates((method,), "current", loss_module.ppo_loss), data)
    return data["advantages"]


@pytest.mark.parametrize("method", one_batch.methods(), ids=str)
def test_advantages_are_those_of_trl(
    method: Method, by_trl: dict[str, Tensor], group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forkwise.engines.verl.worker.get_device_id", lambda: "cpu")
    data = batch_of_verl()
    before = in_rollout_order(data["advantages"])
    settings = VerlSettings((method,), policy="current")
    acted = on_the_driver(settings, data)
    for name, values in acted.fields.items():
        data[name] = values
    if one_batch.early(method):
        made = acted.advantages
    elif method.scope is Scope.UPDATE:
        assert ROWS in acted.fields
        made = before_the_update(method, data, group)
    else:
        made = in_the_loss(method, data, monkeypatch)
    mask = one_batch.rollout()["mask"]
    ours, theirs = in_rollout_order(made)[mask], by_trl[str(method)][mask]
    assert ours.dtype == theirs.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert not torch.equal(theirs, before[mask]), "this batch shows nothing: choose other options"
