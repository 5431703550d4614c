"""Sampling completions with transformers: problems in, rows of the samples table out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from forkwise.tasks import Problem, Task


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. `temperature` divides the logits, `top_p` keeps the nucleus, lengths are in tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    batch_size: int = 256
    """Completions generated side by side; results depend on it, as float rounding does on the batch."""


def shard_seed(seed: int, problem_id: str) -> int:
    """A seed for one problem's samples that depends on nothing else in the run."""
    digest = hashlib.sha256(f"{seed}\x00{problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@torch.inference_mode()
def sample_problem(
    model: Any, tokenizer: Any, problem: Problem, task: Task, n: int, *, run: str, seed: int, sampling: Sampling
) -> Iterator[dict[str, Any]]:
    """`n` verified completions of one problem, as rows of the samples table; the same for the same arguments."""
    if not isinstance(problem.prompt, str):
        text = tokenizer.apply_chat_template(problem.prompt, tokenize=False, add_generation_prompt=True)
    else:
        text = problem.prompt
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=isinstance(problem.prompt, str)).to(model.device)
    start = inputs["input_ids"].shape[1]
    eos = set(torch.atleast_1d(torch.as_tensor(model.generation_config.eos_token_id)).tolist())
    torch.manual_seed(shard_seed(seed, problem.id))
    completions: list[str] = []
    lengths: list[int] = []
    reasons: list[str] = []
    while len(completions) < n:
        output = model.generate(
            **inputs,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_tokens,
            num_return_sequences=min(sampling.batch_size, n - len(completions)),
        )
        for row in output[:, start:].tolist():
            end = next((i for i, token in enumerate(row) if token in eos), None)
            lengths.append(len(row) if end is None else end + 1)
            reasons.append("length" if end is None else "stop")
            completions.append(tokenizer.decode(row[:end], skip_special_tokens=True))
    verdicts = task.verify(completions, [problem] * n)
    settings = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}
    for i, verdict in enumerate(verdicts):
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
            "n_tokens": lengths[i],
            "finish_reason": reasons[i],
            "seed": seed,
            "sampling": settings,
        }
