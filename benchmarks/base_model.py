"""The embedded base model: how it is trained from scratch, and how it is measured.

    python benchmarks/base_model.py --out DIR [--seed 0] [--config small|large] [--steps N] [--device auto]

trains a Llama language model on the traces of `base_traces.py`, made on the fly from train problems only, and writes an
ordinary Hugging Face checkpoint. `small` is what the package ships in `forkwise/lab/base`;
`large` wants a GPU.

    python benchmarks/base_model.py --evaluate DIR [--problems 100] [--samples 256]

measures a checkpoint on test problems with four numbers.
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
from typing import Any

import numpy as np
import torch
from base_traces import MAX_TOKENS, VOCABULARY, trace
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from forkwise.errors import InputError
from forkwise.folders import write_json
from forkwise.loading import load_tokenizer, load_weights
from forkwise.passk import bootstrap_interval, k_grid, pass_at_k
from forkwise.passk.estimator import shown_ks
from forkwise.report import formats
from forkwise.tasks.base import Problem, Task
from forkwise.tasks.countdown import Countdown
from forkwise.terminal import echo

MAX_NEW_TOKENS = MAX_TOKENS + 4
"""Generation limit that fits every trace of the training data, its end-of-sequence token included."""

_SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
_IGNORED = -100  # label of a token that has no loss


@dataclass(frozen=True)
class TrainingConfig:
    """Size of the model and of its training. A batch holds `batch_size` traces of about 65 tokens, prompt included."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    steps: int
    batch_size: int
    learning_rate: float


