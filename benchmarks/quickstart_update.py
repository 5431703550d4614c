"""An update of the quickstart by who computes log-probs and entropies, TRL's head or our operator, side by side.

    python benchmarks/quickstart_update.py                 # the figure of docs/performance.md: some minutes
    python benchmarks/quickstart_update.py --rounds 3

Both trainers have the quickstart's recipe and the embedded model; one rollout of 256 completions, drawn once,
is cut into micro-batches of 64. An update is forward pass, loss and backward pass of two of them; with every
rollout come the old log-probs of all. The two take turns, and the first of them changes. CPU seconds, one
thread: medians, and the median of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402

from forkwise import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer  # noqa: E402
from forkwise.lab.quickstart import TASK  # noqa: E402
from forkwise.study.recipes import RECIPES  # noqa: E402
from forkwise.tasks import load_task  # noqa: E402
from forkwise.training.models import resolve_model  # noqa: E402

BACKENDS = ("trl", "forkwise")


def trainer_of(backend: str, folder: str) -> Any:
    recipe = {k: v for k, v in RECIPES["quickstart"].items() if k not in ("reward", "attn_implementation", "max_steps")}
    path, tokenizer = resolve_model("embedded")
    prompts = [{"prompt": problem.prompt} for problem in load_task(TASK).problems("train", 16)]
    args = EntropyShapedGRPOConfig(
        folder,
        alpha=0.4,
        entropy_backend=backend,
        max_steps=1,
        use_cpu=True,
        log_level="error",
        model_init_kwargs={"attn_implementation": RECIPES["quickstart"]["attn_implementation"], "dtype": "float32"},
        **recipe,
    )

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text) % 2) for text in completions]

    trainer = EntropyShapedGRPOTrainer(
        path, reward, args, train_dataset=Dataset.from_list(prompts), processing_class=tokenizer
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    return trainer


def rows(rollout: dict[str, Any], part: slice) -> dict[str, Any]:
    return {k: v[part] if isinstance(v, torch.Tensor) and v.dim() else v for k, v in rollout.items()}


def update(trainer: Any, rollout: dict[str, Any]) -> None:
    size = trainer.args.per_device_train_batch_size
    trainer.model.zero_grad()
    for index in range(trainer.args.gradient_accumulation_steps):
        trainer._compute_loss(trainer.model, rows(rollout, slice(index * size, (index + 1) * size))).backward()


@torch.no_grad()
def old_log_probs(trainer: Any, rollout: dict[str, Any]) -> None:
    ids, mask = (torch.cat([rollout[f"{p}_{what}"] for p in ("prompt", "completion")], 1) for what in ("ids", "mask"))
    size = trainer.args.per_device_train_batch_size
    tokens = rollout["completion_ids"].shape[1]
    trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, tokens, batch_size=size)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[Any, dict[str, Any]], None]] = {"update": update, "old log-probs": old_log_probs}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {backend: trainer_of(backend, folder) for backend in BACKENDS}
        torch.manual_seed(0)
        groups = RECIPES["quickstart"]["num_generations"]
        prompts = [row for row in trainers["trl"].train_dataset for _ in range(groups)]
        rollout = trainers["trl"]._generate_and_score_completions(prompts)
        seconds: dict[tuple[str, str], list[float]] = {(part, b): [] for part in parts for b in BACKENDS}
        for turn in range(rounds + 1):
            for backend in BACKENDS if turn % 2 else BACKENDS[::-1]:
                for part, run in parts.items():
                    start = time.process_time()
                    run(trainers[backend], rollout)
                    seconds[part, backend].append(time.process_time() - start)
    counted = int(rollout["completion_mask"].sum())
    print(
        f"trl {version('trl')}, torch {torch.__version__}, {len(prompts)} completions of {counted / len(prompts):.0f} "
        f"tokens, {rounds} rounds, load {os.getloadavg()[0]:.1f}\n"
    )
    print("| CPU s | TRL's head | ours | of TRL's |\n|---|---|---|---|")
    for part in parts:
        theirs, ours = (seconds[part, backend][1:] for backend in BACKENDS)  # the first pays for what comes once
        ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
        print(f"| {part} | {statistics.median(theirs):.2f} | {statistics.median(ours):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
