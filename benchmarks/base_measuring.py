"""Measures an embedded model: draws completions of test problems at temperature 1, and has them judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forkwise.loading import load_tokenizer, load_weights
from forkwise.tasks.base import Problem, Task


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
    model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int
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
    task: Task,
    max_new_tokens: int,
    batch_size: int = 512,
    seed: int = 0,
    device: str = "cpu",
) -> Measurement:
    """Samples `n` completions per problem at temperature 1 and verifies them.

    `task` judges the completions. The result depends on `seed` and on `batch_size`; about 512
    rows are fastest on a CPU.
    """
    model, tokenizer = load_weights(str(model_dir)).to(device).eval(), load_tokenizer(str(model_dir))
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
