"""The embedded base models: how they are trained from scratch, and how they are measured.

    python benchmarks/base_model.py --out DIR [--language countdown|story|catalog] [--seed 0]
                                    [--config mini|small|large] [--steps N] [--device auto]

trains a Llama language model on traces (`base_traces.py`, `base_stories.py`, `base_catalogs.py`) that are made on the
fly from train problems only, and writes an ordinary Hugging Face checkpoint. `small` is what the package ships in
`forkwise/lab/base`; `large` wants a GPU, and `mini` does for catalogs.

    python benchmarks/base_model.py --evaluate DIR [--language countdown|story|catalog] [--problems 100] [--samples 256]

measures a checkpoint on the hardest test problems: four numbers, four events.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import torch
from base_languages import LANGUAGES
from base_measuring import evaluate
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forkwise.errors import InputError
from forkwise.folders import write_json
from forkwise.passk import bootstrap_interval, k_grid, pass_at_k
from forkwise.passk.estimator import shown_ks
from forkwise.report import formats
from forkwise.terminal import echo

_IGNORED = -100  # label of a token that has no loss


@dataclass(frozen=True)
class TrainingConfig:
    """Size of the model and of its training. A batch holds `batch_size` traces with their prompts."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    steps: int
    batch_size: int
    learning_rate: float


CONFIGS = {
    "mini": TrainingConfig(64, 3, 4, 176, steps=2000, batch_size=32, learning_rate=3e-3),
    "small": TrainingConfig(128, 4, 4, 344, steps=4800, batch_size=32, learning_rate=2e-3),
    "large": TrainingConfig(512, 8, 8, 1536, steps=20_000, batch_size=256, learning_rate=6e-4),
}


