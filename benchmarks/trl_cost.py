"""What entropy shaping adds to a loss of TRL's trainer and its backward pass, on a CPU.

    python benchmarks/trl_cost.py

As in `verl_cost.py`: a two-layer Qwen2 with a vocabulary of 32768 words, 4 sequences of 256 tokens,
float32. Time is CPU seconds, the median of updates that take turns; memory is what autograd keeps for backward.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import tiny_trl as tiny  # noqa: E402
import torch  # noqa: E402
from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from forkwise import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer  # noqa: E402

WORDS, ROWS, PROMPT, RESPONSE = 32768, 4, 32, 224
UPDATES = 7
MIB = 2**20


def model() -> Qwen2ForCausalLM:
    """The same random weights each time."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=WORDS, num_hidden_layers=2, **shape))


def batch() -> dict[str, Any]:
    """Random words, as the loss gets them."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(25, WORDS, (ROWS, PROMPT + RESPONSE), generator=draw)
    ones = torch.ones_like(ids)
    return {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": ones[:, :PROMPT],
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": ones[:, PROMPT:],
        "advantages": torch.tensor([1.0, -1.0, 0.5, -0.5]),
        "old_per_token_logps": torch.full((ROWS, RESPONSE), -10.0),
        "num_items_in_batch": torch.tensor(ROWS * RESPONSE),
    }


def update(trainer: Any) -> None:
    """Forward and backward of one micro-batch."""
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, batch()).backward()


def kept(run: Callable[[], Any]) -> int:
    """Bytes of distinct storages that autograd saves."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


def main() -> None:
    """Prints a table."""
    warnings.simplefilter("ignore")
    options = {**tiny.QUIET, "gradient_checkpointing": False, "log_level": "error"}
    routes: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cases: tuple[tuple[str, Any, Any, dict[str, Any]], ...] = (
            ("TRL", GRPOTrainer, GRPOConfig, {}),
            ("shaped", EntropyShapedGRPOTrainer, EntropyShapedGRPOConfig, {"alpha": 0.4}),
        )
        for label, trainer_class, config_class, more in cases:
            args = config_class(folder, **options, **more)
            trainer = trainer_class(
                model(), tiny.reward, args, train_dataset=tiny.prompts(), processing_class=tiny.tokenizer()
            )
            trainer.model.train()
            trainer.current_gradient_accumulation_steps = 1
            routes[label] = partial(update, trainer)
        times: dict[str, list[float]] = {label: [] for label in routes}
        for _ in range(UPDATES + 2):
            for label, run in routes.items():
                start = time.process_time()
                run()
                times[label].append(time.process_time() - start)
        logits = ROWS * RESPONSE * WORDS * 4
        print(f"TRL {version('trl')}; logits of the responses would be {logits / MIB:.0f} MiB in float32")
        print("| update of the actor | CPU seconds | kept for backward |\n|---|---|---|")
        for label, run in routes.items():
            print(f"| {label} | {statistics.median(times[label][2:]):.2f} | {kept(run) / MIB:.0f} MiB |")


if __name__ == "__main__":
    main()
