"""verl's own worker and FSDP engine, in this process, train on advantages that are made before each mini-batch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed; 'make test' runs these in an environment that has it")

os.environ["VERL_USE_EXTERNAL_MODULES"] = "cpu_verl"
os.environ["VERL_ENGINE_DEVICE"] = "cuda"

import cpu_verl  # noqa: F401
import tiny_verl as tiny
import torch
from verl.utils import tensordict_utils as tu
from verl.workers.utils.losses import ppo_loss

from forkwise.engines.verl.batch import PROGRESS, ROWS, SEED, take_totals
from forkwise.engines.verl.worker import SelectingActorWorker, WholeUpdates
from forkwise.methods import TokenMethod
from forkwise.methods.forking_tokens import ForkingTokens

SHARE = 0.4


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("policy")
    tiny.save_policy(folder)
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29573"}
    before = {name: os.environ.get(name) for name in place}
    os.environ |= place
    config = tiny.on_cpu(folder, "actor_rollout_ref.actor.optim.lr=0")
    worker = SelectingActorWorker(config.actor_rollout_ref, role="actor", distillation_config=config.distillation)
    worker.init_model()
    yield worker
    torch.distributed.destroy_process_group()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


def trained(worker: Any, method: TokenMethod, policy: str, entropy: list[list[float]]) -> dict[str, Any]:
    """The metrics of an update with all four rows; the queue holds these entropies of the old policy."""
    worker.set_loss_fn(WholeUpdates((method,), policy, partial(ppo_loss, config=tiny.actor_config())))
    data = tiny.microbatch(entropy=tiny.jagged(entropy))
    data[ROWS] = torch.tensor([2, 0, 3, 1])
    tu.assign_non_tensor(
        data,
        **{SEED: 1, PROGRESS: 0.0},
        mini_batch_size=4,
        epochs=1,
        temperature=tiny.TEMPERATURE,
        calculate_entropy=False,
    )
    output = worker.actor.train_mini_batch(data)
    metrics: dict[str, Any] = tu.get(output, "metrics")
    return {name: value[0] if isinstance(value, list) else value for name, value in metrics.items()}


def kept(entropy: list[list[float]]) -> list[list[float]]:
    """The advantages at the tokens of highest entropy of all four rows, 0 at the others."""
    inside = sorted((h for hs, ms in zip(entropy, tiny.MASK, strict=True) for h, m in zip(hs, ms, strict=True) if m))
    lowest = inside[-math.ceil(SHARE * len(inside))]
    rows = zip(tiny.ADVANTAGES, entropy, tiny.MASK, strict=True)
    return [[a * m * (h >= lowest) for a, h, m in zip(*row, strict=True)] for row in rows]


@pytest.mark.parametrize("policy", ["old", "current"])
def test_the_gradient_is_that_of_the_tokens_selected_in_the_whole_update(actor: Any, policy: str) -> None:
    model = tiny.policy()
    now = tiny.exact_entropy(model)
    old = [[2.5 - h for h in row] for row in now]  # the order turned round: the wrong policy would select others
    want = kept(now if policy == "current" else old)
    assert kept(now) != kept(old)
    metrics = trained(actor, ForkingTokens(SHARE), policy, old)
    tokens = sum(map(sum, tiny.MASK))
    for row, mask, prompt, response in zip(want, tiny.MASK, tiny.PROMPTS, tiny.RESPONSES, strict=True):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / tiny.TEMPERATURE
        logp = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        ratio = (logp + 1).exp()  # old log-probs are -1 in `microbatch`
        a = torch.tensor(row)
        clipped = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2))
        dual = torch.where(a < 0, torch.minimum(-3 * a, clipped), clipped)
        ((dual * torch.tensor(mask)).sum() / tokens).backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    totals = take_totals(metrics, [ForkingTokens(SHARE)], "")
    assert totals is not None
    changed = sum(a != b for xs, ys in zip(want, tiny.ADVANTAGES, strict=True) for a, b in zip(xs, ys, strict=True))
    assert totals["method/forking_tokens"][:2].tolist() == [tokens, changed]


def test_a_worker_that_is_not_ours_refuses_them() -> None:
    with pytest.raises(RuntimeError, match="'forking_tokens' did not act: the actor's workers are not forkwise's"):
        WholeUpdates((ForkingTokens(),), "old", ppo_loss)(model_output=None, data=None)