def build_model(config: TrainingConfig, tokenizer: PreTrainedTokenizerFast, max_new_tokens: int) -> LlamaForCausalLM:
    """Builds a randomly initialised Llama with tied embeddings; torch's global seed decides the weights.

    Not a Qwen2: transformers 5 loads every tokenizer beside a Qwen2 as byte-level BPE, whatever its files say.
    """
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def training_batches(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerFast, examples: Iterator[tuple[str, str]], rng: Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields endless `(input ids, labels)`, (batch, length) each, padded on the right, without loss on the prompt.

    Batches hold traces of similar length, so little is spent on padding.
    """
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    while True:
        some = list(islice(examples, 16 * config.batch_size))
        prompts, completions = (tokenizer(list(texts))["input_ids"] for texts in zip(*some, strict=True))
        rows = [(prompt, [*completion, eos]) for prompt, completion in zip(prompts, completions, strict=True)]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        batches = [rows[i : i + config.batch_size] for i in range(0, len(rows), config.batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            length = max(len(prompt) + len(completion) for prompt, completion in batch)
            ids = torch.full((len(batch), length), pad)
            labels = torch.full((len(batch), length), _IGNORED)
            for i, (prompt, completion) in enumerate(batch):
                end = len(prompt) + len(completion)
                ids[i, :end] = torch.tensor(prompt + completion)
                labels[i, len(prompt) : end] = torch.tensor(completion)
            yield ids, labels


def train_base(
    folder: str | Path,
    *,
    language: str = "countdown",
    config: str = "small",
    seed: int = 0,
    steps: int | None = None,
    device: str = "auto",
    log_every: int = 100,
) -> dict[str, float]:
    """Trains a base model from scratch and writes the checkpoint to `out`.

    Args:
        out: new or empty directory.
        language: what the model is to write, and what it is to solve: a name in `LANGUAGES`.
        config: `"mini"` (0.2 M parameters), `"small"` (0.8 M, some twenty minutes on one core) or `"large"` (27 M, for
            a GPU).
        seed: decides the weights and the data; the same seed on the same machine gives the same model.
        steps: batches of the first stage; None: as the config says. A second stage may follow, see `Language`.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        log_every: prints the mean loss of so many steps; 0 prints nothing.

    Returns:
        `loss` (mean of the last 100 steps, nats per completion token), `tokens` (seen, with prompts),
        `seconds`, `cpu_seconds`, `parameters`.

    Raises:
        InputError: unknown language or config, no steps, or `out` holds files already.
    """
    folder = Path(folder)
    if config not in CONFIGS:
        raise InputError(f"There is no base model config {config!r}; use one of {', '.join(CONFIGS)}.")
    if language not in LANGUAGES:
        raise InputError(f"There is no language {language!r}; use one of {', '.join(LANGUAGES)}.")
    settings, spoken = CONFIGS[config], LANGUAGES[language]
    steps = settings.steps if steps is None else steps
    if steps < 1:
        raise InputError(f"--steps is {steps}; the base model needs at least 1 training step.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds files already; give a new directory as --out.")
    device = _device(device)

    torch.manual_seed(seed)
    tokenizer = spoken.tokenizer()
    model = build_model(settings, tokenizer, spoken.max_new_tokens).to(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    losses: list[float] = []
    tokens = 0
    model.train()
    for stage, (share, factor) in enumerate(spoken.stages):
        stage_steps, learning_rate = math.ceil(steps * share), settings.learning_rate * factor
        rng = Random(f"{seed}-patient") if stage else Random(seed)
        optimizer = torch.optim.AdamW(model.parameters(), learning_rate, (0.9, 0.98), weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_warm_up_and_decay, steps=stage_steps))
        batches = training_batches(settings, tokenizer, spoken.examples(rng, stage), rng)
        for ids, labels in islice(batches, stage_steps):
            # No attention mask: padding is on the right, where causal attention never looks back from.
            with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
                logits = model(ids.to(device), use_cache=False).logits
            target = labels[:, 1:].to(device)
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].float().transpose(1, 2), target, ignore_index=_IGNORED
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            tokens += int((ids != tokenizer.pad_token_id).sum())
            if log_every and len(losses) % log_every == 0:
                recent, seconds = float(np.mean(losses[-log_every:])), time.perf_counter() - start
                echo(f"step {len(losses)}  loss {recent:.4f} nats  {seconds:.0f} s")
    save_model(model.float().cpu(), folder, half=spoken.half)
    save_tokenizer(tokenizer, folder)
    return {
        "loss": float(np.mean(losses[-100:])),
        "tokens": float(tokens),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "parameters": float(model.num_parameters()),
    }


def _warm_up_and_decay(step: int, steps: int) -> float:
    """Returns the learning rate's factor: linear warm-up over 5 % of the steps, then linear decay to nearly zero."""
    warmup = max(1, steps // 20)
    return min((step + 1) / warmup, 1 - max(0, step - warmup) / (steps - warmup + 1))


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def save_model(model: LlamaForCausalLM, out: Path, *, half: bool) -> None:
    """Writes the weights in 32 bits, or rounded to 16, which load as 32 all the same."""
    if not half:
        model.save_pretrained(out)
        return
    model.half().save_pretrained(out)
    path = out / "config.json"
    write_json(path, json.loads(path.read_text()) | {"dtype": "float32"}, indent=2)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the tokenizer so that transformers 4 and 5 both load it."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    # transformers 5 writes a class name that transformers 4 does not know; both know this one.
    saved["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, saved, indent=2)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", help="train, and write the checkpoint to this new directory")
    what.add_argument("--evaluate", metavar="DIR", help="measure this checkpoint on the hardest test problems")
    parser.add_argument("--language", default="countdown", choices=LANGUAGES)
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--steps", type=int, help="batches of the first stage (default: from the config)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--problems", type=int, default=100, help="test problems to measure on")
    parser.add_argument("--samples", type=int, default=256, help="completions per problem")
    args = parser.parse_args(arguments)
    if args.out:
        facts = train_base(
            args.out, language=args.language, config=args.config, seed=args.seed, steps=args.steps, device=args.device
        )
        echo(json.dumps(facts))
        return
    spoken = LANGUAGES[args.language]
    problems = spoken.hardest.problems("test", args.problems)
    start = time.process_time()
    measured = evaluate(
        args.evaluate,
        problems,
        args.samples,
        task=spoken.hardest,
        max_new_tokens=spoken.max_new_tokens,
        seed=args.seed,
        device=_device(args.device),
    )
    seconds = time.process_time() - start
    ks = shown_ks(k_grid(args.samples), 5)
    curve = bootstrap_interval(pass_at_k(args.samples, measured.correct_Q, ks))
    for i, k in enumerate(ks):
        echo(f"Pass@{k:<4d} {formats.at(curve, i)}")
    echo(f"{args.problems} problems x {args.samples} samples, {measured.mean_tokens:.1f} tokens, ", end="")
    echo(f"{measured.mean_entropy:.3f} nats per token, {measured.finished:.3f} finished, {seconds:.0f} CPU seconds")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
