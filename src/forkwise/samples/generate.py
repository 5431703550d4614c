"""Sampling completions with transformers: problems in, rows of the samples table out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from forkwise.tasks import Problem, Task


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. `temperature` divides the logits, `top_p` keeps the nucleus, lengths are in tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    batch_size: int = 256
    """Completions of one problem generated side by side. Float rounding depends on it, so it belongs to the recipe."""


def sample_seed(seed: int, problem_id: str, sample_id: int) -> int:
    """The seed of one sample: it depends on the run's seed, the problem and the index, and on nothing else."""
    digest = hashlib.sha256(f"{seed}\x00{problem_id}\x00{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _uniforms(seeds: Sequence[int], tokens: int) -> torch.Tensor:
    """(samples, tokens) numbers in [0, 1), float64; row i depends on seeds[i] alone."""
    return torch.stack(
        [torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    )


class _InverseTransform(LogitsProcessor):
    """Draws each row's next token from its own stream of uniforms, and leaves it as the only possible one.

    With it, greedy decoding samples exactly from softmax(logits / temperature) cut to the nucleus, and a row's draws do
    not depend on which rows stand beside it.
    """

    def __init__(self, uniforms: torch.Tensor, start: int, sampling: Sampling) -> None:
        self.uniforms, self.start, self.sampling = uniforms, start, sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probs = torch.softmax(scores.double() / self.sampling.temperature, dim=-1)
        if self.sampling.top_p < 1:
            ordered, index = probs.sort(dim=-1, descending=True)
            outside = ordered.cumsum(dim=-1) - ordered >= self.sampling.top_p  # the first token always stays
            probs = torch.zeros_like(probs).scatter(1, index, ordered.masked_fill(outside, 0.0))
        cdf = probs.cumsum(dim=-1)
        u = self.uniforms[:, input_ids.shape[1] - self.start, None].to(cdf.device) * cdf[:, -1:]
        token = torch.searchsorted(cdf, u, right=True)  # the first token whose cdf exceeds u, so never one with p = 0
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def _generate(model: Any, prompt: torch.Tensor, seeds: Sequence[int], sampling: Sampling, eos: list[int]) -> Any:
    """(len(seeds), <= max_tokens) new tokens; the prompt's keys and values are computed once for all samples."""
    n, start = len(seeds), prompt.shape[1]
    cache = None
    if start > 1:
        cache = model(prompt[:, :-1], use_cache=True).past_key_values
        cache.batch_repeat_interleave(n)
    ids = prompt.repeat(n, 1)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=sampling.max_tokens, eos_token_id=eos, pad_token_id=eos[0], use_cache=True
    )
    draw = _InverseTransform(_uniforms(seeds, sampling.max_tokens), start, sampling)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=cache,
        generation_config=config,
        logits_processor=LogitsProcessorList([draw]),
    )
    return output[:, start:].tolist()


@torch.inference_mode()
def sample_problem(
    model: Any, tokenizer: Any, problem: Problem, task: Task, n: int, *, run: str, seed: int, sampling: Sampling
) -> Iterator[dict[str, Any]]:
    """`n` verified completions of one problem, as rows of the samples table; the same for the same arguments."""
    chat = not isinstance(problem.prompt, str)
    text = (
        tokenizer.apply_chat_template(problem.prompt, tokenize=False, add_generation_prompt=True)
        if chat
        else problem.prompt
    )
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=not chat)["input_ids"].to(model.device)
    eos = torch.atleast_1d(torch.as_tensor(model.generation_config.eos_token_id)).tolist()
    rows: list[list[int]] = []
    for first in range(0, n, sampling.batch_size):
        ids = range(first, min(first + sampling.batch_size, n))
        rows += _generate(model, prompt, [sample_seed(seed, problem.id, i) for i in ids], sampling, eos)
    ends = [next((i for i, token in enumerate(row) if token in eos), None) for row in rows]
    completions = [tokenizer.decode(row[:end], skip_special_tokens=True) for row, end in zip(rows, ends, strict=True)]
    verdicts = task.verify(completions, [problem] * n)
    for i, (verdict, end) in enumerate(zip(verdicts, ends, strict=True)):
        yield {
            "run": run,
            "model": str(getattr(model.config, "_name_or_path", "")),
            "problem_id": problem.id,
            "sample_id": i,
            "prompt": text,
            "completion": completions[i],
            "answer": verdict.answer,
            "correct": verdict.correct,
            "verdict_by": verdict.by,
            "n_tokens": len(rows[i]) if end is None else end + 1,
            "finish_reason": "length" if end is None else "stop",
            "seed": seed,
            "sampling": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
            },
        }
