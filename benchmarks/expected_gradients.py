"""What the entropy term does to the policy gradient, measured on the embedded model: on-policy, before any clipping.

Uncapped, `psi = alpha * H` depends on the prefix alone, so `E[psi * grad log pi] = 0` token by token: it is a baseline.
`min(alpha * H, |A| / kappa)` depends on the sample through |A|, and its expected gradient need not vanish. Here both
expectations are estimated from independent batches of completions, and the gradients with and without the term are
compared: norm and cosine, by sign of A and by decile of the entropy. Derivation: docs/evidence.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from base_model import MAX_NEW_TOKENS
from torch import Tensor

from forkwise.constants import ALPHA, KAPPA
from forkwise.core import group_advantages, shape_advantages
from forkwise.embedded import EMBEDDED_MODEL
from forkwise.folders import write_json
from forkwise.loading import load_tokenizer, load_weights
from forkwise.sampling.generate import Sampling, sample_problem
from forkwise.tasks import load_task
from forkwise.terminal import echo

DECILES = 10


@dataclass(frozen=True)
class Batch:
    """Completions of some prompts, padded: `ids` and `attention` `(B, P + T)`, the rest `(B, T)`."""

    ids: Tensor
    attention: Tensor
    mask: Tensor
    advantages: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class Direction:
    """A gradient summed over batches, compared with the gradient of the plain advantage A."""

    name: str
    tokens: int
    psi_over_adv: float
    """Mean of psi / |A| over the tokens of this part."""
    plain_norm: float
    """Norm of the mean gradient of A over the tokens of this part."""
    added_norm: float
    """Norm of the mean gradient of psi over the tokens of this part."""
    cosine: float
    """Cosine between the gradients of A and of psi."""
    shaped_norm: float
    """Norm of the mean gradient of A + psi."""
    shaped_cosine: float
    """Cosine between the gradients of A + psi and of A."""


@dataclass(frozen=True)
class Expectation:
    """Unbiased estimate of the squared norm of an expected gradient, with a jackknife standard error over batches.

    `|E g|^2` is estimated by the mean of `g_i . g_j` over pairs of different batches, whose expectation it is.
    """

    name: str
    squared_norm: float
    standard_error: float
    within: float
    """Mean squared norm of one batch's gradient; pure noise would leave this divided by the number of batches."""


def batches(
    model: Any, tokenizer: Any, task_name: str, problems: int, group: int, per_batch: int, seed: int
) -> Iterator[Batch]:
    """Yields on-policy completions at temperature 1, `group` per training problem, `per_batch` problems at a time."""
    task = load_task(task_name)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=MAX_NEW_TOKENS, batch_size=group)
    chosen = task.problems("train", problems)
    for first in range(0, len(chosen) - per_batch + 1, per_batch):
        rows = [
            row
            for problem in chosen[first : first + per_batch]
            for row in sample_problem(
                model, tokenizer, problem, task, group, run="", seed=seed, sampling=sampling, traces=group
            )
        ]
        yield _batch(tokenizer, rows, group)


def _batch(tokenizer: Any, rows: Sequence[dict[str, Any]], group: int) -> Batch:
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    p, t = max(map(len, prompts)), max(len(row["token_ids"]) for row in rows)
    ids = torch.full((len(rows), p + t), tokenizer.pad_token_id)
    attention, mask, entropy = torch.zeros(len(rows), p + t), torch.zeros(len(rows), t), torch.zeros(len(rows), t)
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        n = len(row["token_ids"])
        ids[i, p - len(prompt) : p + n] = torch.tensor([*prompt, *row["token_ids"]])
        attention[i, p - len(prompt) : p + n] = 1
        mask[i, :n] = 1
        entropy[i, :n] = torch.tensor(row["entropies"])
    rewards = torch.tensor([float(bool(row["correct"])) for row in rows])
    advantages = group_advantages(rewards, group)[:, None].expand_as(mask)
    return Batch(ids, attention, mask, advantages, entropy)


def gradients(model: Any, batch: Batch, weights: Sequence[Tensor]) -> list[Tensor]:
    """Computes `sum_t w_t grad log pi(token_t)` per completion for each weight `(B, T)`: flat vectors, float64.

    Dividing by the number of tokens, which the samples decide, would bias the expectation.
    """
    t = batch.mask.shape[1]
    positions = (batch.attention.cumsum(dim=1) - 1).clamp(min=0).long()
    logits = model(input_ids=batch.ids, attention_mask=batch.attention, position_ids=positions).logits[:, -t - 1 : -1]
    logps = torch.log_softmax(logits.float(), dim=-1).gather(2, batch.ids[:, -t:, None]).squeeze(2)
    parameters = [p for p in model.parameters() if p.requires_grad]
    flat_gradients = []
    for weight in weights:
        objective = (logps * weight * batch.mask).sum() / len(batch.ids)
        parts = torch.autograd.grad(objective, parameters, retain_graph=True)
        flat_gradients.append(torch.cat([part.double().flatten() for part in parts]))
    return flat_gradients


