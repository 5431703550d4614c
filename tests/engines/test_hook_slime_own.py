"""The contract on slime's and vime's own loss, where a checkout of theirs is on PYTHONPATH: neither is on PyPI.

    git clone https://github.com/THUDM/slime FOLDER
    PYTHONPATH=FOLDER python -m pytest tests/engines/test_hook_slime_own.py

Their packages need Megatron and GPUs to be imported. Their losses need torch, and of Megatron the sizes of its groups,
which are stood in for: one process.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from engine_interfaces import check_logged, constants, each, holds
from test_hook_slime import ONLY_THE_ENGINE, counted, logits_of, small

from forkwise.engines.hooks.totals import ratios
from forkwise.testing.engines import Batch, Outcome, made_batches

SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("use_rollout_logprobs", "use_opsm", "get_mismatch_metrics", "use_tis", "use_kl_loss"), False),
    **dict.fromkeys(("allgather_cp", "recompute_loss_function"), False),
    **{"eps_clip": 0.2, "eps_clip_high": 0.2, "eps_clip_c": None, "entropy_coef": 0.0, "advantage_estimator": "grpo"},
    **{"rollout_temperature": 1.0, "rollout_top_p": 1.0, "log_probs_chunk_size": -1, "qkv_format": "thd"},
    "calculate_per_token_loss": True,
    "custom_loss_function_path": "forkwise.engines.hooks.slime.shaped_policy_loss",
}


def folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    return next((place for place in places if (place / "backends" / "megatron_utils" / "loss.py").exists()), None)


@pytest.fixture(params=["slime", "vime"])
def loss_module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    package = request.param
    place = folder(package)
    if place is None:
        pytest.skip(f"no checkout of {package} is on PYTHONPATH")
    of_one: dict[str, Any] = {
        "get_context_parallel_world_size": lambda: 1,
        "get_data_parallel_world_size": lambda **_: 1,
        "get_tensor_model_parallel_group": lambda: None,
    }
    paths = ("", "backends", "backends/megatron_utils", "observability", "utils")
    stand_ins: dict[str, dict[str, Any]] = {
        **{".".join(filter(None, (package, *p.split("/")))): {"__path__": [str(place / p)]} for p in paths},
        f"{package}.utils.http_utils": {"is_port_available": None},
        f"{package}.observability.logging_utils": {},
        "megatron": {"__path__": []},
        "megatron.core": {"mpu": SimpleNamespace(**of_one)},
    }
    monkeypatch.setattr("torch._dynamo.config.disable", True)  # a compiled clip would be compiled for each batch
    for name in [name for name in sys.modules if name.partition(".")[0] in (package, "megatron")]:
        monkeypatch.delitem(sys.modules, name)
    for name, contents in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module(f"{package}.backends.megatron_utils.loss")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def outcome(loss_module: Any, batch: Batch, **settings: Any) -> Outcome:
    """Of responses behind prompts; the words of each are the first of two."""
    loss, logits, logged = losses(loss_module, batch, **settings)
    values = dict(zip(logged["keys"], logged["values"][1:].tolist(), strict=True))
    if batch == small(made_batches()[0]):  # in the other a token is exactly at the cap, on either side in float32
        check_logged(values, batch, SimpleNamespace(**settings))
    sums = [value for name, value in values.items() if name.startswith("shaping/total/")]
    return Outcome(loss.detach(), logits.grad[0][counted(batch)], torch.tensor(sums) if sums else None)


def losses(loss_module: Any, batch: Batch, **settings: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The loss of a micro-batch, its logits with their gradient, and what slime keeps of it for its log."""
    logits = logits_of(batch).float().requires_grad_()
    lengths = [len(row) for row in batch.mask]
    total = [len(mask) for _, _, mask, _ in each(batch)]
    masks = [torch.tensor(row) for row in batch.mask]
    data = {
        "unconcat_tokens": [torch.zeros(n, dtype=torch.long) for n in total],
        "total_lengths": total,
        "response_lengths": lengths,
        "loss_masks": masks,
        "rollout_mask_sums": torch.stack([mask.sum() for mask in masks]),
        "advantages": [torch.tensor(row) for row in batch.advantages],
        "log_probs": [torch.full((n,), -0.3) for n in lengths],
    }
    loss, _, logged = loss_module.loss_function(SimpleNamespace(**SETTINGS, **settings), data, 1, 4, logits)
    loss.backward()
    return loss, logits, logged


def test_own_loss_holds_the_contract(loss_module: Any) -> None:
    """Asked for by the engine's own dispatch, which loads the function by its path; added up by its own rule."""
    package = loss_module.__name__.partition(".")[0]

    def logged(batch: Batch, alpha: float, kappa: float) -> Any:
        alone = [torch.distributed.new_group([rank]) for rank in (0, 1)]  # whole vocabularies in both
        mpu = sys.modules["megatron.core"].mpu
        mpu.get_tensor_model_parallel_group = lambda: alone[torch.distributed.get_rank()]
        settings = vars(constants(5 * alpha, kappa))
        *_, kept = losses(loss_module, small(batch), loss_type="custom_loss", **settings)
        rule = importlib.import_module(f"{package}.observability.train_metric_utils").reduce_train_step_metrics
        options = {"calculate_per_token_loss": True, "step_global_batch_size": 4, "cp_size": 1}
        return ratios(rule([kept], dp_with_cp_group=None, **options))

    holds(
        engine=lambda batch: outcome(loss_module, small(batch), loss_type="policy_loss"),
        adapter=lambda batch, alpha, kappa: outcome(
            loss_module, small(batch), loss_type="custom_loss", **vars(constants(5 * alpha, kappa))
        ),
        bypassed=ONLY_THE_ENGINE,
        logged=logged,
        tolerance=1e-5,
    )