CONFIGS = {
    "small": TrainingConfig(128, 4, 4, 344, steps=4800, batch_size=32, learning_rate=2e-3),
    "large": TrainingConfig(512, 8, 8, 1536, steps=20_000, batch_size=256, learning_rate=6e-4),
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Builds a word-level tokenizer over `VOCABULARY`: a token per word, sign or number; decoding joins with spaces."""
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
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def training_batches(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerFast, rng: Random, patience: int | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields endless `(input ids, labels)`, (batch, length) each, padded on the right, without loss on the prompt.

    `patience` is that of the traces. Four of five problems have four numbers. Batches hold traces of similar length, so
    little is spent on padding.
    """
    pools = [Countdown(sizes=(size,)).problems("train") for size in (3, 4)]
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    vocabulary = tokenizer.get_vocab()
    while True:
        rows = []
        for _ in range(16 * config.batch_size):
            problem = rng.choice(pools[rng.random() < 0.8])
            prompt = [vocabulary[word] for word in str(problem.prompt).split()]
            completion = [vocabulary[word] for word in trace(problem, rng, patience=patience).split()]
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
        steps: batches of the first stage; None: as the config says. A second stage of a fifth as many follows, on
            traces of more patience.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        log_every: prints the mean loss of so many steps; 0 prints nothing.

    Returns:
        `loss` (mean of the last 100 steps, nats per completion token), `tokens` (seen, with prompts),
        `seconds`, `cpu_seconds`, `parameters`.

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
    device = _device(device)

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(settings, tokenizer).to(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    losses: list[float] = []
    tokens = 0
    model.train()
    # The second stage is short, and its traces give up only when they run out of room.
    stages = (
        (steps, settings.learning_rate, Random(seed), None),
        (math.ceil(steps / 5), settings.learning_rate / 2, Random(f"{seed}-patient"), 8),
    )
    for stage_steps, learning_rate, rng, patience in stages:
        optimizer = torch.optim.AdamW(model.parameters(), learning_rate, (0.9, 0.98), weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_warm_up_and_decay, steps=stage_steps))
        batches = training_batches(settings, tokenizer, rng, patience)
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
    model.float().cpu().save_pretrained(out)
    save_tokenizer(tokenizer, out)
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


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the tokenizer so that transformers 4 and 5 both load it."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    # transformers 5 writes a class name that transformers 4 does not know; both know this one.
    saved["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, saved, indent=2)


@dataclass(frozen=True)
class Measurement:
    """The numbers that `evaluate` measured.

    Attributes:
        correct_Q: number of correct completions of each problem.
        n: completions per problem.
        mean_tokens: mean length of a completion in tokens, its end-of-sequence token included.
        mean_entropy: mean entropy of the next-token distributions that tokens were sampled from, in nats per token.
        finished: share of completions that ended within the token limit.
    """

    correct_Q: np.ndarray
    n: int
    mean_tokens: float
    mean_entropy: float
    finished: float


@torch.inference_mode()
def draw_completions(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Draws one completion per prompt at temperature 1, all in one batch.

    Generation goes in two legs and finished rows sit out the second one, which saves a third of the time.

    Returns:
        The completions, and for each its number of tokens (end-of-sequence included), its summed entropy in nats, and
        whether it ended within `max_new_tokens`.
    """
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left").to(model.device)
    ids, mask = encoded.input_ids, encoded.attention_mask
    start = ids.shape[1]
    live = torch.arange(len(ids), device=ids.device)
    whole = ids.new_full((len(ids), start + max_new_tokens), tokenizer.pad_token_id)
    whole[:, :start] = ids
    tokens = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    entropy = torch.zeros(len(ids), device=ids.device)
    first = max_new_tokens // 2
    for leg in (first, max_new_tokens - first):
        if not leg or not len(live):
            continue
        result = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=leg,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = result.sequences[:, ids.shape[1] :]
        whole[live, ids.shape[1] : result.sequences.shape[1]] = new
        logp = torch.stack(result.logits, dim=1).float().log_softmax(-1)
        real = new != tokenizer.pad_token_id
        tokens[live] += real.sum(1)
        entropy[live] += (-(logp.exp() * logp).sum(-1) * real).sum(1)
        going = ~(new == tokenizer.eos_token_id).any(1)
        ids, mask = result.sequences[going], torch.cat([mask, torch.ones_like(new)], 1)[going]
        live = live[going]
    finished = torch.ones(len(tokens), dtype=torch.bool)
    finished[live.cpu()] = False
    texts = tokenizer.batch_decode(whole[:, start:], skip_special_tokens=True)
    return texts, tokens.cpu().numpy(), entropy.cpu().numpy(), finished.numpy()


def evaluate(
    model_dir: str | Path,
    problems: Sequence[Problem],
    n: int = 256,
    *,
    task: Task | None = None,
    batch_size: int = 512,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
    device: str = "cpu",
) -> Measurement:
    """Samples `n` completions per problem at temperature 1 and verifies them.

    `task` judges the completions (None: `Countdown()`). The result depends on `seed` and on `batch_size`; about 512
    rows are fastest on a CPU.
    """
    model, tokenizer = load_weights(str(model_dir)).to(device).eval(), load_tokenizer(str(model_dir))
    task = task or Countdown()
    torch.manual_seed(seed)
    rows = [i for i in range(len(problems)) for _ in range(n)]
    correct_Q = np.zeros(len(problems), dtype=np.int64)
    total_tokens, total_entropy, total_finished = 0, 0.0, 0
    for at in range(0, len(rows), batch_size):
        chunk = rows[at : at + batch_size]
        asked = [problems[i] for i in chunk]
        texts, tokens, entropy, finished = draw_completions(
            model, tokenizer, [str(p.prompt) for p in asked], max_new_tokens=max_new_tokens
        )
        for i, verdict in zip(chunk, task.verify(texts, asked), strict=True):
            correct_Q[i] += verdict.correct is True
        total_tokens += int(tokens.sum())
        total_entropy += float(entropy.sum())
        total_finished += int(finished.sum())
    return Measurement(correct_Q, n, total_tokens / len(rows), total_entropy / total_tokens, total_finished / len(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", help="train, and write the checkpoint to this new directory")
    what.add_argument("--evaluate", metavar="DIR", help="measure this checkpoint on 4-number test problems")
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--steps", type=int, help="batches of the first stage (default: from the config)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--problems", type=int, default=100, help="test problems to measure on")
    parser.add_argument("--samples", type=int, default=256, help="completions per problem")
    args = parser.parse_args(arguments)
    if args.out:
        facts = train_base(args.out, config=args.config, seed=args.seed, steps=args.steps, device=args.device)
        echo(json.dumps(facts))
        return
    problems = Countdown(sizes=(4,)).problems("test", args.problems)
    start = time.process_time()
    measured = evaluate(args.evaluate, problems, args.samples, seed=args.seed, device=_device(args.device))
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