def expectation(name: str, per_batch: Tensor) -> Expectation:
    """Returns the estimate from the gradients of independent batches, `(B, P)` float64, B at least 3."""
    products = per_batch @ per_batch.T
    n = len(per_batch)
    off = products.sum() - products.diagonal().sum()
    value = off / (n * (n - 1))
    # Leaving batch i out takes its row and column away.
    rows = products.sum(dim=1) - products.diagonal()
    left_out = (off - 2 * rows) / ((n - 1) * (n - 2))
    error = ((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt()
    return Expectation(name, float(value), float(error), float(products.diagonal().mean()))


def measure(
    model: Any, data: Sequence[Batch], *, alpha: float, kappa: float
) -> tuple[list[Expectation], list[Direction]]:
    """Measures the expected gradients of A, psi and uncapped psi, and those of A and psi by part of the tokens."""
    response = torch.cat([b.entropy[b.mask > 0] for b in data])
    edges = torch.quantile(response.double(), torch.linspace(0, 1, DECILES + 1, dtype=torch.float64)[1:-1])
    names = ["A", "psi", "alpha H, uncapped"]
    parts = ["all tokens", "A > 0", "A < 0", *(f"entropy decile {d + 1}" for d in range(DECILES))]
    per_batch: dict[str, list[Tensor]] = {name: [] for name in names}
    sums: dict[str, list[Any]] = {part: [0, 0.0, 0.0, 0.0] for part in parts}
    for batch in data:
        a, h = batch.advantages, batch.entropy
        psi = shape_advantages(a, h, alpha=alpha, kappa=kappa, mask=batch.mask) - a
        decile = torch.bucketize(h.double(), edges)
        chosen = [
            torch.ones_like(a),
            (a > 0).float(),
            (a < 0).float(),
            *((decile == d).float() for d in range(DECILES)),
        ]
        weights = [alpha * h, *(w * x for x in chosen for w in (a, psi))]
        uncapped, *per_weight = gradients(model, batch, weights)
        for name, g in zip(names, (per_weight[0], per_weight[1], uncapped), strict=True):
            per_batch[name].append(g)
        acting = batch.mask * (a != 0)
        ratio = torch.where(acting > 0, psi / a.abs().clamp(min=1e-12), 0.0)
        for i, part in enumerate(parts):
            total = sums[part]
            total[0] += int((acting * chosen[i]).sum())
            total[1] += float((ratio * chosen[i]).sum())
            total[2] = total[2] + per_weight[2 * i] / len(data)
            total[3] = total[3] + per_weight[2 * i + 1] / len(data)
    directions = [
        Direction(
            part,
            n,
            ratio / max(n, 1),
            float(plain.norm()),
            float(added.norm()),
            _cosine(plain, added),
            float((plain + added).norm()),
            _cosine(plain, plain + added),
        )
        for part, (n, ratio, plain, added) in sums.items()
    ]
    return [expectation(name, torch.stack(rows)) for name, rows in per_batch.items()], directions


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=1e-30))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `python benchmarks/expected_gradients.py`, which prints the table of docs/evidence.md."""
    parser = argparse.ArgumentParser(description="Gradient of the entropy term beside that of the advantages.")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--task", default="countdown:4")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--per_batch", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=ALPHA)
    parser.add_argument("--kappa", type=float, default=KAPPA)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    path = str(EMBEDDED_MODEL) if args.model == "embedded" else args.model
    tokenizer = load_tokenizer(args.model, path)
    model = load_weights(args.model, path, dtype=torch.float32, attn_implementation="eager").eval()
    data = list(batches(model, tokenizer, args.task, args.problems, args.group, args.per_batch, args.seed))
    expectations, directions = measure(model, data, alpha=args.alpha, kappa=args.kappa)
    echo(f"{len(data)} batches of {args.per_batch} problems x {args.group} completions")
    echo("\nexpected gradient    |E g|^2      s.e.         one batch's |g|^2   z")
    for e in expectations:
        z = e.squared_norm / e.standard_error if e.standard_error else np.nan
        echo(f"{e.name:18s} {e.squared_norm:+.3e}  {e.standard_error:.3e}  {e.within:.3e}  {z:+.1f}")
    echo("\ncosine: of g(psi), and of the shaped g(A + psi), with g(A)")
    echo("part                  tokens  psi/|A|  |g(A)|     |g(psi)|   cosine  |g(A+psi)|  cosine")
    for d in directions:
        echo(
            f"{d.name:20s} {d.tokens:7d}  {d.psi_over_adv:.3f}    "
            f"{d.plain_norm:.3e}  {d.added_norm:.3e}  {d.cosine:+.3f}  {d.shaped_norm:.3e}   {d.shaped_cosine:+.3f}"
        )
    if args.json:
        content = {"expectations": [asdict(e) for e in expectations], "directions": [asdict(d) for d in directions]}
        write_json(args.json, {**{k: str(v) for k, v in vars(args).items()}, **content})


if __name__ == "__main__":
    main()
