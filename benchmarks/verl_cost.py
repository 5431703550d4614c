"""What entropy shaping adds to an update of verl's actor, and to its advantage stage, on a CPU.

    PYTHONPATH=.venv/verl .venv/bin/python benchmarks/verl_cost.py

verl's own worker and FSDP engine train a two-layer Qwen2 with a vocabulary of 32768 words on 4 sequences of 256 tokens.
Time is CPU seconds, the median of updates that take turns; memory is what autograd keeps for backward.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests" / name) for name in ("helpers", "engines")]
os.environ |= {"VERL_USE_EXTERNAL_MODULES": "cpu_verl", "VERL_ENGINE_DEVICE": "cuda", "RANK": "0", "WORLD_SIZE": "1"}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571"}

import tiny_verl as tiny  # noqa: E402
import torch  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: E402
from verl.utils import tensordict_utils as tu  # noqa: E402
from verl.workers.engine_workers import ActorRolloutRefWorker  # noqa: E402
from verl.workers.utils.losses import ppo_loss  # noqa: E402

from forkwise.engines.verl.batch import act_on_rollout  # noqa: E402
from forkwise.engines.verl.loss import shaped_ppo_loss  # noqa: E402
from forkwise.engines.verl.settings import VerlSettings  # noqa: E402
from forkwise.methods.entropy_advantage import EntropyAdvantage  # noqa: E402

WORDS, ROWS, PROMPT, RESPONSE = 32768, 4, 32, 224
UPDATES = 5
MIB = 2**20


def worker(folder: Path) -> Any:
    """verl's actor worker in this process."""
    tiny.save_policy(folder)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=WORDS, num_hidden_layers=2, **shape)).save_pretrained(folder)
    config = tiny.on_cpu(folder, f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={ROWS}")
    actor = ActorRolloutRefWorker(config.actor_rollout_ref, role="actor", distillation_config=config.distillation)
    actor.init_model()
    return actor.actor


def batch(*, entropy: bool) -> TensorDict:
    """Sequences of random words."""
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(25, WORDS, (PROMPT + RESPONSE,), generator=draw) for _ in range(ROWS)]

    def jagged(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    ones = jagged([torch.ones(RESPONSE, dtype=torch.long)] * ROWS)
    data = TensorDict(
        {
            "prompts": jagged([row[:PROMPT] for row in ids]),
            "responses": jagged([row[PROMPT:] for row in ids]),
            "input_ids": jagged(ids),
            "position_ids": jagged([torch.arange(PROMPT + RESPONSE)] * ROWS),
            "response_mask": ones,
            "loss_mask": ones,
            "old_log_probs": jagged([torch.full((RESPONSE,), -10.0)] * ROWS),
            "advantages": jagged([torch.full((RESPONSE,), a) for a in (1.0, -1.0, 0.5, -0.5)]),
        },
        batch_size=ROWS,
    )
    tu.assign_non_tensor(
        data,
        temperature=1.0,
        calculate_entropy=entropy,
        global_batch_size=ROWS,
        use_remove_padding=False,
        use_dynamic_bsz=False,
        use_fused_kernels=False,
        micro_batch_size_per_gpu=ROWS,
    )
    return data


def kept(run: Callable[[], Any]) -> int:
    """Bytes of distinct storages that autograd saves."""
    storages: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = (tensor.values() if tensor.is_nested else tensor).untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


def main() -> None:
    """Prints a table of updates, and the cost of the advantage stage."""
    with tempfile.TemporaryDirectory() as name:
        actor = worker(Path(name))
    config = tiny.actor_config()
    shaped = partial(shaped_ppo_loss, config=config, methods=(EntropyAdvantage(),))
    routes: dict[str, Callable[[], Any]] = {}
    for label, loss, with_entropy in (
        ("verl, or entropy=old", partial(ppo_loss, config=config), False),
        ("verl with calculate_entropy", partial(ppo_loss, config=config), True),
        ("entropy=current", shaped, True),
    ):
        routes[label] = partial(update, actor.engine, loss, entropy=with_entropy)
    times: dict[str, list[float]] = {label: [] for label in routes}
    for _ in range(UPDATES + 2):
        for label, run in routes.items():
            start = time.process_time()
            run()
            times[label].append(time.process_time() - start)
    logits = ROWS * (PROMPT + RESPONSE) * WORDS * 4
    print(f"logits: {logits / MIB:.0f} MiB in float32")
    print("| update | CPU seconds | kept for backward |\n|---|---|---|")
    for label, run in routes.items():
        print(f"| {label} | {statistics.median(times[label][2:]):.2f} | {kept(run) / MIB:.0f} MiB |")

    rows = [
        torch.rand(n) for n in torch.randint(200, 2000, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    ]
    entropy = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    mask = torch.nested.as_nested_tensor([torch.ones(len(row), dtype=torch.long) for row in rows], layout=torch.jagged)
    data = {"advantages": entropy - 0.5, "entropy": entropy, "response_mask": mask}
    keys = [f"{i // 8}_{i % 8}_0" for i in range(len(rows))]
    stage = []
    for _ in range(5):
        start = time.process_time()
        act_on_rollout(VerlSettings((EntropyAdvantage(),)), data, keys, [True] * len(rows), seed=0)
        stage.append(time.process_time() - start)
    millions = sum(map(len, rows)) / 1e6
    print(
        f"advantage stage, without the queue: {statistics.median(stage) / millions:.2f} CPU seconds per million tokens"
    )


def update(engine: Any, loss: Callable[..., Any], *, entropy: bool) -> None:
    """Forward and backward of one micro-batch."""
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(batch(entropy=entropy), loss)


if __name__ == "__main__":
    main()
