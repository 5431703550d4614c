"""The embedded base model: how it is trained from scratch, and how it is measured.

    python -m forkwise.lab.base_model --out DIR [--seed 0] [--config small|large] [--steps N] [--device auto]

trains a Llama language model on the traces of `forkwise.lab.traces`, made on the fly from train problems only, and
writes an ordinary Hugging Face checkpoint. `small` is what the package ships in `forkwise/lab/base`; `large` wants a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from forkwise.errors import InputError
from forkwise.lab.traces import MAX_TOKENS, VOCABULARY, trace
from forkwise.tasks.base import Problem, Task
from forkwise.tasks.countdown import Countdown

BASE_MODEL = Path(__file__).parent / "base"
"""The shipped checkpoint; give it to anything that takes a model name."""
MAX_NEW_TOKENS = MAX_TOKENS + 4
"""Generation limit that fits every trace of the training data, its end-of-sequence token included."""

_SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
_IGNORED = -100  # label of a token that has no loss


@dataclass(frozen=True)
class TrainingConfig:
    """Size of the model and of its training. One batch holds `batch_size` traces (about 70 tokens each, with the prompt)."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    steps: int
    batch_size: int
    learning_rate: float


CONFIGS = {
    "small": TrainingConfig(128, 4, 4, 344, steps=2400, batch_size=64, learning_rate=2e-3),
    "large": TrainingConfig(512, 8, 8, 1536, steps=20_000, batch_size=256, learning_rate=6e-4),
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `VOCABULARY`: one token per word, sign or number; decoding joins with spaces."""
    words = [*_SPECIAL.values(), *VOCABULARY]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=_SPECIAL["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        **_SPECIAL,
    )


def build_model(config: TrainingConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A randomly initialised Llama with tied embeddings; torch's global seed decides the weights.

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
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def training_batches(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerFast, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless `(input ids, labels)`, each (batch, length) and padded on the right; the prompt and the padding have no loss.

    Four of five problems have four numbers. Batches hold traces of similar length, so little is spent on padding.
    """
    rng = Random(seed)
    pools = [Countdown(sizes=(size,)).problems("train") for size in (3, 4)]
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    vocabulary = tokenizer.get_vocab()
    while True:
        rows = []
        for _ in range(16 * config.batch_size):
            problem = rng.choice(pools[rng.random() < 0.8])
            prompt = [vocabulary[word] for word in problem.prompt.split()]
            completion = [vocabulary[word] for word in trace(problem, rng).split()]
            rows.append((prompt, [*completion, eos]))
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
    out: str | Path,
    *,
    config: str = "small",
    seed: int = 0,
    steps: int | None = None,
    device: str = "auto",
    log_every: int = 100,
) -> dict[str, float]:
    """Trains a base model from scratch and writes the checkpoint to `out`.

    Args:
        out: new or empty directory.
        config: `"small"` (0.8 M parameters, some ten minutes on one core) or `"large"` (27 M, for a GPU).
        seed: decides the weights and the data; the same seed on the same machine gives the same model.
        steps: batches to train on; None: what the config says.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        log_every: prints the mean loss of so many steps; 0 prints nothing.

    Returns:
        `loss` (mean of the last tenth of the steps, nats per completion token), `tokens` (seen, with prompts), `seconds`,
        `cpu_seconds`, `parameters`.

    Raises:
        InputError: unknown config, no steps, or `out` holds files already.
    """
    out = Path(out)
    if config not in CONFIGS:
        raise InputError(f"There is no base model config {config!r}; use one of {', '.join(CONFIGS)}.")
    settings = CONFIGS[config]
    steps = settings.steps if steps is None else steps
    if steps < 1:
        raise InputError(f"--steps is {steps}; the base model needs at least 1 training step.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds files already; give a new directory as --out.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(settings, tokenizer).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, (0.9, 0.98), weight_decay=0.01, fused=True
    )
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 1 - max(0, step - warmup) / (steps - warmup + 1))
    )
    start, cpu_start = time.perf_counter(), time.process_time()
    losses: list[float] = []
    tokens = 0
    model.train()
    for step, (ids, labels) in enumerate(training_batches(settings, tokenizer, seed), 1):
        # No attention mask: padding is on the right, where causal attention never looks back from.
        with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
            logits = model(ids.to(device), use_cache=False).logits
        target = labels[:, 1:].to(device)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), target, ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        tokens += int((ids != tokenizer.pad_token_id).sum())
        if log_every and step % log_every == 0:
            recent = float(np.mean(losses[-log_every:]))
            print(f"step {step}/{steps}  loss {recent:.4f} nats  {time.perf_counter() - start:.0f} s", flush=True)
        if step == steps:
            break
    model.float().cpu().save_pretrained(out)
    save_tokenizer(tokenizer, out)
    return {
        "loss": float(np.mean(losses[-max(1, steps // 10) :])),
        "tokens": float(tokens),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "parameters": float(model.num_parameters()),
    }


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the tokenizer so that transformers 4 and 5 both load it."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    # transformers 5 writes a class name that transformers 4 does not know; both know this one.
    saved["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(saved, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    print(train_base(a.out, steps=a.steps, seed=a.seed))
