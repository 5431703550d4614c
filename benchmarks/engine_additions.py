"""What each thing that methods may ask of TRL's trainer adds to a step of the embedded model, on a CPU.

    python benchmarks/engine_additions.py [siren ...]

Runs of the embedded model on Countdown take turns, one step each: a rollout of 32 completions (8 prompts) and an
update. Time is CPU seconds without the generation, which is measured by itself; ratios are medians over pairs of a step
with the method and one without. Methods that learn from completions again have steps that draw nothing: theirs are sums
over all steps, per rollout drawn, over the median of a step without the method. For methods that look at images the
embedded model, which sees none, takes the last token of a prompt for one. Memory is the largest that PyTorch's
CPU allocator held, of tensors, in the step.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.engines.trl import EntropyShapedGRPOConfig, EntropyShapedGRPOTrainer
from forkwise.methods import Need
from forkwise.tasks import load_task
from forkwise.training.rewards import load_reward, training_dataset

STEPS, WARM = 12, 2
MIB = 2**20
DOMAIN = "heal:column=problem_id,target={},shortest=4"
SPLIT = "policy_split:eta=0.1,mix=0.6,cap=2,prompt={text}"
METHODS = (
    *("siren", "shear", DOMAIN, "aepo_arbitrary:target=9", "meds:marker==", "pipo:window=2", "uec_rl"),
    *("vgpo", SPLIT, "minerva:column=prompt,shortest=0,every=1"),
)


class Timed(EntropyShapedGRPOTrainer):
    """Adds up the CPU seconds of its generations."""

    generating = 0.0

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return super()._generate_single_turn(*args, **kwargs)
        finally:
            self.generating += time.process_time() - start

    def _image_similarity(self, batch: dict[str, Any], methods: Any) -> torch.Tensor | None:
        if any(Need.IMAGE_SIMILARITY in method.needs() for method in methods):
            self.model.config.image_token_id = int(batch["prompt_ids"][0, -1])
            batch = {**batch, "pixel_values": torch.zeros(len(batch["prompt_ids"]), 1)}
        return super()._image_similarity(batch, methods)


def trainer(folder: str, method: str | None) -> Timed:
    """A trainer of the embedded model, always the same rollout of 32 completions of 8 prompts at each step."""
    task = load_task("countdown:4")
    problems = task.problems("train", 8)
    text = Path(f"{folder}-second-prompt")
    text.write_text("wait maybe")
    args = EntropyShapedGRPOConfig(
        folder,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        log_level="error",
        per_device_train_batch_size=32,
        num_generations=4,
        max_completion_length=48,
        max_steps=10**6,
        learning_rate=0.0,
        alpha=0.0,
        method=[] if method is None else [method.format(problems[0].id, text=text)],
    )
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32)
    made = Timed(
        model,
        [load_reward("signed", task)],
        args,
        train_dataset=training_dataset(problems),
        processing_class=AutoTokenizer.from_pretrained(EMBEDDED_MODEL),
    )
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    made.state.max_steps = 10**6
    return made


def step(of: Timed, rows: list[dict[str, Any]]) -> tuple[float, float]:
    """CPU seconds of a rollout and the loss and gradient of an update on it: without the generation, and of that."""
    torch.manual_seed(of.state.global_step)  # else all rollouts would be the same
    of.generating, start = 0.0, time.process_time()
    batch = of._generate_and_score_completions(rows)
    of._buffered_inputs = [batch]
    of.model.zero_grad()
    of._compute_loss(of.model, batch).backward()
    of.state.global_step += 1
    return time.process_time() - start - of.generating, of.generating


def peak(of: Timed, rows: list[dict[str, Any]]) -> float:
    """The most MiB of tensors at once in a step, beyond what there was before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step(of, rows)
    now = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / MIB


def main() -> None:
    """Prints a table."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    names = tuple(sys.argv[1:]) or METHODS
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: trainer(str(Path(folder)), name) for name in (None, *names)}
        rows = [row for row in trainers[None].train_dataset for _ in range(4)]
        times: dict[str | None, list[tuple[float, float]]] = {name: [] for name in trainers}
        for _ in range(STEPS + WARM):
            for name, of in trainers.items():
                times[name].append(step(of, rows))
        print("| method | CPU seconds of a step without generation | beside GRPO | generation | most memory |")
        print("|---|---|---|---|---|")
        for name, of in trainers.items():
            own, plain = times[name][WARM:], times[None][WARM:]
            label = name.partition(":")[0] if name else "GRPO"
            if drawn := sum(of._metrics["train"]["replay/rollouts"][WARM:]):
                sums = [sum(pair[i] for pair in own) / drawn for i in (0, 1)]
                ratios = [sums[i] / statistics.median(pair[i] for pair in plain) for i in (0, 1)]
                seconds, label = sums[0], f"{label}, per rollout"
            else:
                ratios = [statistics.median(a[i] / b[i] for a, b in zip(own, plain, strict=True)) for i in (0, 1)]
                seconds = statistics.median(without for without, _ in own)
            print(f"| {label} | {seconds:.3f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {peak(of, rows):.0f} MiB |")


if __name__ == "__main__":
    main()
