"""What it costs to store varentropies while sampling: the same draws with and without them, side by side.

    python benchmarks/sampling_numbers.py                       # the embedded model, the figure of docs/explore.md
    python benchmarks/sampling_numbers.py --model FOLDER --rounds 5 --samples 16 --tokens 8

A round draws the same completions twice, as `forkwise sample` does, and which of the two comes first alternates. CPU
seconds, one thread: the median of the ratios within a round, and the middle half of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from forkwise.embedded import model_path
from forkwise.sampling import decoding
from forkwise.sampling.generate import end_tokens
from forkwise.sampling.recipe import Sampling
from forkwise.training.models import resolve_model

_PROMPT = "Use 2, 3, 10 to make 32."


def none(logprobs: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    return torch.zeros(logprobs.shape[0], dtype=logprobs.dtype)


def cpu_seconds(draw: Callable[[], Any], varentropy: Callable[..., torch.Tensor]) -> float:
    decoding._varentropy = varentropy
    start = time.process_time()
    draw()
    return time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=104)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM

    path, tokenizer = resolve_model(options.model)
    model = AutoModelForCausalLM.from_pretrained(model_path(path)).eval()
    decoder = decoding.Decoder(model, end_tokens(model, tokenizer))
    prompt = tokenizer(_PROMPT, return_tensors="pt")["input_ids"]

    def draw() -> None:
        decoder.draw(prompt, range(options.samples), Sampling(max_tokens=options.tokens))

    stored = decoding._varentropy
    draw()
    ratios = []
    for turn in range(options.rounds):
        pair = {kind: cpu_seconds(draw, kind) for kind in ((stored, none) if turn % 2 else (none, stored))}
        ratios.append(pair[stored] / pair[none])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(
        f"{options.model}, {options.samples} x {options.tokens} tokens, vocabulary {model.config.vocab_size:,}: with "
        f"varentropies {middle:.3f} [{low:.3f}, {high:.3f}] of the time without, {options.rounds} rounds"
    )


if __name__ == "__main__":
    main()
